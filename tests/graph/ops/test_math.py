"""Elementwise arithmetic against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.graph.executor import Executor, Level
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from tests.graph.ops.one_node import check, gradcheck, normal, on_torch, onnx_case

INTEGERS = np.array([[7, -7, 3, 0], [1, -128, 127, 5]])
DIVISORS = np.array([[2, 2, -2, 5], [-1, 3, -3, 1]])
UNARY = ["Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor",
         "Log", "Neg", "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh"]
SMOOTH = ["Atan", "Exp", "Erf", "Sin", "Sqrt", "Log"]


def operand(op: str, *shape: int) -> np.ndarray:
    """Values inside the domain of an operator."""
    x = normal(*shape)
    if op in ("Acos", "Asin", "Atanh"):
        return np.asarray(np.tanh(x) * np.float32(0.9))
    return np.asarray(np.abs(x) + np.float32(1.01)) if op in ("Acosh", "Log", "Sqrt", "Reciprocal") else x


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2)])
def test_unary(op: str, shape: tuple[int, ...]) -> None:
    """One input, of any rank, also without elements."""
    check(op, [operand(op, *shape)], 13)


def test_round_halves_to_even() -> None:
    """A half rounds to the even neighbour."""
    check("Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)], 11, rtol=0)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
@pytest.mark.parametrize("op", ["Abs", "Neg", "Sign"])
def test_unary_of_integers(op: str, dtype: type[np.generic]) -> None:
    """Integers stay in their type."""
    check(op, [INTEGERS.astype(dtype)], 13)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize("opset", [7, 13])
def test_binary(op: str, opset: int) -> None:
    """Two inputs broadcast against each other."""
    check(op, [np.abs(normal(3, 1, 4)), normal(2, 1)], opset)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_binary_of_integers(op: str, dtype: type[np.integer]) -> None:
    """Integer sums wrap and quotients round towards zero, in types torch computes in and in others."""
    divisors = np.where(np.iinfo(dtype).min == 0, np.abs(DIVISORS), DIVISORS).astype(dtype)
    numbers = np.abs(INTEGERS) if dtype is np.uint64 or op == "Div" else INTEGERS
    check(op, [np.where(numbers > 127, 127, numbers).astype(dtype), divisors], 14)


def test_large_unsigned_numbers() -> None:
    """UINT64 numbers that INT64 cannot hold are left to the reference."""
    x, y = np.array([2**64 - 1], np.uint64), np.array([2], np.uint64)
    executor = Executor(Model.from_proto(onnx_case("Div", [x, y], 14, {}).model))
    np.testing.assert_array_equal(to_numpy(executor.run({"x0": x, "x1": y})["y0"]), [2**63 - 1])
    assert executor.levels["y0"] is Level.REFERENCE


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_mod_of_integers(dtype: type[np.integer]) -> None:
    """The sign is the divisor's, or with `fmod` the dividend's."""
    signed = np.iinfo(dtype).min < 0
    x = (INTEGERS if signed else np.abs(INTEGERS)).astype(dtype)
    y = (DIVISORS if signed else np.abs(DIVISORS)).astype(dtype)
    check("Mod", [x, y], 10)
    check("Mod", [x, y], 13, fmod=1)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_what_a_processor_cannot_divide(dtype: type[np.integer]) -> None:
    """The least integer by -1 wraps, and by 0 all is 0, as numpy has it: neither traps."""
    least = np.iinfo(dtype).min
    x, y = np.tile(np.array([least, 5, 7], dtype), 9), np.tile(np.array([-1, 0, -2], dtype), 9)
    for op, attributes, want in (("Div", {}, [least, 0, -3]), ("Mod", {}, [0, 0, -1]), ("Mod", {"fmod": 1}, [0, 0, 1])):
        [got] = on_torch(op, [x, y], 14, attributes)
        np.testing.assert_array_equal(got, np.tile(np.array(want, dtype), 9))


def test_mod_of_floats() -> None:
    """`fmod` follows C; without it, opset 28 follows Python down to the sign of zero."""
    x, y = np.array([5.5, -5.5, 5.5, -6.0], np.float32), np.array([2.0, 2.0, -2.0, 3.0], np.float32)
    check("Mod", [x, y], 13, fmod=1)
    special_x = np.array([0.0, -0.0, 3.0, -3.0, np.inf, 1.0], np.float32)
    special_y = np.array([-2.0, 2.0, -np.inf, -np.inf, 2.0, 0.0], np.float32)
    [got] = on_torch("Mod", [special_x, special_y], 28, {})
    want = np.array([-0.0, 0.0, -np.inf, -3.0, np.nan, np.nan], np.float32)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[:4]), np.signbit(want[:4]))


@pytest.mark.parametrize(("base", "exponent"), [
    (np.float32, np.int64), (np.float32, np.float64), (np.int32, np.int32), (np.int64, np.float32),
    (np.int32, np.int64), (np.float64, np.int32)])
def test_pow_of_mixed_types(base: type[np.generic], exponent: type[np.generic]) -> None:
    """The result has the type of the base; scalars of the other type do not change it."""
    x, y = np.array([1, 2, 3, 5]).astype(base), np.array([3, 0, 2, 1]).astype(exponent)
    check("Pow", [x, y], 13)
    check("Pow", [np.asarray(x[1]), y], 13)
    check("Pow", [x, np.asarray(y[0])], 13)


def test_integer_pow_is_exact_or_truncated() -> None:
    """Powers of integers are exact beyond 2^53; negative exponents truncate to zero."""
    [got] = on_torch("Pow", [np.array([3, 3, 2]), np.array([39, 1, -1])], 15, {})
    np.testing.assert_array_equal(got, [3**39, 3, 0])


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(op: str, count: int) -> None:
    """Any number of inputs, broadcast against each other."""
    check(op, [normal(3, 4), normal(4, seed=1), normal(2, 1, 1, seed=2)][:count], 8)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_extremes_of_integers_and_nan(op: str) -> None:
    """Integers keep their type, and NaN wins."""
    check(op, [INTEGERS.astype(np.int64), DIVISORS.astype(np.int64)], 12)
    [got] = on_torch(op, [np.array([np.nan, 1], np.float32), np.array([1, np.nan], np.float32)], 12, {})
    assert np.isnan(got).all()


@pytest.mark.parametrize("attributes", [{}, {"min": -0.5}, {"max": 0.3}, {"min": -0.5, "max": 0.3}])
def test_clip_by_attributes(attributes: dict[str, Any]) -> None:
    """Limits are attributes up to opset 10, by default those of FP32."""
    check("Clip", [normal(3, 4)], 7, rtol=0, **attributes)
    [got] = on_torch("Clip", [np.array([-np.inf, np.inf], np.float32)], 7, {})
    np.testing.assert_array_equal(got, [np.finfo(np.float32).min, np.finfo(np.float32).max])


@pytest.mark.parametrize(("low", "high"), [(None, None), (-0.5, None), (None, 0.3), (-0.5, 0.3), (1.0, -1.0)])
@pytest.mark.parametrize("opset", [11, 13])
def test_clip_by_inputs(low: float | None, high: float | None, opset: int) -> None:
    """Limits are inputs from opset 11; the upper one wins over a lower one above it."""
    limits = [None if v is None else np.array(v, np.float32) for v in (low, high)]
    while limits and limits[-1] is None:
        limits.pop()
    check("Clip", [normal(3, 4), *limits], opset, rtol=0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_clip_of_integers(dtype: type[np.generic]) -> None:
    """Integers clip exactly."""
    check("Clip", [np.asarray(v).astype(dtype) for v in (np.abs(INTEGERS % 99), 2, 6)], 12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_det(size: int) -> None:
    """Determinants of a batch of matrices."""
    check("Det", [normal(3, 2, size, size)], 11)


def test_arithmetic_is_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    for op in SMOOTH:
        gradcheck(op, [operand(op, 2, 3)], 13)
    for op in ("Add", "Mul", "Div", "Max", "Min", "Mean"):
        gradcheck(op, [normal(2, 3), np.abs(normal(3, seed=1)) + np.float32(0.5)], 13)
    gradcheck("Pow", [np.abs(normal(2, 3)) + np.float32(0.1), normal(3)], 13)
    gradcheck("Clip", [normal(2, 3), np.array(-0.5, np.float32), np.array(0.5, np.float32)], 13)
    gradcheck("Det", [normal(2, 3, 3)], 11)
