"""Why one contender diverges on one sample: the first bad layer, the shares, the causes, and what matters close up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parity.analysis.attribute import Shares, attribute
from parity.analysis.cuts import search_hidden
from parity.analysis.diagnose import Diagnosis, Evidence, diagnose
from parity.analysis.localize import Divergence, first_to_blame
from parity.analysis.outputs import OutputFinding, drawn_tensors
from parity.analysis.portrait import Portrait, chosen, portraits
from parity.contenders import Contender
from parity.graph.model import Model
from parity.original import MODULE
from parity.preparation import Ready, make_ready
from parity.report.assemble import first_bad_in, first_bad_of, region_note
from parity.report.record import FirstBad
from parity.sample import Options, Sample
from parity.walk import Walk, watched


@dataclass(frozen=True)
class Case:
    """One contender on one sample, run and judged.

    Attributes:
        model: the reference, as the user handed it in.
        contender: what ran.
        ready: as it ran.
        sample: the reference's run.
        deployed: the outputs of the unwatched run.
        outputs: the same, judged.
        found: every tensor of the watched run that decides something.
        walk: the watched run.
        limit: relative L2 error admitted in the outputs.
        agrees: whether the outputs, and all judges, are within their limits.
    """

    model: Model
    contender: Contender
    ready: Ready
    sample: Sample
    deployed: Mapping[str, np.ndarray]
    outputs: Sequence[OutputFinding]
    found: Sequence[Divergence]
    walk: Walk
    limit: float
    agrees: bool


@dataclass(frozen=True)
class Explanation:
    """What can be said of a case.

    Attributes:
        first_bad: the earliest tensor to blame.
        diverges: the verdict; tensors taken elsewhere decide it where no output is among them.
        hidden: watching moved the outputs by as much as the error, so the tensors do not explain the verdict.
        shares: of the output error; None where they were not looked for.
        portraits: what matters most close up, by tensor.
        diagnoses: the causes that fit.
        searched: what came of a search in the deployed run; empty where there was none.
    """

    first_bad: FirstBad | None
    diverges: bool
    hidden: bool
    shares: Shares | None = None
    portraits: Mapping[str, Portrait] = field(default_factory=dict)
    diagnoses: tuple[Diagnosis, ...] = ()
    searched: str = ""


def explain(case: Case, options: Options) -> Explanation:
    """Say which tensor is to blame, and unless the options or a broken run forbid it, why."""
    blamed = first_to_blame(case.found, outputs_fail=not case.agrees or not case.outputs, limit=case.limit)
    diverges = not case.agrees or (not case.outputs and blamed is not None)
    elsewhere = case.walk.hides(case.outputs)
    hidden = elsewhere and (diverges if blamed is None else blamed[1] == "precision")
    drawn = drawn_tensors(case.sample.survey.flat)  # no two runs draw alike: nobody's fault
    told = blamed is not None and not hidden and (blamed[1] != "precision" or blamed[0].tensor not in drawn)
    first_bad = first_bad_of(*blamed) if blamed is not None and told else None
    if not options.explain or case.walk.status != "ok":
        return Explanation(first_bad, diverges, hidden)
    searched = ""
    if hidden and diverges and case.contender.tensors is None:
        first_bad, searched = _searched(case, options)
    shares = None if case.walk.shown is None else _shares(case, options, hidden=elsewhere)
    diagnoses: tuple[Diagnosis, ...] = ()
    if blamed is not None or diverges:
        shown = watched(case.ready, case.sample, options) if case.walk.shown is None else case.walk.shown
        diagnoses = diagnose(Evidence(
            case.sample.survey.flat, case.ready.variant, case.sample.feed, case.found, None if hidden else blamed,
            shown, case.sample.outputs, case.deployed, case.limit, case.ready.precision, diverges, case.walk.moved,
            *_reruns(case, options), exported=_is_module(case.contender), own=case.ready.own))
    return Explanation(first_bad, diverges, hidden, shares, _portraits(case, shares), diagnoses, searched)


def _searched(case: Case, options: Options) -> tuple[FirstBad | None, str]:
    """Where the deployed run goes wrong, by marking a few tensors at a time; and what to tell of it."""
    sample, ready, flat = case.sample, case.ready, case.sample.survey.flat
    result = search_hidden(flat, sample.feed, sample.session, ready.session, ready.shown, sample.survey.sizes,
                           case.deployed, case.limit, options.run.memory)
    watched_errors = {d.tensor: d.accumulated for d in case.found}
    return first_bad_in(result, flat, watched_errors, case.limit), region_note(result)


def _shares(case: Case, options: Options, *, hidden: bool) -> Shares:
    """Where the watched run's output error comes from, unless that is another error than the deployed model's."""
    if hidden:
        return Shares(withheld="watching changes the result by as much as the error itself")
    assert case.walk.shown is not None  # noqa: S101 - the caller looked
    sample = case.sample
    return attribute(sample.survey.flat, sample.feed, case.walk.shown, options.run.memory, sample.noise,
                     options.run.seed)


def _portraits(case: Case, shares: Shares | None) -> Mapping[str, Portrait]:
    """What matters most close up; of a run whose tensors were not kept, the outputs."""
    sample, flat = case.sample, case.sample.survey.flat
    if case.walk.shown is None:
        return portraits(flat, case.ready.variant, sample.outputs, case.deployed)
    names = chosen(case.found, {} if shares is None else shares.shares, sample.outputs)
    expected: dict[str, np.ndarray] = {}
    for chunk in sample.session.watch(sample.feed, names, sample.survey.sizes):
        expected.update({name: chunk[name] for name in names if name in chunk})
    return portraits(flat, case.ready.variant, expected, case.walk.shown)


def _is_module(contender: Contender) -> bool:
    return contender.target is not None and contender.target.backend == MODULE.backend


Rerun = Callable[[], Mapping[str, np.ndarray]]


def _reruns(case: Case, options: Options) -> tuple[Rerun | None, Rerun | None]:
    """Ways to run the contender once more, and without the runtime's optimisation."""
    def unoptimised() -> Mapping[str, np.ndarray]:
        other = make_ready(case.model, case.contender, case.sample.survey, case.sample.feed, options.calibration,
                           replace(options.run, optimization="off"))
        return other.session.run(case.sample.feed).outputs

    if case.contender.tensors is not None:
        return None, None
    return (lambda: case.ready.session.run(case.sample.feed).outputs,
            None if case.contender.emulated or options.run.optimization == "off" else unoptimised)
