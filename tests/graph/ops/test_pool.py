"""Pooling against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal

WINDOWS = [
    {"kernel_shape": [3, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 4], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "auto_pad": "VALID"},
]
DILATED = [
    {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [2, 2], "dilations": [2, 2], "strides": [2, 2], "ceil_mode": 1},
]


@pytest.mark.parametrize("attributes", [*WINDOWS, *DILATED])
@pytest.mark.parametrize("order", [0, 1])
def test_max_pool(attributes: dict[str, Any], order: int) -> None:
    """Maxima and their indices, in both storage orders, equal ONNX Runtime's."""
    check("MaxPool", [normal(2, 3, 8, 9)], 12, outputs=2, rtol=0, storage_order=order, **attributes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_integers(dtype: type[np.generic]) -> None:
    """8-bit integers pool exactly."""
    x = (normal(1, 2, 7, 7) * 40).clip(0, 127).astype(dtype)
    check("MaxPool", [x], 12, kernel_shape=[3, 3], pads=[1, 0, 1, 1])


@pytest.mark.parametrize("attributes", WINDOWS)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("opset", [10, 19])
def test_average_pool(attributes: dict[str, Any], padding: int, opset: int) -> None:
    """Averages leave padding out, or count it in, as ONNX Runtime does."""
    check("AveragePool", [normal(2, 3, 8, 9)], opset, count_include_pad=padding, **attributes)


@pytest.mark.parametrize("attributes", DILATED)
@pytest.mark.parametrize("padding", [0, 1])
def test_dilated_average_pool(attributes: dict[str, Any], padding: int) -> None:
    """Averages over dilated windows equal ONNX Runtime's."""
    check("AveragePool", [normal(2, 3, 8, 9)], 19, count_include_pad=padding, **attributes)


@pytest.mark.parametrize("attributes", [WINDOWS[1], WINDOWS[2], WINDOWS[5]])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(attributes: dict[str, Any], p: int) -> None:
    """The p-norm of every window equals ONNX Runtime's."""
    check("LpPool", [normal(2, 3, 8, 9)], 11, p=p, **attributes)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_pooling_over_other_ranks(shape: tuple[int, ...]) -> None:
    """One and three spatial axes pool like two, and global pools take all of them."""
    rank = len(shape) - 2
    check("MaxPool", [normal(*shape)], 12, outputs=2, rtol=0, kernel_shape=[2] * rank)
    check("AveragePool", [normal(*shape)], 11, kernel_shape=[2] * rank, pads=[1] * rank + [0] * rank)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        check(op, [normal(*shape)], 9)


def test_max_unpool() -> None:
    """Unpooling puts every maximum back at its index."""
    x = normal(1, 2, 2, 2)
    index = np.array([0, 3, 9, 14, 17, 18, 28, 31]).reshape(x.shape)
    check("MaxUnpool", [x, index], 11, kernel_shape=[2, 2], strides=[2, 2])


def test_max_roi_pool() -> None:
    """Bins of regions, scaled and partly outside, equal ONNX Runtime's."""
    rois = np.array([[0, 0, 0, 7, 9], [1, 3, 2, 20, 30], [0, 5, 5, 5, 5]], np.float32)
    check("MaxRoiPool", [normal(2, 3, 8, 9), rois], 11, rtol=0, pooled_shape=[2, 3], spatial_scale=0.5)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("opset", "attributes"), [
    (10, {}), (16, {}), (16, {"coordinate_transformation_mode": "output_half_pixel"}), (16, {"mode": "max"})])
def test_roi_align(ratio: int, opset: int, attributes: dict[str, Any]) -> None:
    """Bilinear samples in regions equal ONNX Runtime's."""
    rois = np.array([[0, 0, 7, 9], [3.3, 2.1, 20, 30], [5, 5, 5.4, 5.2]], np.float32)
    check("RoiAlign", [normal(2, 3, 8, 9), rois, np.array([0, 1, 0])], opset, output_height=2, output_width=3,
          spatial_scale=0.5, sampling_ratio=ratio, **attributes)


def test_pools_are_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    x = normal(1, 2, 5, 5)
    gradcheck("MaxPool", [x], 12, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    gradcheck("AveragePool", [x], 19, kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 0, 0, 1])
    gradcheck("LpPool", [x], 11, kernel_shape=[3, 3])
    gradcheck("GlobalMaxPool", [x], 9)
