"""The search for a small set of items that still shows something; it knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
Shows = Callable[[Sequence[_Item]], bool]


def shortened(items: Sequence[_Item], shows: Shows[_Item]) -> list[_Item]:
    """Items in order, without as much of either end as can go.

    What is returned was shown. Neither end can go further where what is shown by some items is shown by more; where
    that is not so, it is merely short.

    Args:
        items: a sequence that shows what is looked for.
        shows: whether a part of it does, too.
    """
    kept = list(items)
    kept = kept[_longest(len(kept), lambda gone: shows(kept[gone:])):]
    return kept[:len(kept) - _longest(len(kept), lambda gone: shows(kept[:len(kept) - gone]))]


def without_single_ones(items: Sequence[_Item], shows: Shows[_Item]) -> list[_Item]:
    """Items in order, without those that can go one at a time.

    Args:
        items: a sequence that shows what is looked for.
        shows: whether a part of it does, too.
    """
    kept = list(items)
    for item in items:
        fewer = [i for i in kept if i != item]
        if fewer and shows(fewer):
            kept = fewer
    return kept


def _longest(count: int, shows: Callable[[int], bool]) -> int:
    """How many items can go from one end, at least one being left: doubled, then bisected."""
    gone, refused = 0, count
    step = 1 if count < 8 else count // 2
    while refused - gone > 1:
        tried = min(gone + step, refused - 1)
        if shows(tried):
            gone = tried
        else:
            refused = tried
        step = max(1, (refused - gone) // 2)
    return gone
