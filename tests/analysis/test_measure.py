"""`measure` against plain float64, long double and rational arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.analysis import measure as measure_module
from parity.analysis import passes
from parity.analysis.measure import METRICS, Comparison, measure
from parity.errors import MatchError

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
PRECISION = 1e-9  # the sums are float64; 1e-6 is what callers are promised
FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


def values(dtype: Any, *, nonfinite: bool) -> st.SearchStrategy[Any]:
    """Floats of a dtype, from its denormals to its largest, with or without NaN and Inf."""
    width = {"float32": 32, "float64": 64}.get(np.dtype(dtype).name, 16)
    bound = 3e38 if np.dtype(dtype) == np.dtype(ml_dtypes.bfloat16) else None
    if bound and not nonfinite:
        return st.floats(-bound, bound)
    return st.floats(width=width, allow_nan=nonfinite, allow_infinity=nonfinite)  # type: ignore[arg-type]


@st.composite
def pairs(draw: st.DrawFn, *, nonfinite: bool = True, dtypes: tuple[Any, ...] = FLOATS) -> Pair:
    """Two float tensors of one shape: independent ones, or one that differs from the other in a few places."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    kinds = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    with np.errstate(over="ignore"):
        reference, candidate = (
            draw(hnp.arrays(np.float64, shape, elements=values(kind, nonfinite=nonfinite))).astype(kind)
            for kind in kinds
        )
        if draw(st.booleans()):
            keep = draw(hnp.arrays(np.bool_, shape))
            candidate = np.where(keep, reference.astype(candidate.dtype), candidate).astype(candidate.dtype)
            if not nonfinite:  # a narrower candidate may not hold the reference
                candidate = np.where(np.isfinite(candidate), candidate, 0).astype(candidate.dtype)
    return reference, candidate


@pytest.fixture(params=["numba", "numpy"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test once with the compiled pass and once with numpy."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("PARITY_NO_NUMBA", "1" if request.param == "numpy" else "0")
    passes.fused_pass.cache_clear()
    yield request.param
    passes.fused_pass.cache_clear()


def with_numpy(reference: Array, candidate: Array) -> Comparison:
    """`measure` as it is without numba."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "fused_pass", lambda: passes.numpy_pass)
        return measure(reference, candidate)


def close(got: float, expected: float, scale: float = 0.0) -> bool:
    """Equal to PRECISION of the expected value or of `scale`; NaN equals NaN, Inf equals Inf."""
    if math.isnan(expected) or math.isinf(expected):
        return got == expected or (math.isnan(got) and math.isnan(expected))
    return abs(got - expected) <= PRECISION * max(abs(expected), scale) + 5e-324


def root(x: Fraction) -> float:
    """The square root of a rational number of any size."""
    if not x:
        return 0.0
    shift = max(0, 256 - x.numerator.bit_length() + x.denominator.bit_length()) // 2 * 2
    return as_float(Fraction(math.isqrt((x.numerator << shift) // x.denominator), 1 << (shift // 2)))


def as_float(x: Fraction) -> float:
    """The nearest float64, or inf."""
    try:
        return float(x)
    except OverflowError:
        return math.inf


@settings(deadline=None, max_examples=300)
@given(pairs(nonfinite=False))
def test_finite_values_agree_with_rational_arithmetic(pair: Pair) -> None:
    """Sums, norms and ratios are those of exact fractions, for every dtype and magnitude."""
    r, c = ([Fraction(float(v)) for v in side.ravel()] for side in pair)
    gaps = [abs(y - x) for x, y in zip(r, c, strict=True)]
    squares = [sum((v * v for v in side), Fraction(0)) for side in (gaps, r, c)]
    got = measure(*pair)
    largest = max((abs(v) for v in r + c), default=Fraction(0))
    if largest > 2**1000:  # sums that are themselves beyond float64
        assert got.identical == (not any(gaps))
        return
    assert got.identical == (not any(gaps))
    assert close(got.l1, as_float(sum(gaps, Fraction(0))))
    assert close(got.max_abs, as_float(max(gaps, default=Fraction(0))))
    for norm, square in zip((got.error_l2, got.reference_l2, got.candidate_l2), squares, strict=True):
        assert close(norm, root(square))
    if all(squares):
        assert close(got.rel_l2, root(squares[0] / squares[1]))
        assert got.rel_l2 in (0.0, math.inf) or close(got.sqnr_db, -20 * math.log10(got.rel_l2), 1.0)
        product = sum((x * y for x, y in zip(r, c, strict=True)), Fraction(0))
        sign = 1 if product >= 0 else -1
        assert close(got.cosine, sign * root(product * product / (squares[1] * squares[2])), 1.0)


@settings(deadline=None, max_examples=300)
@given(pairs())
def test_the_compiled_pass_and_numpy_give_the_same_numbers(pair: Pair) -> None:
    """Both engines agree on every field, exactly on counts, indices, bounds and `identical`."""
    compiled, plain = asdict(measure(*pair)), asdict(with_numpy(*pair))
    for name, value in compiled.items():
        if isinstance(value, float):
            scale = {"cosine": 1.0, "sqnr_db": 1.0}.get(name, 0.0)
            assert close(value, plain[name], scale), name
        else:
            assert value == plain[name], name


@settings(deadline=None, max_examples=300)
@given(pairs())
def test_nonfinite_values_are_counted_and_bounds_leave_out_nan(pair: Pair) -> None:
    """Counts, bounds and the first mismatch are what a loop over the elements finds."""
    r, c = (side.astype(np.float64) for side in pair)
    got = measure(*pair)
    assert (got.nan_reference, got.nan) == (np.isnan(r).sum(), np.isnan(c).sum())
    assert (got.inf_reference, got.inf) == (np.isinf(r).sum(), np.isinf(c).sum())
    classes = [np.where(np.isnan(x), 2, np.where(np.isinf(x), np.sign(np.where(np.isnan(x), 0, x)), 0)) for x in (r, c)]
    mismatches = np.argwhere(classes[0] != classes[1])
    assert got.mismatched_nonfinite == len(mismatches)
    if len(mismatches):
        assert got.worst == tuple(mismatches[0])
        assert got.l1 == got.mean_abs == got.max_abs == got.error_l2 == got.rel_l2 == math.inf
        assert (got.sqnr_db, got.cosine, got.identical) == (-math.inf, 0.0, False)
    for x, low, high in ((r, got.min_reference, got.max_reference), (c, got.min_candidate, got.max_candidate)):
        kept = x[~np.isnan(x)]
        assert close(low, float(kept.min()) if kept.size else math.nan)
        assert close(high, float(kept.max()) if kept.size else math.nan)
    assert got.identical == bool(np.array_equal(r, c, equal_nan=True))


@settings(deadline=None, max_examples=100)
@given(pairs())
def test_swapping_the_sides_swaps_what_belongs_to_a_side(pair: Pair) -> None:
    """The error does not depend on which side is called the reference."""
    there, back = measure(*pair), measure(pair[1], pair[0])
    for name in ("l1", "max_abs", "worst", "error_l2", "cosine", "mismatched_nonfinite", "identical"):
        assert getattr(there, name) == getattr(back, name), name
    for name in ("nan", "inf"):
        assert getattr(there, f"{name}_reference") == getattr(back, name)
    for name in ("min", "max"):
        assert close(getattr(there, f"{name}_reference"), getattr(back, f"{name}_candidate"))
    assert there.reference_l2 == back.candidate_l2


@settings(deadline=None, max_examples=100)
@given(pairs(dtypes=(np.float32, np.float64)), st.randoms(use_true_random=False))
def test_the_order_of_elements_does_not_matter(pair: Pair, random: Any) -> None:
    """Every metric is the same after both sides are shuffled alike."""
    order = list(range(pair[0].size))
    random.shuffle(order)
    before, after = measure(*pair), measure(*(side.ravel()[order] for side in pair))
    for metric in METRICS.values():
        scale = 1.0 if metric.name in ("cosine", "sqnr_db") else 0.0  # 0 dB is no more exact than 1 dB
        assert close(metric.of(before), metric.of(after), scale), metric.name


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 70_001])
@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f4"), ("f4", "f8"), ("f8", "f8")])
def test_blocks_join_without_a_seam(size: int, dtypes: tuple[str, str], each_engine: str) -> None:
    """Tensors around the block sizes agree with long double sums, with a NaN and the worst error placed at the ends."""
    rng = np.random.default_rng(size)
    r = rng.standard_normal(size).astype(dtypes[0])
    c = (r + 1e-3 * rng.standard_normal(size)).astype(dtypes[1])
    c[-1] += 5
    if size > 1:
        r[0] = c[0] = np.nan
    got = measure(r, c)
    kept = slice(min(1, size - 1), None)
    x, y = r[kept].astype(np.longdouble), c[kept].astype(np.longdouble)
    assert got.worst == (size - 1,)
    assert close(got.l1, float(np.abs(y - x).sum()))
    assert close(got.rel_l2, float(np.sqrt(((y - x) ** 2).sum() / (x * x).sum())))
    assert close(got.cosine, float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())), 1.0)
    assert (got.min_reference, got.max_candidate) == (float(x.min()), float(y.max()))
    assert got.nan_reference == got.nan == (size > 1)


@pytest.mark.parametrize("value", [3e38, 1e20, 1e-20, 1e-42])
def test_float32_squares_neither_overflow_nor_underflow(value: float, each_engine: str) -> None:
    """Values whose squares leave float32, and differences that do, have finite and right metrics."""
    r = np.full(5000, value, np.float32)
    got = measure(r, -r)
    assert close(got.reference_l2, float(r[0]) * math.sqrt(5000))
    assert close(got.max_abs, 2 * float(r[0]))
    assert close(got.rel_l2, 2.0)
    assert got.cosine == pytest.approx(-1.0, abs=PRECISION)


@pytest.mark.parametrize("value", [1e300, 1e-300, 5e-324])
def test_float64_squares_are_rescaled(value: float, each_engine: str) -> None:
    """Ratios of float64 tensors are right even where squares overflow or underflow."""
    r = np.full(100, value)
    got = measure(r, -r)
    assert close(got.rel_l2, 2.0)
    assert got.cosine == pytest.approx(-1.0, abs=PRECISION)
    assert close(got.error_l2, 20 * value)


def test_a_tiny_error_beside_large_values_is_not_lost(each_engine: str) -> None:
    """A difference whose square underflows still has a norm."""
    got = measure(np.array([1.0, 1e-300]), np.array([1.0, 3e-300]))
    assert close(got.error_l2, 2e-300)
    assert close(got.rel_l2, 2e-300)
    assert not got.identical


@pytest.mark.parametrize("scale", [1e-12, 1 / 1025, 1 / 1023, 1023, 1025, 1e12])
def test_cosine_ignores_scale(scale: float, each_engine: str) -> None:
    """Parallel tensors of very different lengths have cosine 1, never more."""
    r = np.random.default_rng(0).standard_normal(10_000)
    assert 1 - 1e-12 <= measure(r, r * scale).cosine <= 1


def test_nearly_identical_tensors_stay_within_one(each_engine: str) -> None:
    """Cosine never passes 1 and is exactly 1 where nothing differs."""
    r = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert measure(r, np.nextafter(r, np.float32(9))).cosine <= 1
    assert measure(r, r.copy()).cosine == 1.0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "?", "c8"])
def test_zeros_and_empty_tensors_are_perfect(shape: tuple[int, ...], dtype: str, each_engine: str) -> None:
    """Two sides of zeros, or of nothing, score the perfect value of every metric."""
    got = measure(np.zeros(shape, dtype), np.zeros(shape, dtype))
    assert [metric.of(got) for metric in METRICS.values()] == [metric.perfect for metric in METRICS.values()]
    assert got.worst == ((0, 0) if shape == (2, 3) else ())
    assert got.identical
    assert math.isnan(got.min_reference) == (0 in shape)


def test_one_zero_side_has_defined_answers(each_engine: str) -> None:
    """A zero reference gives infinite relative error; a zero candidate loses everything, once."""
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    got = measure(zero, one)
    assert (got.rel_l2, got.sqnr_db, got.cosine) == (math.inf, -math.inf, 0.0)
    got = measure(one, zero)
    assert (got.rel_l2, got.sqnr_db, got.cosine) == (1.0, 0.0, 0.0)


def test_scalars_have_an_empty_index(each_engine: str) -> None:
    """A 0-d tensor's worst element is ()."""
    got = measure(np.array(2.0, np.float32), np.array(3.0, np.float32))
    assert (got.worst, got.l1, got.size) == ((), 1.0, 1)


def unaligned(x: Array) -> Array:
    """A copy of a float32 tensor that starts at an odd address."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw[1:].view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize(
    "change",
    [lambda x: x.T, lambda x: x[::2, ::-1], lambda x: x.astype(">f4"), np.asfortranarray, unaligned],
    ids=["transposed", "strided", "big-endian", "fortran", "unaligned"],
)
def test_memory_layout_does_not_matter(change: Callable[[Array], Array], each_engine: str) -> None:
    """Views of any layout are measured, indexed as they are shaped, and left as they were."""
    r = np.arange(24, dtype=np.float32).reshape(4, 6)
    c = r.copy()
    c[2, 5] += 7
    x, y = change(r), change(c)
    got = measure(x, y)
    assert got == measure(np.array(x, np.float64), np.array(y, np.float64))
    assert y[got.worst] - x[got.worst] == 7
    assert r.flags.writeable


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_integers_are_subtracted_exactly(data: st.DataObject) -> None:
    """Any two integer dtypes are compared as integers, though float64 could not tell the values apart."""
    kinds = st.sampled_from([np.bool_, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=4))
    r, c = (data.draw(hnp.arrays(data.draw(kinds), shape)) for _ in range(2))
    gaps = [abs(int(y) - int(x)) for x, y in zip(r.ravel(), c.ravel(), strict=True)]
    got = measure(r, c)
    assert got.identical == (not any(gaps))
    assert close(got.l1, float(sum(gaps)))
    assert close(got.max_abs, float(max(gaps)))
    assert close(got.error_l2, root(Fraction(sum(gap * gap for gap in gaps))))


def test_neighbouring_large_integers_differ() -> None:
    """2**62 and 2**62 + 1 are one apart, which float64 cannot see."""
    got = measure(np.array([0, 2**62]), np.array([0, 2**62 + 1]))
    assert (got.max_abs, got.worst, got.identical) == (1.0, (1,), False)


def test_complex_tensors_count_their_parts(each_engine: str) -> None:
    """A complex tensor is its real and imaginary parts, and the index is the tensor's own."""
    got = measure(np.array([[1 + 2j, 3j]], np.complex64), np.array([[1 + 2j, 5j]], np.complex64))
    assert (got.l1, got.worst, got.size) == (2.0, (0, 1), 4)


@pytest.mark.parametrize("dtype", [object, "U3"])
def test_strings_are_equal_or_not(dtype: Any, each_engine: str) -> None:
    """The number of strings that differ is the l1 error."""
    got = measure(np.array(["a", "b", "c"], dtype), np.array(["a", "x", "y"], object))
    assert (got.l1, got.max_abs, got.worst, got.identical) == (2.0, 1.0, (1,), False)
    assert math.isnan(got.min_reference)


def test_what_has_no_common_measure_is_refused() -> None:
    """Different shapes, text against numbers, and dates are MatchErrors."""
    for r, c in (
        (np.zeros(2), np.zeros(3)),
        (np.array(["a"]), np.zeros(1)),
        (np.zeros(1, "M8[s]"), np.zeros(1, "M8[s]")),
    ):
        with pytest.raises(MatchError):
            measure(r, c)


def test_metrics_know_their_direction() -> None:
    """A limit is passed by what is better than it, by itself, and never by NaN."""
    assert METRICS["rel_l2"].within(1e-4, 1e-3)
    assert not METRICS["rel_l2"].within(1e-2, 1e-3)
    assert METRICS["cosine"].within(0.999, 0.99)
    assert not METRICS["sqnr_db"].within(20, 40)
    for metric in METRICS.values():
        assert metric.within(metric.perfect, metric.perfect)
        assert not metric.within(math.nan, metric.perfect)


def test_numba_is_not_imported_before_it_is_needed() -> None:
    """Importing the module, or measuring with PARITY_NO_NUMBA=1, leaves numba alone."""
    script = (
        "import os, sys, numpy as np; os.environ['PARITY_NO_NUMBA'] = '1'\n"
        "from parity.analysis.measure import measure\n"
        "assert measure(np.ones(3), np.zeros(3)).l1 == 3\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
