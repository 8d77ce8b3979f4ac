"""`parity reduce`: the file to read first.

    model, target ─► plain run, watched run → symptom                                          (locate.py)
            └─► parts of the graph on the target: one node, neighbours, bisection     (hunt.py, trials.py)
                └─► fewer rows, seeded values                                          (shrink.py, anonymise.py)
                    └─► repro.onnx, inputs, expected, test_repro.py, BUG.md            (write.py)
                        └─► the test, run in a fresh process                           (verify.py)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed, RunOptions
from parity.contenders import Contender, Request, contenders_of, feeds_of
from parity.errors import BackendFailed, UsageError
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.reduce.anonymise import Anonymised, anonymised
from parity.reduce.bug import Story
from parity.reduce.hunt import Found, smallest
from parity.reduce.locate import Symptom, symptom_of
from parity.reduce.script import runner_for
from parity.reduce.shrink import one_row, used_rows
from parity.reduce.sides import Sides, sides_of
from parity.reduce.trials import Shown, Trials
from parity.reduce.verify import Verified, verify
from parity.reduce.write import ensure_own, files_in, staged, write_report, write_repro
from parity.sample import Options, Progress, reference_run
from parity.targets import Target

_DEFAULT = Target("onnxruntime")
# Runs held back: for smaller values and without optimisation, for seeded ones, and for the files in a fresh process.
_SHRINKING, _SEEDED, _VERIFYING = 3, 4, 2
_LOOKING = 2  # the plain and the watched run


@dataclass(frozen=True)
class Order:
    """What is wanted.

    Attributes:
        run: how the target is run.
        tolerance: of the outputs; None for the default of the precision.
        runs: of the target, at most.
        anonymise: replace inputs and weights by seeded ones.
        progress: is told how far things are.
    """

    run: RunOptions = field(default_factory=RunOptions)
    tolerance: Tolerance | None = None
    runs: int = 25
    anonymise: bool = False
    progress: Progress = lambda what, done, total: None


@dataclass(frozen=True, eq=False)
class Repro:
    """What a reduction came to.

    Attributes:
        shown: the part.
        symptom: of the whole model.
        story: what is told of it.
        runs: of the target, those to verify it included.
        verified: what the files did in a fresh process.
        written: the files by name.
    """

    shown: Shown
    symptom: Symptom
    story: Story
    runs: int
    verified: Verified
    written: dict[str, Path]


def reduce_file(request: Request, order: Order, folder: Path) -> Repro | None:
    """Reduce what the command line names.

    Args:
        request: a model, perhaps another model, and one target; onnxruntime where there is none.
        order: what is wanted.
        folder: for the files.

    Returns:
        What was written; None where there is nothing to reduce.

    Raises:
        ParityError: as for `reduce`, or an argument makes no sense.
        OutputError: the folder holds such files of somebody else's.
    """
    ensure_own(folder)
    targets = [Target.parse(t) for t in request.targets] or [_DEFAULT]
    for target in targets:
        runner_for(target, order.run)  # a target that nobody else can run is told before anything is read
    model = Model.load(request.model)
    contenders = contenders_of(request.files, targets)
    if len(contenders) != 1:
        raise UsageError(f"{len(contenders)} candidates are named, and one repro is of one of them",
                         "Name one target with -c, and at most one other model.")
    feeds, _ = feeds_of(model, request, order.run.seed)
    calibration = None if request.calibration is None else Calibration.load(model, request.calibration)
    return reduce(model, contenders[0], feeds[0], calibration, order, folder)


def reduce(model: Model, contender: Contender, feed: Feed, calibration: Calibration | None, order: Order,
           folder: Path) -> Repro | None:
    """Find the smallest part of a model that shows what a target does wrong, write it, and run what was written.

    Args:
        model: the reference.
        contender: what to hold against it.
        feed: the inputs.
        calibration: samples for INT8 ranges; None takes the feed.
        order: what is wanted.
        folder: for the files.

    Returns:
        What was written; None where there is nothing to reduce.

    Raises:
        BackendUnavailable: the target cannot run here.
        BackendFailed: the fault is not shown by any part that can be cut out, nor by the files in a fresh process.
        OutputError: the files cannot be written. Whatever is raised, the folder holds what it held before.
    """
    sample = reference_run(model, feed, Target("pytorch"), Options(order.run, progress=order.progress))
    sides = sides_of(model, contender, sample.survey, feed, calibration, order.run.seed)
    symptom = symptom_of(sides, sample, order.tolerance, order.run)
    if symptom is None:
        return None
    reserve = _SHRINKING + _VERIFYING + _SEEDED * order.anonymise
    trials = Trials(sides.target, order.run, max(order.runs - reserve, _LOOKING))
    trials.count = _LOOKING if symptom.failure is None else 1
    found = smallest(sides, model, symptom, trials)
    if found is None:
        raise BackendFailed(f"{contender} goes wrong on the whole model, but on no part of it that was tried in "
                            f"{trials.count} runs", "Allow more with --max-runs, or send the whole model.")
    trials.limit = order.runs - _VERIFYING
    shown, notes = _with_less(found, order)
    notes = (*notes, *_unoptimised(shown, sides, trials, order))
    story = Story(model, contender, sides, symptom, shown, order.run, notes, limited=found.limited)
    with staged(folder) as unproven:
        verified = verify(unproven, shown, ran_reference=write_repro(shown, story, unproven))
        if not verified.shown:
            raise BackendFailed(f"{story.operators}, which {contender} gets wrong, is no repro: in a fresh process "
                                f"the test ends with {verified.repro.said!r}",
                                "The fault may come and go: try `parity check MODEL`.")
        write_report(story, verified.reference, unproven)
    written = {file.name: file for file in files_in(folder)}
    return Repro(shown, symptom, story, trials.count + verified.runs, verified, written)


def _with_less(found: Found, order: Order) -> tuple[Shown, tuple[str, ...]]:
    """The part with fewer rows, and with seeded values where that is wanted, as far as the fault stays."""
    shown = found.shown
    fewer = used_rows(shown.part)
    shown = (found.look(fewer) if fewer is not None else None) or shown
    row = one_row(shown)
    shown = (found.look(row) if row is not None else None) or shown
    if not order.anonymise:
        return shown, ("Inputs and weights are the model's own.",)
    for other in anonymised(shown.part, order.run.seed):
        still = found.look(other.part)
        if still is not None:
            return still, _told(other)
    return shown, ("Inputs and weights are the model's OWN: with seeded ones the fault does not show.",)


def _unoptimised(shown: Shown, sides: Sides, trials: Trials, order: Order) -> tuple[str, ...]:
    """Whether the fault is an optimisation's, where the target runs the very graph that it is judged by."""
    own = sides.candidate is sides.judge and not shown.failure
    if not own or order.run.optimization == "off" or trials.count >= trials.limit:
        return ()
    off = Trials(sides.target, replace(order.run, optimization="off"), 1)
    found = off.ran(shown.part, shown.expected)
    trials.count += off.count
    if found is None:
        return ()
    return ("With graph optimisation off the runtime is " + ("wrong, too." if found.broken else "right."),)


def _told(found: Anonymised) -> tuple[str, ...]:
    seeded = f"Seeded values of the same distribution stand for {', '.join(found.replaced)}."
    if not found.kept:
        return (seeded,)
    own = f"The model's OWN values are still in {', '.join(found.kept)}"
    return seeded, f"{own}: the fault does not show without, or lies in them."
