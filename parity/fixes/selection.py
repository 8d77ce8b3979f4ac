"""Which layers to keep: sets that are enough on the emulator, on samples unseen by the search, and on the target.

What fails there makes the search go on with a tighter limit. What passes there is made smaller on the target itself, as
far as its runs reach: the emulator rounds otherwise than a runtime that fuses, and of two sets that differ by little it
does not know which is better there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from parity.errors import BackendFailed
from parity.fixes.account import Account
from parity.fixes.attempt import Emulation
from parity.fixes.keep import Group, ranked, touching
from parity.fixes.mending import Mending
from parity.fixes.search import Found, OutOfTrials, Trials, search

# Where the target misses what the emulator reaches, the next search keeps to this much less than it needs.
_SLACK = 0.95
# Beyond this multiple of what the emulator says, it is the runtime's kernels that lose.
_SATURATED = 1.5
# So many more sets that are enough are tried on unseen samples before the search is made stricter.
_UNSEEN = 8
# So many sets that are enough on the emulator are left for the target when stricter searches come to nothing.
_LAST = 3
# A smaller set is worth a run of the target where it is expected to miss by no more than this.
_HOPEFUL = 1.1
# So many runs of the target are left to other ways to make the variant.
_SPARED = 2


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


def keep_these(mending: Mending, emulation: Emulation, layers: Collection[str]) -> None:
    """Run an attempt on the target with these layers kept, and no more, without a search; where it was not yet.

    Args:
        mending: notes what was tried.
        emulation: with no layer kept.
        layers: those of the attempt that are among these, and what belongs to them, are kept.
    """
    selection = _Selection(mending, emulation, 1.0)
    selection.keep(layers)
    mending.trials += selection.trials.tried


class _Selection:
    """One search: what was tried on the emulator, on unseen samples and on the target."""

    def __init__(self, mending: Mending, emulation: Emulation, share: float) -> None:
        self._mending, self._emulation = mending, emulation
        self._account, journal = mending.priced(emulation)
        self._groups = {group.name: group for group in emulation.groups}
        self._first, self._order = _ordered(emulation, self._account)
        most = min(int(mending.problem.limits.kept * len(self._groups)), len(self._groups) - 1)  # all are no variant
        self._most = most if mending.fewest is None else min(most, mending.fewest - 1)
        self._unseen: dict[frozenset[str], float] = {}
        self._tried = False
        self._missed = mending.missed[emulation]
        self._kinder, self._kinder_unseen = _kinder(mending, emulation)
        self._allowed = int(share * mending.allowed(self._account))
        # The search leaves one for the last resort.
        self.trials = Trials(self._measured, max(self._allowed - 1, 0), journal.trials(), journal.add_trial)
        self.trials.known[frozenset()] = emulation.baseline

    def search(self, *, unless_saturated: bool) -> bool:
        """Whether it stopped because the runtime's kernels lose more than the format."""
        limit, most = self._kinder, self._kinder  # of the search; of what may be tried on the target
        found: Found[str] | None = None
        while self._mending.runs.left > 1 and limit > 0:
            if self._kinder > 1:  # what is enough on the target is to be found out: the first limit may not be the last
                self.trials.most = (self.trials.tried + self._allowed) // 2
            found = search(self._first, self._order, self.trials, limit, self._most)
            self._mending.progress("search", self._mending.trials + self.trials.tried,
                                   self._mending.problem.limits.trials)
            if not found.enough:
                break
            chosen = self._enough_unseen(most)
            if chosen is None and limit <= self._kinder * _SLACK**8 and found.items not in self._missed:
                chosen = found.items  # what the emulator makes of unseen samples may be too strict
            if chosen is not None:
                if self._passes(chosen):
                    return False
                if self.trials.known[chosen] == math.inf:
                    continue  # refused
                if unless_saturated and saturates(self._mending, self._missed[chosen], self.trials.known[chosen]):
                    return True
            failed = found.items if chosen is None else chosen
            limit = min(limit, self.trials.known[failed]) * max(_SLACK / self._beyond(failed), 0.3)
            # Where the emulator misses it, too, on unseen samples, it is right about the others.
            most = limit if failed in self._missed and self._passes_unseen(failed) else most
        self.trials.most = self._allowed
        self._last(None if found is None else found.items)
        return False

    def keep(self, layers: Collection[str]) -> None:
        """Run a set on the target without a search."""
        chosen = frozenset(name for name, group in self._groups.items() if not set(layers).isdisjoint(group.layers))
        if len(_layers(self._groups, chosen)) > len(layers) or chosen in self._missed:
            return
        with suppress(OutOfTrials):
            self.trials.error(chosen)
            self._on_target(chosen)

    def _last(self, least: frozenset[str] | None) -> None:
        """What is left for the target when no set is enough for a stricter limit; `least` where none ever was.

        If nothing passes, it is as many layers as may be kept: the emulator is not always right that they do not do.
        """
        enough = [s for s in self.trials.enough(self._kinder, self._most) if s not in self._missed]
        for chosen in sorted(enough, key=lambda s: self.trials.known[s])[:_LAST]:
            if self._mending.runs.left > 1 and self._passes_unseen(chosen) and self._passes(chosen):
                return
        if not self._tried and not self._mending.passed and least is not None and self._mending.runs.left > 0:
            self._passes(least)
        widest = frozenset([*self._first, *self._order][:self._most])
        if not self._mending.passed and widest not in self._missed and self._mending.runs.left > _SPARED:
            with suppress(OutOfTrials):
                self.trials.error(widest)
                self._passes(widest)

    def _passes(self, chosen: frozenset[str]) -> bool:
        """Whether a set passes on the target; smaller ones are tried there then."""
        self._on_target(chosen)
        if chosen in self._missed:
            return False
        self._shrink(chosen)
        return True

    def _shrink(self, kept: frozenset[str]) -> None:
        """Try smaller sets than one that passes, on the target: half as large first, then nearer to it."""
        fails, passes = 0, len(_layers(self._groups, kept))
        while passes > 1 and self._mending.runs.left > _SPARED:
            size = max(1, min((fails + passes) // 2, passes - 1))
            chosen = self._likeliest(kept, size)
            if chosen is not None:
                self._on_target(chosen)
            if chosen is not None and chosen not in self._missed:
                kept, fails, passes = chosen, 0, len(_layers(self._groups, chosen))
            elif chosen is None and size == passes - 1:
                return
            else:
                fails = size

    def _likeliest(self, kept: frozenset[str], most: int) -> frozenset[str] | None:
        """Of the sets of at most so many layers the one to try on the target; None where none is likely to pass."""
        ranked = [*self._first, *self._order]
        prefixes = [frozenset(names[:n + 1]) for names in (ranked, [i for i in ranked if i in kept])
                    for n in range(min(most, len(names)))]
        known = [s for s in dict.fromkeys((*self.trials.known, *prefixes))
                 if s and s not in self._missed and len(_layers(self._groups, s)) <= most]
        best = min(known, key=self._expected, default=None)
        return best if best is not None and self._expected(best) <= _HOPEFUL else None

    def _expected(self, chosen: frozenset[str]) -> float:
        """A guess at the error of a set on the target, from what it is there without any layer kept.

        The mean of two: that it falls as on the emulator, where that was tried, which is one draw of how roundings
        fall, and as if what the layers do to the outputs were independent, which is what it comes to over many.
        """
        baseline, prices = self._emulation.baseline, self._account.prices
        emulated = self.trials.known.get(chosen)
        whole = sum(price**2 for price in prices.values())
        if not (0 < whole < math.inf and baseline < math.inf):
            return math.inf if emulated is None else emulated
        rest = 1 - sum(prices.get(layer, 0.0)**2 for layer in _layers(self._groups, chosen)) / whole
        guess = baseline * math.sqrt(max(rest, 0.0))
        guess = guess if emulated is None else (guess + emulated) / 2
        return guess * min(1.0, self._missed.get(frozenset(), math.inf) / baseline)

    def _beyond(self, failed: frozenset[str]) -> float:
        """How many times its limit a set is at, on the target or on unseen samples."""
        return max(self._missed.get(failed, 0.0), self._unseen.get(failed, 0.0) / self._kinder_unseen)

    def _enough_unseen(self, limit: float) -> frozenset[str] | None:
        """The smallest set that is enough on the samples searched on, and on the unseen; None where none is."""
        for chosen in self.trials.enough(limit, self._most)[:_UNSEEN + len(self._unseen)]:
            if chosen not in self._missed and self._passes_unseen(chosen):
                return chosen
        return None

    def _on_target(self, chosen: frozenset[str]) -> None:
        self._tried = True
        try:
            self._mending.keep(self._account, chosen, self.trials.known, self.trials.tried)
        except BackendFailed:
            # A fusion that does not expect Casts inside what it fuses, say. Other sets do without them.
            self._missed[chosen] = self.trials.known[chosen] = math.inf

    def _passes_unseen(self, chosen: frozenset[str]) -> bool:
        if chosen not in self._unseen:
            held_out = self._emulation.held_out(_layers(self._groups, chosen))
            self._unseen[chosen] = 0.0 if held_out is None else held_out
        return self._unseen[chosen] <= self._kinder_unseen

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


def _kinder(mending: Mending, emulation: Emulation) -> tuple[float, float]:
    """How much worse the emulator is than the target: a runtime need not round after every operator.

    By what they make of the attempt with no layer kept: on the samples searched on, and on the unseen.
    """
    ran = mending.unkept(emulation)
    if ran is None:
        return 1.0, 1.0
    ratio = _ratio(emulation.baseline, ran.error)
    return ratio, max(ratio, _ratio(emulation.held_out(()), mending.runs.held_out(ran)))


def _ratio(emulated: float | None, measured: float | None) -> float:
    ratio = emulated / measured if emulated and measured else 1.0
    return ratio if 1.0 < ratio < math.inf else 1.0


def _layers(groups: Mapping[str, Group], chosen: frozenset[str]) -> list[str]:
    return [layer for name in chosen for layer in groups[name].layers]
