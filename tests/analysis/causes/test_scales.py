"""Scales and zero points that a runtime takes wrong, told from the integers and what they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.graph.model import Model
from tests.builders import declared, node, proto_of
from tests.causes import as_if, diagnosed, saved_tensors, taken_elsewhere

X = np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)
NODES = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
         node("Relu", ["d"], ["y"])]
RIGHT = Model.from_proto(proto_of(NODES, [declared("x", X.shape)], weights={"s": np.float32(0.05), "z": np.int8(3)}))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([1.0, 0.5, 1.3]), st.integers(-20, 20))
def test_a_straight_line_is_a_scale_and_a_zero_point(times: float, by: int) -> None:
    """What a runtime dequantises with is found, both at once, and told as one shift and one step."""
    if by == 0 and times == 1.0:
        return
    wrong = [NODES[0], node("DequantizeLinear", ["q", "os", "oz"], ["d"]), NODES[2]]
    other = proto_of(wrong, [declared("x", X.shape)], weights={
        "s": np.float32(0.05), "z": np.int8(3), "os": np.float32(0.05 * times), "oz": np.int8(3 + by)})
    found, = diagnosed(RIGHT, as_if(other), {"x": X})
    assert found.cause == ("wrong-zero-point" if by else "wrong-scale")
    assert "as if" in found.message
    assert "by channel" not in found.message
    assert found.evidence["off"] == by
    assert found.evidence["other_scale"] == pytest.approx(0.05 * times, rel=1e-4)


@pytest.mark.parametrize("by", [-7, 4])
def test_integers_that_are_all_off_alike(tmp_path: Path, by: int) -> None:
    """A zero point that a runtime quantises with."""
    shown = taken_elsewhere(RIGHT, {"x": X}, "q", lambda q: np.clip(q.astype(int) + by, -128, 127).astype(np.int8))
    found, = diagnosed(RIGHT, saved_tensors(tmp_path, shown), {"x": X})
    assert (found.cause, found.evidence["off"]) == ("wrong-zero-point", by)
    assert f"off by {by:+d}" in found.message


def test_other_real_numbers_are_no_line(tmp_path: Path) -> None:
    """Noise on what is dequantised is neither a scale nor a zero point."""
    noise = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    shown = taken_elsewhere(RIGHT, {"x": X}, "d", lambda d: d * (1 + noise))
    assert diagnosed(RIGHT, saved_tensors(tmp_path, shown), {"x": X}) == ()
