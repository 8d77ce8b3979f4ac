"""`measure` compares one tensor on two sides, and METRICS says how its numbers are to be read.

Both sides are read once, in blocks that stay in cache: float64 sums, in which a float32 can neither overflow nor
underflow when squared; minima and maxima over bit patterns as integers, which vectorise where those of floats do not;
an exact path for a block that holds NaN or Inf. numba compiles the pass at the first call; without numba, or with
PARITY_NO_NUMBA=1 in the environment, numpy computes the same numbers, slower.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from parity.errors import MatchError

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = 4096  # elements: both sides in float32 fill a 32 KiB first-level cache
_CHUNK = 1 << 16  # elements the numpy path holds temporaries for
_SMALLEST_SQUARES = 1e-280  # a sum of squares below this may have lost terms under 2**-1074
_STRING_KINDS = "OSTU"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor, two sides: reference r and candidate c of the same shape, n elements.

    Sums, norms, `max_abs` and `cosine` run over the positions where both sides are finite. Where finiteness disagrees
    anywhere (`mismatched_nonfinite` > 0) the tensor has no finite error: l1, mean_abs, max_abs, error_l2 and rel_l2
    are inf, sqnr_db is -inf, cosine is 0, and `worst` is the first such position. NaN against NaN, and Inf against Inf
    of the same sign, count as equal.

    Attributes:
        l1: sum of |c - r|.
        mean_abs: l1 / n; 0 for an empty tensor.
        max_abs: largest |c - r|.
        worst: index of max_abs, the first of equals; () for a scalar or an empty tensor.
        rel_l2: ||c - r|| / ||r||; 0 where both are zero, inf where only r is.
        sqnr_db: 20 log10(||r|| / ||c - r||), in decibels; inf where c - r is zero, -inf where only r is.
        cosine: <r, c> / (||r|| ||c||), in [-1, 1]; 1 where both are zero or empty, 0 where one is.
        error_l2: ||c - r||.
        reference_l2: ||r||.
        candidate_l2: ||c||.
        min_reference: smallest value that is not NaN, -inf included; NaN where there is none. So are the next three.
        max_reference: largest value of r.
        min_candidate: smallest value of c.
        max_candidate: largest value of c.
        nan_reference: number of NaNs in r.
        nan_candidate: number of NaNs in c.
        inf_reference: number of infinities in r, of either sign.
        inf_candidate: number of infinities in c, of either sign.
        mismatched_nonfinite: positions where one side is NaN, +Inf or -Inf and the other is not the same.
        size: n; a complex number counts as two.
        identical: no element differs.
    """

    l1: float
    mean_abs: float
    max_abs: float
    worst: tuple[int, ...]
    rel_l2: float
    sqnr_db: float
    cosine: float
    error_l2: float
    reference_l2: float
    candidate_l2: float
    min_reference: float
    max_reference: float
    min_candidate: float
    max_candidate: float
    nan_reference: int
    nan_candidate: int
    inf_reference: int
    inf_candidate: int
    mismatched_nonfinite: int
    size: int
    identical: bool


_SETTERS = tuple(getattr(Comparison, field.name).__set__ for field in fields(Comparison))


@dataclass(frozen=True, slots=True)
class Metric:
    """How one number of a `Comparison` is to be read.

    A new metric is a property of `Comparison` and a line in METRICS.

    Attributes:
        name: the attribute of `Comparison` that holds it.
        perfect: its value where both sides are identical.
        lower_is_better: its direction.
        meaning: its formula, in words.
        nonfinite: its value where finiteness disagrees.
    """

    name: str
    perfect: float
    lower_is_better: bool
    meaning: str
    nonfinite: str

    def of(self, comparison: Comparison) -> float:
        """The metric's value in a comparison."""
        return float(getattr(comparison, self.name))

    def within(self, value: float, limit: float) -> bool:
        """Whether `value` is as good as `limit` or better; NaN never is."""
        return value <= limit if self.lower_is_better else value >= limit


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("l1", 0.0, True, "sum of |c - r|", "inf"),
            Metric("mean_abs", 0.0, True, "mean of |c - r|", "inf"),
            Metric("max_abs", 0.0, True, "largest |c - r|", "inf"),
            Metric("error_l2", 0.0, True, "||c - r||", "inf"),
            Metric("rel_l2", 0.0, True, "||c - r|| / ||r||", "inf"),
            Metric("sqnr_db", math.inf, False, "20 log10(||r|| / ||c - r||), in decibels", "-inf"),
            Metric("cosine", 1.0, False, "<r, c> / (||r|| ||c||)", "0"),
            Metric("mismatched_nonfinite", 0.0, True, "positions where finiteness disagrees", "their number"),
        )
    }
)


def measure(reference: Array, candidate: Array) -> Comparison:
    """Compares two tensors of one shape, of any memory layout and of dtypes that may differ.

    Booleans, integers, float16, bfloat16 and the smaller ml_dtypes are widened exactly; 64-bit integers are subtracted
    as integers, so `identical` and a small difference of large values are exact. A complex tensor counts as its real
    and imaginary parts. Strings are equal or not: the error is 1 where they differ, the reference is 1 everywhere, and
    the minima and maxima are NaN.

    Sums are float64. `worst` is found on differences rounded to the wider dtype of the two. Float64 tensors whose
    squares leave the range of float64 are rescaled; a result beyond that range is inf.

    Args:
        reference: r, of any shape.
        candidate: c, of the same shape.

    Raises:
        MatchError: the shapes differ, or the dtypes have no common measure (text against numbers, dates).
    """
    if reference.shape != candidate.shape:
        raise MatchError(
            f"Shapes differ: reference {reference.shape}, candidate {candidate.shape}",
            "Only tensors of the same shape can be compared element by element.",
        )
    if reference.dtype.char in "fd" and candidate.dtype.char in "fd":
        return _measure_floats(reference, candidate)
    kinds = reference.dtype.kind + candidate.dtype.kind
    if any(kind in _STRING_KINDS for kind in kinds):
        return _measure_strings(reference, candidate)
    if "c" in kinds:
        parts = measure(_parts(reference), _parts(candidate))
        return replace(parts, worst=parts.worst[:-1])
    if _are_long_integers(reference, candidate):
        return _measure_long_integers(reference, candidate)
    return _measure_floats(_widened(reference), _widened(candidate))


class _Totals(NamedTuple):
    """What one pass over two flat tensors collects; sums run over the positions where both are finite."""

    l1: float
    error_squares: float
    reference_squares: float
    candidate_squares: float
    product: float
    max_abs: float
    worst: int
    min_reference: float  # +inf where there is no value
    max_reference: float  # -inf where there is no value
    min_candidate: float
    max_candidate: float
    nan_reference: int
    nan_candidate: int
    inf_reference: int
    inf_candidate: int
    mismatched: int
    first_mismatch: int


_EMPTY = _Totals(0, 0, 0, 0, 0, 0, 0, math.inf, -math.inf, math.inf, -math.inf, 0, 0, 0, 0, 0, 0)


# Norms of error, reference and candidate, rel_l2 and cosine.
_Norms: TypeAlias = tuple[float, float, float, float, float]


def _comparison(totals: _Totals, x: Array, y: Array, shape: tuple[int, ...]) -> Comparison:
    """Builds the public result of one pass over the flat tensors x and y."""
    size = x.size
    l1, _, _, _, _, max_abs, worst, min_r, max_r, min_c, max_c = totals[:11]
    error, reference, candidate, rel_l2, cosine = _norms(totals) or _rescaled_norms(x, y)
    if totals.mismatched:
        l1 = max_abs = error = rel_l2 = math.inf
        cosine, worst = 0.0, totals.first_mismatch
    sqnr_db = -20 * math.log10(rel_l2) if rel_l2 else math.inf
    if min_r > max_r:
        min_r = max_r = math.nan
    if min_c > max_c:
        min_c = max_c = math.nan
    index = _multi_index(worst, shape) if size else ()
    values = (
        l1, l1 / size if size else 0.0, max_abs, index, rel_l2, sqnr_db, cosine, error, reference, candidate,
        min_r, max_r, min_c, max_c, *totals[11:16], size, max_abs == 0,
    )  # fmt: skip
    # The __init__ of a frozen dataclass looks every field up by name: a quarter of a tiny tensor's time.
    comparison = object.__new__(Comparison)
    for set_field, value in zip(_SETTERS, values, strict=True):
        set_field(comparison, value)
    return comparison


def _norms(t: _Totals) -> _Norms | None:
    """Norms straight from the sums, or None where a sum of squares left the range of float64."""
    _, error_squares, squares_r, squares_c, product, max_abs, _, min_r, max_r, min_c, max_c = t[:11]
    if not (
        (_SMALLEST_SQUARES < error_squares < math.inf or max_abs == 0)
        and (_SMALLEST_SQUARES < squares_r < math.inf or min_r == 0 == max_r)
        and (_SMALLEST_SQUARES < squares_c < math.inf or min_c == 0 == max_c)
    ):
        return None
    error, reference, candidate = math.sqrt(error_squares), math.sqrt(squares_r), math.sqrt(squares_c)
    rel_l2 = error / reference if reference else math.inf if error else 0.0
    return error, reference, candidate, rel_l2, _cosine(product, error, reference, candidate)


def _rescaled_norms(x: Array, y: Array) -> _Norms:
    """The same for flat tensors whose squares overflow or underflow: powers of two bring each vector near 1."""
    both_finite = np.isfinite(x) & np.isfinite(y)
    r, c = x[both_finite].astype(np.float64), y[both_finite].astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        vectors = (c - r, r, c)
        exponents = [int(np.frexp(np.abs(v).max(initial=0))[1]) for v in vectors]
        scaled = [np.ldexp(v, -exponent) for v, exponent in zip(vectors, exponents, strict=True)]
        norms = [math.sqrt(v @ v) for v in scaled]
        error, reference, candidate = (float(np.ldexp(v, k)) for v, k in zip(norms, exponents, strict=True))
        rel_l2 = math.inf if norms[0] else 0.0
        if norms[1]:
            rel_l2 = float(np.ldexp(norms[0] / norms[1], exponents[0] - exponents[1]))
    return error, reference, candidate, rel_l2, _cosine(float(scaled[1] @ scaled[2]), *norms)


def _cosine(product: float, error: float, reference: float, candidate: float) -> float:
    """Cosine from <r, c> and the norms: exactly 1 where nothing differs, 0 where one side is zero."""
    if not error:
        return 1.0
    if not (reference and candidate):
        return 0.0
    return max(-1.0, min(1.0, product / (reference * candidate)))


def _multi_index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The C-order multi-index; np.unravel_index would cost as much as all the rest of a tiny comparison."""
    index = []
    for extent in reversed(shape):
        flat, position = divmod(flat, extent)
        index.append(position)
    return tuple(reversed(index))


def _measure_strings(reference: Array, candidate: Array) -> Comparison:
    """Compares text for equality."""
    if not (reference.dtype.kind in _STRING_KINDS and candidate.dtype.kind in _STRING_KINDS):
        raise _no_common_measure(reference, candidate)
    equal = np.asarray(reference.astype(object) == candidate.astype(object), np.float32)
    comparison = measure(np.ones_like(equal), equal)
    nan = math.nan
    return replace(comparison, min_reference=nan, max_reference=nan, min_candidate=nan, max_candidate=nan)


def _no_common_measure(reference: Array, candidate: Array) -> MatchError:
    return MatchError(
        f"No measure compares {reference.dtype} with {candidate.dtype}",
        "Compare numbers with numbers, or text with text.",
    )


def _parts(x: Array) -> Array:
    """Real and imaginary parts along a new last axis."""
    return np.stack((x.real, x.imag), axis=-1)


def _measure_floats(reference: Array, candidate: Array) -> Comparison:
    """Compares float32 and float64 tensors."""
    x, y = _flat(reference), _flat(candidate)
    return _comparison(_engine()(x, y) if x.size else _EMPTY, x, y, reference.shape)


def _measure_long_integers(reference: Array, candidate: Array) -> Comparison:
    """Compares integers, of which some may be beyond what float64 holds exactly."""
    gap = _integer_gap(reference.reshape(-1), candidate.reshape(-1))
    x, y = reference.reshape(-1).astype(np.float64), candidate.reshape(-1).astype(np.float64)
    return _comparison(_chunk_totals(x, y, gap, 0) if gap.size else _EMPTY, x, y, reference.shape)


def _widened(x: Array) -> Array:
    """A tensor in the narrower of float32 and float64 that holds its values exactly."""
    for wide in (np.float32, np.float64):
        if np.can_cast(x.dtype, wide):
            return x.astype(wide)
    raise _no_common_measure(x, x)


def _flat(x: Array) -> Array:
    """A flat, contiguous, native, read-only view or copy: one array type for the compiled pass, whatever x is."""
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned and x.dtype.isnative):
        x = np.array(x, dtype=x.dtype.newbyteorder("="), order="C")
    flat = x.reshape(-1)
    flat.setflags(write=False)
    return flat


def _are_long_integers(reference: Array, candidate: Array) -> bool:
    """Whether both are booleans or integers and one may hold values that float64 does not."""
    r, c = reference.dtype, candidate.dtype
    return r.kind in "biu" and c.kind in "biu" and max(r.itemsize, c.itemsize) == 8


def _integer_gap(reference: Array, candidate: Array) -> Array:
    """Exact |c - r| of flat integer arrays, rounded once to float64."""
    unsigned = [x.dtype == np.uint64 for x in (reference, candidate)]
    kind = np.uint64 if all(unsigned) else object if any(unsigned) else np.int64
    r, c = reference.astype(kind), candidate.astype(kind)
    low, high = np.minimum(r, c), np.maximum(r, c)
    if kind is np.int64:  # modulo 2**64 the difference of the bit patterns is the difference
        low, high = low.view(np.uint64), high.view(np.uint64)
    return np.asarray(high - low, np.float64)


@functools.cache
def _engine() -> Callable[[Array, Array], _Totals]:
    """The compiled pass, or the numpy one where numba is missing or PARITY_NO_NUMBA=1."""
    if os.environ.get("PARITY_NO_NUMBA") == "1":
        return _numpy_pass
    try:
        return _compiled_pass()
    except ImportError:
        return _numpy_pass


def _numpy_pass(reference: Array, candidate: Array) -> _Totals:
    """One pass in numpy over flat float tensors of at least one element."""
    parts = []
    for start in range(0, reference.size, _CHUNK):
        r, c = reference[start : start + _CHUNK], candidate[start : start + _CHUNK]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            gap = np.abs(c - r)
            overflowed = np.isinf(gap)
            if overflowed.any():
                gap = np.where(overflowed, np.abs(c.astype(np.float64) - r), gap)
            parts.append(_chunk_totals(r, c, gap, start))
    columns = list(zip(*parts, strict=True))
    worst = max(parts, key=lambda part: part.max_abs).worst
    first_mismatch = next((part.first_mismatch for part in parts if part.mismatched), 0)
    bounds = min(columns[7]), max(columns[8]), min(columns[9]), max(columns[10])
    with np.errstate(over="ignore"):
        max_abs = float(_gap_at(reference, candidate, worst)) if any(columns[5]) else 0.0
    return _Totals._make((*map(sum, columns[:5]), max_abs, worst, *bounds, *map(sum, columns[11:16]), first_mismatch))


def _chunk_totals(reference: Array, candidate: Array, gap: Array, start: int) -> _Totals:
    """Totals of one flat chunk that begins at `start`; `gap` is |c - r|, in the precision that ranks it."""
    finite = np.isfinite(reference) & np.isfinite(candidate)
    same = finite | (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    r, c = (np.where(finite, x, 0).astype(np.float64) for x in (reference, candidate))
    gap = np.where(finite, gap, 0)
    error = gap if gap.dtype == np.float64 else np.abs(c - r)
    worst = int(gap.argmax())
    bounds = (
        float(bound)
        for x in (reference[~np.isnan(reference)], candidate[~np.isnan(candidate)])
        for bound in (x.min(initial=math.inf), x.max(initial=-math.inf))
    )
    counts = (int(is_it(x).sum()) for is_it in (np.isnan, np.isinf) for x in (reference, candidate))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sums = float(error.sum()), float(error @ error), float(r @ r), float(c @ c), float(r @ c)
    mismatched, first_mismatch = int((~same).sum()), start + int(same.argmin())
    return _Totals._make((*sums, float(gap[worst]), start + worst, *bounds, *counts, mismatched, first_mismatch))


def _compiled_pass() -> Callable[[Array, Array], _Totals]:
    """The pass in machine code, made at the first call for a pair of dtypes and kept on disk."""
    import numba
    from numba.extending import overload, register_jitable

    kinds: dict[int, tuple[Any, Any, Any]] = {
        32: (np.float32, np.int32, np.uint32),
        64: (np.float64, np.int64, np.uint64),
    }

    @overload(_signed, strict=False)
    def signed(x: Any) -> Any:
        real, integer, _ = kinds[x.bitwidth]
        return lambda x: real(x).view(integer)

    @overload(_unsigned, strict=False)
    def unsigned(x: Any) -> Any:
        real, _, integer = kinds[x.bitwidth]
        return lambda x: real(x).view(integer)

    @overload(_real, strict=False)
    def real(bits: Any) -> Any:
        real, signed, unsigned = kinds[bits.bitwidth]
        integer = signed if bits.signed else unsigned
        return lambda bits: np.float64(integer(bits).view(real))

    # Reordered sums are what vectorises; NaN and Inf keep their meaning, so no `fastmath=True`.
    register_jitable(fastmath={"reassoc", "contract", "nsz"})(_sums)
    register_jitable(_extremes)
    for helper in (_exact_block, _count_nonfinite, _first_at, _gap, _gap_at):
        register_jitable(helper)
    try:
        kernel = numba.njit(cache=True, nogil=True)(_fused_pass)
    except RuntimeError:  # no writable folder, neither beside this file nor in the user's home
        kernel = numba.njit(nogil=True)(_fused_pass)
    return lambda reference, candidate: _Totals._make(kernel(reference, candidate))


def _signed(x: Any) -> Any:
    """The bit pattern of a float as a signed integer. Numba's versions of these three are in `_compiled_pass`."""
    return x.view(f"i{x.itemsize}")


def _unsigned(x: Any) -> Any:
    """The bit pattern of a float as an unsigned integer."""
    return x.view(f"u{x.itemsize}")


def _real(bits: Any) -> float:
    """The float of a bit pattern."""
    return float(bits.view(f"f{bits.itemsize}"))


def _fused_pass(reference: Array, candidate: Array) -> tuple[float, ...]:
    """One pass over two flat tensors of at least one element; returns the fields of `_Totals`."""
    l1 = error = squares_r = squares_c = product = 0.0
    peak, peak_start = -1.0, 0
    min_r = min_c = np.inf
    max_r = max_c = -np.inf
    counts = np.zeros(6, np.int64)
    for start in range(0, reference.size, _BLOCK):
        r, c = reference[start : start + _BLOCK], candidate[start : start + _BLOCK]
        sums, (block_peak, bounds) = _sums(r, c), _extremes(r, c)
        if not (sums[0] < np.inf and block_peak < np.inf):  # NaN, Inf, or a gap beyond float32
            sums, block_peak, bounds = _exact_block(r, c)
            _count_nonfinite(r, c, start, counts)
        l1 += sums[0]
        error += sums[1]
        squares_r += sums[2]
        squares_c += sums[3]
        product += sums[4]
        if block_peak > peak:
            peak, peak_start = block_peak, start
        min_r, max_r = min(min_r, bounds[0]), max(max_r, bounds[1])
        min_c, max_c = min(min_c, bounds[2]), max(max_c, bounds[3])
    worst, max_abs = peak_start, 0.0
    if peak > 0:
        worst = _first_at(reference, candidate, peak_start, peak)
        max_abs = _gap_at(reference, candidate, worst)
    return (
        l1, error, squares_r, squares_c, product, max_abs, worst, min_r, max_r, min_c, max_c,
        counts[0], counts[1], counts[2], counts[3], counts[4], counts[5],
    )  # fmt: skip


def _sums(reference: Array, candidate: Array) -> Any:
    """The first five of `_Totals` for a block of finite values."""
    l1 = error = squares_r = squares_c = product = 0.0
    for i in range(reference.size):
        x, y = np.float64(reference[i]), np.float64(candidate[i])
        gap = abs(y - x)
        l1 += gap
        error += gap * gap
        squares_r += x * x
        squares_c += y * y
        product += x * y
    return l1, error, squares_r, squares_c, product


def _extremes(reference: Array, candidate: Array) -> Any:
    """Largest gap and bounds of a block without NaN, in the wider dtype of the two.

    As integers, the bit patterns of positive floats are in order and those of negative ones reversed. So the minimum
    and the maximum are both among three: the largest as signed, the largest and the smallest as unsigned integers.
    """
    wide = (candidate[:0] - reference[:0]).dtype.type
    x, y = wide(reference[0]), wide(candidate[0])
    peak = _signed(abs(y - x))
    signed_r, signed_c = _signed(x), _signed(y)
    high_r = low_r = _unsigned(x)
    high_c = low_c = _unsigned(y)
    for i in range(reference.size):
        x, y = wide(reference[i]), wide(candidate[i])
        peak = max(peak, _signed(abs(y - x)))
        signed_r, high_r, low_r = max(signed_r, _signed(x)), max(high_r, _unsigned(x)), min(low_r, _unsigned(x))
        signed_c, high_c, low_c = max(signed_c, _signed(y)), max(high_c, _unsigned(y)), min(low_c, _unsigned(y))
    a, b, c = _real(signed_r), _real(high_r), _real(low_r)
    d, e, f = _real(signed_c), _real(high_c), _real(low_c)
    return _real(peak), (min(a, b, c), max(a, b, c), min(d, e, f), max(d, e, f))


def _exact_block(reference: Array, candidate: Array) -> Any:
    """Sums, largest gap and bounds of any block: NaN and Inf left out of the sums, and NaN out of the bounds."""
    l1 = error = squares_r = squares_c = product = peak = 0.0
    min_r = min_c = np.inf
    max_r = max_c = -np.inf
    for i in range(reference.size):
        x, y = np.float64(reference[i]), np.float64(candidate[i])
        if not np.isnan(x):
            min_r, max_r = min(min_r, x), max(max_r, x)
        if not np.isnan(y):
            min_c, max_c = min(min_c, y), max(max_c, y)
        if np.isfinite(x) and np.isfinite(y):
            peak = max(peak, _gap(reference[i], candidate[i]))
            l1 += abs(y - x)
            error += (y - x) * (y - x)
            squares_r += x * x
            squares_c += y * y
            product += x * y
    return (l1, error, squares_r, squares_c, product), peak, (min_r, max_r, min_c, max_c)


def _count_nonfinite(reference: Array, candidate: Array, start: int, counts: Array) -> None:
    """Adds a block's NaNs and Infs of each side and its mismatches to the last six fields of `_Totals`."""
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
        x, y = reference[i], candidate[i]
        if np.isfinite(x) and np.isfinite(y) and _gap(x, y) == peak:
            return i
    return start


def _gap(x: Any, y: Any) -> float:
    """|y - x| rounded to the wider dtype of the two, as `_extremes` ranks it, unless it overflows there."""
    gap = np.float64(abs(y - x))
    return gap if gap < np.inf else abs(np.float64(y) - np.float64(x))  # numba's float() would keep float32


def _gap_at(reference: Array, candidate: Array, index: int) -> float:
    """|c - r| at a flat index, in float64."""
    return abs(np.float64(candidate[index]) - np.float64(reference[index]))
