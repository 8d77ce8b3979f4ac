"""Variants on the target that a fix is for, unwatched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.analysis.goal import Limited
from parity.backends.base import Session, backend_of
from parity.figures import digits
from parity.fixes.problem import Problem
from parity.graph.model import Model


@dataclass(frozen=True, eq=False)
class Ran:
    """What a variant did on the target.

    Attributes:
        error: the worst output error over the judged feeds, as a multiple of its limit.
        outputs: of each judged feed.
        session: what ran it.
    """

    error: float
    outputs: Sequence[Mapping[str, np.ndarray]]
    session: Session


def judged(problem: Problem, outputs: Sequence[Mapping[str, np.ndarray]], session: Session) -> Ran:
    """What the outputs of the judged feeds come to."""
    error = max(goal.error(found) for found, (_, goal) in zip(outputs, problem.judged, strict=True))
    return Ran(error, outputs, session)


class TargetRuns:
    """Runs variants on the target, unwatched, and counts them.

    Attributes:
        count: how many.
        problem: whose target it is.
    """

    def __init__(self, problem: Problem) -> None:
        self.count = 0
        self.problem = problem

    @property
    def left(self) -> int:
        """How many more there may be."""
        return self.problem.limits.runs - self.count

    def run(self, model: Model) -> Ran:
        """Run a variant on the judged feeds.

        Raises:
            BackendUnavailable, BackendFailed: it cannot run.
        """
        self.count += 1
        target = replace(self.problem.target, precision="fp32")  # the precision is in the model
        session = backend_of(target).open(model, model, target, self.problem.options)
        return judged(self.problem, [session.run(feed).outputs for feed, _ in self.problem.judged], session)

    def held_out(self, ran: Ran) -> float | None:
        """The worst output error on the feeds that the search does not see; None where there are none."""
        return max((goal.error(ran.session.run(feed).outputs) for feed, goal in self.problem.held_out), default=None)

    def said(self, ran: Ran) -> str:
        """The worst figure of all feeds in plain: "rel_l2 of logits 0.41"; "" where nothing could be compared."""
        worst = _worst(self._figures(ran))
        return "" if worst is None else f"{worst.name} {digits(worst.value)}"

    def change(self, before: Ran, after: Ran) -> str:
        """What is worst afterwards where that is beyond its limit, else what was before, and all judges' figures.

        Of either run it is the worst over its own feeds, as `Ran.error` is: "rel_l2 of logits 0.41 → 0.0186".
        """
        old, new = self._figures(before), self._figures(after)
        side = old if after.error <= 1 else new
        both = {name: side[name] for name in old if name in new}
        worst = _worst(both)
        told = [name for name, figure in both.items() if figure is worst or figure.judged]
        return ", ".join(f"{name} {digits(old[name].value)} → {digits(new[name].value)}" for name in told)

    def _figures(self, ran: Ran) -> dict[str, Limited]:
        """Of every figure the worst over the judged feeds, by name."""
        found: dict[str, Limited] = {}
        for outputs, (_, goal) in zip(ran.outputs, self.problem.judged, strict=True):
            for figure in goal.figures(outputs):
                if figure.name not in found or figure.times > found[figure.name].times:
                    found[figure.name] = figure
        return found


def _worst(figures: Mapping[str, Limited]) -> Limited | None:
    return max(figures.values(), key=lambda figure: figure.times, default=None)
