"""How far each tensor of a deployed model may move between correct runs: its sensitivity to rounding.

A later run differs by other threads, other kernels, another version of the runtime. All of these round otherwise than
before, so the variant is emulated twice, once with every operator's result moved at random within one rounding, and
each tensor's distance between the two is a sample of what they do to it. By the triangle inequality no error can grow
by more than that distance.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from parity.analysis.measure import measure
from parity.analysis.noise import Movement
from parity.backends.base import Feed
from parity.errors import MatchError, ModelError
from parity.graph.executor import Executor, Step
from parity.graph.model import Model
from parity.graph.ops.call import Value, is_tensor, to_numpy
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.preparation import variant_for
from parity.targets import VARIANTS, Target

RUNS = 2


def layer_noise(model: Model, target: Target, feed: Feed, calibration: Calibration | None = None, seed: int = 0,
                runs: int = RUNS) -> dict[str, float]:
    """The relative L2 distance by which rounding moves each tensor of a model on a target, the largest of a few runs.

    Costs two emulated runs for each of `runs`; memory stays near one run's.

    Args:
        model: as the user handed it in.
        target: whose precision makes the variant.
        feed: the inputs.
        calibration: samples for INT8 ranges; None takes the feed.
        seed: of the movements and of random operators.
        runs: how many moved ones.

    Returns:
        Tensor → distance; infinite where a moved run gives another shape.

    Raises:
        ParityError: the variant cannot be made or run.
    """
    flat = survey(model, feed, seed).flat
    with tempfile.TemporaryDirectory() as folder:
        if target.precision in VARIANTS:
            flat, _ = variant_for(target, flat, feed, calibration, Path(folder))
        found: dict[str, float] = {}
        for run in range(runs):
            for name, distance in _distances(flat, feed, seed, Movement(seed + run)):
                found[name] = max(found.get(name, 0.0), distance)
    return found


def _distances(variant: Model, feed: Feed, seed: int, movement: Movement) -> Iterator[tuple[str, float]]:
    still, moved = Executor(variant, seed=seed), Executor(variant, seed=seed, rounding=movement)
    with suppress(ModelError):  # moved sizes that do not fit say nothing about the values
        for step, other in zip(still.steps(feed), moved.steps(feed), strict=True):
            yield from _step(step, other)


def _step(step: Step, other: Step) -> Iterator[tuple[str, float]]:
    for name, value in step.values.items():
        if is_tensor(value) and is_tensor(other.values[name]):
            yield name, _distance(value, other.values[name])


def _distance(value: Value, moved: Value) -> float:
    try:
        distance = measure(to_numpy(value), to_numpy(moved)).rel_l2
    except MatchError:
        return math.inf
    return math.inf if math.isnan(distance) else distance
