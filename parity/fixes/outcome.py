"""What mending a variant came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.backends.base import Session
from parity.fixes.attempt import Attempt
from parity.fixes.fix import Fix
from parity.fixes.problem import Problem
from parity.fixes.recipe import Recipe
from parity.precision.variant import Variant


@dataclass(frozen=True)
class Solution:
    """A fix with what it is made of.

    Attributes:
        fix: what was measured.
        variant: what was run.
        attempt: what the variant is made of.
        session: what ran it on the target.
    """

    fix: Fix
    variant: Variant
    attempt: Attempt
    session: Session

    @property
    def recipe(self) -> Recipe:
        """From which the variant can be made again."""
        made = self.attempt
        return Recipe(self.variant.plan, made.model, made.settings, made.formulas, made.rescaled)


@dataclass(frozen=True)
class Outcome:
    """What mending came to.

    Attributes:
        problem: as it was judged, with what FP32 runs differ by allowed for.
        before: the variant's worst output error on the target, as a multiple of its limit.
        floor: the same of the model in FP32 on the target.
        outputs: the variant's on every judged feed.
        solutions: what was tried on the target, the best first; none where the variant passes as it is.
        prices: what each layer alone in low precision does to the outputs (relative L2), where that was found out.
    """

    problem: Problem
    before: float
    floor: float
    outputs: Sequence[Mapping[str, np.ndarray]]
    solutions: tuple[Solution, ...]
    prices: Mapping[str, float] = field(default_factory=dict)


def ranked(solutions: list[Solution], before: float) -> list[Solution]:
    """Of every strategy the best solution, the best of all first; what passes before what does not.

    Of equals it is the one that changes less: with fewer strategies at once.

    Args:
        solutions: in the order in which they were tried.
        before: the error without any; what is worse is left out, but where all are, of which the least bad is told.
    """
    def key(solution: Solution) -> tuple[bool, float, bool, int]:
        fix = solution.fix
        left = len(fix.kept) if fix.passed else max(fix.after, fix.held_out or 0.0)
        return not fix.passed, left, not fix.training, fix.strategy.count("+")

    best: dict[str, Solution] = {}
    for solution in sorted(solutions, key=key):
        best.setdefault(solution.fix.strategy, solution)
    found = list(best.values())
    return [s for s in found if s.fix.after <= before] or found[:1]
