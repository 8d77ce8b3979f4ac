"""Conversion between element types."""

from __future__ import annotations

import typing

import numpy as np
import torch

from parity.graph.ops.call import Call, Tensor, from_numpy
from parity.graph.ops.dtypes import tensor_kernel
from parity.graph.weights import dtype_of


@tensor_kernel("Cast", halves=True)
def cast(call: Call, x: Tensor) -> Tensor:
    """Convert to type `to`: floats truncate to integers, integers wrap, any number but zero is True."""
    return x.to(call.dtype(call.integer("to")))


@tensor_kernel("CastLike", halves=True)
def cast_like(_: Call, x: Tensor, target: Tensor) -> Tensor:
    """Convert to the type of `target`."""
    return x.to(target.dtype)


@tensor_kernel("BitCast", halves=True)
def bit_cast(call: Call, x: Tensor) -> Tensor:
    """The same bits read as type `to`, which is as wide as the declared type of `x`."""
    bits = from_numpy(np.empty(0, dtype_of(call.integer("to"))))
    if not isinstance(bits, torch.Tensor):
        raise NotImplementedError("torch has no such type")
    if x.dtype == torch.float64 and bits.element_size() != 8:  # FP64 in Arithmetic.DOUBLE only
        if bits.element_size() != 4:
            raise NotImplementedError("which 16-bit type was declared is not known in FP64")
        x = x.to(torch.float32)
    return typing.cast("Tensor", call.real(x.view(bits.dtype)))
