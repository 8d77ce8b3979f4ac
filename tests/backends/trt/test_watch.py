"""Stretches of tensors, and what happens when one of them cannot be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.backends.trt.run import OutOfMemory
from parity.backends.trt.watch import stretches, watched
from parity.errors import BackendFailed

SIZES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 20), max_size=12)


@given(SIZES, st.integers(1, 40))
def test_stretches_hold_what_fits(sizes: dict[str, int], memory: int) -> None:
    """Every name once, in order; none over the memory unless alone; and no two neighbours would fit together."""
    names = list(sizes)
    found = stretches(names, sizes, memory)
    assert [n for stretch in found for n in stretch] == names
    held = [sum(sizes[n] for n in stretch) for stretch in found]
    assert all(h <= memory or len(s) == 1 for h, s in zip(held, found, strict=True))
    assert all(h + sizes[s[0]] > memory for h, s in zip(held, found[1:], strict=False))


def test_unknown_sizes_count_nothing() -> None:
    """Tensors of unknown size go with their neighbours."""
    assert stretches(["a", "b", "c"], {"b": 5}, 5) == [("a", "b", "c")]
    assert stretches([], {}, 5) == []


@given(st.lists(st.sampled_from("abcdefghij"), unique=True), st.sets(st.sampled_from("abcdefghij")), st.integers(1, 9))
def test_what_is_refused_alone_is_left_out(names: list[str], refused: set[str], room: int) -> None:
    """However refusals and a small memory are mixed, every other tensor is shown once, in order."""
    def show(stretch: Sequence[str]) -> dict[str, np.ndarray]:
        if len(stretch) > room:
            raise OutOfMemory("no room")
        if refused & set(stretch):
            raise BackendFailed("no such mark")
        return {name: np.zeros(1) for name in stretch}

    left = [n for n in names if n not in refused]
    if names and not left:
        with pytest.raises(BackendFailed, match="no such mark"):
            list(watched(names, {}, 100, show))
        return
    found = list(watched(names, dict.fromkeys(names, 30), 100, show))
    assert [n for chunk in found for n in chunk] == left


def test_no_room_for_a_single_tensor() -> None:
    """Where not even one tensor fits, that is the error."""
    def show(stretch: Sequence[str]) -> dict[str, np.ndarray]:
        raise OutOfMemory("no room")

    with pytest.raises(OutOfMemory):
        list(watched(["a", "b", "c"], {}, 100, show))


def test_more_than_was_asked_for_is_not_passed_on() -> None:
    """A run that also returns the graph's outputs shows them only in their own stretch."""
    chunks = list(watched(["a", "y"], {"a": 1, "y": 1}, 1, lambda stretch: {n: np.zeros(1) for n in ("a", "y")}))
    assert [set(chunk) for chunk in chunks] == [{"a"}, {"y"}]
