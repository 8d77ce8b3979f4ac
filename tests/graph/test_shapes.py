"""Shapes as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import UsageError
from parity.graph.shapes import ShapeRange, parse_range, parse_shape

SHAPES = st.lists(st.integers(0, 999), min_size=1, max_size=5).map(tuple)


@given(st.text("xyz=/ 1", min_size=1, max_size=8), SHAPES, st.data())
def test_what_is_written_is_read(name: str, low: tuple[int, ...], data: st.DataObject) -> None:
    """A shape, or smallest, usual and largest; the name may hold anything."""
    opt = tuple(size + data.draw(st.integers(0, 9)) for size in low)
    high = tuple(size + data.draw(st.integers(0, 9)) for size in opt)
    words = ["x".join(map(str, shape)) for shape in (low, opt, high)]
    assert parse_range(f"{name}={words[1]}") == (name, ShapeRange(opt, opt, opt))
    assert parse_range(f"{name}={'/'.join(words)}") == (name, ShapeRange(low, opt, high))
    assert parse_shape(f"{name}={words[1]}") == parse_shape(f"{name}={'/'.join(words)}") == (name, opt)


@pytest.mark.parametrize("text", ["", "x", "x=", "=1", "x=1,2", "x=-1", "x=1/2", "x=1/2/3/4", "x=1//2", "x=3/1/2",
                                  "x=2/1/3", "x=1x1/1/1", "x=1/1/1x1", "x=1/2x2/3"])
def test_nonsense_is_refused(text: str) -> None:
    """The message quotes it, the hint gives an example."""
    with pytest.raises(UsageError) as caught:
        parse_range(text)
    assert repr(text) in caught.value.message
    assert "--shape" in caught.value.hint or "largest" in caught.value.hint


def test_what_a_range_holds() -> None:
    """Shapes of its rank between smallest and largest, these included."""
    found = ShapeRange((1, 3), (2, 3), (4, 3))
    assert (1, 3) in found
    assert (4, 3) in found
    assert (5, 3) not in found
    assert (2, 4) not in found
    assert (2,) not in found
