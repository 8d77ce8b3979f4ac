"""ONNX Runtime's contrib operators on quantised tensors: dequantise, compute, quantise.

ONNX Runtime looks some of these up in tables or multiplies by reciprocals, so it may land one step beside a tie.
"""

from __future__ import annotations

import torch

from parity.graph.ops.call import Call, Tensor, kernel
from parity.graph.ops.delegate import onnx_kernel, single
from parity.graph.ops.microsoft import DOMAIN
from parity.graph.ops.quantize import dequantize, quantize


@kernel("QLinearAdd", domain=DOMAIN)
def qlinear_add(_call: Call, a: Tensor, a_scale: Tensor, a_zero_point: Tensor | None, b: Tensor, b_scale: Tensor,
                b_zero_point: Tensor | None, c_scale: Tensor, c_zero_point: Tensor | None = None) -> Tensor:
    """QLinearAdd."""
    c = dequantize(a, a_scale, a_zero_point) + dequantize(b, b_scale, b_zero_point)
    return quantize(c, c_scale, c_zero_point, a.dtype)


@kernel("QLinearMul", domain=DOMAIN)
def qlinear_mul(_call: Call, a: Tensor, a_scale: Tensor, a_zero_point: Tensor | None, b: Tensor, b_scale: Tensor,
                b_zero_point: Tensor | None, c_scale: Tensor, c_zero_point: Tensor | None = None) -> Tensor:
    """QLinearMul."""
    one = torch.ones_like(a_scale)
    product = dequantize(a, one, a_zero_point) * dequantize(b, one, b_zero_point)
    return quantize(product * (a_scale * b_scale / c_scale), one, c_zero_point, a.dtype)


@kernel("QLinearSigmoid", domain=DOMAIN)
def qlinear_sigmoid(_call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None, y_scale: Tensor,
                    y_zero_point: Tensor | None = None) -> Tensor:
    """QLinearSigmoid."""
    return quantize(dequantize(x, x_scale, x_zero_point).sigmoid(), y_scale, y_zero_point, x.dtype)


@kernel("QLinearLeakyRelu", domain=DOMAIN)
def qlinear_leaky_relu(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None, y_scale: Tensor,
                       y_zero_point: Tensor | None = None) -> Tensor:
    """QLinearLeakyRelu."""
    real = dequantize(x, x_scale, x_zero_point)
    y = torch.where(real >= 0, real, call.number("alpha", single(0.01)) * real)
    return quantize(y, y_scale, y_zero_point, x.dtype)


@kernel("QLinearSoftmax", domain=DOMAIN)
def qlinear_softmax(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None, y_scale: Tensor,
                    y_zero_point: Tensor) -> Tensor:
    """QLinearSoftmax along `axis`, or before opset 13 (an attribute) over all axes from there on."""
    real = dequantize(x, x_scale, x_zero_point)
    axis = call.integer("axis", -1)
    y = (real.softmax(axis) if call.integer("opset") >= 13 else
         real.flatten(axis % x.ndim).softmax(-1).reshape(x.shape))
    return quantize(y, y_scale, y_zero_point, x.dtype)


@kernel("QLinearGlobalAveragePool", domain=DOMAIN)
def qlinear_global_average_pool(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor,
                                y_zero_point: Tensor) -> Tensor:
    """QLinearGlobalAveragePool."""
    axes = list(range(1, x.ndim - 1) if call.integer("channels_last") else range(2, x.ndim))
    mean = dequantize(x, x_scale, x_zero_point).mean(axes, keepdim=True)
    return quantize(mean, y_scale, y_zero_point, x.dtype)


@kernel("QLinearAveragePool", domain=DOMAIN)
def qlinear_average_pool(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None, y_scale: Tensor,
                         y_zero_point: Tensor | None = None) -> Tensor:
    """QLinearAveragePool."""
    real = dequantize(x, x_scale, x_zero_point)
    channels_last = call.integer("channels_last")
    mean = onnx_kernel("AveragePool", 11, call, real.movedim(-1, 1) if channels_last else real)
    return quantize(mean.movedim(1, -1) if channels_last else mean, y_scale, y_zero_point, x.dtype)


@kernel("QLinearReduceMean", domain=DOMAIN)
def qlinear_reduce_mean(call: Call, x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None, y_scale: Tensor,
                        y_zero_point: Tensor | None = None) -> Tensor:
    """QLinearReduceMean."""
    axes = call.integers("axes") or list(range(x.ndim))
    mean = dequantize(x, x_scale, x_zero_point).mean(axes, keepdim=bool(call.integer("keepdims", 1)))
    return quantize(mean, y_scale, y_zero_point, x.dtype)


@kernel("QLinearConcat", domain=DOMAIN)
def qlinear_concat(call: Call, y_scale: Tensor, y_zero_point: Tensor, *triples: Tensor) -> Tensor:
    """QLinearConcat of (tensor, scale, zero point) triples."""
    parts = [quantize(dequantize(x, scale, zero), y_scale, y_zero_point, y_zero_point.dtype)
             for x, scale, zero in zip(triples[::3], triples[1::3], triples[2::3], strict=True)]
    return torch.cat(parts, call.integer("axis"))


@kernel("QLinearWhere", domain=DOMAIN)
def qlinear_where(_call: Call, condition: Tensor, x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y: Tensor,
                  y_scale: Tensor, y_zero_point: Tensor, z_scale: Tensor, z_zero_point: Tensor) -> Tensor:
    """QLinearWhere."""
    z = torch.where(condition, dequantize(x, x_scale, x_zero_point), dequantize(y, y_scale, y_zero_point))
    return quantize(z, z_scale, z_zero_point, x.dtype)


@kernel("MulInteger", domain=DOMAIN)
def mul_integer(_call: Call, a: Tensor, a_zero_point: Tensor | None, b: Tensor,
                b_zero_point: Tensor | None = None) -> Tensor:
    """MulInteger: the product of centred integers as int32."""
    left = a.int() if a_zero_point is None else a.int() - a_zero_point.int()
    right = b.int() if b_zero_point is None else b.int() - b_zero_point.int()
    return left * right


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Split bytes into the numbers that they hold, the first in the lowest bits.

    Args:
        packed: uint8, (…, n).
        bits: width of a number: 2, 4 or 8.

    Returns:
        uint8, (…, n · 8 / bits).
    """
    shifts = torch.arange(0, 8, bits)
    spread = torch.bitwise_right_shift(packed.unsqueeze(-1), shifts).bitwise_and(2**bits - 1)
    return spread.flatten(-2).to(torch.uint8)


@kernel("MatMulNBits", domain=DOMAIN)
def matmul_nbits(call: Call, a: Tensor, b: Tensor, scales: Tensor, zero_points: Tensor | None = None,
                 g_idx: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """MatMulNBits: a times the transpose of a weight stored in 2, 4 or 8 bits with a scale for each block of K."""
    bits, rows, columns = call.integer("bits", 4), call.integer("N"), call.integer("K")
    if g_idx is not None or call.integer("weight_prepacked") or bits not in (2, 4, 8):
        raise NotImplementedError("grouped, prepacked or odd-sized weights")
    steps = unpack(b.reshape(rows, -1), bits).reshape(rows, -1, call.integer("block_size")).to(scales.dtype)
    blocks = steps.shape[1]
    if zero_points is None:
        zero = torch.full((), 2.0 ** (bits - 1), dtype=scales.dtype)
    elif zero_points.dtype == torch.uint8:
        zero = unpack(zero_points.reshape(rows, -1), bits)[:, :blocks, None].to(scales.dtype)
    else:
        zero = zero_points.reshape(rows, blocks, 1)
    weight = ((steps - zero) * scales.reshape(rows, blocks, 1)).flatten(1)[:, :columns]
    y = torch.matmul(a, weight.mT)
    return y if bias is None else y + bias
