"""Variants on the target that a fix is for, unwatched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.analysis.outputs import judge_outputs
from parity.backends.base import Session, backend_of
from parity.fixes.problem import Problem
from parity.graph.model import Model


@dataclass(frozen=True, eq=False)
class Ran:
    """What a variant did on the target.

    Attributes:
        error: the worst output error over the judged feeds, as a multiple of its limit.
        outputs: of each judged feed.
        worst: which of these feeds had that error.
        session: what ran it.
    """

    error: float
    outputs: Sequence[Mapping[str, np.ndarray]]
    worst: int
    session: Session


def judged(problem: Problem, outputs: Sequence[Mapping[str, np.ndarray]], session: Session) -> Ran:
    """What the outputs of the judged feeds come to."""
    errors = [goal.error(found) for found, (_, goal) in zip(outputs, problem.judged, strict=True)]
    worst = errors.index(max(errors))
    return Ran(errors[worst], outputs, worst, session)


class TargetRuns:
    """Runs variants on the target, unwatched, and counts them.

    Attributes:
        count: how many.
        problem: whose target it is.
    """

    def __init__(self, problem: Problem) -> None:
        self.count = 0
        self.problem = problem

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
        """The output that was worst, in plain figures: "rel_l2 of logits 0.41"; "" where there is no such figure."""
        worst = self.problem.judged[ran.worst][1].worst(ran.outputs[ran.worst])
        return "" if worst is None or worst.comparison is None else (
            f"rel_l2 of {worst.name} {worst.comparison.rel_l2:.3g}")

    def change(self, before: Ran, after: Ran) -> str:
        """What was the worst output, before and after: "rel_l2 of logits 0.41 → 0.0186", on the same feed."""
        goal, outputs = self.problem.judged[before.worst][1], after.outputs[before.worst]
        worst, said = goal.worst(before.outputs[before.worst]), self.said(before)
        now = {o.name: o.comparison for o in judge_outputs(goal.reference, outputs, goal.noise, goal.tolerance)}
        found = now.get(worst.name) if worst is not None else None
        return f"{said} → {found.rel_l2:.3g}" if said and found is not None else ""
