"""Convolutions against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal

CONV = [
    ((2, 3, 9), (4, 3, 3), {"strides": [2], "pads": [1, 0]}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "dilations": [2, 1], "pads": [2, 0, 1, 3]}),
    ((1, 3, 7, 8), (4, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((1, 3, 7, 8), (4, 3, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ((1, 3, 7, 8), (4, 3, 3, 3), {"auto_pad": "VALID", "kernel_shape": [3, 3]}),
    ((1, 2, 5, 6, 7), (3, 2, 2, 3, 3), {"strides": [1, 2, 2], "pads": [0, 1, 1, 1, 1, 0]}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONV)
@pytest.mark.parametrize("opset", [7, 22])
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], opset: int) -> None:
    """Convolution over one to three axes, however it is padded, equals ONNX Runtime's."""
    check("Conv", [normal(*x), normal(*w), normal(w[0])], opset, **attributes)


TRANSPOSE = [
    ((1, 2, 5), (2, 3, 3), {"strides": [2], "pads": [1, 0], "output_padding": [1]}),
    ((2, 4, 4, 5), (4, 3, 3, 2), {"strides": [2, 3], "pads": [1, 1, 1, 1], "group": 2, "dilations": [2, 1]}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 3], "output_shape": [8, 14]}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 3], "output_shape": [8, 14], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    ((1, 2, 4, 5), (2, 3, 4, 4), {"strides": [3, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 3, 3, 3), (2, 3, 2, 2, 3), {"strides": [2, 2, 1], "pads": [0, 1, 0, 1, 0, 1]}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), TRANSPOSE)
def test_conv_transpose(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Transposed convolution crops and pads to the shapes that ONNX Runtime makes."""
    channels = w[1] * int(str(attributes.get("group", 1)))
    check("ConvTranspose", [normal(*x), normal(*w), normal(channels)], 11, **attributes)


@pytest.mark.parametrize("mask", [True, False])
def test_deform_conv(mask: bool) -> None:
    """Deformable convolution with groups, offset groups, padding and a mask equals ONNX Runtime's."""
    x, w = normal(2, 4, 6, 7), normal(6, 2, 3, 2)
    offset, masks = normal(2, 2 * 2 * 6, 3, 8), np.abs(normal(2, 2 * 6, 3, 8))
    check("DeformConv", [x, w, offset, normal(6), masks if mask else None], 19, kernel_shape=[3, 2],
          group=2, offset_group=2, strides=[2, 1], pads=[1, 0, 1, 2])


@pytest.mark.parametrize(("blocks", "attributes"), [
    (16, {}), (18, {"dilations": [2, 1], "pads": [1, 0, 2, 1], "strides": [1, 2]})])
def test_col2im(blocks: int, attributes: dict[str, Any]) -> None:
    """Overlapping blocks add up as in ONNX Runtime."""
    check("Col2Im", [normal(2, 3 * 6, blocks), np.array([5, 6]), np.array([2, 3])], 18, **attributes)


def test_convolutions_are_differentiable() -> None:
    """Autograd agrees with numerical gradients through padding, cropping and sampling."""
    gradcheck("Conv", [normal(1, 2, 4, 4), normal(2, 2, 3, 3), normal(2)], 11, pads=[1, 0, 0, 1])
    gradcheck("ConvTranspose", [normal(1, 2, 3, 3), normal(2, 1, 3, 3), normal(1)], 11, output_shape=[4, 5],
              strides=[2, 2])
    gradcheck("DeformConv", [normal(1, 1, 4, 4), normal(1, 1, 2, 2), normal(1, 8, 3, 3)], 19)
