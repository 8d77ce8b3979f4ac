"""What every contender is held against: the reference on one feed, and how far correct runs of it may be apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.analysis.match import comparable_tensors
from parity.analysis.noise import gold_outputs, noise_around
from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed, RunOptions, Session, backend_of
from parity.errors import FeedError
from parity.graph.model import Model
from parity.graph.survey import Survey, survey
from parity.precision.calibration import Calibration
from parity.report.assemble import accuracies
from parity.report.record import ModelFacts
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
        gold: the outputs in FP64.
        noise: per output, the relative L2 distance by which correct FP32 runs may differ.
        session: runs the reference.
        outputs: of the reference's plain run.
        seconds: of the reference's plain run.
    """

    feed: Feed
    survey: Survey
    gold: Mapping[str, np.ndarray]
    noise: Mapping[str, float]
    session: Session
    outputs: Mapping[str, np.ndarray]
    seconds: float | None


def facts_of(model: Model, flat: Model) -> ModelFacts:
    """Which model it is."""
    return ModelFacts(model.name, model.sha256, len(flat.graph.nodes), len(comparable_tensors(flat)))


def reference_run(model: Model, feed: Feed, target: Target, options: Options) -> Sample:
    """Run the reference once, unwatched, and learn how far correct runs of it may be apart.

    Raises:
        FeedError: an input and every output are empty, or no output fits the labels.
        ParityError: the reference cannot run.
    """
    options.progress("reference", 0, 2)
    surveyed = survey(model, feed, options.run.seed)
    options.progress("reference", 1, 2)
    gold = gold_outputs(surveyed.flat, feed, options.run.seed)
    admitted = noise_around(gold, surveyed.flat, feed, surveyed.outputs, options.run.seed)
    session = backend_of(target).open(model, surveyed.flat, target, options.run)
    capture = session.run(feed)
    options.progress("reference", 2, 2)
    empty = next((name for name, value in feed.items() if not value.size), None)
    if empty is not None and not any(value.size for value in capture.outputs.values()):
        raise FeedError(f"input {empty!r} is empty, and so is every output of the model: there is nothing to compare",
                        "Give larger ones: --shape NAME=AxB, or --input.")
    if options.labels is not None and not accuracies(capture.outputs, capture.outputs, options.labels):
        raise FeedError(f"{len(options.labels)} labels are given, but no output has a row of scores for each",
                        "Give one label for each row of the batch.")
    return Sample(feed, surveyed, gold, admitted, session, capture.outputs, capture.seconds)
