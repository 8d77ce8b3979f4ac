"""Resize and Upsample on torch, one axis after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.graph.ops.call import FLOATS, Call, Tensor, kernel, to_numpy


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        size: before.
        resized: after.
        scale: after over before; not always their quotient, since the new size is rounded down.
        start: begin of the region of interest, in units of the size.
        end: its end.
    """

    size: int
    resized: int
    scale: np.float32
    start: float = 0.0
    end: float = 1.0

    def coordinates(self, transformation: str, dtype: type[np.floating]) -> np.ndarray:
        """Where each output element lies in the input [resized], by the formulas of the ONNX standard.

        Args:
            transformation: the attribute `coordinate_transformation_mode`.
            dtype: float type to compute in. The choice of a nearest neighbour hangs on its rounding, so that is
                made in FP32 always, as runtimes do.

        Raises:
            NotImplementedError: an unknown transformation.
        """
        n, scale = dtype(self.size), dtype(self.scale)
        x = np.arange(self.resized, dtype=dtype)
        half, one = dtype(0.5), dtype(1)
        at: np.ndarray
        match transformation:
            case "half_pixel":
                at = (x + half) / scale - half
            case "pytorch_half_pixel":
                at = (x + half) / scale - half if self.resized > 1 else x
            case "half_pixel_symmetric":
                at = n / 2 * (one - dtype(self.resized) / (scale * n)) + (x + half) / scale - half
            case "align_corners":
                at = x * (n - one) / dtype(max(self.resized - 1, 1))
            case "asymmetric":
                at = x / scale
            case "tf_half_pixel_for_nn":
                at = (x + half) / scale
            case "tf_crop_and_resize" if self.resized == 1:
                at = x + half * dtype(self.start + self.end) * (n - one)
            case "tf_crop_and_resize":
                at = dtype(self.start) * (n - one) + x * dtype(self.end - self.start) * (n - one) / dtype(
                    self.resized - 1)
            case _:
                raise NotImplementedError(f"coordinate transformation {transformation}")
        return at


# How near to a half an FP32 coordinate counts as a tie; ONNX Runtime's tolerance, found by trying it.
_TIE = 1e-6
_ROUNDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5 - _TIE),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5 + _TIE),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _linear(distance: np.ndarray) -> np.ndarray:
    weight: np.ndarray = np.maximum(1 - np.abs(distance), 0)
    return weight


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel with slope `a` at 1."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weight: np.ndarray = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return weight


@dataclass(frozen=True)
class Interpolation:
    """The attributes that say how values between elements are made."""

    mode: str
    transformation: str
    rounding: str
    antialias: bool
    exclude_outside: bool
    cubic_a: float

    @staticmethod
    def of(call: Call) -> Interpolation:
        """Read the attributes of a Resize of opset 11 and up, or of an older one, which knows no others than `mode`."""
        old = call.opset < 11
        transformation = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
        return Interpolation(call.text("mode", "nearest"), transformation,
                             "old" if old else call.text("nearest_mode", "round_prefer_floor"),
                             bool(call.integer("antialias")), bool(call.integer("exclude_outside")),
                             call.number("cubic_coeff_a", -0.75))

    def nearest(self, axis: Axis) -> Tensor:
        """The input element that each output element takes [resized]."""
        at = axis.coordinates(self.transformation, np.float32)
        # Before opset 11 nothing is said about rounding; runtimes take the floor, or the ceiling when shrinking.
        rounding = self.rounding if self.rounding != "old" else "ceil" if axis.scale < 1 else "floor"
        return torch.as_tensor(_ROUNDINGS[rounding](at.astype(np.float64)).clip(0, axis.size - 1).astype(np.int64))

    def weights(self, axis: Axis, dtype: type[np.floating]) -> tuple[Tensor, Tensor]:
        """The input elements that each output element mixes, and how much of each, both [resized, taps].

        Raises:
            NotImplementedError: an unknown mode.
        """
        if self.mode not in ("linear", "bilinear", "trilinear", "cubic"):
            raise NotImplementedError(f"interpolation mode {self.mode}")
        shrink = dtype(min(float(axis.scale), 1.0)) if self.antialias else dtype(1)
        reach = int(np.ceil((2 if self.mode == "cubic" else 1) / shrink))
        at = axis.coordinates(self.transformation, dtype)
        taps = np.floor(at)[:, None] + np.arange(1 - reach, reach + 1, dtype=dtype)
        distance = (taps - at[:, None]) * shrink
        weight = _cubic(distance, self.cubic_a) if self.mode == "cubic" else _linear(distance)
        if self.exclude_outside:
            weight = np.where((taps >= 0) & (taps < axis.size), weight, 0)
        if self.exclude_outside or self.antialias:
            weight = weight / weight.sum(1, keepdims=True)
        index = taps.clip(0, axis.size - 1).astype(np.int64)
        return torch.as_tensor(index), torch.as_tensor(weight.astype(dtype))

    def along(self, x: Tensor, dim: int, axis: Axis) -> Tensor:
        """Resize one axis of a tensor."""
        if self.mode == "nearest":
            return x.index_select(dim, self.nearest(axis))
        index, weight = self.weights(axis, np.float64 if x.dtype == torch.float64 else np.float32)
        shape = [-1] + [1] * (x.ndim - 1 - dim)
        mixed = x.index_select(dim, index[:, 0]) * weight[:, 0].reshape(shape)
        for tap in range(1, index.shape[1]):
            mixed = torch.addcmul(mixed, x.index_select(dim, index[:, tap]), weight[:, tap].reshape(shape))
        return mixed


@kernel("Resize", "Upsample")
def resize(call: Call, x: Tensor, *inputs: Tensor | None) -> Tensor:
    """Resize by scales or to sizes. Inputs: (roi, scales, sizes), only scales before opset 11, none before 9."""
    axes = _axes(call, x, inputs)
    how = Interpolation.of(call)
    if how.mode == "nearest":
        y = x
    else:
        y = x if x.dtype in FLOATS else x.to(torch.float32)
        bilinear = _bilinear(y, axes, how)
        if bilinear is not None:
            y, axes = bilinear, {}
    for dim, axis in axes.items():
        y = how.along(y, dim, axis)
    if how.transformation == "tf_crop_and_resize":
        for dim, axis in axes.items():
            at = axis.coordinates(how.transformation, np.float32)
            outside = torch.as_tensor((at < 0) | (at > axis.size - 1)).reshape([-1] + [1] * (x.ndim - 1 - dim))
            y = torch.where(outside, torch.tensor(call.number("extrapolation_value"), dtype=y.dtype), y)
    return y.to(x.dtype)


def _bilinear(x: Tensor, axes: Mapping[int, Axis], how: Interpolation) -> Tensor | None:
    """Resize images by torch's own bilinear kernel, or None where it means something else."""
    aligned = how.transformation == "align_corners"
    if x.ndim != 4 or sorted(axes) != [2, 3] or how.antialias or how.mode != "linear" or not (
            aligned or how.transformation in ("half_pixel", "pytorch_half_pixel")):
        return None
    if any(a.resized < 2 for a in axes.values()):
        return None
    scales = [float(axes[d].scale) for d in (2, 3)]
    y: Tensor = torch.ops.aten.upsample_bilinear2d(x, [axes[2].resized, axes[3].resized], aligned, *scales)
    return y


def _axes(call: Call, x: Tensor, inputs: Sequence[Tensor | None]) -> dict[int, Axis]:
    """The axes that change, last first, which leaves less to read for the others."""
    roi, scales, sizes = ([v if v is not None and v.numel() else None for v in inputs] + [None] * 3)[:3]
    if call.opset < 11:
        roi, scales = None, torch.tensor(call.numbers("scales")) if not inputs else inputs[0]
    given = call.integers("axes")
    dims = list(range(x.ndim)) if given is None else [a % x.ndim for a in given]
    shape = [x.shape[d] for d in dims]
    if sizes is not None:
        factors, resized = _to_sizes(call.text("keep_aspect_ratio_policy", "stretch"), shape, sizes.tolist())
    elif scales is not None:
        factors = to_numpy(scales).astype(np.float32)
        resized = [int(n * f) for n, f in zip(np.array(shape, np.float32), factors, strict=True)]
    else:
        raise NotImplementedError("Resize with neither scales nor sizes")
    crops = call.text("coordinate_transformation_mode") == "tf_crop_and_resize" and roi is not None
    region = roi.tolist() if crops and roi is not None else [0.0] * len(dims) + [1.0] * len(dims)
    starts, ends = region[:len(dims)], region[len(dims):]
    axes = {d: Axis(*facts) for d, *facts in zip(dims, shape, resized, factors, starts, ends, strict=True)}
    return {d: axes[d] for d in sorted(axes, reverse=True)
            if crops or axes[d].scale != 1 or axes[d].resized != axes[d].size}


def _to_sizes(policy: str, shape: Sequence[int], sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    factors = np.array(sizes, np.float32) / np.array(shape, np.float32)
    if policy == "stretch":
        return factors, list(sizes)
    factor = factors.min() if policy == "not_larger" else factors.max()
    return np.full_like(factors, factor), [int(np.floor(n * factor + np.float32(0.5))) for n in shape]
