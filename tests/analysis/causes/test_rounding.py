"""Small differences of large terms, saturated functions that are read at their ends, long sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto

from parity.analysis.diagnose import Diagnosis
from parity.contenders import Contender
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, saved_tensors, taken_elsewhere

X = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)


def told(nodes: Sequence[NodeProto], weights: Mapping[str, Any], x: np.ndarray = X,
         precision: str = "fp16") -> tuple[Diagnosis, ...]:
    """What is said of y = f(x) emulated in a 16-bit format."""
    model = Model.from_proto(proto_of(nodes, [declared("x", x.shape)], opset=18,
                                      weights={n: np.asarray(w) for n, w in weights.items()}))
    return diagnosed(model, Contender(Target("pytorch", "", precision)), {"x": x})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_large_term_minus_a_large_term(precision: str) -> None:
    """The Sub is named, with how many times larger its terms are."""
    found = told([node("Add", ["x", "c"], ["t"]), node("Sub", ["t", "c"], ["y"])], {"c": np.float32(300)},
                 precision=precision)
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "y")]
    assert found[0].evidence["condition"] == pytest.approx(300 / np.sqrt(np.mean(X**2)), rel=0.05)
    assert found[0].evidence["error"] > 6 * found[0].evidence["error_before"]


def test_a_variance_by_its_squares() -> None:
    """The mean of squares less the square of the mean."""
    found = told([node("ReduceMean", ["x", "a"], ["m"]), node("Mul", ["x", "x"], ["s"]),
                  node("ReduceMean", ["s", "a"], ["q"]), node("Mul", ["m", "m"], ["r"]),
                  node("Sub", ["q", "r"], ["y"])],
                 {"a": np.array([1])}, X * np.float32(0.2) + 8)
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "y")]


def test_a_layer_norm_far_from_zero() -> None:
    """Its mean is large beside its spread."""
    found = told([node("Add", ["x", "c"], ["t"]), node("LayerNormalization", ["t", "g"], ["y"])],
                 {"c": np.float32(200), "g": np.ones(64, np.float32)})
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "y")]


def test_the_distance_of_a_sigmoid_from_one() -> None:
    """1 - sigmoid, where that is less than FP16 can tell from 0."""
    found = told([node("Add", ["x", "c"], ["u"]), node("Sigmoid", ["u"], ["p"]), node("Sub", ["one", "p"], ["y"])],
                 {"c": np.float32(9), "one": np.float32(1)})
    assert [(d.cause, d.tensor) for d in found] == [("saturated-tails", "p")] or found[0].cause == "cancellation"
    assert found[0].evidence["error"] > 0.01


def test_a_sum_that_grows_gradually_has_no_cause() -> None:
    """Within its tolerance nothing is said, however many terms there are."""
    assert told([node("ReduceSum", ["x"], ["y"])], {}, np.abs(X)) == ()


@pytest.mark.parametrize(("op", "attributes"), [("ReduceSum", {"axes": [1]}), ("ReduceMean", {"axes": [1]})])
def test_a_long_sum_in_few_bits(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    """A runtime that adds 4096 terms one after the other in FP16 is recognised by the size of its error."""
    x = np.random.default_rng(0).random((8, 4096), np.float32)
    opset = 11
    model = Model.from_proto(proto_of([node(op, ["x"], ["t"], **attributes), node("Neg", ["t"], ["y"])],
                                      [declared("x", x.shape)], opset=opset))
    narrow = np.add.accumulate(x.astype(np.float16), axis=1, dtype=np.float16)[:, -1:].astype(np.float32)
    scale = np.float32(1 if op == "ReduceSum" else 1 / 4096)
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: narrow * scale * np.float32(1.00001))
    found = diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x})
    assert [(d.cause, d.tensor) for d in found] == [("long-accumulation", "t")]
    assert found[0].evidence["terms"] == 4096


def test_a_wrong_sum_is_no_long_one(tmp_path: Path) -> None:
    """An error of another size has another cause, or none."""
    x = np.random.default_rng(0).random((8, 4096), np.float32)
    model = Model.from_proto(proto_of([node("ReduceSum", ["x"], ["t"], axes=[1]), node("Neg", ["t"], ["y"])],
                                      [declared("x", x.shape)], opset=11))
    wrong = np.linspace(0.1, 5, 8, dtype=np.float32).reshape(8, 1)
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: t * wrong)
    assert diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x}) == ()
