"""The numbers of `measure`, computed by torch where two tensors lie, against those of the CPU."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given

import parity.analysis.placed
from parity.analysis.measure import Comparison, measure
from parity.analysis.placed import placed_totals
from parity.errors import MatchError
from parity.graph.device import Placed, value_of
from tests.analysis.test_measure import Pair, pairs
from tests.elsewhere import simulated_device


def placed(array: np.ndarray) -> Placed:
    """An array as torch has it."""
    tensor = value_of(array)
    assert isinstance(tensor, torch.Tensor)
    return Placed(tensor)


def assert_same(found: Comparison, expected: Comparison) -> None:
    """Counts, places and bounds are equal, sums to FP64's rounding."""
    for name, value in asdict(expected).items():
        mine = asdict(found)[name]
        if isinstance(value, float) and math.isfinite(value):
            assert math.isclose(mine, value, rel_tol=1e-12, abs_tol=1e-12 if name == "cosine" else 0.0), name
        else:
            assert mine == value or (value != value and mine != mine), name  # noqa: PLR0124 - NaN


@given(pairs())
def test_the_numbers_are_those_of_the_cpu(pair: Pair) -> None:
    """Of any two tensors of floats, NaN, Inf, denormals and empty ones included."""
    assert_same(measure(*map(placed, pair)), measure(*pair))


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_small_integers_are_measured_there(dtype: type) -> None:
    """Exactly, as FP64 holds them all."""
    one: np.ndarray = np.random.default_rng(1).integers(0, 2**31, 100).astype(dtype)
    other: np.ndarray = np.random.default_rng(2).integers(0, 2**31, 100).astype(dtype)
    assert placed_totals(placed(one), placed(other)) is not None
    assert_same(measure(placed(one), placed(other)), measure(one, other))


def test_what_torch_would_round_is_brought_to_the_cpu() -> None:
    """64-bit integers, complex numbers, and tensors that do not lie together have the CPU's numbers."""
    large = np.array([2**62, 2**62 + 1])
    assert placed_totals(placed(large), placed(large + 1)) is None
    assert measure(placed(large), placed(large + 1)).max_abs == 1
    assert measure(placed(np.array([1 + 2j])), placed(np.array([1 + 3j]))).max_abs == 1
    assert measure(np.ones(3), placed(np.zeros(3))).l1 == 3
    with simulated_device() as device:
        assert placed_totals(Placed(torch.ones(3).to(device)), placed(np.ones(3))) is None


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tensor is measured in pieces, places count from its start, and the first of equals wins."""
    monkeypatch.setattr(parity.analysis.placed, "_CHUNK", 4)
    one = np.arange(11.0)
    other = one.copy()
    other[[6, 9]] += 2
    assert_same(measure(placed(one), placed(other)), measure(one, other))
    other[[5, 10]] = np.nan
    assert_same(measure(placed(one), placed(other)), measure(one, other))


def test_shapes_must_agree() -> None:
    """As on the CPU."""
    with pytest.raises(MatchError, match="Shapes differ"):
        measure(placed(np.ones(3)), placed(np.ones(4)))
