"""What the self-checks of a target found, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity.analysis.parting import SAME, Gap, Parting
from parity.report.words import SIGNS, Mark, line, number, visible

Status: TypeAlias = Literal["passed", "parted", "not applicable", "failed"]

_MARKS: Mapping[Status, Mark] = {"passed": "good", "parted": "bad", "not applicable": "none", "failed": "warn"}
_INDENT = "\n" + " " * 16


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: as it is asked for.
        meaning: the two sides that ought to agree.
        status: "passed", "parted", "not applicable", or "failed" where a run broke.
        reason: why it is not applicable or failed, or why no tensor is named.
        output: the graph output that is furthest off; empty where nothing was compared.
        gap: how far that one is off.
        limit: relative L2 that passes; None where the bits must agree.
        first: the first tensor, in graph order, that parts.
    """

    name: str
    meaning: str
    status: Status
    reason: str = ""
    output: str = ""
    gap: Gap = SAME
    limit: float | None = None
    first: Parting | None = None

    def describe(self) -> str:
        """The finding in one line, and a second one that names the first tensor where one parts."""
        head = f"{SIGNS[_MARKS[self.status]]} {self.name:<12}  "
        if self.status in ("not applicable", "failed"):
            return f"{head}{self.status}: {line(self.reason)}"
        text = f"{head}{self.meaning}: {self._difference()}"
        if self.first is not None:
            return text + _INDENT + _place(self.first)
        return text + (_INDENT + self.reason if self.reason else "")

    def _difference(self) -> str:
        if self.gap.same:
            return "not a bit differs"
        accepted = "" if self.limit is None else f"; rel_l2 up to {number(self.limit)} is accepted"
        return f"output {visible(self.output)!r} differs by {_figures(self.gap)}{accepted}"


def _place(first: Parting) -> str:
    beyond = "where no bit should differ" if first.limit is None else f"beyond its noise of {number(first.limit)}"
    where = f"{visible(first.tensor)!r} ({visible(first.op)}, node {visible(first.node)!r})"
    return f"first at {where}: {_figures(first.gap)}, {beyond}"


def _figures(gap: Gap) -> str:
    return f"rel_l2 {number(gap.rel_l2)}, max_abs {number(gap.max_abs)}"


def describe(checks: Sequence[Check]) -> str:
    """All findings, as text for the terminal."""
    lines = [check.describe() for check in checks]
    if any(check.name == "repeat" and check.status == "parted" for check in checks):
        lines.append("The target does not repeat itself, and every other check sees that too.")
    return "\n".join(lines)


def exit_status(checks: Sequence[Check]) -> int:
    """2 where a check could not run, else 1 where any parted, else 0."""
    found = {check.status for check in checks}
    return 2 if "failed" in found else 1 if "parted" in found else 0
