"""Why INT8 hurts a layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from parity.analysis.causes.layers import Quantizer
from parity.analysis.causes.quantisation import quantisation
from parity.analysis.causes.saturate import pair_sums
from parity.analysis.diagnose import Diagnosis
from parity.contenders import Contender
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, gather, saved_tensors, taken_elsewhere

RANDOM = np.random.default_rng(0)
X = np.abs(RANDOM.normal(size=(2, 8, 6, 6))).astype(np.float32)
WEIGHT = RANDOM.normal(size=(5, 8, 3, 3)).astype(np.float32)


def quantised(x_scale: float, w_scale: float | np.ndarray, weight: np.ndarray = WEIGHT,
              shape: tuple[int, ...] = X.shape) -> Model:
    """The ReLU of Conv(x, weight) with Q/DQ on both."""
    scale = np.asarray(w_scale, np.float32)
    along = scale.reshape(-1, 1, 1, 1) if scale.ndim else scale
    stored = np.clip(np.rint(weight / along), -128, 127).astype(np.int8)
    weights = {"xs": np.float32(x_scale), "ws": scale, "z": np.int8(0), "wz": np.zeros(scale.shape, np.int8),
               "q": stored}
    return Model.from_proto(proto_of(
        [node("QuantizeLinear", ["x", "xs", "z"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "z"], ["xd"]),
         node("DequantizeLinear", ["q", "ws", "wz"], ["wd"], axis=0), node("Conv", ["xd", "wd"], ["t"]),
         node("Relu", ["t"], ["y"])], [declared("x", shape)], weights=weights))


def told(model: Model, x: np.ndarray = X, weight: np.ndarray = WEIGHT) -> tuple[Diagnosis, ...]:
    """What is said of a quantised model, its reference y = Relu(Conv(x, weight))."""
    reference = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                          [declared("x", x.shape)], weights={"w": weight}))
    return diagnosed(reference, Contender(Target("pytorch"), model), {"x": x})


REFERENCE = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                      [declared("x", X.shape)], weights={"w": WEIGHT}))
FITS = float(X.max()) / 127
BY_CHANNEL = np.abs(WEIGHT).max(axis=(1, 2, 3)) / 127


def test_a_layer_that_fits_has_no_cause() -> None:
    """Right scales leave an error within the tolerance."""
    assert told(quantised(FITS, BY_CHANNEL)) == ()


@pytest.mark.parametrize(("factor", "cause"), [(1 / 8, "clipped-calibration"), (40.0, "wrong-scale"),
                                               (1e4, "dead-scale")])
def test_a_scale_that_does_not_fit(factor: float, cause: str) -> None:
    """Too small a range clips, too large a one leaves few steps, or none."""
    found = told(quantised(FITS * factor, BY_CHANNEL))
    assert [(d.cause, d.tensor) for d in found] == [(cause, "x")]
    assert found[0].evidence["explained"] > 0.8


def test_the_share_that_is_clipped() -> None:
    """It is counted on this input."""
    found, = told(quantised(FITS / 8, BY_CHANNEL))
    levels = X.astype(np.float64) / np.float32(FITS / 8)
    assert found.evidence["clipped"] == pytest.approx(float((levels > 127.5).mean()))


def test_an_outlier_channel() -> None:
    """One channel 60 times as wide, which the weights take back."""
    x, weight = X.copy(), WEIGHT.copy()
    x[:, 3] *= 60
    weight[:, 3] /= 60
    scales = np.abs(weight).max(axis=(1, 2, 3)) / 127
    found = told(quantised(float(x.max()) / 127, scales, weight), x, weight)
    assert [(d.cause, d.tensor) for d in found] == [("int8-outliers", "x")]
    assert found[0].evidence["channels"] == 1
    assert found[0].evidence["factor"] == pytest.approx(60, rel=0.5)


def test_an_error_that_the_formats_do_not_make() -> None:
    """Where a kernel makes most of the outputs' error, a scale that does not fit either is not its cause."""
    evidence = gather(REFERENCE, Contender(Target("pytorch"), quantised(FITS / 2, BY_CHANNEL)), {"x": X})
    assert [d.cause for d in quantisation(evidence)] == ["clipped-calibration"]
    wrong = {n: v * np.float32(5) for n, v in evidence.reference_outputs.items()}
    assert evidence.error < 0.5
    assert quantisation(replace(evidence, candidate_outputs=wrong)) == ()


def test_a_few_outlying_elements() -> None:
    """Single elements far out, in every channel."""
    x = np.abs(np.random.default_rng(1).normal(size=(2, 8, 40, 40))).astype(np.float32)
    x[0, :, 0, 0] = 300
    found = told(quantised(300 / 127, BY_CHANNEL, WEIGHT, x.shape), x)
    assert [(d.cause, d.tensor) for d in found] == [("int8-outliers", "x")]


def test_attention_spread_too_thin_for_a_step() -> None:
    """Each of 600 keys gets less than half a step of INT8: all becomes 0 but the one row that looks at a single key."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(1, 16, 600)).astype(np.float32) * np.float32(0.3)
    scores[0, 0, 3] = 12
    model = Model.from_proto(proto_of(
        [node("Softmax", ["x"], ["p"]), node("MatMul", ["p", "v"], ["t"]), node("Relu", ["t"], ["y"])],
        [declared("x", scores.shape)], weights={"v": random.normal(size=(600, 8)).astype(np.float32) + 1}))
    found = diagnosed(model, Contender(Target("pytorch", "", "int8")), {"x": scores})
    assert [(d.cause, d.tensor) for d in found] == [("saturated-tails", "p")]
    assert found[0].evidence["share"] > 0.99
    assert 0.9 < found[0].evidence["lost"] < 1


def test_one_scale_for_channels_that_differ() -> None:
    """Per-tensor weights, where a normalisation makes all channels count alike."""
    weight = WEIGHT * np.array([1, 200, 1, 1, 1], np.float32).reshape(-1, 1, 1, 1)
    found = told(quantised(FITS, float(np.abs(weight).max()) / 127, weight), X, weight)
    assert found == ()  # the wide channel alone counts in the output, and that one is right
    normal = [node("Conv", ["x", "w"], ["t"]), node("InstanceNormalization", ["t", "one", "none"], ["y"])]
    ones = {"one": np.ones(5, np.float32), "none": np.zeros(5, np.float32)}
    reference = Model.from_proto(proto_of(normal, [declared("x", X.shape)], weights={"w": weight, **ones}))
    variant = quantised(FITS, float(np.abs(weight).max()) / 127, weight)
    proto = variant.proto
    del proto.graph.node[-1]
    proto.graph.node.append(normal[1])
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in ones.items())
    found = diagnosed(reference, Contender(Target("pytorch"), Model.from_proto(proto)), {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [("per-tensor-weights", "w")]


@pytest.mark.parametrize(("factor", "cause"), [(1 / 8, "clipped-calibration"), (8.0, "wrong-scale"),
                                               (1e4, "dead-scale")])
def test_another_scale_than_that_of_a_quantised_reference(factor: float, cause: str) -> None:
    """Both sides are quantised, the candidate in other steps, which its integers tell."""
    found = diagnosed(quantised(FITS, BY_CHANNEL), Contender(Target("pytorch"), quantised(FITS * factor, BY_CHANNEL)),
                      {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [(cause, "x")]
    if cause != "dead-scale":
        assert found[0].evidence["other_scale"] == pytest.approx(FITS * factor, rel=0.02)


def test_other_integers_are_no_scale(tmp_path: Path) -> None:
    """A constant added to them is explained by no steps."""
    model = quantised(FITS, BY_CHANNEL)
    shown = taken_elsewhere(model, {"x": X}, "xq", lambda q: (q // 2 + 5).astype(np.int8))
    assert [d.cause for d in diagnosed(model, saved_tensors(tmp_path, shown), {"x": X})] == []


@pytest.mark.parametrize("place", [0, 2])
def test_sums_that_saturate_in_sixteen_bits(tmp_path: Path, place: int) -> None:
    """A kernel that adds pairs of products in 16 bits, channels first or last, is recognised by its very values."""
    full = np.sign(WEIGHT) * np.float32(127)
    model, feed = quantised(FITS, 1.0, full), {"x": X}
    conv = next(n for n in model.graph.nodes if n.op == "Conv")
    integers = taken_elsewhere(model, feed, "", lambda t: t)["xq"].astype(np.float64)
    sums = list(pair_sums(conv, integers, 0, full.astype(np.float64), signed=True))[place]
    assert sums.share > 0.01
    made = (sums.sums * np.float64(np.float32(FITS))).astype(np.float32)
    found = diagnosed(model, saved_tensors(tmp_path, taken_elsewhere(model, feed, "t", lambda t: made)), feed)
    assert [(d.cause, d.tensor) for d in found] == [("int8-saturation", "t")]
    assert found[0].evidence["largest_pair"] > 32767


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_sums_that_do_not_saturate_are_exact(rows: int, kernel: int, stride: int, pad: int, seed: int) -> None:
    """The simulated product is a convolution, or a matrix product, as long as no pair passes 16 bits."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 20, (rows, 3, 6, 5)).astype(np.float64)
    weight = random.integers(-20, 20, (4, 3, kernel, kernel)).astype(np.float64)
    model = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[pad] * 4)],
                                      [declared("x", x.shape, 11)], [declared("y", None, 11)], {"w": weight}))
    right = to_numpy(Executor(model).run({"x": x - 3})["y"])
    for found in pair_sums(model.graph.nodes[0], x, 3, weight, signed=True):
        assert found.share == 0
        np.testing.assert_array_equal(found.sums, right)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 10), st.integers(-20, 20), st.integers(0, 2**32 - 1))
def test_a_quantizer_rounds_as_the_operators_do(scale: float, zero: int, seed: int) -> None:
    """Q then DQ by our own arithmetic is Q then DQ by the executor."""
    x = np.random.default_rng(seed).normal(size=(3, 4)) * 100 * scale
    weights = {"s": np.float32(scale), "z": np.int8(zero)}
    model = Model.from_proto(proto_of(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [declared("x", x.shape)], [declared("q", None, 3), declared("y", None)], weights))
    made = Executor(model, Arithmetic.DOUBLE).run({"x": x})
    step = float(np.float32(scale))
    q = Quantizer("x", x, np.full((1, 1), step), np.full((1, 1), float(zero)), (-128, 127))
    np.testing.assert_array_equal(q.integers(), to_numpy(made["q"]))
    np.testing.assert_allclose(q.quantised(), to_numpy(made["y"]), rtol=1e-12)
    assert not (q.beyond() & (np.abs(q.quantised() - x) <= 0.5 * step)).any()
    assert q.beyond().any() or q.error_in_steps() <= 0.5
