"""`measure` compares one tensor on two sides, and METRICS says how its numbers are to be read.

The numbers come from one pass over both sides (`passes`), compiled by numba at the first call; without numba, or with
PARITY_NO_NUMBA=1 in the environment, numpy computes the same numbers, slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from parity.analysis.passes import EMPTY, Array, chunk_totals, fused_pass
from parity.errors import MatchError

if TYPE_CHECKING:
    from parity.graph.device import Lying

_SMALLEST_SQUARES = 1e-280  # a sum of squares below this may have lost terms under 2**-1074
_LIKE_NORMS = 2.0**10  # up to this ratio of the norms, <r, c> from the three of them keeps 1e-10 of the cosine
_STRING_KINDS = "OSTU"


@dataclass(frozen=True)
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
        nan: number of NaNs in c.
        inf_reference: number of infinities in r, of either sign.
        inf: number of infinities in c, of either sign.
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
    nan: int
    inf_reference: int
    inf: int
    mismatched_nonfinite: int
    size: int
    identical: bool


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


METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in (
    Metric("l1", 0.0, True, "sum of |c - r|", "inf"),
    Metric("mean_abs", 0.0, True, "mean of |c - r|", "inf"),
    Metric("max_abs", 0.0, True, "largest |c - r|", "inf"),
    Metric("error_l2", 0.0, True, "||c - r||", "inf"),
    Metric("rel_l2", 0.0, True, "||c - r|| / ||r||", "inf"),
    Metric("sqnr_db", math.inf, False, "20 log10(||r|| / ||c - r||), in decibels", "-inf"),
    Metric("cosine", 1.0, False, "<r, c> / (||r|| ||c||)", "0"),
    Metric("mismatched_nonfinite", 0.0, True, "positions where finiteness disagrees", "their number"),
)})


def measure(reference: Lying, candidate: Lying) -> Comparison:
    """Compares two tensors of one shape, of any memory layout and of dtypes that may differ.

    Two on one device are compared there; of two that are not, what is not on the CPU is brought there.

    Booleans, integers, float16, bfloat16 and the smaller ml_dtypes are widened exactly; 64-bit integers are subtracted
    as integers, so `identical` and a small difference of large values are exact. A complex tensor counts as its real
    and imaginary parts. Strings are equal or not: the error is 1 where they differ, the reference is 1 everywhere, and
    the minima and maxima are NaN.

    Sums and differences are float64. Tensors whose squares leave the range of float64 are rescaled; a result beyond
    that range is inf.

    Args:
        reference: r, of any shape.
        candidate: c, of the same shape.

    Raises:
        MatchError: the shapes differ, or the dtypes have no common measure (text against numbers, dates).
    """
    if reference.shape != candidate.shape:
        raise MatchError(f"Shapes differ: reference {reference.shape}, candidate {candidate.shape}",
                         "Only tensors of the same shape can be compared element by element.")
    if not (isinstance(reference, np.ndarray) and isinstance(candidate, np.ndarray)):
        return _measure_placed(reference, candidate)
    if reference.dtype.char in "fd" and candidate.dtype.char in "fd":
        return _measure_floats(reference, candidate)
    kinds = reference.dtype.kind + candidate.dtype.kind
    if any(kind in _STRING_KINDS for kind in kinds):
        return _measure_strings(reference, candidate)
    if "c" in kinds:
        parts = measure(*(np.stack((x.real, x.imag), axis=-1) for x in (reference, candidate)))
        return replace(parts, worst=parts.worst[:-1])
    if _are_long_integers(reference, candidate):
        return _measure_long_integers(reference, candidate)
    return _measure_floats(_widened(reference), _widened(candidate))


# Norms of error, reference and candidate, rel_l2 and cosine.
_Norms: TypeAlias = tuple[float, float, float, float, float]


def _comparison(totals: tuple[Any, ...], x: Lying, y: Lying, shape: tuple[int, ...]) -> Comparison:
    """The public result of one pass over the flat tensors x and y, which returned the fields of `Totals`."""
    (l1, _, _, _, max_abs, worst, min_r, max_r, min_c, max_c, nan_r, nan_c, inf_r, inf_c, mismatched, first) = totals
    error, reference, candidate, rel_l2, cosine = _norms(totals) or _rescaled_norms(np.ravel(x), np.ravel(y))
    if mismatched:
        l1 = max_abs = error = rel_l2 = math.inf
        cosine, worst = 0.0, first
    if min_r > max_r:
        min_r = max_r = math.nan
    if min_c > max_c:
        min_c = max_c = math.nan
    size = x.size
    # The __init__ of a frozen dataclass sets every field by name through `object`: a quarter of a tiny tensor's time.
    comparison = object.__new__(Comparison)
    vars(comparison).update(
        l1=l1, mean_abs=l1 / size if size else 0.0, max_abs=max_abs, worst=_multi_index(worst, shape) if size else (),
        rel_l2=rel_l2, sqnr_db=-20 * math.log10(rel_l2) if rel_l2 else math.inf, cosine=cosine,
        error_l2=error, reference_l2=reference, candidate_l2=candidate,
        min_reference=min_r, max_reference=max_r, min_candidate=min_c, max_candidate=max_c,
        nan_reference=nan_r, nan=nan_c, inf_reference=inf_r, inf=inf_c,
        mismatched_nonfinite=mismatched, size=size, identical=max_abs == 0,
    )  # fmt: skip
    return comparison


def _norms(totals: tuple[Any, ...]) -> _Norms | None:
    """Norms straight from the sums of squares, or None where these do not tell.

    By the law of cosines 2 <r, c> = |r|^2 + |c|^2 - |c - r|^2, which cancels where one norm dwarfs the other.
    """
    _, error_squares, squares_r, squares_c, max_abs, _, min_r, max_r, min_c, max_c = totals[:10]
    in_range = (
        error_squares + squares_r + squares_c < math.inf
        and (error_squares > _SMALLEST_SQUARES or max_abs == 0)
        and (squares_r > _SMALLEST_SQUARES or min_r == 0 == max_r)
        and (squares_c > _SMALLEST_SQUARES or min_c == 0 == max_c)
    )
    if not in_range:
        return None
    error, reference, candidate = math.sqrt(error_squares), math.sqrt(squares_r), math.sqrt(squares_c)
    if not error:
        return error, reference, candidate, 0.0, 1.0
    rel_l2 = error / reference if reference else math.inf
    if not (reference and candidate):
        return error, reference, candidate, rel_l2, 0.0
    if reference > _LIKE_NORMS * candidate or candidate > _LIKE_NORMS * reference:
        return None
    cosine = (squares_r + squares_c - error_squares) / (2 * reference * candidate)
    return error, reference, candidate, rel_l2, 1.0 if cosine > 1 else -1.0 if cosine < -1 else cosine


def _rescaled_norms(x: Array, y: Array) -> _Norms:
    """The same for any flat tensors: powers of two bring each vector near 1 before it is squared."""
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
    cosine = float(not norms[0])
    if norms[0] and norms[1] and norms[2]:
        cosine = max(-1.0, min(1.0, float(scaled[1] @ scaled[2]) / (norms[1] * norms[2])))
    return error, reference, candidate, rel_l2, cosine


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
    return MatchError(f"No measure compares {reference.dtype} with {candidate.dtype}",
                      "Compare numbers with numbers, or text with text.")


def _measure_placed(reference: Lying, candidate: Lying) -> Comparison:
    """Compares tensors of which one at least is not on the CPU."""
    from parity.analysis.placed import placed_totals

    totals = placed_totals(reference, candidate)
    if totals is None:
        return measure(np.asarray(reference), np.asarray(candidate))
    return _comparison(totals, reference, candidate, reference.shape)


def _measure_floats(reference: Array, candidate: Array) -> Comparison:
    """Compares float32 and float64 tensors."""
    x, y = _flat(reference), _flat(candidate)
    return _comparison(fused_pass()(x, y) if x.size else EMPTY, x, y, reference.shape)


def _measure_long_integers(reference: Array, candidate: Array) -> Comparison:
    """Compares integers, of which some may be beyond what float64 holds exactly."""
    gap = _integer_gap(reference.reshape(-1), candidate.reshape(-1))
    x, y = reference.reshape(-1).astype(np.float64), candidate.reshape(-1).astype(np.float64)
    return _comparison(chunk_totals(x, y, gap, 0) if gap.size else EMPTY, x, y, reference.shape)


def _widened(x: Array) -> Array:
    """A tensor in the narrower of float32 and float64 that holds its values exactly."""
    for wide in (np.float32, np.float64):
        if np.can_cast(x.dtype, wide):
            return x.astype(wide)
    raise _no_common_measure(x, x)


def _flat(x: Array) -> Array:
    """A flat, contiguous, native, read-only view or copy: one array type for the compiled pass, whatever x is."""
    flat = x.ravel()  # a new array object even where it is a view, so that x stays writeable
    if not (flat.flags.aligned and x.dtype.isnative):
        flat = flat.astype(x.dtype.newbyteorder("="))
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
