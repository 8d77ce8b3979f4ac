"""Tests of mending: what must be kept is found, within the limits, and a search that was stopped goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from parity.analysis.tolerance import Tolerance
from parity.errors import UsageError
from parity.fixes.attempt import Emulation
from parity.fixes.outcome import Outcome, Solution
from parity.fixes.problem import Limits, Problem, outputs_of
from parity.fixes.repair import repair
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.fixes.cases import INT8, branching, cancelling, outlier, problem, rows, weights

EMULATED = Target("pytorch", "", "fp16")


def mended(found: Problem) -> tuple[Outcome, list[Solution]]:
    """What mending came to, and what it saved on the way."""
    saved: list[Solution] = []
    return repair(found, saved.append, lambda what, done, total: None), saved


@pytest.mark.parametrize(("make", "target", "kept"), [
    (cancelling, EMULATED, ["up", "down"]), (branching, EMULATED, ["up", "down", "i"]), (outlier, INT8, ["c"])])
def test_what_was_made_to_break_is_kept(make: type, target: Target, kept: list[str], tmp_path: Path) -> None:
    """The layers that cannot be held are kept, no others, and the fix passes on the target and on unseen samples."""
    outcome, saved = mended(problem(make(), target, tmp_path))
    fix = outcome.solutions[0].fix
    assert [k.tensor for k in fix.kept] == kept
    assert fix.passed
    assert fix.held_out is not None
    assert max(outcome.floor, fix.after, fix.held_out) <= 1 < outcome.before == fix.before
    assert saved[-1].variant is outcome.solutions[0].variant
    assert (fix.runs, fix.trials) <= (12, 600)
    assert fix.words
    assert not fix.training
    assert [p.kept for p in fix.curve] == sorted({p.kept for p in fix.curve})
    assert min(p.error for p in fix.curve if p.kept == len(kept)) <= 1


def test_what_passes_is_left_alone(tmp_path: Path) -> None:
    """A variant within its tolerance has no solutions, and nothing is saved."""
    outcome, saved = mended(problem(outlier(), Target("onnxruntime", "", "fp16"), tmp_path))
    assert outcome.before <= 1
    assert (outcome.solutions, saved) == ((), [])


def test_what_fp32_misses_is_refused(tmp_path: Path) -> None:
    """A tolerance that the target misses in FP32 is refused with by how much."""
    found = problem(outlier(), INT8, tmp_path, tolerance=Tolerance({"max_abs": 1e-9}))
    with pytest.raises(UsageError, match=r"in FP32 is at [0-9.e+]+ times"):
        mended(found)


@pytest.mark.parametrize(("make", "target"), [(cancelling, EMULATED), (outlier, INT8)])
def test_no_fix_within_the_limits(make: type, target: Target, tmp_path: Path) -> None:
    """Where too few layers may be kept, the best that was found is told as missed, with what to train for INT8."""
    limits = Limits(kept=0.0)
    found = problem(make(), target, tmp_path, limits=limits, tolerance=Tolerance({"rel_l2": 2e-3}))
    outcome, saved = mended(found)
    assert saved == []
    assert outcome.solutions
    assert not any(s.fix.passed for s in outcome.solutions)
    assert min(s.fix.after for s in outcome.solutions) == outcome.solutions[0].fix.after > 1
    assert any(s.fix.training for s in outcome.solutions) == (target == INT8)


def test_the_only_layer_is_not_kept(tmp_path: Path) -> None:
    """Where INT8 has one layer, keeping it would leave nothing in INT8: no fix is the answer, and no mistake."""
    proto = proto_of([node("MatMul", ["x", "w0"], ["y"])], [declared("x", ("N", 8))], [declared("y", None)], weights(1))
    outcome, saved = mended(problem(proto, INT8, tmp_path, tolerance=Tolerance({"rel_l2": 1e-3})))
    assert saved == []
    assert outcome.solutions
    assert not any(s.fix.passed or s.fix.kept for s in outcome.solutions)


@pytest.mark.parametrize("most", [1, 3])
def test_limits_of_trials_and_runs_hold(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more trials are measured than allowed, beside the variant as it is."""
    seen = counted(monkeypatch)
    limits = Limits(trials=most, extra=0, runs=4)
    outcome, _ = mended(problem(cancelling(), EMULATED, tmp_path, limits=limits))
    assert len(seen) <= most
    assert all(s.fix.runs <= 4 for s in outcome.solutions)


def counted(monkeypatch: pytest.MonkeyPatch, until: int | None = None) -> list[frozenset[str]]:
    """Note every set that is measured on the searched samples; interrupt the one after `until` of them."""
    seen: list[frozenset[str]] = []
    measured = Emulation.error

    def error(self: Emulation, kept: Sequence[str]) -> float:
        if len(seen) == until:
            raise KeyboardInterrupt
        seen.append(frozenset(kept))
        return measured(self, kept)

    monkeypatch.setattr(Emulation, "error", error)
    return seen


@pytest.mark.parametrize("stopped", [0, 1, 2, 7])
def test_a_search_that_was_stopped_goes_on(stopped: int, tmp_path: Path) -> None:
    """After an interrupt the same search measures nothing again, and comes to what an undisturbed one comes to."""
    found = problem(cancelling(), EMULATED, tmp_path / "stopped", tolerance=Tolerance({"rel_l2": 4e-4}),
                    limits=Limits(kept=1.0))
    found.folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        before = counted(patch, stopped)
        with pytest.raises(KeyboardInterrupt):
            mended(found)
    with pytest.MonkeyPatch.context() as patch:
        after = counted(patch)
        resumed, _ = mended(found)
    with pytest.MonkeyPatch.context() as patch:
        whole = counted(patch)
        straight, _ = mended(replace(found, folder=tmp_path))
    assert len(before) == stopped
    assert sorted(map(sorted, before + after)) == sorted(map(sorted, whole))
    assert [s.fix.kept for s in resumed.solutions] == [s.fix.kept for s in straight.solutions]
    assert [s.fix.after for s in resumed.solutions] == [s.fix.after for s in straight.solutions]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """The trials are only kept for later: without them the fix is the same."""
    outcome, _ = mended(problem(cancelling(), EMULATED, tmp_path / "absent"))
    assert [k.tensor for k in outcome.solutions[0].fix.kept] == ["up", "down"]


def test_layers_are_kept_in_fp16_where_that_is_enough(tmp_path: Path) -> None:
    """On request, what an INT8 model keeps is kept in FP16, if the target passes with it."""
    outcome, _ = mended(problem(outlier(), INT8, tmp_path, limits=Limits(precision="fp16")))
    fix = outcome.solutions[0].fix
    assert fix.passed
    assert {k.precision for k in fix.kept} == {"fp16"}


def test_what_misses_on_unseen_samples_does_not_pass(tmp_path: Path) -> None:
    """What is within the limit on the judged samples alone is no fix: not saved, and told as what it is."""
    found = problem(outlier(), INT8, tmp_path)
    unseen = rows(16, 7)
    larger = {name: 1.2 * value for name, value in outputs_of(found.flat, unseen, 0).items()}  # whatever is kept
    outcome, saved = mended(replace(found, held_out=[(unseen, replace(found.judged[0][1], reference=larger))]))
    fix = outcome.solutions[0].fix
    assert saved == []
    assert fix.after <= 1 < (fix.held_out or 0)
    assert not fix.passed
    assert f"at {fix.held_out:.3g} times the limit on those held out" in fix.message


def test_one_trial_is_one(tmp_path: Path) -> None:
    """With a single run of the emulator allowed, that is the variant as it is, and nothing else is tried."""
    limits = Limits(trials=1, extra=0)
    outcome, saved = mended(problem(outlier(), INT8, tmp_path, limits=limits, tolerance=Tolerance({"rel_l2": 1e-3})))
    assert saved == []
    assert [(s.fix.trials, s.fix.runs, s.fix.kept) for s in outcome.solutions] == [(1, 2, ())]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.26, 1.0])
def test_no_more_layers_are_kept_than_allowed(share: float, tmp_path: Path) -> None:
    """The share of layers is an upper bound, down to none; of four layers all are never kept."""
    outcome, _ = mended(problem(outlier(), INT8, tmp_path, limits=Limits(kept=share),
                                tolerance=Tolerance({"rel_l2": 3e-3})))
    assert outcome.solutions
    assert all(len(s.fix.kept) <= min(3, int(4 * share)) for s in outcome.solutions)
