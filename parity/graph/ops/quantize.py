"""Linear quantisation: q = saturate(round_half_even(x / scale) + zero_point), x = (q − zero_point) · scale.

Both are computed in the dtype of the scale: FP32 in Arithmetic.DECLARED, FP64 in Arithmetic.DOUBLE.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import torch
from onnx import TensorProto, helper

from parity.graph.ops.call import HALVES, Call, Tensor, kernel, to_numpy


def as_real(value: Tensor | np.ndarray, dtype: torch.dtype) -> Tensor:
    """Any integers or narrow floats as a float tensor; exact for 16 bits and less.

    Args:
        value: a tensor, or an array of a type that torch lacks (4-bit integers, FP8).
        dtype: the floating-point type to hold them in.
    """
    return (torch.as_tensor(value.astype(np.float32)) if isinstance(value, np.ndarray) else value).to(dtype)


def along(parameter: Tensor, shape: Sequence[int], axis: int, block: int = 0) -> Tensor:
    """Shape a scale or zero point so that it broadcasts over the tensor that it belongs to.

    Args:
        parameter: one value for the tensor; a vector with one for each index of `axis`; or, with a block size,
            a tensor of the same rank with one for each block along `axis`.
        shape: of the tensor.
        axis: the quantisation axis.
        block: elements that share a value along `axis`; 0 when not blocked.
    """
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis %= len(shape)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, shape[axis])
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Quantise: q = saturate(round_half_even(x / scale) + zero_point).

    Args:
        x: real values.
        scale: broadcastable to x.
        zero_point: broadcastable to x, None for zero.
        dtype: integer type of the result, whose range saturates; NaN gives its least value.
    """
    limits = torch.iinfo(dtype)
    return _steps(x, scale, zero_point, limits.min, limits.max).to(dtype)


def _steps(x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int) -> Tensor:
    steps = torch.round(x.to(scale.dtype) / scale)
    if zero_point is not None:
        steps = steps + as_real(zero_point, steps.dtype)
    return steps.clamp(low, high).nan_to_num(nan=low)


def dequantize(q: Tensor | np.ndarray, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Dequantise: x = (q − zero_point) · scale, in the dtype of the scale.

    Args:
        q: integers, or floats of a narrow type.
        scale: broadcastable to q.
        zero_point: broadcastable to q, None for zero.
    """
    steps = as_real(q, scale.dtype)
    return (steps if zero_point is None else steps - as_real(zero_point, scale.dtype)) * scale


@kernel("QuantizeLinear")
@kernel("QuantizeLinear", domain="com.microsoft")
def quantize_linear(call: Call, x: Tensor, scale: Tensor,
                    zero_point: Tensor | np.ndarray | None = None) -> Tensor | np.ndarray:
    """QuantizeLinear per tensor, per axis or in blocks, to integers of 2 to 16 bits."""
    numpy_dtype = _quantized_dtype(call, zero_point)
    try:
        limits = ml_dtypes.iinfo(numpy_dtype)
    except ValueError as error:
        raise NotImplementedError(f"quantisation to {numpy_dtype}") from error
    axis, block = call.integer("axis", 1), call.integer("block_size")
    zero = None if zero_point is None else along(as_real(zero_point, scale.dtype), x.shape, axis, block)
    steps = _steps(x, along(scale, x.shape, axis, block), zero, int(limits.min), int(limits.max))
    if numpy_dtype.kind in "iu":
        return steps.to(call.dtype(helper.np_dtype_to_tensor_dtype(numpy_dtype)))
    return to_numpy(steps.to(torch.int8)).astype(numpy_dtype)


def _quantized_dtype(call: Call, zero_point: Tensor | np.ndarray | None) -> np.dtype:
    if zero_point is not None:
        return to_numpy(zero_point).dtype
    dtype: np.dtype = helper.tensor_dtype_to_np_dtype(call.integer("output_dtype") or TensorProto.UINT8)
    return dtype


@kernel("DequantizeLinear", halves=True)
@kernel("DequantizeLinear", domain="com.microsoft", halves=True)
def dequantize_linear(call: Call, x: Tensor | np.ndarray, scale: Tensor,
                      zero_point: Tensor | np.ndarray | None = None) -> Tensor:
    """DequantizeLinear per tensor, per axis or in blocks, from integers and FP8; by default to the scale's type."""
    axis, block = call.integer("axis", 1), call.integer("block_size")
    wide = scale.float() if scale.dtype in HALVES else scale
    zero = None if zero_point is None else along(as_real(zero_point, wide.dtype), x.shape, axis, block)
    y = dequantize(x, along(wide, x.shape, axis, block), zero)
    output_dtype = call.integer("output_dtype")
    return y.to(call.dtype(output_dtype) if output_dtype else scale.dtype)


def dynamic_quantization(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 over the tensor's own range, widened to hold zero.

    Returns:
        The quantised tensor, its scale and its zero point (uint8), both of rank 0.
    """
    low, high = (x.min().clamp(max=0), x.max().clamp(min=0)) if x.numel() else (x.sum(), x.sum())
    span = (high - low) / 255
    scale = torch.where(span == 0, torch.ones_like(span), span)
    zero_point = torch.round((-low / scale).clamp(0, 255)).to(torch.uint8)
    return quantize(x, scale, zero_point, torch.uint8), scale, zero_point


@kernel("DynamicQuantizeLinear")
def dynamic_quantize_linear(_call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear."""
    return dynamic_quantization(x)
