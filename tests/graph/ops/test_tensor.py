"""Making, reshaping, joining and cutting of tensors against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy
from tests.graph.ops.one_node import check, gradcheck, normal, on_torch, onnx_case

X = normal(2, 3, 4)
MOVED = [np.float32, np.int64, np.bool_, np.uint8, np.uint16, np.uint32, np.uint64]


def ints(*values: int) -> np.ndarray:
    """A shape or a list of axes."""
    return np.array(values, np.int64)


def constant(arithmetic: Arithmetic = Arithmetic.DECLARED, **attributes: Any) -> Value:
    """The value of a Constant node."""
    model = Model.from_proto(onnx_case("Constant", [], 13, attributes).model)
    return Executor(model, arithmetic).run({})["y0"]


@pytest.mark.parametrize(("attributes", "want"), [
    ({"value_float": 0.1}, np.float32(0.1)), ({"value_floats": [0.1, 2.0]}, np.array([0.1, 2], np.float32)),
    ({"value_int": 3}, np.int64(3)), ({"value_ints": [3, 4]}, ints(3, 4)),
    ({"value_string": "a"}, np.array("a")), ({"value_strings": ["a", "bc"]}, np.array(["a", "bc"])),
    ({"value": numpy_helper.from_array(np.array([[1, 2]], np.uint16))}, np.array([[1, 2]], np.uint16))])
def test_constant(attributes: dict[str, Any], want: np.ndarray) -> None:
    """Every form of the attribute."""
    np.testing.assert_array_equal(to_numpy(constant(**attributes)), np.asarray(want), strict=True)


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_constant(indices: list[Any]) -> None:
    """Indices into the flat tensor, and one row for each element."""
    values = numpy_helper.from_array(np.array([0.1, 2], np.float32), "v")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices), "i"), [2, 3])
    want = np.array([[0, 0.1, 0], [0, 0, 2]], np.float32)
    np.testing.assert_array_equal(to_numpy(constant(sparse_value=sparse)), want, strict=True)
    gold = constant(Arithmetic.DOUBLE, sparse_value=sparse)
    np.testing.assert_array_equal(to_numpy(gold), want.astype(np.float64), strict=True)


@pytest.mark.parametrize("value", [None, np.array([2.5], np.float32), np.array([7], np.int8), np.array([True])])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
def test_constant_of_shape(value: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """One number everywhere, FP32 zero by default."""
    given = {} if value is None else {"value": numpy_helper.from_array(value)}
    check("ConstantOfShape", [ints(*shape)], 9, **given)


@pytest.mark.parametrize("k", [-1, 0, 2, 9])
def test_eye_like(k: int) -> None:
    """A diagonal, also outside of the matrix."""
    check("EyeLike", [np.zeros((3, 4), np.int64)], 9, k=k)
    check("EyeLike", [np.zeros((3, 4), np.float32)], 9, k=k, dtype=TensorProto.DOUBLE)


@pytest.mark.parametrize(("start", "limit", "delta"), [(0, 5, 1), (7, 1, -2), (3, 3, 1), (5, 1, 1), (1, 8, 3)])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_range(start: float, limit: float, delta: float, dtype: type[np.generic]) -> None:
    """Upwards, downwards and empty."""
    check("Range", [np.array(v).astype(dtype) for v in (start, limit, delta)], 11)
    if np.issubdtype(dtype, np.floating):
        check("Range", [np.array(v).astype(dtype) for v in (start, limit + 0.3, delta)], 11)


@pytest.mark.parametrize("attributes", [
    {}, {"start": 1}, {"end": -1}, {"start": -2, "end": 99}, {"start": 2, "end": 1}])
def test_shape(attributes: dict[str, Any]) -> None:
    """All of the shape or a part of it."""
    check("Shape", [X], 15, **attributes)
    check("Shape", [np.array(1, np.float32)], 13)
    check("Size", [X], 13)


@pytest.mark.parametrize("shape", [(4, 6), (-1,), (0, -1), (2, 0, 2, 2), (1, 24, 1)])
@pytest.mark.parametrize("dtype", MOVED)
def test_reshape(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Lengths copied and worked out, in every type."""
    check("Reshape", [X.astype(dtype), ints(*shape)], 13)


def test_reshape_of_nothing() -> None:
    """With `allowzero`, a zero is a length."""
    check("Reshape", [normal(0, 3), ints(3, 0)], 14, allowzero=1)
    check("Reshape", [normal(0, 3), ints(3, -1)], 13)
    check("Reshape", [normal(1), ints()], 13)


@pytest.mark.parametrize("axis", [None, 0, 2, 3, -1])
def test_flatten(axis: int | None) -> None:
    """The axes before one, and the others."""
    check("Flatten", [X], 11, **({} if axis is None else {"axis": axis}))
    check("Flatten", [normal(0, 3, 2)], 11, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("order", [None, [1, 2, 0], [0, 1, 2]])
def test_transpose(order: list[int] | None) -> None:
    """A given order, or the reverse."""
    given: dict[str, Any] = {} if order is None else {"perm": order}
    check("Transpose", [X], 13, **given)


@pytest.mark.parametrize("axes", [None, [0], [0, 2], [-1, 0]])
def test_squeeze(axes: list[int] | None) -> None:
    """Axes as an attribute, as an input, or all of length 1."""
    x = normal(1, 3, 1)
    given: dict[str, Any] = {} if axes is None else {"axes": axes}
    check("Squeeze", [x], 11, **given)
    check("Squeeze", [x] if axes is None else [x, ints(*axes)], 13)


def test_squeeze_refuses_longer_axes() -> None:
    """An axis with more than one element cannot go."""
    with pytest.raises(ModelError, match="not all of length 1"):
        on_torch("Squeeze", [X, ints(1)], 13, {})


@pytest.mark.parametrize("axes", [[0], [3, 0], [-1, 1], [2]])
def test_unsqueeze(axes: list[int]) -> None:
    """Axes count in the result, in any order."""
    check("Unsqueeze", [X], 11, axes=axes)
    check("Unsqueeze", [X, ints(*axes)], 13)


@pytest.mark.parametrize("dtype", MOVED)
@pytest.mark.parametrize("axis", [0, -1])
def test_concat(dtype: type[np.generic], axis: int) -> None:
    """Any number of inputs, some without elements."""
    x = X.astype(dtype)
    check("Concat", [x, np.take(x, [], axis), x], 13, axis=axis)


@pytest.mark.parametrize("axis", [0, -1])
def test_split(axis: int) -> None:
    """Equal parts, given lengths, and a number of parts with a shorter last one."""
    x = normal(6, 6)
    check("Split", [x], 11, outputs=3, axis=axis)
    check("Split", [x], 11, outputs=2, axis=axis, split=[5, 1])
    check("Split", [x], 13, outputs=2, axis=axis)
    check("Split", [x, ints(0, 4, 2)], 13, outputs=3, axis=axis)
    check("Split", [normal(7, 7)], 18, outputs=3, axis=axis, num_outputs=3)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), (5, 1, 3, 1), (0, 1, 1, 4)])
def test_expand(shape: tuple[int, ...]) -> None:
    """Broadcasting goes both ways."""
    check("Expand", [normal(3, 1), ints(*shape)] if 0 not in shape else [normal(1, 1), ints(0, 4)], 13)


@pytest.mark.parametrize("repeats", [(1, 2, 3), (2, 0, 1)])
def test_tile(repeats: tuple[int, ...]) -> None:
    """Repeated along each axis, or not at all."""
    check("Tile", [X, ints(*repeats)], 13)


@pytest.mark.parametrize("pads", [[0, 1, 2, 1, 0, 1], [1, 0, 0, 0, 2, 0], [0, -1, 2, 0, 0, -2]])
def test_constant_pad(pads: list[int]) -> None:
    """Values as an attribute and as an input; negative pads crop."""
    check("Pad", [X], 7, pads=pads, value=1.5)
    check("Pad", [X], 7, pads=pads)
    check("Pad", [X, ints(*pads)], 11)
    check("Pad", [X, ints(*pads), np.array(-np.pi, np.float32)], 13)
    check("Pad", [np.arange(24).reshape(X.shape), ints(*pads), np.array(2**62 + 1)], 13)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 2, 1, 0, 3], [1, 2, 0, 0, 2, 3]])
def test_other_pads(mode: str, pads: list[int]) -> None:
    """Taken from the edge, mirrored, or from the other side."""
    check("Pad", [X, ints(*pads)], 19, rtol=0, mode=mode)


def test_pad_of_some_axes() -> None:
    """Only the named axes grow."""
    check("Pad", [X, ints(1, 2, 0, 1), np.array(3, np.float32), ints(-1, 0)], 18)
    check("Pad", [X, ints(1, 2), None, ints(1)], 18, mode="edge")


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 2, 9])
def test_trilu(upper: int, k: int | None) -> None:
    """Triangles of a batch above or below a diagonal."""
    check("Trilu", [X] if k is None else [X, np.array(k)], 14, upper=upper)
    check("Trilu", [np.arange(12).reshape(3, 4)], 14, upper=upper)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode: str) -> None:
    """Blocks move into the plane, and from it back again."""
    x = normal(2, 12, 2, 3)
    check("DepthToSpace", [x], 13, rtol=0, blocksize=2, mode=mode)
    check("SpaceToDepth", [normal(2, 3, 4, 6)], 13, rtol=0, blocksize=2)
    [plane] = on_torch("DepthToSpace", [x], 28, {"blocksize": 2, "mode": mode})
    np.testing.assert_array_equal(on_torch("SpaceToDepth", [plane], 28, {"blocksize": 2, "mode": mode})[0], x)


def test_dropout() -> None:
    """In inference nothing is dropped, whatever the opset."""
    check("Dropout", [X], 10, ratio=0.5)
    check("Dropout", [X], 12, outputs=2)
    check("Dropout", [X, np.array(0.4, np.float32), np.array(False)], 13, outputs=2)
    check("Dropout", [X, np.array(0, np.float32), np.array(True)], 13, outputs=2)
    _, mask = on_torch("Dropout", [X], 7, {}, outputs=2)
    assert mask.dtype == np.float32


def test_identity() -> None:
    """Nothing changes."""
    for dtype in MOVED:
        check("Identity", [X.astype(dtype)], 13)


def test_moves_are_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    x = normal(2, 3)
    gradcheck("Pad", [x, ints(1, 0, -1, 2), np.array(2, np.float32)], 13)
    gradcheck("Pad", [x, ints(1, 2, 0, 1)], 13, mode="reflect")
    gradcheck("Concat", [x, x], 13, axis=1)
    gradcheck("Split", [x], 13, outputs=2)
    gradcheck("Tile", [x, ints(2, 2)], 13)
    gradcheck("Expand", [x, ints(2, 2, 3)], 13)
    gradcheck("Trilu", [x], 14)
    gradcheck("Range", [np.array(v, np.float32) for v in (0, 2.5, 1)], 11)
