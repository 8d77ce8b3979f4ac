"""Variants on the target that a fix is for, unwatched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity.analysis.outputs import judge_outputs
from parity.backends.base import Session, backend_of
from parity.fixes.problem import Problem
from parity.graph.model import Model


class TargetRuns:
    """Runs variants on the target, unwatched, and counts them.

    Attributes:
        count: how many.
        problem: whose target it is.
    """

    def __init__(self, problem: Problem) -> None:
        self.count = 0
        self.problem = problem

    def error(self, model: Model) -> tuple[float, Session, Mapping[str, np.ndarray]]:
        """The worst output error over the judged feeds; the session; the outputs on the first feed.

        Raises:
            BackendUnavailable, BackendFailed: it cannot run.
        """
        self.count += 1
        target = replace(self.problem.target, precision="fp32")  # the precision is in the model
        session = backend_of(target).open(model, model, target, self.problem.options)
        captures = [session.run(feed).outputs for feed, _ in self.problem.judged]
        worst = max(goal.error(found) for found, (_, goal) in zip(captures, self.problem.judged, strict=True))
        return worst, session, captures[0]

    def change(self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> str:
        """The output that was worst, in plain figures: "rel_l2 of logits 0.41 → 0.0186", on the first judged feed."""
        goal = self.problem.judged[0][1]
        worst = goal.worst(before)
        now = {o.name: o.comparison for o in judge_outputs(goal.reference, after, goal.noise, goal.tolerance)}
        found = now.get(worst.name) if worst is not None else None
        if worst is None or worst.comparison is None or found is None:
            return ""
        return f"rel_l2 of {worst.name} {worst.comparison.rel_l2:.3g} → {found.rel_l2:.3g}"
