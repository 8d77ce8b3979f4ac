"""The search knows nothing of models: held against sets whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from parity.reduce.search import shortened, without_single_ones


@given(st.integers(1, 300), st.data())
def test_both_ends_go_up_to_what_is_needed(count: int, data: st.DataObject) -> None:
    """Where some items are needed and more do not hurt, what is left runs from the first needed to the last."""
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    asked: list[int] = []

    def shows(some: Sequence[int]) -> bool:
        asked.append(len(some))
        return needed <= set(some)

    assert shortened(range(count), shows) == list(range(min(needed), max(needed) + 1))
    assert len(asked) <= 4 * count.bit_length() + 4


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=20), st.data())
def test_single_items_go_until_only_the_needed_are_left(items: list[int], data: st.DataObject) -> None:
    """What is not needed goes one by one, and the order stays."""
    needed = set(data.draw(st.lists(st.sampled_from(items), min_size=1)))
    assert without_single_ones(items, lambda some: needed <= set(some)) == [i for i in items if i in needed]


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_what_is_returned_was_shown_whatever_the_rule(count: int, seed: int) -> None:
    """Even where showing is not monotone, the result is the whole or was seen to show."""
    seen: dict[tuple[int, ...], bool] = {tuple(range(count)): True}

    def shows(some: Sequence[int]) -> bool:
        return seen.setdefault(tuple(some), hash((seed, *some)) % 3 == 0)

    short = shortened(range(count), shows)
    assert seen[tuple(short)]
    assert seen[tuple(without_single_ones(short, shows))]
