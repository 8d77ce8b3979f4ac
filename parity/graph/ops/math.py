"""Elementwise arithmetic, one input, two, or many."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch

from parity.graph.ops.call import Call, Kernel, Tensor
from parity.graph.ops.dtypes import tensor_kernel, via_int64

_FLOAT_MAX = float(torch.finfo(torch.float32).max)

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Det": torch.linalg.det, "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log, "Neg": torch.neg,
    "Reciprocal": torch.reciprocal, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    return via_int64(lambda _, x: function(x))


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return via_int64(lambda _, *inputs: reduce(function, inputs))


for _name, _function in _UNARY.items():
    tensor_kernel(_name)(_unary(_function))
for _name, _binary in (_BINARY | _VARIADIC).items():
    tensor_kernel(_name)(_variadic(_binary))


@tensor_kernel("Erf")
def erf(_: Call, x: Tensor) -> Tensor:
    """The error function; for an integer type, truncated."""
    return torch.erf(x) if x.is_floating_point() else torch.erf(x.double()).to(x.dtype)


@tensor_kernel("Div")
@via_int64
def div(_: Call, x: Tensor, y: Tensor) -> Tensor:
    """Quotient; of integers rounded towards zero, 0 where the divisor is 0, wrapped where it does not fit the type."""
    if x.is_floating_point():
        return torch.div(x, y)
    negated = _is_minus_one(y)
    quotient = torch.div(x, torch.where((y == 0) | negated, 1, y), rounding_mode="trunc")  # either may trap
    return torch.where(y == 0, 0, torch.where(negated, -x, quotient))


@tensor_kernel("Mod")
@via_int64
def mod(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Remainder, with the sign of the dividend (`fmod` = 1) or of the divisor; of integers 0 where the divisor is 0."""
    if not x.is_floating_point():
        function = torch.fmod if call.integer("fmod") else torch.remainder
        # Of 1 and of -1 it is 0, as is wanted of 0, by which as by -1 a processor may trap.
        return function(x, torch.where((y == 0) | _is_minus_one(y), 1, y))
    if call.integer("fmod"):
        return torch.fmod(x, y)
    remainder = torch.remainder(x, y)
    return torch.where(remainder == 0, torch.copysign(remainder, y), remainder)


def _is_minus_one(x: Tensor) -> Tensor:
    return x == -1 if x.dtype.is_signed else torch.zeros_like(x, dtype=torch.bool)


@tensor_kernel("Pow")
@via_int64
def power(_: Call, x: Tensor, y: Tensor) -> Tensor:
    """`x` to the power of `y`, in the type of `x`."""
    if x.is_floating_point():
        return torch.pow(x, y).to(x.dtype)
    real = torch.pow(x.double(), y.double()).to(x.dtype)
    if y.is_floating_point():
        return real
    return torch.where(y < 0, real, torch.pow(x, y.clamp(min=0)).to(x.dtype))


@tensor_kernel("Mean")
def mean(_: Call, *inputs: Tensor) -> Tensor:
    """Mean over the inputs, element by element."""
    return reduce(torch.add, inputs) / len(inputs)


@tensor_kernel("Clip")
@via_int64
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limit to [low, high]: attributes up to opset 10, where they default to the FP32 range, inputs from 11."""
    if call.opset < 11:
        return torch.clamp(x, call.number("min", -_FLOAT_MAX), call.number("max", _FLOAT_MAX))
    if low is None and high is None:
        return x
    return torch.clamp(x, None if low is None else low.reshape(()), None if high is None else high.reshape(()))
