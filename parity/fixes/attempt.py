"""One way to make the variant, on the emulator: what it comes to with any set of layers kept in higher precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np

from parity.analysis.goal import Goal
from parity.backends.base import Feed
from parity.fixes.keep import Group, groups_of, plan_with
from parity.fixes.patch import Magnitudes
from parity.fixes.problem import Problem
from parity.graph.executor import Executor
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.ops.call import Value, is_tensor, to_numpy
from parity.graph.survey import survey
from parity.precision.mixture import Mixture
from parity.precision.plan import Precision, plan_for
from parity.precision.quantize import QuantizeSettings
from parity.precision.variant import Variant, make_variant


@dataclass(frozen=True)
class Attempt:
    """A change that may mend a variant, or the lack of one.

    Attributes:
        strategy: "calibration", "rescale", …; empty for the variant as it is made by default.
        message: what is changed, in one sentence.
        model: what the variant is made of.
        settings: how it is quantised.
        formulas: rewritten in the model, as `rewrite.PATTERNS` names them.
        rescaled: that tensors beyond a format's range are held divided, and how large they are; None where none is.
    """

    strategy: str
    message: str
    model: Model
    settings: QuantizeSettings = field(default_factory=QuantizeSettings)
    formulas: tuple[str, ...] = ()
    rescaled: Magnitudes | None = None


def variant_of(problem: Problem, attempt: Attempt, kept: Collection[str] = (),
               precision: Precision = "fp32") -> Variant:
    """The variant that would be deployed.

    Args:
        problem: for which target.
        attempt: made how.
        kept: first outputs of the layers that stay in higher precision.
        precision: what these stay in.

    Raises:
        UsageError, BackendFailed: as `make_variant`.
    """
    low = cast("Precision", problem.target.precision)
    plan = plan_for(attempt.model, low)
    if kept:
        whole = inline_functions(attempt.model)
        flat = problem.flat if attempt.model is problem.model else whole
        plan = plan_with(plan, whole, flat, kept, precision)
    return make_variant(attempt.model, plan if kept else low, problem.calibration, attempt.settings,
                        folder=problem.weights)


class Emulation:
    """An attempt on the emulator.

    Attributes:
        problem: what it is to mend.
        attempt: made how.
        variant: with no layer kept.
        baseline: its worst output error on the feeds to search on, as a multiple of its limit.
    """

    def __init__(self, problem: Problem, attempt: Attempt) -> None:
        """Make the variant, and run it on the feeds to search on.

        Raises:
            UsageError, BackendFailed: the variant cannot be made.
            ModelError: it does not run.
        """
        self.problem, self.attempt = problem, attempt
        self.variant = variant_of(problem, attempt)
        first = problem.searched[0][0]
        self._flat = _flat(attempt.model, first, problem), _flat(self.variant.model, first, problem)
        ran = Executor(self._flat[1], seed=problem.options.seed)
        self.baseline = max(goal.error(_arrays(ran.run(feed))) for feed, goal in problem.searched)

    @cached_property
    def mixture(self) -> Mixture:
        """The model and the variant on the feeds to search on."""
        return self._mixture(self.problem.searched)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The layers, as they are kept together."""
        return groups_of(self.mixture)

    def error(self, kept: Collection[str]) -> float:
        """The worst output error with these layers kept, as a multiple of its limit, on the feeds to search on.

        What passes is where later runs start, for a search goes on with sets near to it.
        """
        errors: list[float] = []

        def good(outputs: Sequence[Mapping[str, np.ndarray]]) -> bool:
            errors.append(_worst(self.problem.searched, outputs))
            return errors[0] <= 1

        self.mixture.rebase(kept, good)
        return errors[0]

    def held_out(self, kept: Collection[str]) -> float | None:
        """The same on the feeds that the search does not see; None where there are none."""
        return _worst(self.problem.held_out, self._other.run(kept)) if self.problem.held_out else None

    def leaves(self, kept: Collection[str]) -> bool:
        """Whether something is still in low precision with these layers kept."""
        return not self._lowered.issubset(kept)

    @cached_property
    def _lowered(self) -> frozenset[str]:
        """Layers that the low precision itself changes, and not only the edits that it takes."""
        layers = set(self.mixture.layers)
        if self.problem.target.precision == "int8":
            return frozenset(u.name for u in self.mixture.units if u.name in layers
                             and any(piece.op == "DequantizeLinear" for piece in u.low))
        return frozenset(layers)

    @cached_property
    def _other(self) -> Mixture:
        return self._mixture(self.problem.held_out)

    def _mixture(self, samples: Sequence[tuple[Feed, Goal]]) -> Mixture:
        return Mixture(*self._flat, [feed for feed, _ in samples])


def _flat(model: Model, feed: Feed, problem: Problem) -> Model:
    if model is problem.model:
        return problem.flat
    flat = inline_functions(model)
    return survey(flat, feed, problem.options.seed).flat if any(n.op == "If" for n in flat.graph.nodes) else flat


def _arrays(values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    return {n: to_numpy(v) for n, v in values.items() if is_tensor(v)}


def _worst(samples: Sequence[tuple[Feed, Goal]], outputs: Sequence[Mapping[str, np.ndarray]]) -> float:
    return max(goal.error(found) for found, (_, goal) in zip(outputs, samples, strict=True))
