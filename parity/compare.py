"""The pipeline of `parity compare`: the file to read first.

    model ─► reference run: outputs, their noise (FP32 against FP64), sizes, branches taken
             └─► each candidate: plain run   → outputs → verdict
                                 watched run → tensors → divergences, in lock step with the reference → first bad
    ─► Report
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parity.analysis.localize import Divergence, divergences, first_to_blame
from parity.analysis.match import comparable_tensors
from parity.analysis.measure import measure
from parity.analysis.noise import noise
from parity.analysis.outputs import OutputFinding, absence_notes, judge_outputs, noise_notes, random_notes, value_notes
from parity.analysis.reads import without_unread
from parity.analysis.streams import Stream
from parity.analysis.tasks import propose
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.backends.base import Feed, RunOptions, Session, backend_of
from parity.backends.latency import latency_of
from parity.contenders import Contender, Request, contenders_of, feeds_of, load_labels
from parity.environment import environment
from parity.errors import BackendFailed, BackendUnavailable, FeedError, MatchError, ModelError
from parity.graph.model import Model
from parity.graph.survey import Survey, survey
from parity.precision.calibration import Calibration
from parity.preparation import Ready, make_ready
from parity.report.assemble import accuracies, first_bad_of, layer_of, output_layer, task_results, worst_of
from parity.report.record import (
    Candidate,
    InputFacts,
    ModelFacts,
    Reference,
    Report,
    Status,
    Verdict,
)
from parity.targets import Target

# Told (what is going on, tensors done, tensors in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        run: how targets are run.
        tolerance: the user's own; None for the default of each precision.
        labels: class labels, one a row of the batch, for task accuracy.
        progress: is told how far things are.
        command: what the user typed, for the report.
        calibration: samples for INT8 ranges; None takes the inputs of the run, for indicative ones.
        judges: how outputs are judged beside the plain metrics, e.g. "top1".
        task_limits: what the judges' figures must keep to.
    """

    run: RunOptions = field(default_factory=RunOptions)
    tolerance: Tolerance | None = None
    labels: np.ndarray | None = None
    progress: Progress = lambda what, done, total: None
    command: str = ""
    calibration: Calibration | None = None
    judges: Sequence[str] = ()
    task_limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sample:
    """One feed with what the reference makes of it.

    Attributes:
        feed: the inputs.
        survey: what one FP32 run told about the reference.
        noise: per output, the relative L2 distance by which correct FP32 runs may differ.
        session: runs the reference.
        outputs: of the reference's plain run.
        seconds: of the reference's plain run.
    """

    feed: Feed
    survey: Survey
    noise: Mapping[str, float]
    session: Session
    outputs: Mapping[str, np.ndarray]
    seconds: float | None


def compare_files(request: Request, options: Options) -> Report:
    """Compare what the command line names.

    Raises:
        ParityError: an argument makes no sense, or the reference cannot run.
    """
    reference, *others = (Target.parse(t) for t in (request.reference, *request.targets))
    for target in (reference, *others):
        backend_of(target)  # a typing error is told before anything is read or run
    model = Model.load(request.model)
    contenders = contenders_of(request.files, others)
    feeds, facts = feeds_of(model, request, options.run.seed)
    options = replace(
        options, labels=None if request.labels is None else load_labels(request.labels),
        calibration=None if request.calibration is None else Calibration.load(model, request.calibration))
    return compare(model, contenders, feeds, facts, reference, options)


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
    found: list[list[Candidate]] = [[] for _ in contenders]
    first: _Sample | None = None
    partial = False
    try:
        for feed in feeds:
            sample = _reference_run(model, feed, reference, options)
            first = first or sample
            for contender, so_far in zip(contenders, found, strict=True):
                if not so_far or so_far[-1].status == "ok":
                    so_far.append(_candidate(model, contender, sample, options))
                    if so_far[-1].reason == INTERRUPTED:
                        raise KeyboardInterrupt  # noqa: TRY301 - it ends both loops
    except KeyboardInterrupt:
        if first is None:
            raise
        partial = True
    assert first is not None  # noqa: S101 - there is at least one feed
    candidates = tuple(worst_of(so_far) for so_far in found if so_far)
    return Report(
        _overall(candidates), _facts(model, first.survey.flat), tuple(inputs), options.run.seed,
        environment(options.run), Reference(str(reference), "ok", first.seconds), candidates,
        command=options.command, samples=len(feeds), partial=partial,
        proposals=() if options.judges else tuple(propose(first.outputs)))


INTERRUPTED = "interrupted"


def _overall(candidates: Sequence[Candidate]) -> Verdict:
    deciding = [c for c in candidates if c.asked or not c.emulated]
    if any(c.verdict == "divergence" for c in deciding):
        return "divergence"
    if not any(c.status == "ok" for c in deciding) or any(c.asked and c.status != "ok" for c in deciding):
        return "error"
    return "parity"


def _facts(model: Model, flat: Model) -> ModelFacts:
    return ModelFacts(model.name, model.sha256, len(flat.graph.nodes), len(comparable_tensors(flat)))


def _reference_run(model: Model, feed: Feed, target: Target, options: Options) -> _Sample:
    """Run the reference once, unwatched, and learn how far correct runs of it may be apart."""
    options.progress("reference", 0, 2)
    surveyed = survey(model, feed, options.run.seed)
    options.progress("reference", 1, 2)
    admitted = noise(surveyed.flat, feed, surveyed.outputs, options.run.seed)
    session = backend_of(target).open(model, surveyed.flat, target, options.run)
    capture = session.run(feed)
    options.progress("reference", 2, 2)
    if options.labels is not None and not accuracies(capture.outputs, capture.outputs, options.labels):
        raise FeedError(f"{len(options.labels)} labels are given, but no output has a row of scores for each",
                        "Give one label for each row of the batch.")
    return _Sample(feed, surveyed, admitted, session, capture.outputs, capture.seconds)


def _distance(gold: np.ndarray, other: np.ndarray) -> float:
    return measure(gold, other).rel_l2 if gold.shape == other.shape else math.inf


def _candidate(model: Model, contender: Contender, sample: _Sample, options: Options) -> Candidate:
    """Run one contender on one sample; what befalls it is in its status."""
    blank = Candidate(str(contender), "ok", asked=contender.asked, emulated=contender.emulated)
    try:
        return _one_sample(model, contender, blank, sample, options)
    except KeyboardInterrupt:
        return replace(blank, status="failed", reason=INTERRUPTED)
    except BackendUnavailable as error:
        return replace(blank, status="unavailable", reason=str(error))
    except (BackendFailed, FeedError, MatchError, ModelError) as error:
        return replace(blank, status="failed", reason=str(error))


def _one_sample(model: Model, contender: Contender, blank: Candidate, sample: _Sample, options: Options) -> Candidate:
    ready = make_ready(model, contender, sample.survey, sample.feed, options.calibration, options.run)
    capture = ready.session.run(sample.feed)
    timed = capture.seconds is not None and not contender.emulated
    latency = latency_of(ready.session, sample.feed) if timed else None
    tolerance = options.tolerance or DEFAULTS[ready.precision]
    outputs = judge_outputs(sample.outputs, capture.outputs, sample.noise, tolerance)
    tasks = task_results(options.judges, options.task_limits, sample.outputs, capture.outputs, options.labels)
    agree = all(o.passed for o in outputs) and all(t.passed for t in tasks)
    verdict: Verdict = "parity" if agree else "divergence"
    walk = _Walk(capture.outputs)
    status, reason = walk.run(sample, ready, str(contender), options)
    found = without_unread(walk.found, ready.variant, sample.feed)
    limit = max((o.limit for o in outputs), default=tolerance.rel_l2(0.0))
    blamed = first_to_blame(found, outputs_fail=verdict == "divergence" or not outputs, limit=limit)
    if not outputs and blamed is not None:  # tensors taken elsewhere, no graph output among them: they decide
        verdict = "divergence"
    notes = (*ready.notes, *absence_notes(sample.outputs, capture.outputs), *value_notes(outputs, sample.outputs),
             *random_notes(ready.variant), *noise_notes(outputs, tolerance))
    if blamed is not None and blamed[1] == "precision" and _hidden_by_watching(outputs, walk.moved):
        blamed = None
        notes = (*notes, _WATCHING_HIDES)
    elif walk.moved is not None and limit * _NOTICEABLE < walk.moved < math.inf:
        notes = (*notes, _WATCHING_MOVES.format(walk.moved))
    return replace(
        blank, status=status, reason=reason, verdict=verdict if status == "ok" else "error",
        watching_moved_outputs=walk.moved,
        outputs=tuple(output_layer(o, sample.survey.flat.graph.producer.get(o.name)) for o in outputs),
        tensors=tuple(layer_of(d, limit) for d in found),
        first_bad=None if blamed is None else first_bad_of(*blamed), version=capture.version, device=capture.device,
        seconds=capture.seconds, latency=latency, notes=notes,
        model=None if contender.model is None else _facts(contender.model, contender.model),
        accuracy=accuracies(sample.outputs, capture.outputs, options.labels), tasks=tasks)


# Share of the outputs' tolerance from which on it is worth saying that watching changed the result.
_NOTICEABLE = 0.05
_WATCHING_HIDES = ("Watching changes the result by as much as the error itself, so no layer is blamed: the error comes "
                   "from an optimisation that watching undoes. Try `--optimization off`.")
_WATCHING_MOVES = ("Watching moved the outputs by {:.1e} (relative L2): the tensors are those of a run that rounds or "
                   "fuses otherwise than the deployed one.")


def _hidden_by_watching(outputs: Sequence[OutputFinding], moved: float | None) -> bool:
    error = max((o.comparison.rel_l2 for o in outputs if o.comparison is not None), default=0.0)
    return moved is not None and moved >= error / 2


class _Walk:
    """One watched run beside the reference, keeping what was found even where it breaks off."""

    def __init__(self, unwatched: Mapping[str, np.ndarray]) -> None:
        self.found: list[Divergence] = []
        self.moved: float | None = None
        self._unwatched = unwatched

    def run(self, sample: _Sample, ready: Ready, what: str, options: Options) -> tuple[Status, str]:
        """Walk to the end, or as far as it goes.

        Returns:
            The status, and the reason where it is not "ok".
        """
        flat = sample.survey.flat
        wanted = comparable_tensors(flat)
        expected = Stream(sample.session.watch(sample.feed, wanted, sample.survey.sizes), frozenset(wanted))
        shown = Stream(self._watching(ready.session.watch(sample.feed, ready.shown, ready.sizes)), ready.shown)
        names = frozenset(comparable_tensors(ready.variant))
        try:
            for divergence in divergences(flat, ready.variant, sample.feed, expected, shown, names):
                self.found.append(divergence)
                options.progress(what, len(self.found), len(ready.shown))
        except KeyboardInterrupt:
            return "failed", INTERRUPTED
        except (BackendFailed, ModelError) as error:
            return "failed", str(error)
        return "ok", ""

    def _watching(self, chunks: Iterator[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
        """Pass the chunks on, noting how far the outputs among them are from the unwatched ones."""
        for chunk in chunks:
            for name in chunk.keys() & self._unwatched.keys():
                self.moved = max(self.moved or 0.0, _distance(self._unwatched[name], chunk[name]))
            yield chunk
