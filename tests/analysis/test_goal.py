"""Tests of the one number that outputs are held to: at most 1 exactly where `parity compare` finds parity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parity.analysis.goal import Goal
from parity.analysis.measure import METRICS
from parity.analysis.outputs import judge_outputs
from parity.analysis.tasks import judge_tasks, within
from parity.analysis.tolerance import DEFAULTS, Tolerance

Outputs = Mapping[str, np.ndarray]
JUDGED = ("top1", "top5", "kl", "accuracy")
LIMITS = st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 1.0, 0.5, 1e-3, math.inf]))


def parity(goal: Goal, outputs: Outputs) -> bool:
    """What `parity compare` says: every output passes, and so does every judge's figure that has a limit."""
    found = judge_outputs(goal.reference, outputs, goal.noise, goal.tolerance)
    asked = [*goal.judges, *(j for j in goal.task_limits if j not in goal.judges)]
    figures = judge_tasks(asked, goal.reference, outputs, goal.labels) if asked else ()
    return all(o.passed for o in found) and all(
        within(f, goal.task_limits[f.judge]) for f in figures if f.judge in goal.task_limits)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A reference [4, 6] and a candidate: of any scale, equal or not, with NaN and Inf in places, or integers."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.bool_]))
    scale = draw(st.sampled_from([1e-30, 1e-3, 1.0, 50.0, 2.0**61]))
    right: np.ndarray = (random.normal(size=(4, 6)) * (1.0 if kind is np.float16 else scale)).astype(kind)
    other = right.copy()
    change = draw(st.sampled_from(["none", "noise", "one", "shape"]))
    if change == "noise" and right.dtype.kind == "f":
        other = (right * (1 + draw(st.floats(1e-9, 1)) * random.normal(size=right.shape))).astype(kind)
    if change == "one":
        other[0, 0] = other[0, 0] ^ 1 if kind is np.int64 else not other[0, 0] if kind is np.bool_ else draw(
            st.sampled_from([0.0, math.nan, math.inf, -math.inf]))
    if right.dtype.kind == "f" and draw(st.booleans()):
        right[1, 1], other[1, 1] = draw(st.sampled_from([math.nan, math.inf])), draw(st.sampled_from([math.nan, 1.0]))
    return right, other[:, :-1] if change == "shape" else other


@st.composite
def tolerances(draw: st.DrawFn) -> Tolerance:
    """A precision's default, or limits of some metrics, or none."""
    if draw(st.booleans()):
        return DEFAULTS[draw(st.sampled_from(sorted(DEFAULTS)))]
    limits = draw(st.dictionaries(st.sampled_from(sorted(METRICS)), LIMITS, max_size=3))
    return Tolerance({m: abs(v) if METRICS[m].lower_is_better else v for m, v in limits.items()})


@settings(deadline=None, max_examples=400)
@given(st.lists(tensors(), min_size=1, max_size=2), tolerances(), st.dictionaries(st.sampled_from(JUDGED), LIMITS),
       st.sampled_from([0.0, 1e-7, 1e-3, 1.0, math.inf]), st.data())
def test_at_most_one_exactly_at_parity(drawn: list[tuple[np.ndarray, np.ndarray]], tolerance: Tolerance,
                                       limits: dict[str, float], noise: float, data: st.DataObject) -> None:
    """Whatever outputs, tolerances, judges and noise are: the number is at most 1 where, and only where, all pass."""
    right = {f"o{i}": one for i, (one, _) in enumerate(drawn)}
    other = {f"o{i}": two for i, (_, two) in enumerate(drawn)}
    if any(v.dtype == np.bool_ for v in right.values()):
        limits = {}
    judges = data.draw(st.lists(st.sampled_from(JUDGED), max_size=2, unique=True)) if limits else []
    goal = Goal(right, dict.fromkeys(right, noise), tolerance, judges, limits, np.array([0, 1, 2, 3]))
    error = goal.error(other)
    assert not math.isnan(error)
    assert error >= 0
    assert (error <= 1) == parity(goal, other)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_the_number_is_the_multiple_of_the_limit(step: float, limit: float) -> None:
    """For one metric whose perfect value is 0, it is the metric over its limit; for decibels, the same as a ratio."""
    assume(abs(step / limit - 1) > 1e-9)  # where rounding decides what passes
    right = {"y": np.full(4, 2.0)}
    other = {"y": np.full(4, 2.0 + step)}
    decibels = 20 * math.log10(2 / limit)
    assert Goal(right, {}, Tolerance({"max_abs": limit})).error(other) == pytest.approx(step / limit, rel=1e-6)
    assert Goal(right, {}, Tolerance({"sqnr_db": decibels})).error(other) == pytest.approx(step / limit, rel=1e-6)


def test_the_worst_of_all_counts() -> None:
    """Of several outputs and limits the worst decides, and `figures` names it."""
    right = {"a": np.ones(4), "b": np.ones(4)}
    other = {"a": np.full(4, 1.1), "b": np.full(4, 1.2)}
    goal = Goal(right, {}, Tolerance({"rel_l2": 0.1, "max_abs": 0.05}))
    assert goal.error(other) == pytest.approx(4.0)
    worst = max(goal.figures(other), key=lambda figure: figure.times)
    assert worst.name == "max_abs of b"
    assert worst.value == pytest.approx(0.2)


def test_a_missing_output_is_never_enough() -> None:
    """A candidate that lacks an output has no finite error, however wide the limits are."""
    right = {"a": np.ones(4), "b": np.ones(4)}
    assert Goal(right, {}, Tolerance({})).error({"a": np.ones(4)}) == math.inf


def test_accuracy_counts_what_was_lost() -> None:
    """With labels, 5 of 10 right where 9 are asked for is five times the loss that is admitted."""
    scores = np.eye(10)
    wrong = scores.copy()
    wrong[:5] = scores[[5]]
    goal = Goal({"logits": scores}, {}, Tolerance({}), ["accuracy"], {"accuracy": 0.9}, np.arange(10))
    assert goal.error({"logits": scores}) == 0
    assert goal.error({"logits": wrong}) == pytest.approx(5.0)


@given(st.floats(-1, 1), st.floats(-1.5, 1.5))
def test_cosines_that_are_close(value: float, limit: float) -> None:
    """Rounding never lets a cosine pass that is below its limit."""
    assume(abs(value) > 1e-3)
    right = {"y": np.array([1.0, 0.0])}
    other = {"y": np.array([value, math.sqrt(1 - value * value)])}
    goal = Goal(right, {}, Tolerance({"cosine": limit}))
    assert (goal.error(other) <= 1) == parity(goal, other)
