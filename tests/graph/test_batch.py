"""The batch axis: which inputs count rows, and where a row lies in a tensor."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import FeedError
from parity.graph.batch import Batch, batch_of, grown, places_of, row_axis
from parity.graph.model import Model


def model_of(*inputs: str) -> Model:
    """A model with these inputs, e.g. "float[N,3] x"; its output reads the first."""
    first = inputs[0].split()[-1]
    return Model.from_proto(onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({", ".join(inputs)}) => (float[M,K] y)'
        f' {{ y = Identity({first}) }}'))


@pytest.mark.parametrize(("inputs", "shapes", "axes"), [
    (["float[N,3] x"], [(4, 3)], {"x": 0}),
    (["float[N,3] x", "float[2,N,5] h", "float[3] scale"], [(4, 3), (2, 4, 5), (3,)], {"x": 0, "h": 1}),
    (["float[unk_1,3] x", "int64[unk_2,7] ids"], [(4, 3), (4, 7)], {"x": 0, "ids": 0}),
    (["float[1,3] x", "float[N,3] z"], [(1, 3), (4, 3)], {"z": 0}),
])
def test_inputs_share_the_rows(inputs: list[str], shapes: list[tuple[int, ...]], axes: dict[str, int]) -> None:
    """An open first dimension counts rows, along the same symbol or an open first one elsewhere; the rest does not."""
    feed = {text.split()[-1]: np.zeros(shape, np.float32) for text, shape in zip(inputs, shapes, strict=True)}
    assert batch_of(model_of(*inputs), feed) == Batch(axes, 4)


@pytest.mark.parametrize(("inputs", "shapes"), [
    (["float[4,3] x"], [(4, 3)]), (["float[seq_len,3] x"], [(4, 3)]), (["float[time,3] x"], [(4, 3)]),
    (["float[N,3] x", "float[M,3] z"], [(4, 3), (5, 3)]),
])
def test_what_is_no_batch(inputs: list[str], shapes: list[tuple[int, ...]]) -> None:
    """A fixed size, a time axis, and inputs of two sizes are none."""
    feed = {text.split()[-1]: np.zeros(shape, np.float32) for text, shape in zip(inputs, shapes, strict=True)}
    assert batch_of(model_of(*inputs), feed) is None


def test_rows_are_taken_and_added() -> None:
    """Taking rows follows each input's own axis; added ones stand behind the feed's, and differ from them."""
    model = model_of("float[N,3] x", "float[2,N,5] h", "float[3] scale")
    feed = {"x": np.ones((1, 3), np.float32), "h": np.ones((2, 1, 5), np.float32), "scale": np.ones(3, np.float32)}
    batch = batch_of(model, feed)
    assert batch is not None
    more, wide = grown(model, feed, batch, 3, seed=0)
    assert {n: v.shape for n, v in more.items()} == {"x": (3, 3), "h": (2, 3, 5), "scale": (3,)}
    assert wide.size == 3
    first, last = wide.take(more, [0]), wide.take(more, [2])
    assert all(np.array_equal(first[n], feed[n]) for n in feed)
    assert not np.array_equal(last["h"], feed["h"])
    assert grown(model, more, wide, 2, seed=0) == (more, wide)


def test_rows_that_cannot_be_made() -> None:
    """Text has no seeded values; the error says what to do."""
    model = Model.from_proto(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (string[N,3] x) => (string[N,3] y) { y = Identity(x) }'))
    feed = {"x": np.full((1, 3), "a", object)}
    with pytest.raises(FeedError):
        grown(model, feed, Batch({"x": 0}, 1), 2, seed=0)


@given(st.integers(2, 5), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=2), st.booleans())
def test_a_row_is_found_again(size: int, width: int, others: list[int], interleaved: bool) -> None:
    """Whether the batch is merged before or behind another axis, the row is among the places."""
    tensor = np.arange(size * width * int(np.prod(others))).reshape(size, width, *others)
    merged = (np.swapaxes(tensor, 0, 1) if interleaved else tensor).reshape(size * width, *others)
    axis = row_axis(merged.shape, (width, *others), size)
    assert axis == 0
    for row in range(size):
        assert any(np.array_equal(place, tensor[row]) for place in places_of(merged, axis, size, row))


@pytest.mark.parametrize(("together", "alone"), [
    ((4, 3), (4, 3)), ((4, 3), (1, 2)), ((4, 3), (3,)), ((8, 4), (2, 1)), ((5, 3), (1, 3)),
])
def test_what_did_not_grow_with_the_batch(together: tuple[int, ...], alone: tuple[int, ...]) -> None:
    """A tensor that kept its shape, or changed otherwise than along one axis by the batch, has no row axis."""
    assert row_axis(together, alone, 4) is None
