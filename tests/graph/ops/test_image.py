"""Sampling of images against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal


@pytest.mark.parametrize(("opset", "mode"), [
    (16, "bilinear"), (16, "nearest"), (16, "bicubic"), (20, "linear"), (20, "nearest"), (20, "cubic")])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(opset: int, mode: str, padding: str, align: int) -> None:
    """Points inside and outside the image, in every mode."""
    check("GridSample", [normal(2, 3, 6, 5), normal(2, 4, 7, 2)], opset, mode=mode, padding_mode=padding,
          align_corners=align)


def test_grid_sample_of_volumes() -> None:
    """Points of a volume."""
    check("GridSample", [normal(1, 2, 4, 5, 6), normal(1, 3, 2, 4, 3)], 20, mode="linear")


@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 1, 3, 4, 5]])
@pytest.mark.parametrize("align", [0, 1])
def test_affine_grid(size: list[int], align: int) -> None:
    """The grid of an affine map, in two and three dimensions."""
    rank = len(size) - 2
    check("AffineGrid", [normal(2, rank, rank + 1), np.array(size)], 20, align_corners=align)


def test_grid_sample_is_differentiable() -> None:
    """Autograd agrees with numerical gradients in the image and in the points."""
    gradcheck("GridSample", [normal(1, 1, 4, 4), normal(1, 2, 3, 2)], 16)
