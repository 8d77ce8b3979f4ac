"""Tests of the search for a small set: what it promises of any error function, and what of the well-behaved ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.fixes.search import Found, OutOfTrials, Trials, search

Items = frozenset[int]
Errors = Callable[[Items], float]
PLENTY = 10**6


def subsets(count: int) -> list[Items]:
    """Every set of 0 … count - 1, the small ones first."""
    return [frozenset(chosen) for size in range(count + 1) for chosen in combinations(range(count), size)]


def nothing(items: Items, error: float) -> None:
    """Keep no record."""


def found_in(errors: Errors, order: Sequence[int], most: int = PLENTY, first: Sequence[int] = (),
             known: Mapping[Items, float] | None = None) -> tuple[Found[int], Trials[int]]:
    """Search an error function."""
    trials = Trials(errors, most, known or {}, nothing)
    return search(first, order, trials), trials


@st.composite
def any_errors(draw: st.DrawFn) -> tuple[Errors, int]:
    """An error for every set of up to six items, as it comes."""
    count = draw(st.integers(0, 6))
    errors = draw(st.lists(st.floats(0, 4), min_size=2**count, max_size=2**count))
    table = dict(zip(subsets(count), errors, strict=True))
    return table.__getitem__, count


@st.composite
def monotone_errors(draw: st.DrawFn) -> tuple[Errors, int]:
    """Errors of up to six items that no further item makes larger."""
    raw, count = draw(any_errors())
    table = {items: min(raw(i) for i in subsets(count) if i <= items) for items in subsets(count)}
    return table.__getitem__, count


def smallest(errors: Errors, count: int) -> int | None:
    """The size of the smallest set that is enough; None where none is."""
    return next((len(items) for items in subsets(count) if errors(items) <= 1), None)


@given(any_errors(), st.integers(0, 40), st.data())
def test_whatever_the_errors_are(drawn: tuple[Errors, int], most: int, data: st.DataObject) -> None:
    """No set is measured twice, nor more of them than allowed; the answer is what it says, and repeatable."""
    errors, count = drawn
    order = data.draw(st.permutations(range(count)))
    first = data.draw(st.integers(0, count))
    seen: list[Items] = []

    def measured(items: Items) -> float:
        seen.append(items)
        return errors(items)

    found, trials = found_in(measured, order[first:], most, order[:first])
    assert len(seen) == len(set(seen)) == trials.tried <= most
    assert found.items <= frozenset(range(count))
    assert found.enough == any(errors(items) <= 1 for items in seen) == (found.error <= 1)
    if seen:
        assert found.error == errors(found.items)
        assert not any(errors(s) <= 1 and len(s) < len(found.items) for s in seen if found.enough)
        assert found.enough or found.error == min(map(errors, seen))
    assert found_in(errors, order[first:], most, order[:first])[0] == found


@given(any_errors(), st.data())
def test_with_trials_for_all_the_smallest_set_is_found(drawn: tuple[Errors, int], data: st.DataObject) -> None:
    """Whatever the errors are, no smaller set is enough, and none is larger than it may be."""
    errors, count = drawn
    order, most = data.draw(st.permutations(range(count))), data.draw(st.integers(0, count))
    trials: Trials[int] = Trials(errors, PLENTY, {}, nothing)
    found = search((), order, trials, most=most)
    least = smallest(errors, count)
    assert len(found.items) <= most
    assert found.enough == (least is not None and least <= most)
    if found.enough:
        assert len(found.items) == least


@given(any_errors(), st.integers(0, 30), st.data())
def test_a_search_that_was_stopped_goes_on(drawn: tuple[Errors, int], stopped: int, data: st.DataObject) -> None:
    """With what an earlier search found, only the rest is measured, and the answer is that of one that ran through."""
    errors, count = drawn
    order = data.draw(st.permutations(range(count)))
    whole, all_of_it = found_in(errors, order)
    record: dict[Items, float] = {}

    def killed(items: Items) -> float:
        if len(record) == stopped:
            raise KeyboardInterrupt
        return errors(items)

    with suppress(KeyboardInterrupt):
        search((), order, Trials(killed, PLENTY, {}, record.__setitem__))
    resumed, rest = found_in(errors, order, known=record)
    assert (resumed, len(record) + rest.tried) == (whole, all_of_it.tried)


@given(monotone_errors(), st.data())
def test_errors_that_only_fall(drawn: tuple[Errors, int], data: st.DataObject) -> None:
    """A set is found where there is one, no larger than the shortest prefix; one item is found where one will do."""
    errors, count = drawn
    order = data.draw(st.permutations(range(count)))
    least = smallest(errors, count)
    found, _ = found_in(errors, order)
    assert found.enough == (least is not None)
    if least is None:
        assert found.error == errors(frozenset(order))
        return
    prefix = next(k for k in range(count + 1) if errors(frozenset(order[:k])) <= 1)
    assert least <= len(found.items) <= prefix
    if least <= 1:
        assert len(found.items) == least


@given(st.lists(st.integers(0, 20), max_size=7), st.integers(0, 60), st.data())
def test_errors_that_add_up(shares: list[int], limit: int, data: st.DataObject) -> None:
    """Where every item takes its share off the error, the smallest set is found, whatever the order."""
    total = sum(shares)

    def errors(items: Items) -> float:
        rest = total - sum(shares[i] for i in items)
        return rest / limit if limit else 2.0 * (rest > 0)

    order = data.draw(st.permutations(range(len(shares))))
    found, _ = found_in(errors, order)
    assert len(found.items) == smallest(errors, len(shares))


@pytest.mark.parametrize("count", [1000, 5000])
def test_trials_stay_few_where_one_item_matters(count: int) -> None:
    """Thirty trials are enough to find three prefix items of thousands that matter."""
    needed = {0, 1, 2}
    found, trials = found_in(lambda items: float(2 - (needed <= items)), range(count), 30)
    assert found.items == needed
    assert trials.tried <= 30


def test_what_comes_first_is_tried_first() -> None:
    """Items without which the rest is in vain are in the first set that is measured."""
    seen: dict[Items, float] = {}
    search([7, 8], [1, 2, 8], Trials(lambda items: 0.5, 1, {}, seen.__setitem__))
    assert list(seen) == [frozenset({7, 8})]


def test_the_limit_is_the_callers() -> None:
    """What is enough at 1 need not be at a tighter limit."""
    trials: Trials[int] = Trials(lambda items: 0.9 / (1 + len(items)), PLENTY, {}, nothing)
    assert search((), [1, 2, 3], trials).items == frozenset()
    assert len(search((), [1, 2, 3], trials, 0.3).items) == 2


def test_no_trial_is_left() -> None:
    """A set that would have to be measured and may not be is refused; one that is known is not."""
    trials = Trials(lambda items: 0.0, 0, {frozenset({1}): 0.25}, nothing)
    assert trials.error([1]) == 0.25
    assert trials.left == 0
    with pytest.raises(OutOfTrials):
        trials.error([2])
