"""The same numbers in another order, in the words of the field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.analysis.causes.orders import order_of, told, told_order, transposed

ROWS = np.random.default_rng(0).normal(size=(12, 5))


@given(st.permutations(range(12)), st.sampled_from([0.0, 1e-3]))
def test_any_order_is_found(order: list[int], slack: float) -> None:
    """Whatever rows went where, exactly or within the slack."""
    noise = np.random.default_rng(1).uniform(-slack, slack, ROWS.shape)
    assert order_of(ROWS, ROWS[order] + noise, slack) == order


@given(st.permutations(range(4)))
def test_rows_alike_stay_in_place(order: list[int]) -> None:
    """Of equal rows the one in its own place is taken, so that they look as if nobody had touched them."""
    same = np.vstack([np.zeros((4, 5)), ROWS[:2]])
    assert order_of(same, same[[*order, 5, 4]], 0.0) == [0, 1, 2, 3, 5, 4]


def test_other_rows_are_in_no_order() -> None:
    """One row that is not among them."""
    other = ROWS.copy()
    other[3] += 1
    assert order_of(ROWS, other, 0.0) is None
    assert order_of(ROWS, other, 1e-3) is None


@pytest.mark.parametrize(("order", "words"), [
    ([1, 0, 2, 3], "with rows 0 and 1 swapped"), ([3, 2, 1, 0], "with rows reversed"),
    ([3, 0, 1, 2], "with rows rolled by 1"), ([1, 2, 3, 4, 0], "with rows rolled by -1"),
    ([4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11], "with rows, in blocks of 4, in the order [1, 0, 2]"),
    ([0, 3, 1, 4, 2, 5], "with rows taken as 3 × 2 where they are 2 × 3"),
    ([2, 0, 3, 1], "with rows in the order [2, 0, 3, 1]")])
def test_an_order_in_words(order: list[int], words: str) -> None:
    """The simplest name that an order has."""
    assert told_order(order, "rows") == words


def test_a_long_list_is_cut() -> None:
    """The first few of many."""
    assert told(range(3)) == "[0, 1, 2]"
    assert told(range(100)).endswith("15, …]")


def test_axes_exchanged_keep_the_shape() -> None:
    """Every candidate has the shape of the weight, and only equal axes are exchanged."""
    found = dict(transposed(np.arange(4 * 4 * 3 * 2).reshape(4, 4, 3, 2), ("outputs", "inputs", "height", "width")))
    assert "with outputs and inputs swapped" in found
    assert "with height and width swapped" not in found
    assert {v.shape for v in found.values()} == {(4, 4, 3, 2)}
    assert [w for w, _ in transposed(ROWS, ("rows", "columns"))] == ["read in the other memory order"]
