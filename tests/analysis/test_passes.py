"""The compiled pass against the numpy one, on blocks that hold every kind of value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parity.analysis import passes

Array = npt.NDArray[Any]
EXACT = ("max_abs", "worst", "min_reference", "max_reference", "min_candidate", "max_candidate", "nan_reference", "nan",
         "inf_reference", "inf", "mismatched", "first_mismatch")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> passes.Pass:
    """The compiled pass, whatever the environment says."""
    pytest.importorskip("numba")
    monkeypatch.setenv("PARITY_NO_NUMBA", "0")
    return passes.fused_pass.__wrapped__()


def sides(size: int, dtypes: tuple[str, str]) -> tuple[Array, Array]:
    """Two close tensors whose values change sign and magnitude along the way."""
    rng = np.random.default_rng(size)
    r = (rng.standard_normal(size) * 2.0 ** rng.integers(-20, 20, size)).astype(dtypes[0])
    return r, (r * (1 + 1e-3 * rng.standard_normal(size))).astype(dtypes[1])


@pytest.mark.parametrize("place", [0, passes._BLOCK - 1, passes._BLOCK, 2 * passes._BLOCK + 6])
@pytest.mark.parametrize(("there", "here"), [
    (np.nan, 1), (1, -np.inf), (np.inf, -np.inf), (np.nan, np.nan), (np.inf, np.inf), (0, 0), (3e38, -3e38),
])
@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f4")])
def test_one_odd_value_anywhere_is_seen(place: int, there: float, here: float, dtypes: tuple[str, str],
                                        compiled: passes.Pass) -> None:
    """NaN, Inf or a huge value in the first, an inner or the last place gives the numpy pass's numbers."""
    r, c = sides(2 * passes._BLOCK + 7, dtypes)
    r[place], c[place] = there, here
    got, expected = passes.Totals._make(compiled(r, c)), passes.numpy_pass(r, c)
    for name in EXACT:
        assert getattr(got, name) == getattr(expected, name), name
    np.testing.assert_allclose(got[:4], expected[:4], rtol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_bounds_are_those_of_values_of_one_sign(sign: int, compiled: passes.Pass) -> None:
    """Where all values are positive, or all negative, neither bound is 0."""
    r = sign * np.linspace(1, 2, 100, dtype=np.float32)
    got = passes.Totals._make(compiled(r, r))
    assert (got.min_reference, got.max_reference) == (r.min(), r.max())
    assert (got.max_abs, got.worst, got.l1) == (0, 0, 0)


def test_the_first_of_equal_gaps_is_the_worst(compiled: passes.Pass) -> None:
    """Equal gaps in several blocks and within one name the earliest, though bits differ elsewhere."""
    r = np.zeros(3 * passes._BLOCK, np.float32)
    c = r.copy()
    c[[passes._BLOCK + 5, passes._BLOCK + 9, 2 * passes._BLOCK]] = [-2, 2, 2]
    assert passes.Totals._make(compiled(r, c)).worst == passes._BLOCK + 5
    assert passes.numpy_pass(r, c).worst == passes._BLOCK + 5
