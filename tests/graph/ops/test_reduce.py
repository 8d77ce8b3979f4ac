"""Reductions and products of matrices against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal, on_torch

REDUCTIONS = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceProd", "ReduceSum", "ReduceSumSquare"]
TIES = np.array([[1, 3, 3, 2], [0, 0, -1, 0], [5, 5, 5, 5]], np.float32)


def positive(*shape: int) -> np.ndarray:
    """Numbers whose logarithm exists."""
    return np.asarray(np.abs(normal(*shape)) + np.float32(0.1))


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, [1], [0, -1], [2, 0, 1]])
@pytest.mark.parametrize("keep", [0, 1])
def test_reduction(op: str, axes: list[int] | None, keep: int) -> None:
    """Axes as an attribute and as an input, negative ones and all of them."""
    x = positive(2, 3, 4)
    given: dict[str, Any] = {} if axes is None else {"axes": axes}
    check(op, [x], 11, keepdims=keep, **given)
    check(op, [x] if axes is None else [x, np.array(axes)], 18, keepdims=keep)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_no_axes(op: str) -> None:
    """An empty list means all axes, or none with `noop_with_empty_axes`; a scalar has none."""
    x, empty = positive(2, 3), np.zeros(0, np.int64)
    check(op, [x, empty], 18)
    check(op, [np.array(2.5, np.float32)], 18, keepdims=0)
    elementwise = {"ReduceL1": np.abs, "ReduceL2": np.abs, "ReduceLogSum": np.log, "ReduceSumSquare": np.square}
    [got] = on_torch(op, [x, empty], 18, {"noop_with_empty_axes": 1})
    np.testing.assert_allclose(got, elementwise.get(op, np.asarray)(x), rtol=1e-5)


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
                                "ReduceSumSquare"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_reduction_of_integers(op: str, dtype: type[np.generic]) -> None:
    """Integers stay in their type, a mean is truncated."""
    supported = {"ReduceL1": np.int32, "ReduceMean": np.int32}
    x = np.array([[1, 2, -4], [3, 3, 7]]).astype(supported.get(op, dtype))
    given: dict[str, Any] = {} if op == "ReduceSum" else {"axes": [1]}
    check(op, [x] if given else [x, np.array([1])], 13, **given)


@pytest.mark.parametrize(("op", "value"), [
    ("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceSum", 0), ("ReduceProd", 1), ("ReduceLogSum", -np.inf),
    ("ReduceL2", 0), ("ReduceLogSumExp", -np.inf)])
def test_reduction_of_nothing(op: str, value: float) -> None:
    """Over an axis without elements: the neutral element."""
    [got] = on_torch(op, [np.zeros((2, 0, 3), np.float32), np.array([1])], 20, {})
    np.testing.assert_array_equal(got, np.full((2, 1, 3), value, np.float32), strict=True)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_extreme(op: str, axis: int, keep: int, last: int) -> None:
    """Of equal numbers the first, or the last, is found."""
    check(op, [TIES], 12, axis=axis, keepdims=keep, select_last_index=last)
    check(op, [TIES.astype(np.int32)], 11, axis=axis, keepdims=keep)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_cumulative(exclusive: int, reverse: int, axis: int) -> None:
    """Sums forwards and backwards, with and without the element itself; products likewise."""
    check("CumSum", [normal(3, 4), np.array(axis)], 14, exclusive=exclusive, reverse=reverse)
    check("CumSum", [np.arange(6, dtype=np.int32).reshape(2, 3), np.array(axis)], 14, exclusive=exclusive)
    logs = np.log(positive(3, 4))
    attributes = {"exclusive": exclusive, "reverse": reverse}
    [product] = on_torch("CumProd", [np.exp(logs), np.array(axis)], 26, attributes)
    [total] = on_torch("CumSum", [logs, np.array(axis)], 14, attributes)
    np.testing.assert_allclose(product, np.exp(total), rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(axis: int, largest: int) -> None:
    """K as an attribute and as an input, greatest and least, and the lower index among equals."""
    k = np.array([2])
    check("TopK", [normal(4, 5)], 9, outputs=2, rtol=0, axis=axis, k=2)
    check("TopK", [normal(4, 5), k], 10, outputs=2, rtol=0, axis=axis)
    check("TopK", [TIES, k], 11, outputs=2, rtol=0, axis=axis, largest=largest)
    check("TopK", [TIES.astype(np.int64), np.array([0])], 11, outputs=2, axis=axis, largest=largest)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -2])
@pytest.mark.parametrize("opset", [9, 11, 13])
def test_softmax(op: str, axis: int | None, opset: int) -> None:
    """Before opset 13 all axes from `axis` on count as one."""
    if opset < 11 and axis is not None and axis < 0:
        axis = None
    given: dict[str, Any] = {} if axis is None else {"axis": axis}
    check(op, [normal(2, 3, 4)], opset, **given)
    check(op, [normal(0, 3, 4)], opset, **given)


@pytest.mark.parametrize(("a", "b"), [
    ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (2, 4, 3)), ((2, 1, 3, 4), (5, 4, 2)), ((0, 4), (4, 2)), ((3, 0), (0, 2))])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Vectors, batches and empty matrices, as in numpy."""
    check("MatMul", [normal(*a), normal(*b)], 13)


def test_matmul_of_integers() -> None:
    """Products of integers are exact."""
    check("MatMul", [np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)], 13)
    check("MatMul", [np.arange(6, dtype=np.uint32).reshape(2, 3), np.arange(3, dtype=np.uint32)], 13)


@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (3, 1), (3, 5)])
@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transA": 1, "transB": 1}])
def test_gemm(bias: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    """Transposed or scaled operands, and a bias of any shape that broadcasts, or none."""
    a, b = normal(3, 4), normal(4, 5)
    if "transA" in attributes:
        a, b = a.T.copy(), b.T.copy()
    check("Gemm", [a, b] if bias is None else [a, b, normal(*bias)], 11, **attributes)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij, bjk -> bik", [(2, 3, 4), (2, 4, 5)]), ("ij->ji", [(2, 3)]),
    ("ii->i", [(3, 3)]), ("i,i", [(3,), (3,)]), ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]), ("ij->", [(2, 3)]),
    ("bi,ij,bj->b", [(2, 3), (3, 4), (2, 4)])])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    """Contractions, traces, ellipses and spaces."""
    check("Einsum", [normal(*s) for s in shapes], 12, equation=equation)


def test_reductions_are_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    for op in REDUCTIONS:
        gradcheck(op, [positive(2, 3), np.array([1])], 18)
    for op in ("Softmax", "LogSoftmax"):
        gradcheck(op, [normal(2, 3, 2)], 11)
    gradcheck("CumSum", [normal(2, 3), np.array(1)], 14, exclusive=1, reverse=1)
    gradcheck("TopK", [normal(2, 4), np.array([2])], 11, outputs=2)
    gradcheck("MatMul", [normal(2, 3), normal(3, 2)], 13)
    gradcheck("Gemm", [normal(2, 3), normal(4, 3), normal(4)], 13, transB=1, alpha=0.5)
    gradcheck("Einsum", [normal(2, 3), normal(3, 2)], 12, equation="ij,jk->ki")
