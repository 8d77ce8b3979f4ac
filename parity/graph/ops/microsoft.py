"""ONNX Runtime's contrib operators for networks in floating point: what its graph optimiser fuses.

The definitions are those of ONNX Runtime's ContribOperators.md and of its CPU kernels' results.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from onnx import helper
from torch.nn import functional as F

from parity.graph.ops.call import Call, Tensor, kernel
from parity.graph.ops.delegate import onnx_kernel, single

DOMAIN = "com.microsoft"


_ACTIVATION_OPSET = 10  # Clip has its limits as attributes
_CONV_PARAMS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}


def activate(call: Call, x: Tensor, params: Mapping[str, float]) -> Tensor:
    """Apply the activation that is fused to an operator.

    Args:
        call: names an ONNX operator in its attribute `activation`, or none.
        x: real values.
        params: attributes of that operator.
    """
    name = call.text("activation")
    if not name:
        return x
    return onnx_kernel(name, _ACTIVATION_OPSET, call, x, proto=helper.make_node(name, ["x"], ["y"], **params))


def _named_params(call: Call) -> dict[str, float]:
    """Parameters of an activation from the attributes activation_alpha, activation_beta and activation_gamma."""
    return {n: call.number(f"activation_{n}") for n in ("alpha", "beta", "gamma") if call.has(f"activation_{n}")}


@kernel("FusedConv", domain=DOMAIN)
def fused_conv(call: Call, x: Tensor, w: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """FusedConv: activation(Conv(x, w, bias) + z)."""
    y = onnx_kernel("Conv", 11, call, x, w, bias)
    params = zip(_CONV_PARAMS.get(call.text("activation"), ()), call.numbers("activation_params") or [], strict=False)
    return activate(call, y if z is None else y + z, dict(params))


@kernel("ConvTransposeWithDynamicPads", domain=DOMAIN)
def conv_transpose_with_dynamic_pads(call: Call, x: Tensor, w: Tensor, pads: Tensor | None = None,
                                     bias: Tensor | None = None) -> Tensor:
    """ConvTransposeWithDynamicPads: ConvTranspose whose pads are an input."""
    proto = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"])
    proto.attribute.extend(call.node.proto.attribute)
    if pads is not None:
        proto.attribute.append(helper.make_attribute("pads", pads.tolist()))
    return onnx_kernel("ConvTranspose", 11, call, x, w, bias, proto=proto)


@kernel("FusedGemm", domain=DOMAIN)
def fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """FusedGemm: activation(alpha · a · b + beta · c)."""
    y = torch.matmul(a.mT if call.integer("transA") else a, b.mT if call.integer("transB") else b)
    y = y * call.number("alpha", 1.0)
    if c is not None:
        y = y + c * call.number("beta", 1.0)
    return activate(call, y, _named_params(call))


def _transposed(x: Tensor, *, matrix: int, batch: int) -> Tensor:
    """Move the first axis behind the other batch axes, then swap the last two."""
    if batch and x.ndim > 2:
        x = x.movedim(0, -2)
    return x.mT if matrix and x.ndim > 1 else x


@kernel("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=DOMAIN)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """FusedMatMul and its kin: activation(alpha · a · b) with transpositions."""
    left = _transposed(a, matrix=call.integer("transA"), batch=call.integer("transBatchA"))
    right = _transposed(b, matrix=call.integer("transB"), batch=call.integer("transBatchB"))
    y = torch.matmul(left, right) * call.number("alpha", 1.0)
    if call.text("activation") == "Softmax":
        return y.softmax(call.integer("activation_axis", -1))
    return activate(call, y, _named_params(call))


@kernel("Gelu", "BiasGelu", domain=DOMAIN)
def gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gelu of x, or of x + bias, by the error function."""
    return F.gelu(x if bias is None else x + bias)


@kernel("FastGelu", domain=DOMAIN)
def fast_gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """FastGelu of x + bias: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@kernel("QuickGelu", domain=DOMAIN)
def quick_gelu(call: Call, x: Tensor) -> Tensor:
    """QuickGelu: x · sigmoid(alpha · x)."""
    return x * (call.number("alpha", single(1.702)) * x).sigmoid()


@kernel("BiasAdd", domain=DOMAIN)
def bias_add(_call: Call, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """BiasAdd: x + bias + skip."""
    return x + bias + skip


@kernel("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(_call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """BiasSplitGelu: the left half of x + bias times the Gelu of its right half."""
    left, right = (x + bias).chunk(2, -1)
    return left * F.gelu(right)


@kernel("BiasSoftmax", domain=DOMAIN)
def bias_softmax(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    """BiasSoftmax: Softmax of x + bias over all axes from `axis` on, as ONNX defines it before opset 13."""
    total = x + bias
    return total.flatten(call.integer("axis", 1) % x.ndim).softmax(-1).reshape(total.shape)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor | None, epsilon: float) -> Tensor:
    """Layer normalisation over the last axis."""
    return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


def rms_norm(x: Tensor, scale: Tensor, epsilon: float, axis: int = -1) -> tuple[Tensor, Tensor]:
    """RMS normalisation over the axes from `axis` on: x / √(mean(x²) + epsilon) · scale.

    Returns:
        The result, and the reciprocal of the root.
    """
    axes = list(range(axis % x.ndim, x.ndim))
    inverse = torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon)
    return x * inverse * scale, inverse


@kernel("SimplifiedLayerNormalization")
@kernel("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_norm(call: Call, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """SimplifiedLayerNormalization, which ONNX Runtime puts into ONNX's own domain."""
    return rms_norm(x, scale, call.number("epsilon", single(1e-5)), call.integer("axis", -1))


_SKIP_EPSILON = single(1e-12)


@kernel("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_norm(call: Call, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None,
                    bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """SkipLayerNormalization of x + skip + bias, and that sum."""
    total = x + skip if bias is None else x + skip + bias
    epsilon = call.number("epsilon", _SKIP_EPSILON)
    variance, mean = torch.var_mean(total, -1, correction=0, keepdim=True)
    return layer_norm(total, gamma, beta, epsilon), mean, torch.rsqrt(variance + epsilon), total


@kernel("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_simplified_layer_norm(call: Call, x: Tensor, skip: Tensor, gamma: Tensor,
                               bias: Tensor | None = None) -> tuple[Tensor, None, Tensor, Tensor]:
    """SkipSimplifiedLayerNormalization of x + skip + bias, and that sum."""
    total = x + skip if bias is None else x + skip + bias
    y, inverse = rms_norm(total, gamma, call.number("epsilon", _SKIP_EPSILON))
    return y, None, inverse, total


@kernel("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_norm(call: Call, input_ids: Tensor, segment_ids: Tensor | None, words: Tensor, positions: Tensor,
                     segments: Tensor | None, gamma: Tensor, beta: Tensor, mask: Tensor | None = None,
                     position_ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """EmbedLayerNormalization: of the sum of word, position and segment embeddings.

    Its second output counts the ones in each row of the mask (zeros without one); its third is the sum.
    """
    batch, length = input_ids.shape
    where = torch.arange(length) if position_ids is None else position_ids.long()
    total = words[input_ids.long()] + positions[where]
    if segment_ids is not None and segments is not None:
        total = total + segments[segment_ids.long()]
    counts = torch.zeros(batch, dtype=torch.int32) if mask is None else (mask == 1).sum(1, dtype=torch.int32)
    return layer_norm(total, gamma, beta, call.number("epsilon", _SKIP_EPSILON)), counts, total


@kernel("Inverse", domain=DOMAIN)
def inverse(_call: Call, x: Tensor) -> Tensor:
    """Inverse of each matrix of a batch."""
    inverted: Tensor = torch.linalg.inv(x)
    return inverted


@kernel("ExpandDims", domain=DOMAIN)
def expand_dims(_call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """ExpandDims: insert an axis of length one."""
    return x.unsqueeze(int(axis))


@kernel("CDist", domain=DOMAIN)
def cdist(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """CDist: distances between the rows of a and of b."""
    metric = call.text("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        raise NotImplementedError(f"metric {metric}")
    squares = (a[:, None] - b[None]).square().sum(-1)
    return squares.sqrt() if metric == "euclidean" else squares


@kernel("Unique", domain=DOMAIN)
def unique(_call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unique of a vector in order of first appearance: the values, where each element went, and the counts."""
    values, places, counts = torch.unique(x, return_inverse=True, return_counts=True)
    first = torch.full((len(values),), x.numel()).scatter_reduce(0, places, torch.arange(x.numel()), "amin")
    order = first.argsort()
    return values[order], order.argsort()[places], counts[order]


@kernel("NhwcMaxPool", domain=DOMAIN)
def nhwc_max_pool(call: Call, x: Tensor) -> Tensor:
    """NhwcMaxPool of int8 or uint8: MaxPool with channels last."""
    return onnx_kernel("MaxPool", 12, call, x.movedim(-1, 1)).movedim(1, -1)


@kernel("Range", domain=DOMAIN)
def arange(call: Call, start: Tensor, limit: Tensor, delta: Tensor | None = None) -> Tensor:
    """Range, with a step of one where none is given."""
    parameters = (p.reshape(()) for p in (start, limit, torch.ones_like(start) if delta is None else delta))
    return onnx_kernel("Range", 11, call, *parameters)


@kernel("Pad", domain=DOMAIN)
def pad(call: Call, x: Tensor, pads: Tensor, value: Tensor | None = None) -> Tensor:
    """Pad, whose pads may come as a row and whose value as a vector."""
    return onnx_kernel("Pad", 13, call, x, pads.flatten(), None if value is None else value.reshape(()))


for _op, _opset in (("GatherND", 11), ("GridSample", 16), ("Trilu", 14)):
    kernel(_op, domain=DOMAIN)(partial(onnx_kernel, _op, _opset))
