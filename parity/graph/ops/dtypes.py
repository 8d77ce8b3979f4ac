"""Element types that torch lacks, which go to the next level, or hardly computes in, which go through INT64."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
import torch

from parity.graph.ops.call import Call, Kernel, Tensor, Value, kernel

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def tensor_kernel(*ops: str, halves: bool = False) -> Callable[[Kernel], Kernel]:
    """Register the kernel of ONNX operators that only takes tensors: what comes as numpy goes to the next level.

    Args:
        ops: operator names.
        halves: as for `kernel`.
    """

    def register(function: Kernel) -> Kernel:
        @wraps(function)
        def guarded(call: Call, *inputs: Value) -> Value | tuple[Value, ...]:
            if any(isinstance(v, np.ndarray) for v in inputs):
                raise NotImplementedError("an element type that torch lacks")
            return function(call, *inputs)

        return kernel(*ops, halves=halves)(guarded)

    return register


def as_int64(x: Tensor) -> Tensor:
    """The same numbers as INT64 where the dtype is one that torch hardly computes in; all else as it is.

    Raises:
        NotImplementedError: a number does not fit.
    """
    if x.dtype not in _SIGNED:
        return x
    widened = x.to(torch.int64)
    if x.dtype is torch.uint64 and bool((widened < 0).any()):
        raise NotImplementedError("numbers of 2^63 and more")
    return widened


def via_int64(function: Kernel) -> Kernel:
    """Make a kernel compute UINT16, UINT32 and UINT64 in INT64; its first output wraps back to the input's dtype.

    Exact for all operators on integers: the numbers fit, and results wrap as unsigned arithmetic does.
    """

    @wraps(function)
    def widened(call: Call, *inputs: Value) -> Value | tuple[Value, ...]:
        first = inputs[0]
        result = function(call, *(as_int64(v) if isinstance(v, torch.Tensor) else v for v in inputs))
        if not isinstance(first, torch.Tensor) or first.dtype not in _SIGNED:
            return result
        return (_back(result[0], first.dtype), *result[1:]) if isinstance(result, tuple) else _back(result, first.dtype)

    return widened


def _back(value: Value, dtype: torch.dtype) -> Value:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype is torch.int64 else value


def as_signed(x: Tensor) -> Tensor:
    """The same bits as a signed integer of the same width, for operators that only move data."""
    return x.view(_SIGNED[x.dtype]) if x.dtype in _SIGNED else x
