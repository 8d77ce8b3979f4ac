"""Find a small set of items that is enough. What the items are, and what is enough, others know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import comb
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
        most: how many may be.
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
        self.most = most
        self._measure, self._record = measure, record

    def error(self, items: Collection[Item]) -> float:
        """The error of a set.

        Raises:
            OutOfTrials: it would have to be measured, and no more may be.
        """
        key = frozenset(items)
        if key not in self.known:
            if self.tried >= self.most:
                raise OutOfTrials
            self.tried += 1
            self.known[key] = self._measure(key)
            self._record(key, self.known[key])
        return self.known[key]

    @property
    def left(self) -> int:
        """How many sets may still be measured."""
        return self.most - self.tried

    def enough(self, limit: float, most: int) -> list[frozenset[Item]]:
        """Every known set of at most `most` items that is enough: the small ones first, of equals that of least error.

        Args:
            limit: the largest error that is enough.
            most: how many items a set may have.
        """
        return sorted((items for items, error in self.known.items() if error <= limit and len(items) <= most),
                      key=lambda items: (len(items), self.known[items]))


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


def search(first: Sequence[Item], order: Sequence[Item], trials: Trials[Item], limit: float = 1.0,
           most: int | None = None) -> Found[Item]:
    """The smallest set that is enough, as far as the trials reach.

    Exponential and binary search for the shortest prefix of `order`, then backward elimination of what the others make
    needless; then, where there are trials enough, sets built from below, and exchanges, one for one, in sets that are
    smaller by one. Where the trials reach for every smaller set, every one is tried.

    Args:
        first: items without which the rest is in vain; they come before `order`.
        order: the others, the one that matters most first.
        trials: to try sets with.
        limit: the largest error that is enough.
        most: how many items the set may have; None for all. Larger ones are tried on the way.
    """
    ranked = [*first, *(i for i in order if i not in set(first))]
    most = len(ranked) if most is None else min(most, len(ranked))
    with suppress(OutOfTrials):
        kept = _shortest_prefix(ranked, len(first), trials, limit)
        kept = None if kept is None else _eliminated(kept, trials, limit)
        # All that is known where nothing was enough is that a set must be no larger than it may be.
        kept = _grown(kept, ranked, trials, limit, most)
        _climbed(kept if kept is not None else ranked, ranked, trials, limit, most)
    for best in trials.enough(limit, most):
        return Found(best, trials.known[best], enough=True)
    within = [items for items in trials.known if len(items) <= most]
    least = min(within, key=lambda items: (trials.known[items], len(items)), default=frozenset(ranked[:most]))
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


def _grown(kept: list[Item] | None, ranked: Sequence[Item], trials: Trials[Item], limit: float,
           most: int) -> list[Item] | None:
    """A smaller set, from none upwards: of the sets of every size those of least error are tried with one item more.

    Sets that happen to be enough because errors cancel are found so, and not from a large set downwards.

    Args:
        kept: the smallest set so far; None where none is enough.
        ranked: all items, the one that matters most first.
        trials: to try sets with.
        limit: the largest error that is enough.
        most: how many items a set may have.

    Returns:
        A smaller set that is enough; `kept` where none was found.
    """
    largest = most if kept is None else min(most, len(kept) - 1)
    every = sum(comb(len(ranked), size) for size in range(largest + 1))
    width = every if every <= trials.left else _BEAM
    if every > trials.left and _BEAM * len(ranked) * largest > trials.left:
        return kept
    beam: list[frozenset[Item]] = [frozenset()]
    for _ in range(largest):
        larger = dict.fromkeys(items | {i} for items in beam for i in ranked if i not in items)
        beam = sorted(larger, key=trials.error)[:width]
        if trials.error(beam[0]) <= limit:
            return [i for i in ranked if i in beam[0]]
    return kept


def _climbed(kept: Sequence[Item], ranked: Sequence[Item], trials: Trials[Item], limit: float, most: int) -> None:
    """Look for a set that is smaller by one, as long as there is one.

    The least missed item is left out, and as many more as are too many; then items are exchanged, one for one, as long
    as the error falls.
    """
    while kept:
        fewer = list(kept[:most]) if len(kept) > most else (
            min(([i for i in kept if i != left] for left in reversed(kept)), key=trials.error))
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
