"""What is inside of PyTorch's fused operators, in the steps that exporters write out.

Each function computes its operator in smaller ones, whose results a recorder sees; None where it does not apply. Where
exporters associate a product in more than one way, the other ways are computed too, for their steps alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

aten = torch.ops.aten


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.mm(left, right)
    return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)


def _baddbmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.bmm(left, right)
    return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        inner = x + 0.044715 * x.pow(3)
        outer = 1 + torch.tanh(inner * math.sqrt(2 / math.pi))
    else:
        outer = 1 + torch.erf(x / math.sqrt(2))
    _ = 0.5 * outer
    _ = 0.5 * (x * outer)
    return (0.5 * x) * outer


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _hardsigmoid(x: Tensor) -> Tensor:
    return torch.clamp(x + 3, 0, 6) / 6


def _hardswish(x: Tensor) -> Tensor:
    clamped = torch.clamp(x + 3, 0, 6)
    _ = x * clamped
    return x * (clamped / 6)


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, training: bool,
                momentum: float, eps: float) -> tuple[Tensor, ...] | None:
    if training:
        return None
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scaled = (x - mean.reshape(shape)) / torch.sqrt(var + eps).reshape(shape)
    scaled = scaled if weight is None else scaled * weight.reshape(shape)
    return (scaled if bias is None else scaled + bias.reshape(shape)), x.new_zeros(0), x.new_zeros(0)


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None,
                eps: float) -> tuple[Tensor, ...]:
    axes = list(range(-len(shape), 0))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    deviation = torch.sqrt(centred.pow(2).mean(axes, keepdim=True) + eps)
    y = centred / deviation
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, 1 / deviation


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, channels: int, area: int,
                groups: int, eps: float) -> tuple[Tensor, ...]:
    grouped = x.reshape(batch, groups, -1)
    mean = grouped.mean(-1, keepdim=True)
    deviation = torch.sqrt((grouped - mean).pow(2).mean(-1, keepdim=True) + eps)
    y = ((grouped - mean) / deviation).reshape(x.shape)
    shape = [1, channels, *[1] * (x.dim() - 2)]
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y, mean.reshape(batch, groups), (1 / deviation).reshape(batch, groups)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None,
              ) -> tuple[Tensor, Tensor]:
    axes = list(range(-len(shape), 0))
    inverse = torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + (torch.finfo(torch.float32).eps if eps is None else eps))
    y = x * inverse
    return (y if weight is None else y * weight), inverse


def _rsqrt(x: Tensor) -> Tensor:
    return 1 / torch.sqrt(x)


EXPANSIONS: Mapping[object, Callable[..., object]] = MappingProxyType({
    aten.addmm.default: _addmm, aten.baddbmm.default: _baddbmm, aten.gelu.default: _gelu, aten.silu.default: _silu,
    aten.hardsigmoid.default: _hardsigmoid, aten.hardswish.default: _hardswish,
    aten.native_batch_norm.default: _batch_norm, aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm, aten._fused_rms_norm.default: _rms_norm,  # noqa: SLF001 - public only under this name
    aten.rsqrt.default: _rsqrt})
