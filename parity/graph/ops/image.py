"""Sampling of images on torch: GridSample and AffineGrid."""

from __future__ import annotations

import torch.nn.functional as F

from parity.graph.ops.call import Call, Tensor, kernel

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@kernel("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """Values of images (or volumes) at the points of a grid in [-1, 1]."""
    mode = _MODES[call.text("mode", "linear")]
    if x.ndim not in (4, 5) or (x.ndim == 5 and mode == "bicubic"):
        raise NotImplementedError(f"{mode} sampling of a tensor with {x.ndim} axes")
    return F.grid_sample(x, grid.to(x.dtype), mode, call.text("padding_mode", "zeros"),
                         bool(call.integer("align_corners")))


@kernel("AffineGrid")
def affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    """The points at which an affine map [N, 2, 3] or [N, 3, 4] reads an image of this size."""
    return F.affine_grid(theta, size.tolist(), bool(call.integer("align_corners")))
