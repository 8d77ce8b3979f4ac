"""Convolutions on torch: Conv, ConvTranspose, DeformConv, Col2Im."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Tensor, kernel

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def effective_kernel(kernel_shape: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """How many input positions a dilated kernel spans, per axis."""
    return [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]


def window_pads(call: Call, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int],
                ) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, by `auto_pad` or `pads`.

    Args:
        call: the node.
        sizes: the spatial sizes of its input.
        extents: what one window spans, dilation included.
        strides: the step between windows.
    """
    mode, rank = call.text("auto_pad", "NOTSET"), len(sizes)
    if mode.startswith("SAME"):
        totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(sizes, extents, strides, strict=True)]
        halves, rests = [t // 2 for t in totals], [t - t // 2 for t in totals]
        return (halves, rests) if mode == "SAME_UPPER" else (rests, halves)
    pads = call.integers("pads") if mode == "NOTSET" else None
    pads = pads or [0] * (2 * rank)
    return pads[:rank], pads[rank:]


def pad_spatial(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of `x`, one entry of `before` and `after` for each; a negative pad crops."""
    flat = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


@kernel("Conv")
def conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """N-D convolution (1 to 3 spatial axes) with groups, dilations and asymmetric padding."""
    rank = x.ndim - 2
    if rank not in _CONV:
        raise NotImplementedError(f"convolution over {rank} axes")
    strides = call.integers("strides") or [1] * rank
    dilations = call.integers("dilations") or [1] * rank
    before, after = window_pads(call, x.shape[2:], effective_kernel(w.shape[2:], dilations), strides)
    if before != after or min(before) < 0:
        x, before = pad_spatial(x, before, after), [0] * rank
    return _CONV[rank](x, w, b, strides, before, dilations, call.integer("group", 1))


@kernel("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Transposed convolution: the whole scatter, then cropped (or padded with the bias) to the output shape."""
    rank = x.ndim - 2
    if rank not in _CONV_TRANSPOSE:
        raise NotImplementedError(f"transposed convolution over {rank} axes")
    strides = call.integers("strides") or [1] * rank
    dilations = call.integers("dilations") or [1] * rank
    extra = call.integers("output_padding") or [0] * rank
    extents = effective_kernel(w.shape[2:], dilations)
    full = [(n - 1) * s + e for n, s, e in zip(x.shape[2:], strides, extents, strict=True)]
    before, after, extra = _transposed_pads(call, x.shape[2:], full, strides, extra)
    groups = call.integer("group", 1)
    if before == after and min(before) >= 0 and all(e < max(s, d) for e, s, d in
                                                    zip(extra, strides, dilations, strict=True)):
        return _CONV_TRANSPOSE[rank](x, w, b, strides, before, extra, groups, dilations)
    y = _CONV_TRANSPOSE[rank](x, w, None, strides, 0, 0, groups, dilations)
    y = pad_spatial(y, [-p for p in before], [e - p for e, p in zip(extra, after, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def _transposed_pads(call: Call, sizes: Sequence[int], full: Sequence[int], strides: Sequence[int],
                     extra: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """What to crop before and after each axis, and what to add at its end.

    For a given output shape an odd number is cropped at the end for SAME_UPPER, else at the start.
    """
    mode, wanted = call.text("auto_pad", "NOTSET"), call.integers("output_shape")
    if mode.startswith("SAME") and not wanted:
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    if not wanted:
        return *window_pads(call, sizes, full, strides), list(extra)
    totals = [f + e - n for f, e, n in zip(full, extra, wanted[-len(full):], strict=True)]
    extra = [e + max(-t, 0) for e, t in zip(extra, totals, strict=True)]
    halves, rests = [max(t, 0) // 2 for t in totals], [max(t, 0) - max(t, 0) // 2 for t in totals]
    return (halves, rests, extra) if mode == "SAME_UPPER" else (rests, halves, extra)


@kernel("DeformConv")
def deform_conv(call: Call, x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None,
                mask: Tensor | None = None) -> Tensor:
    """Deformable 2-D convolution: bilinear samples at shifted kernel positions, then a grouped matrix product."""
    if x.ndim != 4:
        raise NotImplementedError("deformable convolution is known for images only")
    (batch, channels, height, width), (kh, kw) = x.shape, w.shape[2:]
    oh, ow = offset.shape[2:]
    stride = call.integers("strides") or [1, 1]
    dilation = call.integers("dilations") or [1, 1]
    pads = call.integers("pads") or [0] * 4
    groups, offset_groups = call.integer("group", 1), call.integer("offset_group", 1)

    def positions(axis: int, kernel_size: int, out: int) -> Tensor:
        taps = torch.arange(kernel_size, dtype=x.dtype) * dilation[axis]
        return taps[:, None] + torch.arange(out, dtype=x.dtype) * stride[axis] - pads[axis]

    shifts = offset.reshape(batch * offset_groups, kh, kw, 2, oh, ow)
    rows = positions(0, kh, oh)[:, None, :, None] + shifts[:, :, :, 0]
    columns = positions(1, kw, ow)[None, :, None, :] + shifts[:, :, :, 1]
    images = x.reshape(batch * offset_groups, channels // offset_groups, height, width)
    samples = _bilinear(images, rows.flatten(1), columns.flatten(1))
    samples = samples.reshape(batch, offset_groups, -1, kh * kw, oh, ow)
    if mask is not None:
        samples = samples * mask.reshape(batch, offset_groups, 1, kh * kw, oh, ow)
    samples = samples.reshape(batch, groups, channels // groups * kh * kw, oh * ow)
    y = (w.reshape(groups, w.shape[0] // groups, -1) @ samples).reshape(batch, -1, oh, ow)
    return y if b is None else y + b.reshape(-1, 1, 1)


def _bilinear(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values of images [N, C, H, W] at points [N, P], the outside being zero → [N, C, P]."""
    height, width = images.shape[2:]
    flat, total = images.flatten(2), torch.zeros(())
    top, left = rows.detach().floor(), columns.detach().floor()
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = (1 - (rows - row).abs()) * (1 - (columns - column).abs()) * inside
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        total = total + values * weight[:, None]
    return total


@kernel("Col2Im")
def col2im(call: Call, x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """Add up the blocks [N, C·∏block, L] at their places in an image of any rank."""
    sizes, block = image_shape.tolist(), block_shape.tolist()
    rank = len(sizes)
    stride = call.integers("strides") or [1] * rank
    dilation = call.integers("dilations") or [1] * rank
    pads = call.integers("pads") or [0] * (2 * rank)
    padded = [n + pads[i] + pads[rank + i] for i, n in enumerate(sizes)]
    place = torch.zeros((1,) * (2 * rank), dtype=torch.int64)
    for i, extent in enumerate(effective_kernel(block, dilation)):
        starts = torch.arange(0, padded[i] - extent + 1, stride[i])
        at = torch.arange(block[i])[:, None] * dilation[i] + starts
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = at.shape
        place = place + at.reshape(shape) * prod(padded[i + 1:])
    columns = x.reshape(x.shape[0], x.shape[1] // prod(block), -1)
    image = columns.new_zeros(*columns.shape[:2], prod(padded)).index_add(2, place.flatten(), columns)
    return pad_spatial(image.reshape(*columns.shape[:2], *padded), [-p for p in pads[:rank]],
                       [-p for p in pads[rank:]])
