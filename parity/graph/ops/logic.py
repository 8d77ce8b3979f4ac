"""Elementwise comparison, logic, bits, and the choice between two tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from parity.graph.ops.call import Call, Kernel, Tensor
from parity.graph.ops.dtypes import as_int64, as_signed, tensor_kernel

_COMPARISON: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}


def _comparison(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return lambda _, x, y: function(as_int64(x), as_int64(y))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return lambda _, x, y: function(x, y)


for _name, _function in _COMPARISON.items():
    tensor_kernel(_name)(_comparison(_function))
for _name, _function in _BINARY.items():
    tensor_kernel(_name)(_binary(_function))


@tensor_kernel("Not")
def logical_not(_: Call, x: Tensor) -> Tensor:
    """Negation of booleans."""
    return torch.logical_not(x)


@tensor_kernel("BitwiseNot")
def bitwise_not(_: Call, x: Tensor) -> Tensor:
    """Every bit flipped."""
    return torch.bitwise_not(as_signed(x)).view(x.dtype)


@tensor_kernel("BitShift")
def bit_shift(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Shift by `y` bits; by a negative number, or by all of them or more, only copies of the sign bit are left."""
    wide, by = as_int64(x).to(torch.int64), as_int64(y).to(torch.int64)
    outside = (by < 0) | (by >= 8 * x.element_size())
    if call.text("direction") == "RIGHT":
        return (wide >> torch.where(outside, 63, by)).to(x.dtype)
    return torch.where(outside, 0, wide << torch.where(outside, 0, by)).to(x.dtype)


@tensor_kernel("IsNaN")
def is_nan(_: Call, x: Tensor) -> Tensor:
    """Where there is no number."""
    return torch.isnan(x)


@tensor_kernel("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    """Where there is an infinity of a sign that is looked for."""
    negative = torch.isneginf(x) & bool(call.integer("detect_negative", 1))
    return negative | (torch.isposinf(x) & bool(call.integer("detect_positive", 1)))


@tensor_kernel("Where", halves=True)
def where(_: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`x` where the condition holds, `y` elsewhere."""
    return torch.where(condition, x, y)
