"""The words of a fix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from parity.fixes.fix import Fix, KeptLayer
from parity.report import repairs
from tests.report import samples


def fix(**said: object) -> Fix:
    """The fix of the samples with some fields replaced."""
    return replace(samples.fix(samples.bad()), **said)  # type: ignore[arg-type]


def candidate_with(*fixes: Fix) -> Fix | None:
    """What is shown of these fixes."""
    return repairs.best(replace(samples.bad(), fixes=fixes))


def test_the_first_fix_that_passes_is_shown() -> None:
    """A passing fix goes before a failing one, the earliest before a smaller error."""
    failing, first, second = fix(after=0.3, passed=False), fix(after=0.9), fix(after=0.5)
    assert candidate_with(failing, first, second) is first


def test_the_nearest_miss_is_shown() -> None:
    """Where none passes, the one of the least error is shown; NaN is the worst; without fixes there is none."""
    lost, far, near = (fix(after=after, passed=False) for after in (math.nan, 9.0, 1.3))
    assert candidate_with(lost, far, near) is near
    assert candidate_with(lost, far) is far
    assert candidate_with() is None


def test_sentences() -> None:
    """The sentence says what is kept in what, and the error before and after as multiples of the limit."""
    shown = samples.explained()
    assert repairs.sentence(shown, fix()) == (
        "A fix passes on onnxruntime:int8: 3 of 54 layers kept in FP32, error 4.2 → 0.8 of its limit.")
    assert repairs.sentence(shown, fix(after=1.7, passed=False)) == (
        "No fix passes on onnxruntime:int8. The best found: 3 of 54 layers kept in FP32, error 4.2 → 1.7 of its limit.")
    assert repairs.sentence(shown, fix(kept=(), message="Take more data.", before=math.nan)) == (
        "A fix passes on onnxruntime:int8: Take more data, error NaN → 0.8 of its limit.")


def test_a_miss_on_other_samples_is_said() -> None:
    """A fix within the limit that does not pass misses it on samples that the search did not see, and that is said."""
    assert repairs.change(fix(after=0.8, held_out=1.7, passed=False)).endswith(", but 1.7 of it on other samples")
    assert "other samples" not in repairs.change(fix(after=1.8, held_out=1.9, passed=False))


def test_several_precisions() -> None:
    """Layers kept in two formats name both; where it is unknown of how many, that is left out."""
    kept = tuple(KeptLayer(p, "", "Conv", p, "") for p in ("fp32", "fp16", "fp32"))
    assert repairs.keeping(fix(kept=kept)) == "3 of 54 layers kept in FP16 and FP32"
    assert repairs.keeping(fix(kept=kept[:1], layers=0)) == "1 layer kept in FP32"


def test_figures() -> None:
    """Every figure of the fix has its line."""
    rows = dict(repairs.figures(fix()))
    assert rows == {
        "error": "4.2 → 0.8 of its limit (rel_l2 of logits 0.0421 → 0.008)",
        "on other samples": "0.84 of the limit (on samples that the search did not see)",
        "kept": "3 of 54 layers kept in FP32: 12.4% of the multiply-adds, 3.2% of the weight bytes, 4 Casts more",
        "latency": "12.1 ms (11.9 to 13) → 14.2 ms (14 to 15.1), 1.17 times",
        "tried": "23 runs of the emulator, 4 runs of the target"}


def test_figures_that_are_missing() -> None:
    """A fix that keeps nothing, was not timed and not held out has neither line; a bad held-out figure says so."""
    bare = dict(repairs.figures(fix(kept=(), held_out=None, latency_before=None, latency_after=None)))
    assert set(bare) == {"error", "tried"}
    assert "beyond it" in dict(repairs.figures(fix(held_out=1.2)))["on other samples"]
    assert "beyond it" in dict(repairs.figures(fix(held_out=math.nan)))["on other samples"]
    assert dict(repairs.figures(fix(latency_before=None)))["latency"] == "– → 14.2 ms (14 to 15.1)"


@pytest.mark.parametrize(("more", "said"), [(0, "no Cast more"), (1, "1 Cast more"), (-3, "3 Casts fewer")])
def test_casts(more: int, said: str) -> None:
    """Casts that are added or spared."""
    assert repairs.casts(more) == said
