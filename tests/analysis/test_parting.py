"""The first tensor in which two runs part: by a bit, or by more than rounding explains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest

from parity.analysis.parting import SAME, first_parting, gap_of, gaps_of, noise_of
from parity.analysis.streams import Stream
from parity.graph.model import Model

Array = npt.NDArray[Any]

MODEL = Model.from_proto(onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y)'
    "{ a = Exp(x) b = Sqrt(a) c = ReduceSum <keepdims = 1> (b) y = Add(b, c) }"))
NAMES = ("a", "b", "c", "y")
VALUES = {n: np.linspace(1, 2, 4, dtype=np.float32) for n in NAMES}


def stream(values: dict[str, Array]) -> Stream:
    """These tensors, one chunk each."""
    return Stream(iter([{n: v} for n, v in values.items()]), frozenset(values))


def first(changes: dict[str, float], noise: dict[str, float] | None) -> str | None:
    """The name of the first parting tensor where some are scaled by 1 + change."""
    other = {n: (v * (1 + changes.get(n, 0))).astype(np.float32) for n, v in VALUES.items()}
    found = first_parting(MODEL, NAMES, stream(VALUES), stream(other), noise=noise)
    assert found is None or (found.op, found.node) == (MODEL.graph.producer[found.tensor].op, found.tensor)
    return found.tensor if found else None


def test_a_bit_or_more_than_noise() -> None:
    """Without noise the first changed bit counts; with it, what is beyond ten times the noise, and 3e-7."""
    changes = {"a": 2e-7, "b": 5e-6, "c": 1e-3}
    assert first(changes, None) == "a"
    assert first(changes, {}) == "b"
    assert first(changes, {"b": 1e-6}) == "c"
    assert first(changes, {"b": 1e-6, "c": 1e-3, "y": 1.0}) is None
    assert first({}, None) is None


def test_tensors_that_one_side_hides_are_passed_over() -> None:
    """What only one side shows cannot part, and does not stop the walk."""
    other = {n: -v for n, v in VALUES.items() if n != "a"}
    found = first_parting(MODEL, NAMES, stream(VALUES), stream(other))
    assert found is not None
    assert found.tensor == "b"


@pytest.mark.parametrize(("left", "right", "same"), [
    (np.array([1, math.nan]), np.array([1, math.nan]), True), (np.array([0.0]), np.array([-0.0]), False),
    (np.array([1.0], np.float32), np.array([1.0]), False), (np.array([2**60]), np.array([2**60 + 1]), False),
    (np.array(["a"], object), np.array(["a"], object), True), (np.array(["a"], object), np.array(["b"], object), False),
    (np.zeros(0, np.float32), np.zeros(0, np.float32), True), (np.zeros(2), np.zeros(3), False),
])
def test_same_means_every_bit(left: Array, right: Array, same: bool) -> None:
    """Equal NaNs are the same; the sign of a zero, another dtype or another shape is not."""
    gap = gap_of(left, right)
    assert gap.same is same
    assert gap.beyond(None) is not same
    assert gap.beyond(1e-3) == (left.shape != right.shape or gap.rel_l2 > 1e-3)


def test_of_several_readings_the_nearest_counts() -> None:
    """A tensor passes where one reading of it agrees, and is left out where none can be made."""
    left, right = {"y": np.arange(3.0)}, {"y": np.arange(3.0)}
    assert gaps_of(left, right, lambda a, b: [(a, b + 1), (a, b), (a, b + 2)]) == {"y": SAME}
    assert gaps_of(left, right, lambda a, b: []) == {}


def test_noise_is_the_distance_from_double_precision() -> None:
    """Each tensor has the relative distance of its FP32 from its FP64 value, a few units of rounding here."""
    noise = noise_of(MODEL, {"x": np.array([0.1, 0.2, 0.3, 0.4], np.float32)})
    assert set(noise) == set(NAMES)
    assert all(0 < value < 2e-7 for value in noise.values())
