"""Non-maximum suppression against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import check

_RANDOM = np.random.default_rng(0)
# On a coarse grid, so that scores tie.
SCORES = np.round(_RANDOM.random((2, 3, 40)), 1).astype(np.float32)
BOXES = _RANDOM.random((2, 40, 4)).astype(np.float32)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("limit", [0, 3, 100])
def test_non_max_suppression(center: int, limit: int) -> None:
    """Boxes by corners (in any order) or centres; limits; thresholds given and left out."""
    most, overlap, least = np.array([limit]), np.array([0.2], np.float32), np.array([0.35], np.float32)
    for optional in ([most], [most, overlap], [most, overlap, least], [most, None, least], []):
        check("NonMaxSuppression", [BOXES, SCORES, *optional], 11, center_point_box=center)


def test_boxes_without_area_overlap_nothing() -> None:
    """Lines and points are all kept."""
    flat = np.array([[[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]]], np.float32)
    check("NonMaxSuppression", [flat, np.ones((1, 1, 4), np.float32), np.array([9]), np.array([0.1], np.float32)], 11)


def test_no_boxes() -> None:
    """Nothing comes of nothing."""
    check("NonMaxSuppression", [BOXES[:, :0], SCORES[:, :, :0], np.array([3])], 11)
