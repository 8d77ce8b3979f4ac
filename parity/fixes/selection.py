"""Which layers to keep: sets that are enough on the emulator, on samples unseen by the search, and on the target.

What fails there makes the search go on with a tighter limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from parity.fixes.account import Account
from parity.fixes.attempt import Emulation
from parity.fixes.fix import Fix
from parity.fixes.keep import Group, ranked, touching
from parity.fixes.mending import Mending
from parity.fixes.search import Found, Trials, search

# Where the target misses what the emulator reaches, the next search keeps to this much less than it needs.
_SLACK = 0.95
# Beyond this multiple of what the emulator says, it is the runtime's kernels that lose.
_SATURATED = 1.5
# So many more sets that are enough are tried on unseen samples before the search is made stricter.
_UNSEEN = 8
# So many sets that are enough on the emulator are left for the target when stricter searches come to nothing.
_LAST = 3


def saturates(mending: Mending, measured: float, emulated: float) -> bool:
    """Whether it may be the runtime's INT8 kernels, and not the format, that lose."""
    low = mending.problem.target.precision
    return low == "int8" and measured > _SATURATED * max(emulated, 1 / _SATURATED)


@dataclass(frozen=True)
class Selected:
    """How a search ended.

    Attributes:
        saturated: that it stopped because the runtime's kernels lose more than the format.
        left: trials that it had left.
    """

    saturated: bool
    left: int


def keep_layers(mending: Mending, emulation: Emulation, share: float, *, unless_saturated: bool) -> Selected:
    """Search for the layers to keep, until a set passes on the target or the limits are reached.

    Where a fix passes already, only smaller sets are looked for.

    Args:
        mending: notes what was tried.
        emulation: with no layer kept.
        share: of the trials that are left, so many may be used.
        unless_saturated: stop where the runtime's kernels turn out to lose more than the format.
    """
    selection = _Selection(mending, emulation, share)
    saturated = selection.search(unless_saturated=unless_saturated)
    mending.trials += selection.trials.tried
    return Selected(saturated, selection.trials.left)


class _Selection:
    """One search: what was tried on the emulator, on unseen samples and on the target."""

    def __init__(self, mending: Mending, emulation: Emulation, share: float) -> None:
        self._mending, self._emulation = mending, emulation
        self._account, journal = mending.priced(emulation)
        self._groups = {group.name: group for group in emulation.groups}
        self._first, self._order = _ordered(emulation, self._account)
        most = int(mending.problem.limits.kept * len(self._groups))
        self._most = most if mending.fewest is None else min(most, mending.fewest - 1)
        self._unseen: dict[frozenset[str], float] = {}
        self._tried = False
        self._missed = mending.missed[emulation]
        self._kinder = _kinder(mending, emulation)
        self.trials = Trials(self._measured, int(share * mending.allowed(self._account)), journal.trials(),
                             journal.add_trial)
        self.trials.known[frozenset()] = emulation.baseline

    def search(self, *, unless_saturated: bool) -> bool:
        """Whether it stopped because the runtime's kernels lose more than the format."""
        limit, most = self._kinder, self._kinder  # of the search; of what may be tried on the target
        found: Found[str] | None = None
        while self._mending.runs.left > 1 and limit > 0:
            found = search(self._first, self._order, self.trials, limit, self._most)
            self._mending.progress("search", self._mending.trials + self.trials.tried,
                                   self._mending.problem.limits.trials)
            if not found.enough:
                break
            chosen = self._enough_unseen(most)
            if chosen is None and limit <= self._kinder * _SLACK**8 and found.items not in self._missed:
                chosen = found.items  # what the emulator makes of unseen samples may be too strict
            if chosen is not None:
                fix = self._on_target(chosen)
                if fix.passed:
                    return False
                if unless_saturated and saturates(self._mending, fix.after, self.trials.known[chosen]):
                    return True
            failed = found.items if chosen is None else chosen
            limit = min(limit, self.trials.known[failed]) * max(_SLACK / self._beyond(failed), 0.3)
            # Where the emulator misses it, too, on unseen samples, it is right about the others.
            most = limit if failed in self._missed and self._passes_unseen(failed) else most
        self._last(None if found is None else found.items)
        return False

    def _last(self, least: frozenset[str] | None) -> None:
        """What is left for the target when no set is enough for a stricter limit; `least` where none ever was."""
        enough = [s for s in self.trials.enough(self._kinder, self._most) if s not in self._missed]
        for chosen in sorted(enough, key=lambda s: self.trials.known[s])[:_LAST]:
            if self._mending.runs.left > 1 and self._passes_unseen(chosen) and self._on_target(chosen).passed:
                return
        if not self._tried and not self._mending.passed and least is not None and self._mending.runs.left > 0:
            self._on_target(least)

    def _on_target(self, chosen: frozenset[str]) -> Fix:
        self._tried = True
        return self._mending.keep(self._account, chosen, self.trials.known, self.trials.tried)

    def _beyond(self, failed: frozenset[str]) -> float:
        """How many times its limit a set is at, on the target or on unseen samples."""
        return max(self._missed.get(failed, 0.0), self._unseen.get(failed, 0.0) / self._kinder)

    def _enough_unseen(self, limit: float) -> frozenset[str] | None:
        """The smallest set that is enough on the samples searched on, and on the unseen; None where none is."""
        for chosen in self.trials.enough(limit, self._most)[:_UNSEEN + len(self._unseen)]:
            if chosen not in self._missed and self._passes_unseen(chosen):
                return chosen
        return None

    def _passes_unseen(self, chosen: frozenset[str]) -> bool:
        if chosen not in self._unseen:
            held_out = self._emulation.held_out(_layers(self._groups, chosen))
            self._unseen[chosen] = 0.0 if held_out is None else held_out
        return self._unseen[chosen] <= self._kinder

    def _measured(self, chosen: frozenset[str]) -> float:
        layers = _layers(self._groups, chosen)
        if not self._emulation.leaves(layers):
            return math.inf  # with all kept it is no variant
        return self._emulation.error(layers)


def _ordered(emulation: Emulation, account: Account) -> tuple[list[str], list[str]]:
    """In which order to keep layers: first those that overflow, then the others."""
    at_once = touching(emulation.mixture, account.beyond)
    order = ranked(emulation.groups, account.prices)
    first = [g.name for g in order if not at_once.isdisjoint(g.layers)]
    return first, [g.name for g in order if g.name not in first]


def _kinder(mending: Mending, emulation: Emulation) -> float:
    """How much worse the emulator is than the target: a runtime need not round after every operator."""
    measured = mending.before.error if emulation.attempt.strategy == "" else math.inf
    ratio = emulation.baseline / measured if 0 < measured < math.inf else 1.0
    return ratio if _SATURATED < ratio < math.inf else 1.0


def _layers(groups: Mapping[str, Group], chosen: frozenset[str]) -> list[str]:
    return [layer for name in chosen for layer in groups[name].layers]
