"""What a narrow format does: overflow, underflow, NaN and Inf, and where each is born."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto

from parity.analysis.causes import formats
from parity.analysis.diagnose import Diagnosis, diagnose
from parity.contenders import Contender
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, gather, saved_tensors, taken_elsewhere

EMULATED = Contender(Target("pytorch", "", "fp16"))
X = np.linspace(0.5, 2, 32, dtype=np.float32).reshape(4, 8)


def told(nodes: Sequence[NodeProto], weights: Mapping[str, Any], x: np.ndarray = X) -> tuple[Diagnosis, ...]:
    """What is said of y = f(x) emulated in FP16."""
    model = Model.from_proto(proto_of(nodes, [declared("x", x.shape)],
                                      weights={n: np.asarray(w, np.float32) for n, w in weights.items()}))
    return diagnosed(model, EMULATED, {"x": x})


def test_an_overflow_says_how_large() -> None:
    """The tensor beyond 65504, its magnitude and the share of it that is lost, not those that inherit it."""
    found = told([node("Mul", ["x", "up"], ["t"]), node("Mul", ["t", "down"], ["u"]), node("Relu", ["u"], ["y"])],
                 {"up": 5e4, "down": 2e-5})
    assert [(d.cause, d.tensor) for d in found] == [("fp16-overflow", "t")]
    assert found[0].evidence["largest"] == pytest.approx(1e5, rel=1e-3)
    assert found[0].evidence["share"] == pytest.approx(float((X * np.float32(5e4) > 65520).mean()))


def test_infinity_times_zero_leads_back_to_the_infinity() -> None:
    """A NaN further on is no cause of its own."""
    found = told([node("Mul", ["x", "up"], ["t"]), node("Mul", ["t", "none"], ["u"]), node("Add", ["u", "x"], ["y"])],
                 {"up": 1e5, "none": 0})
    assert [(d.cause, d.tensor) for d in found] == [("fp16-overflow", "t")]


def test_an_overflow_inside_of_an_operator(tmp_path: Path) -> None:
    """A mean of numbers whose sum passes 65504, in a runtime that adds in FP16."""
    x = np.full((2, 4096), 30, np.float16)
    model = Model.from_proto(proto_of(
        [node("ReduceMean", ["x"], ["t"], axes=[1]), node("Neg", ["t"], ["y"])], [declared("x", (2, 4096), 10)],
        [declared("y", None, 10)]))
    tensors = taken_elsewhere(model, {"x": x}, "t", lambda t: np.full_like(t, np.inf))
    found = diagnosed(model, saved_tensors(tmp_path, tensors), {"x": x})
    assert [(d.cause, d.tensor) for d in found] == [("fp16-overflow", "t")]
    assert found[0].evidence["inside"] == pytest.approx(30 * 4096)


def test_an_epsilon_that_becomes_zero() -> None:
    """The logarithm of zero is told by what was to keep zero away."""
    found = told([node("Relu", ["x"], ["r"]), node("Add", ["r", "eps"], ["t"]), node("Log", ["t"], ["y"])],
                 {"eps": 1e-10}, X - 1)
    assert [(d.cause, d.tensor) for d in found] == [("fp16-underflow", "t")]
    assert found[0].evidence["smallest_reference"] == pytest.approx(1e-10)


def test_subnormal_numbers() -> None:
    """Numbers under 6e-5 lose their last bits, which shows when they are scaled up again."""
    found = told([node("Mul", ["x", "down"], ["t"]), node("Mul", ["t", "up"], ["u"]), node("Relu", ["u"], ["y"])],
                 {"down": 3e-7, "up": 3e4})
    assert [(d.cause, d.tensor) for d in found] == [("fp16-underflow", "t")]
    assert found[0].evidence["tiny"] == 1.0
    assert found[0].evidence["explained"] > 0.99


def test_weights_too_small_for_the_format() -> None:
    """Weights below the normal range, whose product is large again."""
    w = np.random.default_rng(0).normal(size=(8, 4)) * 1e-7
    found = told([node("Mul", ["x", "up"], ["u"]), node("MatMul", ["u", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                 {"w": w, "up": 3e4})
    assert [(d.cause, d.tensor) for d in found] == [("fp16-underflow", "t")]
    assert "weight" in found[0].message


def test_a_softmax_whose_tails_vanish() -> None:
    """The logarithm of probabilities below the smallest FP16 number."""
    found = told([node("Mul", ["x", "up"], ["u"]), node("Softmax", ["u"], ["p"]), node("Log", ["p"], ["y"])],
                 {"up": 60})
    assert [(d.cause, d.tensor) for d in found] == [("saturated-tails", "p")]


@pytest.mark.parametrize(("maker", "cause"), [("Softmax", "saturated-tails"), ("Abs", "int8-underflow")])
def test_a_logarithm_of_what_is_below_a_step(maker: str, cause: str) -> None:
    """Probabilities, or other numbers, below INT8's step become 0, and their logarithm infinite."""
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) * np.float32(4)
    x[0, 0] = 1e-3
    largest = np.float32(1 if maker == "Softmax" else np.abs(x).max())
    weights = {"s": largest / np.float32(255), "z": np.uint8(0)}
    between = [node("QuantizeLinear", ["p", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"])]
    models = [Model.from_proto(proto_of([node(maker, ["x"], ["p"]), *steps, node("Log", [read], ["y"])],
                                        [declared("x", x.shape)], weights=weights))
              for steps, read in (([], "p"), (between, "d"))]
    found = diagnosed(models[0], Contender(Target("pytorch"), models[1]), {"x": x})
    assert [(d.cause, d.tensor) for d in found] == [(cause, "p")]
    assert found[0].evidence["least"] == pytest.approx(largest / 255)


def test_a_root_of_what_rounding_made_negative() -> None:
    """A variance by its squares comes out below zero in FP16: the difference is named, and the root that it spoils."""
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) * np.float32(0.02) + 5
    model = Model.from_proto(proto_of(
        [node("ReduceMean", ["x"], ["m"], axes=[1]), node("Mul", ["x", "x"], ["s"]),
         node("ReduceMean", ["s"], ["q"], axes=[1]), node("Mul", ["m", "m"], ["r"]), node("Sub", ["q", "r"], ["v"]),
         node("Sqrt", ["v"], ["y"])], [declared("x", x.shape)]))
    evidence = gather(model, EMULATED, {"x": x})
    found = diagnose(evidence)
    assert [(d.cause, d.tensor) for d in found] == [("cancellation", "v")]
    assert "square root of a negative number" in found[0].message
    at_root, = formats.born(evidence)
    assert (at_root.cause, at_root.tensor) == ("nonfinite-born", "y")
    assert 0 < at_root.evidence["smallest_reference"] < at_root.evidence["largest_reference"] < 1e-3


def test_what_the_reference_has_too_is_no_fault() -> None:
    """A mask of minus infinity is infinite on both sides."""
    model = Model.from_proto(proto_of(
        [node("Add", ["x", "mask"], ["t"]), node("Softmax", ["t"], ["y"])], [declared("x", X.shape)],
        weights={"mask": np.where(np.arange(8) > 5, -np.inf, 0).astype(np.float32)}))
    assert diagnosed(model, EMULATED, {"x": X}) == ()
