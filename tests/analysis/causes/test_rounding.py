"""Small differences of large terms, saturated functions that are read at their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto

from parity.analysis.diagnose import Diagnosis
from parity.contenders import Contender
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed

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


def test_the_centred_value_is_not_to_blame_for_the_variance() -> None:
    """A mean subtracted beside a variance by its squares is a difference too, and nothing that the root reads."""
    found = told([node("ReduceMean", ["x", "a"], ["m"]), node("Mul", ["x", "x"], ["s"]),
                  node("ReduceMean", ["s", "a"], ["q"]), node("Mul", ["m", "m"], ["r"]),
                  node("Sub", ["q", "r"], ["v"]), node("Sqrt", ["v"], ["d"]), node("Sub", ["x", "m"], ["c"]),
                  node("Div", ["c", "d"], ["y"])],
                 {"a": np.array([1])}, X * np.float32(0.2) + 8)
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "v")]


def test_a_difference_that_nothing_comes_of_is_not_named() -> None:
    """Two differences, one of them multiplied by next to nothing: only the other one reaches the output."""
    nodes = [node("Add", ["x", "c"], ["t"]), node("Sub", ["t", "c"], ["u"]), node("Add", ["x", "e"], ["v"]),
             node("Sub", ["v", "e"], ["w"]), node("Mul", ["w", "small"], ["p"]), node("Add", ["u", "p"], ["y"])]
    found = told(nodes, {"c": np.float32(300), "e": np.float32(301), "small": np.float32(1e-3)})
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "u")]


def test_odds_of_what_was_rounded_to_one() -> None:
    """The odds p / (1 - p) of a Sigmoid in 255 steps: no norm shows the few that are 1, and the division does."""
    weights = {"one": np.float32(1), "s": np.float32(1 / 255), "z": np.uint8(0)}
    models = [Model.from_proto(proto_of(
        [node("Sigmoid", ["x"], ["p"]), *between, node("Sub", ["one", read], ["q"]), node("Div", [read, "q"], ["y"])],
        [declared("x", X.shape)], weights=weights)) for between, read in (
            ([], "p"), ([node("QuantizeLinear", ["p", "s", "z"], ["i"]),
                         node("DequantizeLinear", ["i", "s", "z"], ["d"])], "d"))]
    found = diagnosed(models[0], Contender(Target("pytorch"), models[1]), {"x": np.maximum(X * 2, 0) + 2})
    assert [(d.cause, d.tensor) for d in found] == [("saturated-tails", "p")]
    assert "division by zero" in found[0].message
