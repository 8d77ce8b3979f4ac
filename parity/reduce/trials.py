"""Parts on the target, each in a process of its own, counted: what is worth a run is decided elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.backends.base import Backend, Capture, RunOptions, backend_of
from parity.backends.isolate import isolated
from parity.errors import BackendFailed, ModelError
from parity.reduce.expect import Expectation
from parity.reduce.part import Part
from parity.targets import Target

# Given a part: what its outputs should be.
Rule = Callable[[Part], Sequence[Expectation]]


@dataclass(frozen=True, eq=False)
class Shown:
    """A part that shows the fault.

    Attributes:
        part: what ran.
        expected: what its outputs should be.
        outputs: what the target made of them; none where it failed.
        failure: in the target's words; "" where it ran.
        version: of the runtime; "" where it failed.
        device: that it ran on.
    """

    part: Part
    expected: Sequence[Expectation]
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""
    version: str = ""
    device: str = ""

    @property
    def broken(self) -> tuple[Expectation, ...]:
        """The expectations that were not met, the worst first; all of them where the target failed."""
        bad = [e for e in self.expected if e.tensor not in self.outputs or e.broken_by(self.outputs[e.tensor])]
        return tuple(sorted(bad, key=lambda e: -self.excess(e)))

    def excess(self, expected: Expectation) -> float:
        """The error of an output as a multiple of its tolerance; inf where there is none."""
        if expected.tensor not in self.outputs:
            return float("inf")
        error = expected.error(self.outputs[expected.tensor])
        return error / expected.tolerance if expected.tolerance else (float("inf") if error else 0.0)


def isolated_backend(target: Target) -> Backend:
    """The target's backend in a process of its own: a sub-graph that nobody ever ran may end it."""
    backend = backend_of(target)
    kind = type(backend)
    if kind.__module__ == isolated.__module__:  # it is already
        return backend
    return isolated(f"{kind.__module__}:{kind.__qualname__}", str(target))


class Trials:
    """Runs parts on a target.

    Attributes:
        count: runs of the target so far.
        limit: how many there may be; a part beyond that shows nothing.
    """

    def __init__(self, target: Target, options: RunOptions, limit: int) -> None:
        """Nothing has run yet.

        Args:
            target: in FP32: precision is in the parts.
            options: how it is run.
            limit: of the count.
        """
        self.count = 0
        self.limit = limit
        self._target = target
        self._options = options
        self._backend = isolated_backend(target)

    def breaks(self, part: Part, rule: Rule) -> Shown | None:
        """The part, where an output is not what the rule expects of it; None where all are, or it does not run."""
        if self.count >= self.limit:
            return None
        try:
            expected = rule(part)
        except ModelError:  # no longer a model, or without meaning on these values
            return None
        shown = self.ran(part, expected)
        return shown if shown is not None and shown.broken else None

    def ran(self, part: Part, expected: Sequence[Expectation]) -> Shown | None:
        """What the target makes of a part, right or wrong; None where it fails."""
        capture = self._run(part)
        if isinstance(capture, BackendFailed):
            return None
        return Shown(part, expected, capture.outputs, "", capture.version, capture.device)

    def fails(self, part: Part, rule: Rule, like: BackendFailed) -> Shown | None:
        """The part, where the target fails on it as it did on the whole; None where it does not."""
        if self.count >= self.limit:
            return None
        failure = self._run(part)
        if not isinstance(failure, BackendFailed) or kind_of(failure.message) != kind_of(like.message):
            return None
        try:
            expected = rule(part)
        except ModelError:
            return None
        return Shown(part, expected, failure=failure.message)

    def _run(self, part: Part) -> Capture | BackendFailed:
        self.count += 1
        try:
            session = self._backend.open(part.candidate, part.candidate, self._target, self._options)
            return session.run(part.feed)
        except BackendFailed as error:
            return error


_END = re.compile(r"died of \w+|exited with status \d+|gave no answer")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+|\b[A-Z]+(?:_[A-Z]+)+\b")


def kind_of(message: str) -> str:
    """What two failures of one kind have in common: how the process ended, or the runtime's first status code."""
    found = _END.search(message) or _STATUS.search(message)
    return found[0] if found else ""
