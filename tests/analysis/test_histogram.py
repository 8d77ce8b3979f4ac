"""Distributions of one tensor on both sides."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from parity.analysis.histogram import BINS, WORST, distributions, histogram

ANY = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(-1e300, 1e300)


@given(arrays(np.float64, st.integers(1, 200), elements=FINITE))
def test_every_finite_value_is_in_one_bin(values: np.ndarray) -> None:
    """Counts over the whole range add up to the number of values, whatever the range is."""
    found = histogram(values, float(values.min()), float(values.max()))
    assert len(found.counts) == BINS
    assert sum(found.counts) == values.size


@given(arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32)))
def test_bins_are_those_of_numpy(values: np.ndarray) -> None:
    """Cumulated counts agree with numpy's, up to values that rounding puts on the other side of an edge."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-3:
        return
    expected, edges = np.histogram(values, BINS, (low, high))
    near = np.array([np.count_nonzero(np.abs(values - edge) < 1e-9 * max(abs(low), abs(high))) for edge in edges[1:]])
    difference = np.abs(np.cumsum(expected) - np.cumsum(histogram(values, low, high).counts))
    assert (difference <= near).all()


@given(arrays(np.float64, array_shapes(max_dims=3, max_side=5), elements=ANY), st.data())
def test_both_sides_are_counted_and_the_worst_named(reference: np.ndarray, data: st.DataObject) -> None:
    """Finite values of each side are all counted in shared bins, and the worst elements are the worst there are."""
    candidate = data.draw(arrays(np.float64, reference.shape, elements=ANY))
    found = distributions(reference, candidate)
    assert found is not None
    assert (found.reference.low, found.reference.high) == (found.candidate.low, found.candidate.high)
    assert sum(found.reference.counts) == np.isfinite(reference).sum()
    assert sum(found.candidate.counts) == np.isfinite(candidate).sum()
    same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    assert len(found.worst) == min(WORST, np.count_nonzero(~same))
    with np.errstate(all="ignore"):
        size = np.where(same, 0.0, np.nan_to_num(np.abs(candidate - reference), nan=np.inf, posinf=np.inf))
    named = [size[e.index] for e in found.worst]
    assert named == sorted(size.ravel()[~same.ravel()], reverse=True)[:WORST]


def test_a_clipped_tensor_shows_its_wall() -> None:
    """Values beyond a range pile up in the bin at its end, and the errors lie on the other side of zero."""
    reference = np.linspace(-4.0, 4.0, 1001)
    found = distributions(reference, reference.clip(-2.0, 2.0))
    assert found is not None
    place = int((2.0 + 4.0) / 8.0 * BINS)
    assert found.candidate.counts[place] > 200
    assert sum(found.candidate.counts[place + 1:]) == 0
    assert (found.error.low, found.error.high) == (-2.0, 2.0)
    assert {abs(e.reference) for e in found.worst[:2]} == {4.0}


def test_what_is_finite_on_one_side_comes_first() -> None:
    """An infinity is worse than any finite difference, and equal infinities are no difference."""
    found = distributions(np.array([0.0, 0.0, math.inf, 1.0]), np.array([1e308, math.nan, math.inf, -math.inf]))
    assert found is not None
    assert [e.index for e in found.worst] == [(1,), (3,), (0,)]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.bool_, np.float64])
def test_number_types_are_taken_as_they_are(dtype: type) -> None:
    """Halves, integers and truth values are counted like any number."""
    values: np.ndarray = np.array([0, 1, 1, 0]).astype(dtype)
    found = distributions(values, values)
    assert found is not None
    assert (found.reference.counts[0], found.reference.counts[-1]) == (2, 2)
    assert found.worst == ()


def test_what_cannot_be_counted_is_left_out() -> None:
    """Text, complex numbers, other shapes and empty tensors have no distributions."""
    one = np.ones(3)
    assert distributions(np.array(["a"], object), np.array(["b"], object)) is None
    assert distributions(one.astype(complex), one.astype(complex)) is None
    assert distributions(one, np.ones(4)) is None
    assert distributions(np.empty(0), np.empty(0)) is None
