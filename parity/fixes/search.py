"""Find a small set of items that is enough. What the items are, and what is enough, others know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


# How many sets of one size are looked at further.
_BEAM = 4


class OutOfTrials(Exception):
    """As many sets were tried as may be."""


class Trials(Generic[Item]):
    """Every set that was tried, with its error; none is tried twice.

    Attributes:
        known: the error of each.
        tried: how many were measured here, those that were known before not counted.
    """

    def __init__(self, measure: Callable[[frozenset[Item]], float], most: int,
                 known: Mapping[frozenset[Item], float], record: Callable[[frozenset[Item], float], None]) -> None:
        """Make ready.

        Args:
            measure: the error of a set; at most 1 is enough.
            most: how many sets may be measured.
            known: errors from an earlier search.
            record: is told of every set as soon as it is measured.
        """
        self.known = dict(known)
        self.tried = 0
        self._measure, self._most, self._record = measure, most, record

    def error(self, items: Collection[Item]) -> float:
        """The error of a set.

        Raises:
            OutOfTrials: it would have to be measured, and no more may be.
        """
        key = frozenset(items)
        if key not in self.known:
            if self.tried >= self._most:
                raise OutOfTrials
            self.tried += 1
            self.known[key] = self._measure(key)
            self._record(key, self.known[key])
        return self.known[key]

    @property
    def left(self) -> int:
        """How many sets may still be measured."""
        return self._most - self.tried

    def best(self, limit: float) -> frozenset[Item] | None:
        """The smallest set that is enough, of equals the one of least error; None where none is."""
        enough = [(len(items), error, items) for items, error in self.known.items() if error <= limit]
        return min(enough, key=lambda e: e[:2])[2] if enough else None


@dataclass(frozen=True)
class Found(Generic[Item]):
    """What a search came to.

    Attributes:
        items: the smallest set found that is enough; where none is, the one of least error.
        error: its error.
        enough: whether it is enough.
    """

    items: frozenset[Item]
    error: float
    enough: bool


def search(first: Sequence[Item], order: Sequence[Item], trials: Trials[Item], limit: float = 1.0) -> Found[Item]:
    """The smallest set that is enough, as far as the trials reach.

    Exponential and binary search for the shortest prefix of `order`, then backward elimination of what the others make
    needless; then, where there are trials enough, sets built from below, and exchanges, one for one, in sets that are
    smaller by one.

    Args:
        first: items without which the rest is in vain; they come before `order`.
        order: the others, the one that matters most first.
        trials: to try sets with.
        limit: the largest error that is enough.
    """
    ranked = [*first, *(i for i in order if i not in set(first))]
    try:
        kept = _shortest_prefix(ranked, len(first), trials, limit)
        if kept is not None:
            kept = _eliminated(kept, trials, limit)
            if _BEAM * len(ranked) * (len(kept) - 1) <= trials.left:
                kept = _grown(kept, ranked, trials, limit)
            _climbed(kept, ranked, trials, limit)
    except OutOfTrials:
        pass
    best = trials.best(limit)
    if best is not None:
        return Found(best, trials.known[best], enough=True)
    least = min(trials.known, key=lambda items: (trials.known[items], len(items)), default=frozenset(ranked))
    return Found(least, trials.known.get(least, float("inf")), enough=False)


def _shortest_prefix(ranked: Sequence[Item], start: int, trials: Trials[Item], limit: float) -> list[Item] | None:
    """The shortest prefix that is enough, were the error to fall with its length; None where all items are not."""
    low, high = -1, start
    while trials.error(ranked[:high]) > limit:
        if high == len(ranked):
            return None
        low, high = high, min(len(ranked), max(2 * high, high + 1))
    while high - low > 1:
        middle = (low + high) // 2
        if trials.error(ranked[:middle]) <= limit:
            high = middle
        else:
            low = middle
    return list(ranked[:high])


def _eliminated(kept: list[Item], trials: Trials[Item], limit: float) -> list[Item]:
    """Leave out what is not needed, the least important first: in large pieces, then in smaller ones."""
    piece = max(1, len(kept) // 2)
    while True:
        end = len(kept)
        while end > 0:
            without = kept[:max(0, end - piece)] + kept[end:]
            if trials.error(without) <= limit:
                kept = without
            end -= piece
        if piece == 1:
            return kept
        piece = max(1, min(piece // 2, len(kept) // 2))


def _grown(kept: list[Item], ranked: Sequence[Item], trials: Trials[Item], limit: float) -> list[Item]:
    """A smaller set, from none upwards: of the sets of every size those of least error are tried with one item more.

    Sets that happen to be enough because errors cancel are found so, and not from a large set downwards.
    """
    beam: list[frozenset[Item]] = [frozenset()]
    for _ in range(len(kept) - 1):
        larger = dict.fromkeys(items | {i} for items in beam for i in ranked if i not in items)
        beam = sorted(larger, key=trials.error)[:_BEAM]
        if trials.error(beam[0]) <= limit:
            return [i for i in ranked if i in beam[0]]
    return kept


def _climbed(kept: list[Item], ranked: Sequence[Item], trials: Trials[Item], limit: float) -> None:
    """Look for a set that is smaller by one, as long as there is one.

    The least missed item is left out, then items are exchanged, one for one, as long as the error falls.
    """
    while kept:
        fewer = min(([i for i in kept if i != left] for left in reversed(kept)), key=trials.error)
        error, improved = trials.error(fewer), True
        while error > limit and improved:
            improved = False
            for candidate in _exchanges(fewer, ranked):
                if trials.error(candidate) < error:
                    fewer, error, improved = candidate, trials.error(candidate), True
                    break
        if error > limit:
            return
        kept = _eliminated(fewer, trials, limit)


def _exchanges(kept: Sequence[Item], ranked: Sequence[Item]) -> Iterator[list[Item]]:
    """Every set with one item exchanged, the most important of those outside first, for the least important inside."""
    inside = [i for i in reversed(ranked) if i in set(kept)]
    for other in (i for i in ranked if i not in set(kept)):
        for left in inside:
            yield [other if i == left else i for i in kept]
