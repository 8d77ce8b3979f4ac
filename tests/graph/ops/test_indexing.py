"""Picking and writing of elements against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal, on_torch

X = normal(3, 4, 5)
FAR = 2**62


def ints(*values: int) -> np.ndarray:
    """Positions, axes or steps."""
    return np.array(values, np.int64)


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), [
    ([1, 0], [3, -1], None, None), ([-2], [FAR], [1], None), ([1], [1], [2], None), ([0, 1], [FAR, 4], [-1, 1], [2, 1]),
    ([-1], [-FAR], [2], [-1]), ([3, 2], [0, -FAR], [2, 0], [-2, -1]), ([-99], [99], [0], [1]), ([9], [12], [1], [1])])
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    """Ranges out of bounds, backwards, empty, with and without axes."""
    optional = [None if v is None else ints(*v) for v in (axes, steps)]
    while optional and optional[-1] is None:
        optional.pop()
    check("Slice", [X, ints(*starts), ints(*ends), *optional], 13, rtol=0)
    if steps is None:
        given: dict[str, Any] = {} if axes is None else {"axes": axes}
        check("Slice", [X], 9, rtol=0, starts=starts, ends=ends, **given)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [np.array(1), ints(0, -1, 2), np.array([[0, 1], [-3, 2]], np.int32), ints()])
def test_gather(axis: int, indices: np.ndarray) -> None:
    """Indices of any rank, none at all, and negative ones."""
    check("Gather", [X, indices], 13, axis=axis)
    check("Gather", [(X * 9).astype(np.uint16), indices], 13, axis=axis)


def test_gather_elements() -> None:
    """One index for each element."""
    indices = np.array([[[0, -1, 2, 1, 0]], [[1, 1, 1, 1, 1]]])
    check("GatherElements", [X, indices], 11, axis=1)
    check("GatherElements", [X, indices], 13, axis=0)


@pytest.mark.parametrize(("batch", "indices"), [
    (0, [[0, 1], [2, -1]]), (0, [[[1]], [[-2]]]), (0, [[2, 3, 4]]), (1, [[1], [0], [-1]]),
    (2, np.zeros((3, 4, 2, 1), np.int64)), (1, np.ones((3, 2, 2), np.int64))])
def test_gather_nd(batch: int, indices: Any) -> None:
    """Tuples of indices of any length, in batches or not."""
    check("GatherND", [X, np.array(indices)], 12, batch_dims=batch)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_scatter_elements(reduction: str, dtype: type[np.generic]) -> None:
    """Written, added, multiplied, and the greater or the lesser of the two."""
    indices = ints(0, 2, -2)[:, None] if reduction == "none" else ints(1, 1, -3)[:, None]
    x, updates = (X[..., 0] * 9).astype(dtype), (normal(3, 1) * 9).astype(dtype)
    check("ScatterElements", [x, indices, updates], 18, axis=1, reduction=reduction)


def test_plain_scatter() -> None:
    """The opsets without reductions, and the older name."""
    for op, opset in (("Scatter", 9), ("ScatterElements", 11)):
        check(op, [X, np.array([[[1]], [[0]]]), normal(2, 1, 1)], opset, axis=1)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize(("indices", "tail"), [([[0], [-1]], (4, 5)), ([[[0, 1]], [[2, -2]]], (5,)), ([[0, 1, 2]], ())])
def test_scatter_nd(reduction: str, indices: Any, tail: tuple[int, ...]) -> None:
    """Slices of every rank written or combined."""
    where = np.array(indices)
    check("ScatterND", [X, where, normal(*where.shape[:-1], *tail)], 18, reduction=reduction)


def test_scatter_nd_combines_duplicates() -> None:
    """What is written to one place twice adds up."""
    check("ScatterND", [X, ints(1, 1, 1)[:, None], normal(3, 4, 5)], 16, reduction="add")


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    """Each batch is written from its own place on, around the end where that is asked for."""
    cache, update = normal(2, 3, 6, 2), normal(2, 3, 2, 2)
    starts = ints(1, 4) if mode == "linear" else ints(5, 0)
    [got] = on_torch("TensorScatter", [cache, update, starts], 24, {"mode": mode})
    want = cache.copy()
    for batch, start in enumerate(starts):
        for i in range(2):
            want[batch, :, (start + i) % 6] = update[batch, :, i]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("x", [X > 0, (X * 2).astype(np.int32), np.float32(3), np.zeros((2, 0), np.float32)])
def test_non_zero(x: np.ndarray) -> None:
    """Columns of indices; a scalar has an index of no rows in numpy, but one column."""
    check("NonZero", [np.atleast_1d(x)], 13)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_compress(axis: int | None) -> None:
    """A condition shorter than the axis leaves out the rest."""
    condition = np.array([False, True, True])
    check("Compress", [X, condition], 11, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    """Negative indices count from the back, those out of range are off everywhere."""
    values = np.array([-1.5, 2], np.float32)
    check("OneHot", [np.array([[0, 2], [-1, 7]]), ints(4), values], 11, axis=axis)
    check("OneHot", [np.array([1.0, 3], np.float32), np.array(4), ints(0, 1)], 11)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("in_order", [0, 1])
def test_unique(axis: int | None, in_order: int) -> None:
    """Values or slices, sorted or as they come, with the first place, the inverse and the counts."""
    x = np.array([[2, 1, 2, 0], [2, 1, 2, 0], [0, 1, 0, 5]], np.float32)
    check("Unique", [x], 11, outputs=4, sorted=in_order, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reverse_sequence(time: int, batch: int) -> None:
    """Each sequence is reversed up to its own length."""
    x = normal(4, 3, 2) if time == 0 else normal(3, 4, 2)
    check("ReverseSequence", [x, ints(4, 1, 3)], 10, time_axis=time, batch_axis=batch)


def test_indexing_is_differentiable() -> None:
    """Autograd agrees with numerical gradients in data and updates."""
    x = normal(3, 4)
    gradcheck("Slice", [x, ints(2), ints(-FAR), ints(0), ints(-1)], 13)
    gradcheck("Gather", [x, ints(0, 0, 2)], 13)
    gradcheck("GatherND", [x, np.array([[0, 1], [2, 2]])], 13)
    for reduction in ("none", "add", "mul"):
        gradcheck("ScatterND", [x, np.array([[1], [0]]), normal(2, 4)], 18, reduction=reduction)
        gradcheck("ScatterElements", [x, np.array([[1, 0]]), normal(1, 2)], 18, reduction=reduction)
    gradcheck("OneHot", [ints(0, 2), ints(3), normal(2)], 11)
    gradcheck("Unique", [normal(4)], 11)
    gradcheck("ReverseSequence", [x, ints(3, 1, 2, 2)], 10)
