"""Resize and Upsample against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal

SCALES = [(2.0, 2.0), (0.6, 0.6), (1.7, 0.35), (3.0, 1.0), (0.7, 2.5)]
TRANSFORMATIONS = ["half_pixel", "pytorch_half_pixel", "asymmetric"]


def scaled(*scales: float) -> list[np.ndarray | None]:
    """Inputs for a resize of an image by scales."""
    return [normal(1, 2, 10, 9), np.zeros(0, np.float32), np.array([1, 1, *scales], np.float32)]


def sized(*sizes: int) -> list[np.ndarray | None]:
    """Inputs for a resize of an image to a size."""
    return [normal(1, 2, 10, 9), None, None, np.array([1, 2, *sizes])]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("transformation", [*TRANSFORMATIONS, "align_corners", "tf_half_pixel_for_nn"])
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(scales: tuple[float, float], transformation: str, rounding: str) -> None:
    """The very element that ONNX Runtime picks, for every rounding."""
    check("Resize", scaled(*scales), 11, rtol=0, mode="nearest", coordinate_transformation_mode=transformation,
          nearest_mode=rounding)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("opset", [11, 13, 19])
def test_scales(scales: tuple[float, float], mode: str, transformation: str, opset: int) -> None:
    """Linear and cubic interpolation by scales, whose product with a size may be no whole number."""
    check("Resize", scaled(*scales), opset, mode=mode, coordinate_transformation_mode=transformation)


@pytest.mark.parametrize("sizes", [(20, 18), (5, 4), (13, 1), (1, 30)])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transformation", [*TRANSFORMATIONS, "align_corners"])
def test_sizes(sizes: tuple[int, int], mode: str, transformation: str) -> None:
    """Every mode to given sizes, one element included."""
    check("Resize", sized(*sizes), 13, mode=mode, coordinate_transformation_mode=transformation)


@pytest.mark.parametrize("attributes", [
    {"mode": "cubic", "cubic_coeff_a": -0.5}, {"mode": "cubic", "exclude_outside": 1},
    {"mode": "cubic", "coordinate_transformation_mode": "half_pixel_symmetric"},
    {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}])
def test_variants(attributes: dict[str, Any]) -> None:
    """The slope of the cubic, weights outside the image, and the symmetric transformation."""
    check("Resize", scaled(0.63, 2.3), 19, **attributes)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("attributes", [{"mode": "linear"}, {"mode": "cubic", "exclude_outside": 1}])
def test_antialias(scales: tuple[float, float], attributes: dict[str, Any]) -> None:
    """Kernels widen when shrinking."""
    check("Resize", scaled(*scales), 18, antialias=1, **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize(mode: str) -> None:
    """A region that reaches out of the image takes the extrapolation value there."""
    roi = np.array([0, 0, 0.4, -0.2, 1, 1, 1.3, 0.7], np.float32)
    check("Resize", [normal(1, 2, 10, 9), roi, np.zeros(0, np.float32), np.array([1, 2, 6, 7])], 11, mode=mode,
          coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.5)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_some_axes(policy: str) -> None:
    """Only the named axes change, by one factor where the aspect ratio is kept."""
    check("Resize", [normal(1, 2, 10, 9), None, None, np.array([7, 8])], 18, mode="linear", axes=[2, 3],
          keep_aspect_ratio_policy=policy)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", SCALES)
def test_before_opset_11(mode: str, scales: tuple[float, float]) -> None:
    """Resize 10 and Upsample 9, which have scales alone, and Upsample 7, where they are an attribute."""
    x, factors = normal(1, 2, 10, 9), np.array([1, 1, *scales], np.float32)
    check("Resize", [x, factors], 10, mode=mode)
    if min(scales) >= 1:
        check("Upsample", [x, factors], 9, mode=mode)
        check("Upsample", [x], 7, mode=mode, scales=factors.tolist())


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_other_ranks(mode: str) -> None:
    """Volumes resize like images."""
    check("Resize", [normal(1, 2, 4, 5, 6), None, np.array([1, 1, 2, 0.5, 1.5], np.float32)], 13, mode=mode)


def test_integers_are_interpolated_and_truncated() -> None:
    """8-bit images go through FP32."""
    x = np.random.default_rng(0).integers(0, 255, (1, 1, 6, 6), np.uint8)
    check("Resize", [x, None, np.array([1, 1, 2, 1.5], np.float32)], 13, mode="linear")


def test_resize_is_differentiable() -> None:
    """Autograd agrees with numerical gradients, by torch's bilinear kernel and by ours."""
    x, sizes = normal(1, 1, 4, 4), np.array([1, 1, 3, 6])
    gradcheck("Resize", [x, None, None, sizes], 13, mode="linear")
    gradcheck("Resize", [x, None, None, sizes], 13, mode="cubic")
    gradcheck("Resize", [x, None, None, sizes], 13, mode="nearest")
