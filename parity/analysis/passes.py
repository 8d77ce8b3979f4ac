"""One pass over two flat float tensors, compiled by numba or in numpy: the numbers that `measure` is made of.

The compiled pass reads both sides once, in blocks that stay in cache. Sums are float64, in which a float32 can neither
overflow nor underflow when squared, and <r, c> is left out, since |c - r|^2 = |r|^2 + |c|^2 - 2 <r, c>. Bounds are
taken in a loop of their own, twice as many float32 at a time. A block that holds NaN or Inf goes through an exact,
slower loop. numpy gives the same numbers, slower still.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = 4096  # elements: both sides in float32 fill a 32 KiB first-level cache
_CHUNK = 1 << 16  # elements the numpy pass holds temporaries for


class Totals(NamedTuple):
    """What one pass collects; the first five run over the positions where both sides are finite.

    Attributes:
        l1: sum of |c - r|.
        error_squares: sum of (c - r)^2.
        reference_squares: sum of r^2.
        candidate_squares: sum of c^2.
        max_abs: largest |c - r|.
        worst: flat index of max_abs, the first of equals.
        min_reference: +inf where there is no value that is not NaN; so is min_candidate.
        max_reference: -inf where there is no such value; so is max_candidate.
        nan_reference: number of NaNs in r.
        nan: number of NaNs in c.
        inf_reference: number of infinities in r.
        inf: number of infinities in c.
        mismatched: positions where one side is NaN, +Inf or -Inf and the other is not the same.
        first_mismatch: flat index of the first of them, 0 where there is none.
    """

    l1: float
    error_squares: float
    reference_squares: float
    candidate_squares: float
    max_abs: float
    worst: int
    min_reference: float
    max_reference: float
    min_candidate: float
    max_candidate: float
    nan_reference: int
    nan: int
    inf_reference: int
    inf: int
    mismatched: int
    first_mismatch: int


EMPTY = Totals(0.0, 0.0, 0.0, 0.0, 0.0, 0, math.inf, -math.inf, math.inf, -math.inf, 0, 0, 0, 0, 0, 0)

# Takes two flat tensors, float32 or float64, of the same size, at least 1; returns the fields of `Totals`.
Pass: TypeAlias = Callable[[Array, Array], tuple[Any, ...]]


@functools.cache
def fused_pass() -> Pass:
    """The compiled pass, or the numpy one where numba is missing or PARITY_NO_NUMBA=1 is in the environment."""
    if os.environ.get("PARITY_NO_NUMBA") == "1":
        return numpy_pass
    try:
        return _compiled_pass()
    except ImportError:
        return numpy_pass


def numpy_pass(reference: Array, candidate: Array) -> Totals:
    """The pass in numpy, in chunks that bound its temporaries."""
    parts = []
    for start in range(0, reference.size, _CHUNK):
        r, c = (side[start : start + _CHUNK].astype(np.float64) for side in (reference, candidate))
        with np.errstate(over="ignore", invalid="ignore"):
            gap = np.abs(c - r)
        parts.append(chunk_totals(r, c, gap, start))
    return together(parts)


def together(parts: Sequence[Totals]) -> Totals:
    """The totals of at least one chunk, in their order, as those of one tensor."""
    columns = list(zip(*parts, strict=True))
    peak = max(parts, key=lambda part: part.max_abs)
    first_mismatch = next((part.first_mismatch for part in parts if part.mismatched), 0)
    bounds = min(columns[6]), max(columns[7]), min(columns[8]), max(columns[9])
    counts = map(sum, columns[10:15])
    return Totals._make((*map(sum, columns[:4]), peak.max_abs, peak.worst, *bounds, *counts, first_mismatch))


def chunk_totals(reference: Array, candidate: Array, gap: Array, start: int) -> Totals:
    """Totals of one chunk of at least one element.

    Args:
        reference: r, float64, flat.
        candidate: c, likewise.
        gap: |c - r|, which the caller may know more exactly than float64 sides tell.
        start: flat index of the chunk's first element.
    """
    finite = np.isfinite(reference) & np.isfinite(candidate)
    same = finite | (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    r, c, gap = (np.where(finite, x, 0) for x in (reference, candidate, gap))
    worst, mismatched = int(gap.argmax()), int((~same).sum())
    bounds = (
        float(bound)
        for x in (reference[~np.isnan(reference)], candidate[~np.isnan(candidate)])
        for bound in (x.min(initial=math.inf), x.max(initial=-math.inf))
    )
    counts = (int(is_it(x).sum()) for is_it in (np.isnan, np.isinf) for x in (reference, candidate))
    with np.errstate(over="ignore", under="ignore"):
        sums = float(gap.sum()), float(gap @ gap), float(r @ r), float(c @ c)
    first_mismatch = start + int(same.argmin()) if mismatched else 0
    return Totals._make((*sums, float(gap[worst]), start + worst, *bounds, *counts, mismatched, first_mismatch))


def _compiled_pass() -> Pass:
    """The pass in machine code, made at the first call for a pair of dtypes and kept on disk."""
    import numba
    from numba.extending import overload, register_jitable

    for extremum, sign in ((_lower, "<"), (_higher, ">")):
        overload(extremum, strict=False)(_extremum(sign))
    # Sums in any order are what vectorises; NaN and Inf keep their meaning, so no `fastmath=True`.
    for fast in (_sums, _bounds):
        register_jitable(fastmath={"reassoc", "contract", "nsz"})(fast)
    for exact in (_exact_sums, _exact_bounds, _count_nonfinite, _first_at):
        register_jitable(exact)
    try:
        compiled: Pass = numba.njit(cache=True, nogil=True)(_pass)
    except RuntimeError:  # no writable folder, neither beside this file nor in the user's home
        compiled = numba.njit(nogil=True)(_pass)
    return compiled


def _extremum(sign: str) -> Callable[[Any, Any], Any]:
    """Numba's version of `_lower` ("<") or `_higher` (">"), which vectorises because it need not mind NaN."""
    from numba.extending import intrinsic

    @intrinsic
    def extremum(_: Any, x: Any, y: Any) -> Any:
        def generate(_: Any, builder: Any, _signature: Any, sides: Any) -> Any:
            flags = ("nnan", "nsz")
            return builder.select(builder.fcmp_ordered(sign, *sides, flags=flags), *sides, flags=flags)

        return x(x, y), generate

    def implementation(_x: Any, _y: Any) -> Any:
        return lambda x, y: extremum(x, y)  # noqa: PLW0108 - numba wants a plain function

    return implementation


def _lower(x: Any, y: Any) -> Any:
    """The lower of two floats that are not NaN."""
    return min(x, y)


def _higher(x: Any, y: Any) -> Any:
    """The higher of two floats that are not NaN."""
    return max(x, y)


def _pass(reference: Array, candidate: Array) -> tuple[Any, ...]:
    """The pass as numba compiles it; returns the fields of `Totals`."""
    l1 = error = squares_r = squares_c = 0.0
    max_abs, peak_start = 0.0, 0
    min_r = min_c = np.inf
    max_r = max_c = -np.inf
    counts = np.zeros(6, np.int64)
    for start in range(0, reference.size, _BLOCK):
        r, c = reference[start : start + _BLOCK], candidate[start : start + _BLOCK]
        sums = _sums(r, c)
        if sums[0] < np.inf:
            bounds_r, bounds_c = _bounds(r), _bounds(c)
        else:
            sums, bounds_r, bounds_c = _exact_sums(r, c), _exact_bounds(r), _exact_bounds(c)
            _count_nonfinite(r, c, start, counts)
        l1, error = l1 + sums[0], error + sums[1]
        squares_r, squares_c = squares_r + sums[2], squares_c + sums[3]
        if sums[4] > max_abs:
            max_abs, peak_start = sums[4], start
        min_r, max_r = min(min_r, bounds_r[0]), max(max_r, bounds_r[1])
        min_c, max_c = min(min_c, bounds_c[0]), max(max_c, bounds_c[1])
    worst = _first_at(reference, candidate, peak_start, max_abs) if max_abs > 0 else 0
    return (l1, error, squares_r, squares_c, max_abs, worst, min_r, max_r, min_c, max_c,
            counts[0], counts[1], counts[2], counts[3], counts[4], counts[5])


def _sums(reference: Array, candidate: Array) -> tuple[float, float, float, float, float]:
    """The first five of `Totals` for a block of finite values; the first is NaN or Inf for any other block."""
    l1 = error = squares_r = squares_c = max_abs = 0.0
    for i in range(reference.size):
        x, y = np.float64(reference[i]), np.float64(candidate[i])
        gap = abs(y - x)
        l1 += gap
        error += gap * gap
        squares_r += x * x
        squares_c += y * y
        max_abs = _higher(max_abs, gap)
    return l1, error, squares_r, squares_c, max_abs


def _bounds(values: Array) -> tuple[float, float]:
    """Minimum and maximum of a block of finite values."""
    low = high = values[0]
    for i in range(values.size):  # numba vectorises this and not `for x in values`
        low, high = _lower(low, values[i]), _higher(high, values[i])
    return np.float64(low), np.float64(high)


def _exact_sums(reference: Array, candidate: Array) -> tuple[float, float, float, float, float]:
    """The first five of `Totals` for any block."""
    l1 = error = squares_r = squares_c = max_abs = 0.0
    for i in range(reference.size):
        x, y = np.float64(reference[i]), np.float64(candidate[i])
        if np.isfinite(x) and np.isfinite(y):
            gap = abs(y - x)
            l1 += gap
            error += gap * gap
            squares_r += x * x
            squares_c += y * y
            max_abs = max(max_abs, gap)
    return l1, error, squares_r, squares_c, max_abs


def _exact_bounds(values: Array) -> tuple[float, float]:
    """Minimum and maximum of any block, NaN left out."""
    low, high = np.inf, -np.inf
    for x in values:
        if not np.isnan(x):
            low, high = min(low, np.float64(x)), max(high, np.float64(x))
    return low, high


def _count_nonfinite(reference: Array, candidate: Array, start: int, counts: Array) -> None:
    """Adds a block's NaNs and Infs of each side and its mismatches to the last six fields of `Totals`."""
    for i in range(reference.size):
        x, y = reference[i], candidate[i]
        counts[0] += np.isnan(x)
        counts[1] += np.isnan(y)
        counts[2] += np.isinf(x)
        counts[3] += np.isinf(y)
        both_finite = np.isfinite(x) and np.isfinite(y)
        if not (both_finite or x == y or (np.isnan(x) and np.isnan(y))):
            if counts[4] == 0:
                counts[5] = start + i
            counts[4] += 1


def _first_at(reference: Array, candidate: Array, start: int, peak: float) -> int:
    """Flat index, from `start` on, of the first gap between finite values that equals `peak`."""
    for i in range(start, reference.size):
        x, y = np.float64(reference[i]), np.float64(candidate[i])
        if np.isfinite(x) and np.isfinite(y) and abs(y - x) == peak:
            return i
    return start
