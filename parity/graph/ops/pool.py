"""Pooling on torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F

from parity.graph.ops.call import FLOATS, Call, Tensor, kernel
from parity.graph.ops.nn import effective_kernel, pad_spatial, window_pads

_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class Windows:
    """Where the windows of one pooling lie; every list has one entry a spatial axis.

    Attributes:
        size: elements of a window.
        stride: step between windows.
        dilation: step inside a window.
        before: padding at the start.
        after: padding at the end, as declared.
        reach: padding at the end that the last window needs (negative where it ends inside the input).
    """

    size: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]
    reach: list[int]

    @staticmethod
    def of(call: Call, x: Tensor) -> Windows:
        """Read the attributes; a last window that would start in the padding at the end is dropped."""
        size = call.integers("kernel_shape") or []
        stride = call.integers("strides") or [1] * len(size)
        dilation = call.integers("dilations") or [1] * len(size)
        extents = effective_kernel(size, dilation)
        before, after = window_pads(call, x.shape[2:], extents, stride)
        reach = []
        for n, s, e, start, end in zip(x.shape[2:], stride, extents, before, after, strict=True):
            room = n + start + end - e
            count = room // s + 1
            if call.integer("ceil_mode") and room % s and count * s < n + start:
                count += 1
            reach.append((count - 1) * s + e - n - start)
        return Windows(size, stride, dilation, before, after, reach)

    @property
    def native(self) -> bool:
        """Whether torch's own floor-mode pooling with symmetric padding gives the same windows."""
        return self.before == self.after and all(
            0 <= b <= k // 2 and r <= b for b, k, r in zip(self.before, self.size, self.reach, strict=True))

    def view(self, x: Tensor, fill: float) -> Tensor:
        """A view [N, C, out…, window…] of the padded input, every window's elements laid out."""
        x = pad_spatial(x, self.before, self.reach, fill)
        for axis, (s, e) in enumerate(zip(self.stride, effective_kernel(self.size, self.dilation), strict=True)):
            x = x.unfold(axis + 2, e, s)
        for axis, d in enumerate(self.dilation):
            x = x.movedim(axis - len(self.size), -1)[..., ::d].movedim(-1, axis - len(self.size))
        return x


@kernel("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Max pooling, with the flat indices of the maxima in the input tensor when asked for."""
    windows = Windows.of(call, x)
    rank = len(windows.size)
    if rank not in _MAXIMUM:
        raise NotImplementedError(f"pooling over {rank} axes")
    kind = x.dtype
    values = x if kind in FLOATS else x.to(torch.float32 if kind in (torch.int8, torch.uint8) else torch.float64)
    pads = windows.before
    if not windows.native:
        values, pads = pad_spatial(values, windows.before, windows.reach, -torch.inf), [0] * rank
    if not call.wants(1):
        return _MAXIMUM[rank](values, windows.size, windows.stride, pads, windows.dilation).to(kind)
    y, index = _MAXIMUM[rank](values, windows.size, windows.stride, pads, windows.dilation, return_indices=True)
    shifts = windows.before if not windows.native else [0] * rank
    places = torch.unravel_index(index, values.shape[2:])
    sizes = list(x.shape[2:])
    flat = (torch.arange(x.shape[0] * x.shape[1]) * prod(sizes)).reshape(*x.shape[:2], *[1] * rank)
    for axis, (place, shift) in enumerate(zip(places, shifts, strict=True)):
        inner = sizes[:axis] if call.integer("storage_order") else sizes[axis + 1:]
        flat = flat + (place - shift) * prod(inner)
    return y.to(kind), flat


@kernel("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    """Average pooling over the elements inside the input, or inside its padding with `count_include_pad`."""
    windows = Windows.of(call, x)
    counts_pads = bool(call.integer("count_include_pad"))
    rank = len(windows.size)
    if windows.native and rank in _AVERAGE and set(windows.dilation) <= {1}:
        return _AVERAGE[rank](x, windows.size, windows.stride, windows.before, count_include_pad=counts_pads)
    total = windows.view(x, 0.0).sum(dim=tuple(range(-rank, 0)))
    for axis, n in enumerate(x.shape[2:]):
        place = torch.arange(total.shape[axis + 2])[:, None] * windows.stride[axis] - windows.before[axis]
        place = place + torch.arange(windows.size[axis]) * windows.dilation[axis]
        first, last = (-windows.before[axis], n + windows.after[axis]) if counts_pads else (0, n)
        count = ((place >= first) & (place < last)).sum(1)
        total = total / count.to(x.dtype).reshape(-1, *[1] * (rank - 1 - axis))
    return total


@kernel("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    """(Σ|x|^p)^(1/p) over each window."""
    windows, p = Windows.of(call, x), call.integer("p", 2)
    return windows.view(x, 0.0).abs().pow(p).sum(dim=tuple(range(-len(windows.size), 0))).pow(1 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@kernel("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    """Mean over the spatial axes."""
    return x.mean(dim=_spatial(x), keepdim=True) if x.ndim > 2 else x


@kernel("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    """Maximum over the spatial axes."""
    return x.amax(dim=_spatial(x), keepdim=True) if x.ndim > 2 else x


@kernel("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    """(Σ|x|^p)^(1/p) over the spatial axes."""
    p = call.integer("p", 2)
    return x.abs().pow(p).sum(dim=_spatial(x), keepdim=True).pow(1 / p) if x.ndim > 2 else x.abs()


@kernel("MaxUnpool")
def max_unpool(call: Call, x: Tensor, index: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Put the values at their flat indices in a zero tensor of the unpooled shape, at the corner of `output_shape`."""
    size = call.integers("kernel_shape") or []
    stride = call.integers("strides") or [1] * len(size)
    pads = call.integers("pads") or [0] * (2 * len(size))
    inner = [(n - 1) * s - pads[i] - pads[len(size) + i] + k
             for i, (n, s, k) in enumerate(zip(x.shape[2:], stride, size, strict=True))]
    shape = [*x.shape[:2], *inner]
    y = x.new_zeros(prod(shape)).scatter(0, index.flatten(), x.flatten()).reshape(shape)
    if output_shape is None:
        return y
    return pad_spatial(y, [0] * y.ndim, [n - m for n, m in zip(output_shape.tolist(), shape, strict=True)])


@kernel("MaxRoiPool")
def max_roi_pool(call: Call, x: Tensor, rois: Tensor) -> Tensor:
    """Max over a grid of bins in each region [batch index, x1, y1, x2, y2]; 0 for an empty bin."""
    pooled = call.integers("pooled_shape") or []
    scale = call.number("spatial_scale", 1.0)

    def spans(start: float, end: float, size: int, bins: int) -> list[slice]:
        step = max(end - start + 1, 1) / bins
        edges = [(int(i * step // 1 + start), int(-(-(i + 1) * step // 1) + start)) for i in range(bins)]
        return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]

    outputs = []
    for batch, *corners in rois.tolist():
        # half away from zero, as C's round does
        x1, y1, x2, y2 = (int(abs(c * scale) + 0.5) * (1 if c >= 0 else -1) for c in corners)
        image = x[int(batch)]
        bins = [image[:, rows, columns] for rows in spans(y1, y2, x.shape[2], pooled[0])
                for columns in spans(x1, x2, x.shape[3], pooled[1])]
        values = [b.amax(dim=(1, 2)) if b.numel() else b.new_zeros(b.shape[0]) for b in bins]
        outputs.append(torch.stack(values, -1).reshape(-1, *pooled))
    return torch.stack(outputs) if outputs else x.new_zeros(0, x.shape[1], *pooled)


@kernel("RoiAlign")
def roi_align(call: Call, x: Tensor, rois: Tensor, batch_indices: Tensor) -> Tensor:
    """Average (or maximum) of bilinear samples in each bin of each region [x1, y1, x2, y2]."""
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half_pixel = call.text("coordinate_transformation_mode", default) == "half_pixel"
    scaled = rois * call.number("spatial_scale", 1.0) - (0.5 if half_pixel else 0.0)
    outputs = []
    for region, batch in zip(scaled, batch_indices.tolist(), strict=True):
        x1, y1, x2, y2 = region
        extent_y, extent_x = y2 - y1, x2 - x1
        if not half_pixel:
            extent_y, extent_x = extent_y.clamp(min=1.0), extent_x.clamp(min=1.0)
        low_y, high_y, part_y = _samples(y1, extent_y, height, x.shape[2], call.integer("sampling_ratio"))
        low_x, high_x, part_x = _samples(x1, extent_x, width, x.shape[3], call.integer("sampling_ratio"))
        image = x[batch]
        corners = [image[:, iy][:, :, ix] * (wy[:, None] * wx)
                   for iy, wy in ((low_y, part_y[0]), (high_y, part_y[1]))
                   for ix, wx in ((low_x, part_x[0]), (high_x, part_x[1]))]
        if call.text("mode", "avg") == "avg":
            bins = torch.stack(corners).sum(0)
            outputs.append(_bins(bins, height, width).mean(dim=(2, 4)))
        else:  # the maximum of the weighted corners themselves, as the standard's reference has it
            bins = torch.stack(corners).amax(0)
            outputs.append(_bins(bins, height, width).amax(dim=(2, 4)))
    return torch.stack(outputs) if outputs else x.new_zeros(0, x.shape[1], height, width)


def _bins(samples: Tensor, height: int, width: int) -> Tensor:
    return samples.reshape(len(samples), height, samples.shape[1] // height, width, samples.shape[2] // width)


def _samples(start: Tensor, extent: Tensor, bins: int, size: int, ratio: int,
             ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Indices of the two neighbours of each sample along one axis, and their weights (0 outside the image)."""
    per_bin = ratio if ratio > 0 else int(torch.ceil(extent / bins))
    step = extent / bins / max(per_bin, 1)
    at = start + (torch.arange(bins * per_bin, dtype=extent.dtype) + 0.5) * step
    inside = (at >= -1.0) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.detach().floor().long()
    part = at - low
    return low, (low + 1).clamp(max=size - 1), ((1 - part) * inside, part * inside)
