"""Calibration that does not cover the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from parity.analysis.causes.ranges import uncovered
from parity.analysis.diagnose import diagnose
from parity.contenders import Contender
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.variant import make_variant
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import diagnosed, gather

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 32)).astype(np.float32)
MODEL = Model.from_proto(proto_of(
    [node("MatMul", ["x", "u"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["c"]),
     node("Relu", ["c"], ["d"]), node("MatMul", ["d", "w"], ["y"])], [declared("x", X.shape)],
    weights={n: (RANDOM.normal(size=s) / np.sqrt(s[0])).astype(np.float32)
             for n, s in {"u": (32, 64), "v": (64, 64), "w": (64, 10)}.items()}))


def calibrated(feed: Mapping[str, np.ndarray]) -> Contender:
    """The model in INT8 with ranges from a feed, emulated."""
    variant = make_variant(MODEL, "int8", Calibration.of_feeds(MODEL, [feed])).model
    return Contender(Target("pytorch"), variant)


@pytest.mark.parametrize("factor", [0.05, 0.2, 0.5])
def test_calibration_on_smaller_inputs(factor: float) -> None:
    """All ranges are too narrow: the first is named, with its ends, and how many there are."""
    found = diagnosed(MODEL, calibrated({"x": X * np.float32(factor)}), {"x": X})
    assert [(d.cause, d.tensor) for d in found] == [("clipped-calibration", "x")]
    numbers = found[0].evidence
    assert (numbers["clipped_tensors"], numbers["tensors"]) == (3, 3)
    assert numbers["factor"] == pytest.approx(1 / factor, rel=0.02)
    assert numbers["clipped"] == pytest.approx(float((np.abs(X) > np.abs(X).max() * factor).mean()), abs=0.01)
    assert numbers["outputs_without"] < 0.1 < numbers["outputs_error"]


def test_ranges_that_fit_are_not_named() -> None:
    """Neither where the outputs pass, nor where they are out for another reason."""
    contender = calibrated({"x": X})
    assert diagnosed(MODEL, contender, {"x": X}) == ()
    evidence = gather(MODEL, contender, {"x": X})
    assert uncovered(replace(evidence, diverged=True)) == ()


def test_clipping_that_costs_nothing_is_not_named() -> None:
    """Ranges a little too narrow, while the outputs are off by far more than that."""
    evidence = gather(MODEL, calibrated({"x": X * np.float32(0.95)}), {"x": X})
    wrong = {n: -v for n, v in evidence.candidate_outputs.items()}
    assert uncovered(replace(evidence, diverged=True, candidate_outputs=wrong)) == ()


def test_one_narrow_range_is_that_of_its_tensor() -> None:
    """A single clipped tensor among many is told by its layer."""
    contender = calibrated({"x": X})
    assert contender.model is not None
    proto = contender.model.proto
    scale = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "b").input[1]
    weight = next(t for t in proto.graph.initializer if t.name == scale)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / np.float32(10), scale))
    found = diagnose(gather(MODEL, Contender(Target("pytorch"), Model.from_proto(proto)), {"x": X}))
    assert [(d.cause, d.tensor) for d in found] == [("clipped-calibration", "b")]
    assert "clipped_tensors" not in found[0].evidence
