"""Matrix products and convolutions of integers, with and without requantisation.

Sums of 8- and 16-bit products are computed in FP64, where they are exact up to 2⁵³, and then wrapped to 32 bits
where the operator returns an integer.
"""

from __future__ import annotations

import torch

from parity.graph.ops.call import Call, Tensor, kernel
from parity.graph.ops.delegate import onnx_kernel
from parity.graph.ops.quantize import along, as_real, dynamic_quantization, quantize

_CONV_OPSET = 11


def centred(q: Tensor, zero_point: Tensor | None, axis: int = 0) -> Tensor:
    """Subtract the zero point in FP64; it is one value, or one for each index of `axis`."""
    exact = as_real(q, torch.float64)
    return exact if zero_point is None else exact - along(as_real(zero_point, torch.float64), q.shape, axis)


def wrapped(exact: Tensor) -> Tensor:
    """Whole numbers in FP64 as int32, modulo 2³²."""
    return exact.to(torch.int64).to(torch.int32)


def requantize(exact: Tensor, multiplier: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """saturate(round_half_even(exact · multiplier) + zero_point), computed in the dtype of the multiplier.

    Args:
        exact: an accumulator, whole numbers in FP64.
        multiplier: the scales of the inputs over that of the output, broadcastable to the accumulator.
        zero_point: of the output; None for zero.
        dtype: integer type of the result.
    """
    one = torch.ones((), dtype=multiplier.dtype)
    return quantize(exact.to(multiplier.dtype) * multiplier, one, zero_point, dtype)


def product(a: Tensor, b: Tensor, a_zero_point: Tensor | None, b_zero_point: Tensor | None) -> Tensor:
    """The exact matrix product of centred integers, in FP64.

    Args:
        a: (…, M, K).
        b: (…, K, N).
        a_zero_point: one value, (M,) or (…, M, 1).
        b_zero_point: one value, (N,) or (…, 1, N).
    """
    left, right = as_real(a, torch.float64), as_real(b, torch.float64)
    if a_zero_point is not None:
        left = left - as_real(a_zero_point.unsqueeze(-1) if a_zero_point.ndim == 1 else a_zero_point, torch.float64)
    if b_zero_point is not None:
        right = right - as_real(b_zero_point, torch.float64)
    return torch.matmul(left, right)


@kernel("MatMulInteger")
def matmul_integer(_call: Call, a: Tensor, b: Tensor, a_zero_point: Tensor | None = None,
                   b_zero_point: Tensor | None = None) -> Tensor:
    """MatMulInteger."""
    return wrapped(product(a, b, a_zero_point, b_zero_point))


@kernel("MatMulInteger16", domain="com.microsoft")
def matmul_integer16(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """MatMulInteger16."""
    exact = product(a, b, None, None).to(torch.int64)
    return exact.to(torch.uint32 if a.dtype == b.dtype == torch.uint16 else torch.int32)


@kernel("QLinearMatMul")
def qlinear_matmul(_call: Call, a: Tensor, a_scale: Tensor, a_zero_point: Tensor, b: Tensor, b_scale: Tensor,
                   b_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """QLinearMatMul; parameters of a and y may be by row, those of b by column."""
    rows, y_rows, y_zero = (p.unsqueeze(-1) if p.ndim == 1 else p for p in (a_scale, y_scale, y_zero_point))
    exact = product(a, b, a_zero_point, b_zero_point)
    return requantize(exact, rows * b_scale / y_rows, y_zero, y_zero_point.dtype)


def convolution(call: Call, x: Tensor, w: Tensor, x_zero_point: Tensor | None, w_zero_point: Tensor | None) -> Tensor:
    """The exact convolution of centred integers, in FP64; padding stands for a real zero.

    Args:
        call: holds the attributes of Conv.
        x: (N, C, …).
        w: (M, C / group, …).
        x_zero_point: one value.
        w_zero_point: one value or (M,).
    """
    return onnx_kernel("Conv", _CONV_OPSET, call, centred(x, x_zero_point), centred(w, w_zero_point))


@kernel("ConvInteger")
def conv_integer(call: Call, x: Tensor, w: Tensor, x_zero_point: Tensor | None = None,
                 w_zero_point: Tensor | None = None) -> Tensor:
    """ConvInteger."""
    return wrapped(convolution(call, x, w, x_zero_point, w_zero_point))


@kernel("QLinearConv")
@kernel("QLinearConv", domain="com.microsoft")
def qlinear_conv(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor, w: Tensor, w_scale: Tensor,
                 w_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor, bias: Tensor | None = None) -> Tensor:
    """QLinearConv; the bias is int32 with scale x_scale · w_scale. Channels may come last in com.microsoft."""
    channels_last = call.integer("channels_last")
    exact = convolution(call, x.movedim(-1, 1) if channels_last else x, w, x_zero_point, w_zero_point)
    if bias is not None:
        exact = exact + along(as_real(bias, torch.float64), exact.shape, 1)
    multiplier = along(x_scale * w_scale / y_scale, exact.shape, 1)
    y = requantize(exact, multiplier, y_zero_point, y_zero_point.dtype)
    return y.movedim(1, -1) if channels_last else y


@kernel("QGemm", domain="com.microsoft")
def qgemm(call: Call, a: Tensor, a_scale: Tensor, a_zero_point: Tensor | None, b: Tensor, b_scale: Tensor,
          b_zero_point: Tensor | None = None, c: Tensor | None = None, y_scale: Tensor | None = None,
          y_zero_point: Tensor | None = None) -> Tensor:
    """QGemm: alpha · a · b + c, requantised when the output has a scale, else real."""
    left = a.mT if call.integer("transA") else a
    right = b.mT if call.integer("transB") else b
    exact = product(left, right, a_zero_point, b_zero_point)
    if c is not None:
        exact = exact + as_real(c, torch.float64)
    scale = a_scale * b_scale * call.number("alpha", 1.0)
    if y_scale is None:
        return exact.to(scale.dtype) * scale
    return requantize(exact, scale / y_scale, y_zero_point, torch.uint8 if y_zero_point is None else y_zero_point.dtype)


@kernel("MatMulIntegerToFloat", domain="com.microsoft")
def matmul_integer_to_float(_call: Call, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor,
                            a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None,
                            bias: Tensor | None = None) -> Tensor:
    """MatMulIntegerToFloat; parameters of b may be by column."""
    return _real_product(a, b, a_scale * b_scale, a_zero_point, b_zero_point, bias)


def _real_product(a: Tensor, b: Tensor, scale: Tensor, a_zero_point: Tensor | None, b_zero_point: Tensor | None,
                  bias: Tensor | None) -> Tensor:
    y = product(a, b, a_zero_point, b_zero_point).to(scale.dtype) * scale
    return y if bias is None else y + bias


@kernel("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_quantize_matmul(_call: Call, a: Tensor, b: Tensor, b_scale: Tensor, b_zero_point: Tensor | None = None,
                            bias: Tensor | None = None) -> Tensor:
    """DynamicQuantizeMatMul: DynamicQuantizeLinear on a, then MatMulIntegerToFloat."""
    quantized, a_scale, a_zero_point = dynamic_quantization(a)
    return _real_product(quantized, b, a_scale * b_scale, a_zero_point, b_zero_point, bias)
