"""One contender on one sample: the verdict, every tensor, where the error comes from, and why.

    plain run   → outputs → verdict
    watched run → tensors → divergences, in lock step with the reference → first bad → shares and diagnoses
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parity.analysis.attribute import Shares, attribute
from parity.analysis.diagnose import Diagnosis, Evidence, diagnose
from parity.analysis.localize import Divergence, divergences, first_to_blame
from parity.analysis.match import comparable_tensors
from parity.analysis.measure import measure
from parity.analysis.noise import noise
from parity.analysis.outputs import OutputFinding, absence_notes, judge_outputs, noise_notes, random_notes, value_notes
from parity.analysis.reads import without_unread
from parity.analysis.streams import Stream
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.backends.base import Feed, RunOptions, Session, backend_of
from parity.backends.latency import latency_of
from parity.contenders import Contender
from parity.errors import BackendFailed, BackendUnavailable, FeedError, MatchError, ModelError, OutputError
from parity.graph.model import Model
from parity.graph.store import TensorStore
from parity.graph.survey import Survey, survey
from parity.precision.calibration import Calibration
from parity.preparation import Ready, make_ready
from parity.report.assemble import accuracies, first_bad_of, layer_of, output_layer, task_results
from parity.report.record import Candidate, ModelFacts, Status, Verdict
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
        explain: say where the error of what diverges comes from, and why.
        fixes: look for fixes of what diverges in lower precision.
    """

    run: RunOptions = field(default_factory=RunOptions)
    tolerance: Tolerance | None = None
    labels: np.ndarray | None = None
    progress: Progress = lambda what, done, total: None
    command: str = ""
    calibration: Calibration | None = None
    judges: Sequence[str] = ()
    task_limits: Mapping[str, float] = field(default_factory=dict)
    explain: bool = True
    fixes: bool = False


INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Sample:
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


def facts_of(model: Model, flat: Model) -> ModelFacts:
    """Which model it is."""
    return ModelFacts(model.name, model.sha256, len(flat.graph.nodes), len(comparable_tensors(flat)))


def reference_run(model: Model, feed: Feed, target: Target, options: Options) -> Sample:
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
    return Sample(feed, surveyed, admitted, session, capture.outputs, capture.seconds)


def _distance(gold: np.ndarray, other: np.ndarray) -> float:
    return measure(gold, other).rel_l2 if gold.shape == other.shape else math.inf


@dataclass(frozen=True)
class Examined:
    """What one sample showed of a contender.

    Attributes:
        candidate: its row.
        shares: of its output error; None where they were not looked for.
        hidden: watching moved the outputs by as much as the error, so the tensors do not explain the verdict.
    """

    candidate: Candidate
    shares: Shares | None = None
    hidden: bool = False


def examine(model: Model, contender: Contender, sample: Sample, options: Options) -> Examined:
    """Run one contender on one sample; what befalls it is in its status."""
    blank = Candidate(str(contender), "ok", asked=contender.asked, emulated=contender.emulated)
    try:
        return _one_sample(model, contender, blank, sample, options)
    except KeyboardInterrupt:
        return Examined(replace(blank, status="failed", reason=INTERRUPTED))
    except BackendUnavailable as error:
        return Examined(replace(blank, status="unavailable", reason=str(error)))
    except (BackendFailed, FeedError, MatchError, ModelError, OutputError) as error:
        return Examined(replace(blank, status="failed", reason=str(error)))


def _one_sample(model: Model, contender: Contender, blank: Candidate, sample: Sample, options: Options) -> Examined:
    ready = make_ready(model, contender, sample.survey, sample.feed, options.calibration, options.run)
    capture = ready.session.run(sample.feed)
    timed = capture.seconds is not None and not contender.emulated
    latency = latency_of(ready.session, sample.feed) if timed else None
    tolerance = options.tolerance or DEFAULTS[ready.precision]
    outputs = judge_outputs(sample.outputs, capture.outputs, sample.noise, tolerance)
    tasks = task_results(options.judges, options.task_limits, sample.outputs, capture.outputs, options.labels)
    agree = all(o.passed for o in outputs) and all(t.passed for t in tasks)
    verdict: Verdict = "parity" if agree else "divergence"
    lower = contender.asked and ready.precision not in ("fp32", "fp64")
    walk = _Walk(capture.outputs, keep=options.explain and (lower or not agree), memory=options.run.memory)
    status, reason = walk.run(sample, ready, str(contender), options)
    found = without_unread(walk.found, ready.variant, sample.feed)
    limit = max((o.limit for o in outputs), default=tolerance.rel_l2(0.0))
    blamed = first_to_blame(found, outputs_fail=verdict == "divergence" or not outputs, limit=limit)
    if not outputs and blamed is not None:  # tensors taken elsewhere, no graph output among them: they decide
        verdict = "divergence"
    notes = (*ready.notes, *absence_notes(sample.outputs, capture.outputs), *value_notes(outputs, sample.outputs),
             *random_notes(ready.variant), *noise_notes(outputs, tolerance))
    elsewhere = _hidden_by_watching(outputs, walk.moved)
    hidden = elsewhere and blamed is not None and blamed[1] == "precision"
    explained = options.explain and status == "ok"
    shares = _shares(sample, walk.shown, options, hidden=elsewhere) if explained and walk.shown is not None else None
    diagnoses: tuple[Diagnosis, ...] = ()
    if explained and (blamed is not None or verdict == "divergence"):
        shown = _watched(ready, sample, options) if walk.shown is None else walk.shown
        diagnoses = diagnose(Evidence(
            sample.survey.flat, ready.variant, sample.feed, found, None if hidden else blamed, shown, sample.outputs,
            capture.outputs, limit, ready.precision, verdict == "divergence", walk.moved,
            *_reruns(model, contender, ready, sample, options)))
    return Examined(replace(
        blank, status=status, reason=reason, verdict=verdict if status == "ok" else "error",
        watching_moved_outputs=walk.moved,
        outputs=tuple(output_layer(o, sample.survey.flat.graph.producer.get(o.name)) for o in outputs),
        tensors=tuple(layer_of(d, limit) for d in found), diagnoses=diagnoses,
        first_bad=None if blamed is None or hidden else first_bad_of(*blamed), version=capture.version,
        device=capture.device, seconds=capture.seconds, latency=latency, notes=notes,
        model=None if contender.model is None else facts_of(contender.model, contender.model),
        accuracy=accuracies(sample.outputs, capture.outputs, options.labels), tasks=tasks), shares,
        hidden or (elsewhere and blamed is None and verdict == "divergence"))


def _shares(sample: Sample, shown: TensorStore, options: Options, *, hidden: bool) -> Shares:
    """Where the watched run's output error comes from, unless that is another error than the deployed model's."""
    if hidden:
        return Shares(withheld="watching changes the result by as much as the error itself")
    return attribute(sample.survey.flat, sample.feed, shown, options.run.memory, sample.noise, options.run.seed)


def _watched(ready: Ready, sample: Sample, options: Options) -> TensorStore:
    """All of the candidate's tensors, from another watched run."""
    store = TensorStore(options.run.memory)
    for chunk in ready.session.watch(sample.feed, ready.shown, ready.sizes):
        for name, value in chunk.items():
            store.put(name, value)
    return store


Rerun = Callable[[], Mapping[str, np.ndarray]]


def _reruns(model: Model, contender: Contender, ready: Ready, sample: Sample, options: Options,
            ) -> tuple[Rerun | None, Rerun | None]:
    """Ways to run the contender once more, and without the runtime's optimisation."""
    def unoptimised() -> Mapping[str, np.ndarray]:
        other = make_ready(model, contender, sample.survey, sample.feed, options.calibration,
                           replace(options.run, optimization="off"))
        return other.session.run(sample.feed).outputs

    if contender.tensors is not None:
        return None, None
    return (lambda: ready.session.run(sample.feed).outputs,
            None if contender.emulated or options.run.optimization == "off" else unoptimised)


# Share of the outputs' tolerance from which on it is worth saying that watching changed the result.
_NOTICEABLE = 0.05
_WATCHING_HIDES = ("Watching changes the result{} by as much as the error itself, so no layer is blamed{}: the error "
                   "comes from an optimisation that watching undoes. Try `--optimization off`.")
_WATCHING_MOVES = ("Watching moved the outputs by {:.1e} (relative L2): the tensors are those of a run that rounds or "
                   "fuses otherwise than the deployed one.")


def watching_notes(samples: Sequence[Examined]) -> tuple[str, ...]:
    """What is to be said of how far watching changed the result, over all samples of one candidate."""
    hidden = sum(s.hidden for s in samples)
    if hidden == len(samples):
        return (_WATCHING_HIDES.format("", ""),)
    notes = (_WATCHING_HIDES.format(f" of {hidden} of {len(samples)} samples", " in these"),) if hidden else ()
    moved = max((_noticeable(s.candidate) for s in samples if not s.hidden), default=0.0)
    return (*notes, _WATCHING_MOVES.format(moved)) if moved else notes


def _noticeable(candidate: Candidate) -> float:
    """How far watching moved the outputs; 0 where that is little beside their tolerance."""
    limit = max((o.tolerance for o in candidate.outputs if o.tolerance is not None), default=math.inf)
    moved = candidate.watching_moved_outputs
    return moved if moved is not None and limit * _NOTICEABLE < moved < math.inf else 0.0


def _hidden_by_watching(outputs: Sequence[OutputFinding], moved: float | None) -> bool:
    error = max((o.comparison.rel_l2 for o in outputs if o.comparison is not None), default=0.0)
    return moved is not None and moved >= error / 2


class _Walk:
    """One watched run beside the reference, keeping what was found even where it breaks off."""

    def __init__(self, unwatched: Mapping[str, np.ndarray], *, keep: bool, memory: int) -> None:
        self.found: list[Divergence] = []
        self.moved: float | None = None
        self.shown = TensorStore(memory) if keep else None
        self._unwatched = unwatched

    def run(self, sample: Sample, ready: Ready, what: str, options: Options) -> tuple[Status, str]:
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
            if self.shown is not None:
                for name, value in chunk.items():
                    self.shown.put(name, value)
            yield chunk
