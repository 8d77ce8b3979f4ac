"""Normalisations on torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Tensor, kernel


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.reshape(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else v


@kernel("BatchNormalization")
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor,
                        ) -> Tensor | tuple[Tensor, ...]:
    """(x - mean) / √(var + epsilon) · scale + bias per channel; in training mode with the batch's own statistics.

    The momentum, epsilon and outputs are those of each version: before opset 14, training mode means more than
    one output (running mean, running variance, the batch's mean and variance).
    """
    epsilon, momentum = call.number("epsilon", 1e-5), call.number("momentum", 0.9)
    if not call.integer("spatial", 1):
        raise NotImplementedError("BatchNormalization with a statistic for every position")
    training = bool(call.integer("training_mode")) if call.opset >= 14 else call.output_count > 1
    if not training:
        if x.ndim < 2 or mean.requires_grad or var.requires_grad:  # what torch's own does not cover
            mean, var, scale, bias = (_per_channel(v, x) for v in (mean, var, scale, bias))
            return (x - mean) / (var + epsilon).sqrt() * scale + bias
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)
    axes = (0, *range(2, x.ndim))
    batch_var, batch_mean = torch.var_mean(x, dim=axes, correction=0)
    y = (x - _per_channel(batch_mean, x)) * _per_channel(scale / (batch_var + epsilon).sqrt(), x)
    running = [old * momentum + new * (1 - momentum) for old, new in ((mean, batch_mean), (var, batch_var))]
    return (y + _per_channel(bias, x), *running, batch_mean, batch_var)[:call.output_count]


@kernel("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each channel of each sample to mean 0 and variance 1, then scaled."""
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, call.number("epsilon", 1e-5), False)


@kernel("LayerNormalization")
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None,
                        ) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over the axes from `axis` on; also the mean and 1/√(variance + epsilon), in `stash_type`."""
    shape = x.shape[call.integer("axis", -1) % x.ndim:]
    fits = scale.shape == shape and (bias is None or bias.shape == shape)
    y, mean, inverse = torch.native_layer_norm(
        x, shape, scale if fits else None, bias if fits else None, call.number("epsilon", 1e-5))
    if not fits:
        y = y * scale if bias is None else y * scale + bias
    stash = call.dtype(call.integer("stash_type", 1))
    return y, mean.to(stash), inverse.to(stash)


@kernel("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each group of channels of each sample to mean 0 and variance 1; scaled per channel (per group before 21)."""
    groups = call.integer("num_groups")
    if call.opset < 21:
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return torch.group_norm(x, groups, scale, bias, call.number("epsilon", 1e-5))


@kernel("RMSNormalization")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """Divide by √(mean(x²) + epsilon) over the axes from `axis` on, then scale."""
    axes = tuple(range(call.integer("axis", -1) % x.ndim, x.ndim))
    return x * (x.square().mean(dim=axes, keepdim=True) + call.number("epsilon", 1e-5)).rsqrt() * scale


@kernel("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """Divide by the 1- or 2-norm along `axis`; 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, call.integer("p", 2), dim=call.integer("axis", -1), keepdim=True)
    return torch.where(norm == 0, 0.0, x / torch.where(norm == 0, 1.0, norm))


@kernel("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    """(x - mean) / (σ + 1e-9), the small number from the operator's definition in the standard."""
    axes = call.integers("axes")
    axes = [0, 2, 3] if axes is None else axes
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred / (centred.square().mean(dim=axes, keepdim=True).sqrt() + 1e-9)


@kernel("LRN")
def lrn(call: Call, x: Tensor) -> Tensor:
    """Divide by (bias + alpha/size · Σ x² over `size` neighbouring channels)^beta."""
    size = call.integer("size")
    alpha, beta = call.number("alpha", 1e-4), call.number("beta", 0.75)
    squares = F.pad(x.square().movedim(1, -1), ((size - 1) // 2, size // 2))
    total = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (call.number("bias", 1.0) + alpha / size * total).pow(beta)
