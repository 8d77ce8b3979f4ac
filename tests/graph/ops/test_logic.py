"""Comparison, logic and bits against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal, on_torch

SPECIAL = np.array([0.0, np.nan, np.inf, -np.inf, -1.0], np.float32)
INTEGER_TYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize(("op", "opset"), [
    ("Equal", 11), ("Greater", 9), ("Less", 9), ("GreaterOrEqual", 16), ("LessOrEqual", 16)])
def test_comparison(op: str, opset: int) -> None:
    """Numbers broadcast, NaN compares to nothing."""
    check(op, [SPECIAL[:, None], SPECIAL], opset)
    check(op, [np.arange(6).reshape(2, 3), np.array([[2], [4]])], opset)
    check(op, [np.zeros((0, 3), np.float32), np.zeros(3, np.float32)], opset)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_comparison_of_unsigned(dtype: type[np.generic]) -> None:
    """Types that torch hardly computes in."""
    [got] = on_torch("Less", [np.array([1, 200], dtype), np.array([2, 100], dtype)], 13, {})
    np.testing.assert_array_equal(got, [True, False])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    """The truth table."""
    check(op, [np.array([[False], [True]]), np.array([False, True])], 7)


def test_not() -> None:
    """Negation."""
    check("Not", [np.array([[False], [True]])], 7)


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bitwise(op: str, dtype: type[np.integer]) -> None:
    """Bits of every integer type, the highest included."""
    edge = np.iinfo(dtype)
    check(op, [np.array([edge.min, edge.max, 5, 100], dtype), np.array([edge.max, 3, 6, 77], dtype)], 18)
    check("BitwiseNot", [np.array([edge.min, edge.max, 5, 100], dtype)], 18)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(direction: str, dtype: type[np.generic]) -> None:
    """Shifts within the width; bits shifted out are lost."""
    check("BitShift", [np.array([1, 200, 77], dtype), np.array([1, 3, 7], dtype)], 11, direction=direction)


def test_bit_shift_out_of_range() -> None:
    """From opset 28: beyond the width only copies of the sign bit are left, also by a negative number of bits."""
    x, by = np.array([-5, 5, -128, -5], np.int8), np.array([8, 100, 1, -1], np.int8)
    np.testing.assert_array_equal(on_torch("BitShift", [x, by], 28, {"direction": "RIGHT"})[0], [-1, 0, -64, -1])
    np.testing.assert_array_equal(on_torch("BitShift", [x, by], 28, {"direction": "LEFT"})[0], [0, 0, 0, 0])


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_is_inf(negative: int, positive: int) -> None:
    """Infinities of the signs that are looked for."""
    check("IsInf", [SPECIAL], 10, detect_negative=negative, detect_positive=positive)


def test_is_nan() -> None:
    """Only NaN is NaN."""
    check("IsNaN", [SPECIAL], 13)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.int32])
def test_where(dtype: type[np.generic]) -> None:
    """All three inputs broadcast."""
    check("Where", [np.array([[True], [False]]), np.arange(3).astype(dtype), np.array(7).astype(dtype)], 9)


def test_where_is_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    gradcheck("Where", [np.array([[True], [False]]), normal(3), normal(2, 3)], 16)
