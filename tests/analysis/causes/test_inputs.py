"""Inputs in another layout or normalisation than the reference's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from parity.contenders import Contender
from parity.graph.model import Model, shallow_copy
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, saved_tensors, taken_elsewhere

RANDOM = np.random.default_rng(0)
X = RANDOM.random((1, 3, 8, 6), np.float32)
MEAN, DEVIATION = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
FACTORS = np.array([2, 3, 5], np.float32).reshape(1, 3, 1, 1)
MODEL = Model.from_proto(proto_of(
    [node("Conv", ["x", "w", "b"], ["t"], pads=[1, 1, 1, 1]), node("Relu", ["t"], ["y"])],
    [declared("x", (1, 3, 8, 6))], weights={"w": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
                                            "b": RANDOM.normal(size=4).astype(np.float32)}))


def fed(folder: Path, changed: np.ndarray, model: Model = MODEL, x: np.ndarray = X) -> Contender:
    """A dump of the model on another input than the reference is fed with."""
    return saved_tensors(folder, taken_elsewhere(model, {"x": changed.astype(x.dtype)}, "", lambda t: t))


@pytest.mark.parametrize(("change", "cause"), [
    (lambda x: x[:, ::-1], "input-channels"),
    (lambda x: x[:, [1, 2, 0]], "input-channels"),
    (lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape), "input-layout"),
    (lambda x: x.reshape(1, 8, 6, 3).transpose(0, 3, 1, 2), "input-layout"),
    (lambda x: x[..., ::-1], "input-layout"),
    (lambda x: x[..., ::-1, :], "input-layout"),
    (lambda x: x * 255, "input-normalisation"),
    (lambda x: x / 255, "input-normalisation"),
    (lambda x: 2 * x - 1, "input-normalisation"),
    (lambda x: x - MEAN, "input-normalisation"),
    (lambda x: (x - MEAN) / DEVIATION, "input-normalisation"),
    (lambda x: x * FACTORS + 0.3, "input-normalisation"),
    (lambda x: ((x - MEAN) / DEVIATION)[:, ::-1], "input-channels"),
])
def test_what_the_candidate_took(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], cause: str) -> None:
    """The layout, the order of channels or the normalisation is named at the first tensor."""
    found = diagnosed(MODEL, fed(tmp_path, change(X)), {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [(cause, "t")]
    assert found[0].evidence["left"] <= found[0].evidence["floor"]


def test_factors_and_shifts_are_said(tmp_path: Path) -> None:
    """A normalisation that has no name is told by its figures."""
    found, = diagnosed(MODEL, fed(tmp_path, X * FACTORS + np.float32(0.3)), {"x": X})
    np.testing.assert_allclose([found.evidence[f"factor_{i}"] for i in range(3)], [2, 3, 5], rtol=1e-3)
    np.testing.assert_allclose([found.evidence[f"shift_{i}"] for i in range(3)], 0.3, rtol=1e-3)


def test_an_input_far_from_the_only_tensor_that_is_shown(tmp_path: Path) -> None:
    """Where nothing but the output of a long network was saved, the input is still the one that was taken otherwise."""
    links = [node("Mul" if i % 2 else "Relu", [f"t{i}", *(["c"] if i % 2 else [])], [f"t{i + 1}"]) for i in range(120)]
    links[-1].output[0] = "y"
    weights = {"w": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32), "c": np.float32(1.01)}
    model = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t0"]), *links], [declared("x", (1, 3, 8, 6))],
                                      weights={n: np.asarray(v) for n, v in weights.items()}))
    taken = taken_elsewhere(model, {"x": X[:, ::-1].copy()}, "", lambda t: t)
    found = diagnosed(model, saved_tensors(tmp_path, {"y": taken["y"]}), {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [("input-channels", "y")]


def test_another_image_is_no_layout(tmp_path: Path) -> None:
    """Nothing is said of an input that is simply another one."""
    other = np.random.default_rng(1).random(X.shape, np.float32)
    assert diagnosed(MODEL, fed(tmp_path, other), {"x": X}) == ()


def test_an_input_that_somebody_read_rightly_is_right(tmp_path: Path) -> None:
    """Where a second reader of the input agrees, the first one has another reason."""
    model = Model.from_proto(proto_of(
        [node("Conv", ["x", "w"], ["t"]), node("Sigmoid", ["x"], ["s"]), node("Relu", ["t"], ["y"]),
         node("Relu", ["s"], ["z"])], [declared("x", (1, 3, 8, 6))], [declared("y", None), declared("z", None)],
        {"w": MODEL.weight("w")}))
    scaled = taken_elsewhere(model, {"x": X}, "t", lambda t: t * np.float32(255))
    found = diagnosed(model, saved_tensors(tmp_path, scaled), {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [("weights-differ", "t")]


def test_transposed_features(tmp_path: Path) -> None:
    """A sequence handed over with time and features swapped."""
    x = np.random.default_rng(2).random((2, 5, 5), np.float32)
    model = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                      [declared("x", (2, 5, 5))],
                                      weights={"w": RANDOM.normal(size=(5, 4)).astype(np.float32)}))
    found = diagnosed(model, fed(tmp_path, x.swapaxes(1, 2), model, x), {"x": x})
    assert [d.cause for d in found] == ["input-layout"]


@pytest.mark.parametrize(("value", "key"), [(np.nan, "nan"), (np.inf, "inf")])
def test_what_was_not_finite_from_the_start(value: float, key: str) -> None:
    """NaN or Inf in the given inputs, which INT8 makes numbers of, is said to be theirs, and where the first one is."""
    x = X.copy()
    x[0, 2, 3, 4] = value
    variant = quantised(MODEL)
    found = diagnosed(MODEL, Contender(Target("pytorch"), variant), {"x": x})
    assert [d.cause for d in found] == ["nonfinite-input"]
    assert "[0, 2, 3, 4]" in found[0].message
    assert found[0].evidence[key] == 1


def test_an_overflow_beside_a_nan_in_the_inputs_is_not_blamed_on_it() -> None:
    """Without the NaN there would be Inf as well."""
    nodes = [node("Mul", ["x", "up"], ["t"]), node("Mul", ["t", "down"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", X.shape)], weights={
        "up": np.float32(1e6), "down": np.float32(1e-6)}))
    x = X.copy()
    x[0, 0, 0, 0] = np.nan
    assert [d.cause for d in diagnosed(model, Contender(Target("pytorch", "", "fp16")), {"x": x})] == ["fp16-overflow"]


def quantised(model: Model) -> Model:
    """The model with its input in INT8."""
    proto = shallow_copy(model.proto)
    proto.graph.node[0].input[0] = "d"
    proto.graph.node.insert(0, node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    proto.graph.node.insert(0, node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    proto.graph.initializer.extend([numpy_helper.from_array(np.float32(1 / 127), "s"),
                                    numpy_helper.from_array(np.int8(0), "z")])
    return Model.from_proto(proto)
