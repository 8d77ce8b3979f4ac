"""What is to be fixed: a model on a target, the samples to search and to judge on, and the limits to keep to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from parity.analysis.goal import Goal
from parity.analysis.noise import noise
from parity.analysis.outputs import top1
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.backends.base import Feed, RunOptions
from parity.errors import UsageError
from parity.graph.batch import batch_of
from parity.graph.executor import Executor
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.precision.plan import Precision
from parity.targets import Target

# From so many rows, or feeds, on, half of them are held out. With fewer either half would be a handful, on which errors
# happen to cancel, or not.
_SPLIT = 8
# No more feeds, or rows of one feed, on either side: they would make every trial dearer and hardly change it.
_FEEDS, _ROWS = 8, 32


@dataclass(frozen=True)
class Limits:
    """How far a search may go.

    Attributes:
        trials: runs of the emulator, at least.
        extra: multiply-adds that may be spent on more trials where they are cheap, which finds smaller sets.
        runs: runs of the target.
        kept: share of the layers that may be kept in higher precision.
        precision: what layers are kept in.
    """

    trials: int = 12
    extra: float = 3e10
    runs: int = 12
    kept: float = 0.5
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Demand:
    """What outputs are to keep to.

    Attributes:
        tolerance: of the plain metrics; None for the default of the target's precision.
        judges: how outputs are judged beside these.
        task_limits: what the judges' figures must keep to.
        labels: class labels of the feeds to judge on, one a row.
    """

    tolerance: Tolerance | None = None
    judges: Sequence[str] = ()
    task_limits: Mapping[str, float] = field(default_factory=dict)
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Problem:
    """A variant that misses its tolerance on a target.

    Attributes:
        model: as the user handed it in.
        flat: functions inlined, and every If replaced by the branch that the first feed takes.
        target: backend and precision.
        judged: feeds with their goals, on which the target decides.
        searched: feeds with their goals, on which the emulator is searched.
        held_out: feeds with their goals that the search does not see; none where there are too few.
        calibration: samples for INT8 ranges.
        limits: how far to go.
        options: how targets are run.
        folder: where the trials go.
        weights: where converted weights go for the time being.
    """

    model: Model
    flat: Model
    target: Target
    judged: Sequence[tuple[Feed, Goal]]
    searched: Sequence[tuple[Feed, Goal]]
    held_out: Sequence[tuple[Feed, Goal]]
    calibration: Calibration
    limits: Limits
    options: RunOptions
    folder: Path
    weights: Path

    @property
    def digest(self) -> str:
        """SHA-256 of what the result of a trial depends on, in hex."""
        state = hashlib.sha256(f"{self.model.sha256} {self.target} {self.options.seed}".encode())
        for feed, goal in self.searched:
            # What is right says what the weights are, in files beside the model too.
            _add(state, {**feed, **goal.reference})
            state.update(repr((sorted(goal.tolerance.limits.items()), sorted(goal.task_limits.items()), goal.judges,
                               sorted(goal.noise.items()), None if goal.labels is None else goal.labels.tolist(),
                               )).encode())
        for feed in self.calibration:
            _add(state, feed)
        return state.hexdigest()


def _add(state: hashlib._Hash, arrays: Mapping[str, np.ndarray]) -> None:
    for name in sorted(arrays):
        value = arrays[name]
        state.update(f"{name} {value.dtype} {value.shape}".encode())
        state.update(str(value.tolist()).encode() if value.dtype.kind == "O" else np.ascontiguousarray(value).tobytes())


def problem_of(model: Model, target: Target, feeds: Sequence[Feed], calibration: Calibration | None, demand: Demand,
               limits: Limits, options: RunOptions, folder: Path, weights: Path) -> Problem:
    """Choose the samples, and run the model on each for what is right.

    Args:
        model: as the user handed it in.
        target: in one of VARIANTS.
        feeds: the user's inputs, on which the target decides.
        calibration: samples for INT8 ranges; None takes the feeds, for indicative ones.
        demand: what the outputs are to keep to.
        limits: how far to go.
        options: how targets are run.
        folder: where the trials go.
        weights: where converted weights go for the time being.

    Raises:
        ModelError: the model does not run on a feed.
        FeedError: a calibration sample does not fit the model.
    """
    surveyed = survey(model, feeds[0], options.seed)
    whole, flat = inline_functions(model), surveyed.flat
    branches = any(node.op == "If" for node in whole.graph.nodes)
    searched, held_out = _divided(_rows(model, feeds, demand.labels), calibration)
    tolerance = demand.tolerance or DEFAULTS[target.precision]
    judges = (*demand.judges, *_accuracy(surveyed.outputs, demand))
    right: dict[int, Mapping[str, np.ndarray]] = {id(feeds[0]): surveyed.outputs}

    def with_goals(chosen: Sequence[_Sample]) -> list[tuple[Feed, Goal]]:
        labelled = demand.labels is None or all(labels is not None for _, labels in chosen)
        found = []
        for feed, labels in chosen:
            if id(feed) not in right:
                right[id(feed)] = outputs_of(whole if branches else flat, feed, options.seed)
            found.append((feed, Goal(right[id(feed)], {}, tolerance, judges if labelled else (),
                                     demand.task_limits if labelled else {}, labels)))
        return found

    def on_our_branch(samples: list[tuple[Feed, Goal]]) -> list[tuple[Feed, Goal]]:
        """Those on which the flat model is the user's: it has the branches that the first feed takes, no others."""
        return [s for s in samples if not branches or _equal(outputs_of(flat, s[0], options.seed), s[1].reference)]

    judged = with_goals([(feed, demand.labels) for feed in feeds])
    searched_on, unseen = on_our_branch(with_goals(searched)), on_our_branch(with_goals(held_out))
    own = replace(Calibration.of_feeds(model, feeds, indicative=True), source="this run's inputs")
    return Problem(model, flat, target, judged, searched_on or judged[:1], unseen if searched_on else [],
                   calibration or own, limits, options, folder, weights)


def _accuracy(outputs: Mapping[str, np.ndarray], demand: Demand) -> list[str]:
    """Judges that tell the accuracy of every output that has a row a label, unless some are asked for."""
    if demand.labels is None or any(j.partition(":")[0] == "accuracy" for j in (*demand.judges, *demand.task_limits)):
        return []
    return [f"accuracy:{name}" for name, value in outputs.items() if top1(value, demand.labels) is not None]


def allowing_for_noise(problem: Problem) -> Problem:
    """The same with limits raised, as `parity compare` raises them, where correct FP32 runs of the model differ.

    Only worth its runs (one in FP64, `noise.RUNS` in FP32) where limits are tight.

    Raises:
        UsageError: FP32 itself does not keep to the user's own limit; says how far it is off.
    """
    feed, goal = problem.judged[0]
    spread = noise(problem.flat, feed, goal.reference, problem.options.seed)
    limit = goal.tolerance.limits.get("rel_l2", math.inf)
    real = {name: distance for name, distance in spread.items() if goal.reference[name].dtype.kind not in "biu"}
    worst = max(real, key=lambda name: real[name], default="")
    if worst and real[worst] > limit and not goal.tolerance.precision:
        raise UsageError(f"the tolerance cannot be met: correct FP32 runs of the model are up to {real[worst]:.2g} "
                         f"(relative L2) from FP64 in output {worst!r}, beyond rel_l2={limit:g}",
                         "Give a --tolerance beyond that.")
    judged, searched, held_out = ([(f, replace(g, noise=spread)) for f, g in samples]
                                  for samples in (problem.judged, problem.searched, problem.held_out))
    return replace(problem, judged=judged, searched=searched, held_out=held_out)


_Sample = tuple[Feed, np.ndarray | None]


def outputs_of(flat: Model, feed: Feed, seed: int) -> dict[str, np.ndarray]:
    """What the model makes of a feed, on the executor."""
    return {n: to_numpy(v) for n, v in Executor(flat, seed=seed).run(feed).items() if is_tensor(v)}


def _rows(model: Model, feeds: Sequence[Feed], labels: np.ndarray | None) -> list[list[_Sample]]:
    """The user's feeds in two halves that share no row: of one feed of many rows its rows, else whole feeds."""
    batch = batch_of(model, feeds[0]) if len(feeds) == 1 else None
    if batch is not None and batch.size >= _SPLIT:
        halves = [list(range(start, batch.size, 2))[:_ROWS] for start in (0, 1)]
        return [[(batch.take(feeds[0], half), None if labels is None else labels[half])] for half in halves]
    if len(feeds) >= _SPLIT:
        return [[(feed, labels) for feed in feeds[start::2][:_FEEDS]] for start in (0, 1)]
    return [[(feed, labels) for feed in feeds], []]


def _divided(rows: Sequence[Sequence[_Sample]], calibration: Calibration | None,
             ) -> tuple[list[_Sample], list[_Sample]]:
    """What to search on and what to hold out; the user's calibration samples help out where inputs are few."""
    searched, held_out = list(rows[0]), list(rows[1])
    if held_out or calibration is None or calibration.indicative:
        return searched, held_out
    unseen = (feed for feed in calibration if not any(_equal(feed, other) for other, _ in searched))
    more: list[_Sample] = [(feed, None) for feed in islice(unseen, 2 * _FEEDS)]
    count = len(searched) + len(more)
    half = min(len(more), count // 2) if count >= _SPLIT else 0
    turns = [*more[1::2], *more[0::2]]  # a folder may be sorted by class
    return [*searched, *turns[half:]], turns[:half]


def _equal(one: Feed, other: Feed) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[n], other[n], equal_nan=one[n].dtype.kind in "fc") for n in one)
