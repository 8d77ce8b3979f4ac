"""The pipeline of `parity compare`: the file to read first.

    model ─► reference run: outputs, their noise (FP32 against FP64), sizes, branches taken
             └─► each candidate: plain run   → outputs → verdict
                                 watched run → tensors → divergences → first bad → shares, diagnoses   (examine.py)
                                 what diverges in lower precision → fixes, tried on the target          (fixes/)
             └─► the outputs of all of them → where the error enters               (ladder.py)
    ─► Report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.analysis.attribute import pool
from parity.analysis.portrait import reads_of
from parity.analysis.tasks import propose
from parity.backends.base import Feed, backend_of
from parity.contenders import Contender, Request, contenders_of, feeds_of, load_labels, of_original
from parity.environment import environment
from parity.errors import ParityError
from parity.examine import Examined, examine, watching_notes
from parity.fix import proposals
from parity.fixes.problem import Demand
from parity.graph.model import Model
from parity.ladder import climb, pooled
from parity.original import MODULE, Original, check_originals, is_original, original_of
from parity.precision.calibration import Calibration
from parity.report.assemble import with_energies, with_places, with_shares, worst_of
from parity.report.exported import with_export_findings
from parity.report.modules import with_modules
from parity.report.record import Candidate, InputFacts, Reference, Report, Rung, Verdict
from parity.sample import INTERRUPTED, Sample, facts_of, reference_run
from parity.sample import Options as Options  # noqa: PLC0414 - what `compare` takes is named here
from parity.source_model.names import names_from
from parity.targets import VARIANTS, Target


def compare_files(request: Request, options: Options) -> Report:
    """Compare what the command line names.

    Raises:
        ParityError: an argument makes no sense, or the reference cannot run.
    """
    reference, *others = (Target.parse(t) for t in (request.reference, *request.targets))
    check_originals(others, given=request.source is not None)
    for target in (reference, *(t for t in others if not is_original(t))):
        backend_of(target)  # a typing error is told before anything is read or run
    model = Model.load(request.model)
    named = None if request.names_from is None else Model.load(request.names_from)
    contenders = contenders_of(request.files, others)
    feeds, facts = feeds_of(model, request, options.run.seed)
    original = None if request.source is None else original_of(request.source, model, feeds[0])
    options = replace(
        options, labels=None if request.labels is None else load_labels(request.labels),
        calibration=None if request.calibration is None else Calibration.load(model, request.calibration))
    contenders = [*of_original(original, others), *contenders]
    report = told_by(original, compare(model, contenders, feeds, facts, reference, options))
    return report if named is None else with_places(report, names_from(named, model, feeds[0]))


def told_by(original: Original | None, report: Report) -> Report:
    """The report with the places that the user's module knows and the graph lacks."""
    if original is None:
        return report
    return with_places(report, original.mapping.places)


def compare(model: Model, contenders: Sequence[Contender], feeds: Sequence[Feed], inputs: Sequence[InputFacts],
            reference: Target = Target("pytorch"), options: Options = Options()) -> Report:  # noqa: B008 - both are frozen
    """Run the reference and every contender on the same inputs and say where they part.

    Args:
        model: the reference, as the user handed it in.
        contenders: what to hold against it.
        feeds: one or more sets of inputs.
        inputs: what the inputs are, for the report.
        reference: where the reference runs.
        options: how to compare.

    Raises:
        ParityError: the reference itself cannot run. What befalls a contender is in the report.
    """
    if options.calibration is None:  # of all samples, so that every one of them runs the same variant
        samples = Calibration.of_feeds(model, feeds, indicative=True)
        options = replace(options, calibration=replace(samples, source="this run's inputs"))
    found: list[list[Examined]] = [[] for _ in contenders]
    rungs: list[tuple[Rung, ...]] = []
    first: Sample | None = None
    partial = False
    try:
        for feed in feeds:
            sample = reference_run(model, feed, reference, options)
            first = first or sample
            for contender, so_far in zip(contenders, found, strict=True):
                if not so_far or so_far[-1].candidate.status == "ok":
                    so_far.append(examine(model, contender, sample, options))
                    if so_far[-1].candidate.reason == INTERRUPTED:
                        raise KeyboardInterrupt  # noqa: TRY301 - it ends both loops
            if options.explain:
                last = [(c, so_far[-1]) for c, so_far in zip(contenders, found, strict=True)]
                rungs.append(climb(model, sample, reference, last, options))
    except KeyboardInterrupt:
        if first is None:
            raise
        partial = True
    assert first is not None  # noqa: S101 - there is at least one feed
    candidates = tuple(_told(contender, _pooled(so_far), first.survey.flat)
                       for contender, so_far in zip(contenders, found, strict=True) if so_far)
    if options.fixes and not partial:
        candidates = tuple(_with_fixes(model, contender, candidate, feeds, options)
                           for contender, candidate in zip(contenders, candidates, strict=True))
    return with_modules(Report(
        _overall(candidates), facts_of(model, first.survey.flat), tuple(inputs), options.run.seed,
        environment(options.run), Reference(str(reference), "ok", first.seconds), candidates,
        command=options.command, samples=len(feeds), partial=partial, reads=reads_of(first.survey.flat),
        proposals=() if options.judges else tuple(propose(first.outputs)), ladder=pooled(rungs, candidates)))


def _told(contender: Contender, candidate: Candidate, flat: Model) -> Candidate:
    """The module's row with where its export fails; any other as it is."""
    if contender.original is None or contender.target != MODULE:
        return candidate
    return with_export_findings(candidate, contender.original.mapping, flat)


def _pooled(samples: Sequence[Examined]) -> Candidate:
    """One candidate out of several samples' of the same: the worst figures, and the shares of all together."""
    worst = worst_of([s.candidate for s in samples])
    worst = replace(worst, notes=(*worst.notes, *watching_notes(samples)))
    shares = [s.shares for s in samples if s.shares is not None]
    return with_shares(worst, pool(shares)) if shares else worst


def _with_fixes(model: Model, contender: Contender, candidate: Candidate, feeds: Sequence[Feed],
                options: Options) -> Candidate:
    """The candidate with the fixes that were tried for it, where it diverges in a lower precision."""
    target = contender.target
    if (target is None or contender.model is not None or contender.fault is not None or not contender.asked
            or candidate.verdict != "divergence" or candidate.status != "ok" or target.precision not in VARIANTS):
        return candidate
    demand = Demand(options.tolerance, options.judges, options.task_limits, options.labels)
    try:
        fixes, prices = proposals(model, target, feeds, options.calibration, demand, options.run, options.progress)
    except ParityError as error:
        return replace(candidate, notes=(*candidate.notes, f"No fix was looked for: {error.message.rstrip('.')}."))
    return with_energies(replace(candidate, fixes=fixes), prices)


def _overall(candidates: Sequence[Candidate]) -> Verdict:
    deciding = [c for c in candidates if c.asked or not c.emulated]
    if any(c.verdict == "divergence" for c in deciding):
        return "divergence"
    if not any(c.status == "ok" for c in deciding) or any(c.asked and c.status != "ok" for c in deciding):
        return "error"
    return "parity"
