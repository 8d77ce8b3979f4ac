"""Run one comparison for a test: the answer, its files, and whether it is worse than its baseline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from parity.api import calibration_of, compare_asked, first_feed, model_of
from parity.backends.base import backend_of
from parity.baseline.drift import Drift, better, partial_cover, uncovered, worse
from parity.baseline.message import regression
from parity.baseline.noise import layer_noise
from parity.baseline.record import Baseline, Baselines, baseline_of, by_name, inputs_of, load, save
from parity.errors import UsageError
from parity.graph.model import Model
from parity.pytest_plugin.case import Case, command, matches
from parity.report import words
from parity.report.message import failure
from parity.report.record import Candidate, Report, Verdict
from parity.report.write import ensure_writable, write_report, write_whole
from parity.targets import Target

# A candidate that is worse than its baseline, with what moved.
_Worse: TypeAlias = tuple[Candidate, tuple[Drift, ...], Baseline]


@dataclass(frozen=True)
class Place:
    """Where a comparison stands, and what was asked for on the command line.

    Attributes:
        nodeid: of the test, as it is typed there.
        folder: that pytest was called in.
        baseline: file of the comparison's baselines.
        reports: folder for its report; None for none.
        update: whether to store baselines anew.
    """

    nodeid: str
    folder: Path
    baseline: Path
    reports: Path | None
    update: bool

    @property
    def again(self) -> str:
        """What to type to run the test again."""
        return shlex.join(["pytest", self.nodeid])

    @property
    def storing(self) -> str:
        """What to type to store its baseline: with the test's id, models that are listed take no `--parity`."""
        return f"{self.again} --parity-update"


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        report: all of it.
        verdict: the report's; "divergence" also where a fault that the outputs hide fails the test, "regression" where
            the run is worse than its baseline while within tolerance.
        failure: why the test fails; empty where it passes.
        missing: of the candidates that may be missing and are: which, and why.
        notes: what the summary of the session should say.
        written: the report's main file; None where none was written.
    """

    report: Report
    verdict: Verdict | Literal["regression"]
    failure: str
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    written: Path | None


def check(case: Case, place: Place) -> Outcome:
    """Compare, hold against the baseline or store it, and write what was asked for.

    Raises:
        ParityError: an argument makes no sense, the reference cannot run, or a baseline cannot be read.
        KeyboardInterrupt: the comparison was interrupted.
    """
    for target in case.allow:
        backend_of(Target.parse(target.rpartition(" on ")[2]))  # a misspelt one would allow nothing
    report = replace(compare_asked(case), command=command(case, place.nodeid, place.folder))
    if report.partial:
        raise KeyboardInterrupt
    missing = [c for c in report.candidates if c.status == "unavailable" and matches(c.target, case.allow)]
    failing = [c for c in report.failing if c not in missing]
    if case.strict:
        failing += [c for c in report.candidates if c.first_bad is not None and c not in failing]
    sound = {name: c for name, c in by_name(report.candidates).items() if c.status == "ok" and c not in failing}
    drifted: tuple[_Worse, ...] = ()
    notes: tuple[str, ...] = ()
    if case.baseline != "off":
        baselines = _readable(place)
        if place.update:
            notes = _store(case, report, sound, baselines, place)
        else:
            notes = _absent(case, sound, baselines, place)
            drifted, improved = _drifted(report, sound, baselines, place)
            notes += improved
    written = _written(report, place.reports, html=bool(failing or drifted))
    said = failure(report, failing, written) if failing else ""
    if drifted and not failing:
        said = regression(report, *drifted[0], place.baseline, place.again, written)  # one target's is enough to act on
    diverged = any(c.status == "ok" for c in failing)  # what never ran is an error, as in the report
    verdict = "divergence" if diverged else "regression" if drifted and not failing else report.verdict
    left_out = tuple(f"{words.target(c)}: {words.line(c.reason)}" for c in missing)
    return Outcome(report, verdict, said, left_out, notes, written)


def _written(report: Report, folder: Path | None, *, html: bool) -> Path | None:
    """Write the report of a failing test whole, and of another its JSON."""
    if folder is None:
        return None
    ensure_writable(folder)
    if html:
        return write_report(report, folder)["html"]
    write_whole(folder / "report.json", report.to_json())
    return folder / "report.json"


def _readable(place: Place) -> Baselines:
    """The baselines so far; what is stored anew need not be read."""
    try:
        return load(place.baseline)
    except UsageError as error:
        if place.update:
            return {}
        raise UsageError(error.message, f"{error.hint} Or store it anew with `{place.storing}`.") from None


def _store(case: Case, report: Report, sound: Mapping[str, Candidate], known: Baselines,
           place: Place) -> tuple[str, ...]:
    """Store the figures of what is within tolerance, beside those of targets that this run left out."""
    if not sound:
        return ()
    model = model_of(case)
    fresh = {name: baseline_of(report, c, _noise(case, model, c)) for name, c in sound.items()}
    if {**known, **fresh} != known:
        save(place.baseline, {**known, **fresh})
    return (f"stored the baseline of {', '.join(fresh)} in {place.baseline}",)


def _noise(case: Case, model: Model, candidate: Candidate) -> dict[str, float]:
    feed = first_feed(model, case)
    calibration = calibration_of(model, case.calibration)
    try:
        target = Target.parse(candidate.target.rpartition(" on ")[2])
    except UsageError:  # tensors taken elsewhere
        target = Target("pytorch")
    own = None if candidate.model is None else Path(candidate.model.path)
    return layer_noise(Model.load(own) if own is not None and own.is_file() else model, target, feed, calibration,
                       case.seed)


def _absent(case: Case, sound: Mapping[str, Candidate], known: Baselines, place: Place) -> tuple[str, ...]:
    """Say where there is no baseline.

    Raises:
        UsageError: there has to be one.
    """
    lacking = [name for name in sound if name not in known]
    if lacking and case.baseline == "required":
        raise UsageError(f"there is no baseline of {', '.join(lacking)} at {place.baseline}",
                         f"Store it with `{place.storing}`, look at it, and commit it.")
    return (f"{', '.join(lacking)} without a baseline",) if lacking and place.baseline.parent.is_dir() else ()


def _drifted(report: Report, sound: Mapping[str, Candidate], known: Baselines, place: Place,
             ) -> tuple[tuple[_Worse, ...], tuple[str, ...]]:
    found, notes = [], []
    for name, candidate in sound.items():
        if name not in known:
            continue
        baseline = known[name]
        if (baseline.inputs, baseline.samples) != (inputs_of(report), report.samples):
            raise UsageError(
                f"the baseline of {name} at {place.baseline} was taken with other inputs: "
                f"{baseline.samples} × {', '.join(baseline.inputs)}",
                f"Give the same inputs, or store it anew with `{place.storing}`.")
        lost = uncovered(baseline, candidate)
        if lost:
            raise UsageError(
                f"the baseline of {name} at {place.baseline} says nothing of {', '.join(lost)}, which it is to hold",
                f"Store it anew with `{place.storing}`.")
        partial = partial_cover(baseline, candidate)
        if partial:
            notes.append(f"the baseline of {name} covers only part of the model: {partial}; `{place.storing}` stores "
                         "it anew")
        moved = worse(baseline, candidate)
        if moved:
            found.append((candidate, moved, baseline))
        elif any(d.output for d in better(baseline, candidate)):
            notes.append(f"{name} is better than its baseline: `{place.storing}` keeps it so")
    return tuple(found), tuple(notes)
