"""Segmentation masks compared by how far they cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def compare_masks(reference: np.ndarray, candidate: np.ndarray) -> tuple[float, dict[str, float]]:
    """Intersection over union of masks, mean over classes, each taken over the whole batch.

    |R ∩ C| / |R ∪ C| (Jaccard 1912), averaged over the classes that occur on either side, as in Long, Shelhamer and
    Darrell 2015. Floats of one channel are a foreground, above 0.5 where the reference keeps to [0, 1] and above 0
    elsewhere; the foreground is then the only class. Of more channels (on the second axis, or the last where that is
    shorter) the arg-max is the class, the first of equals. Integers are class numbers, booleans a foreground. A NaN
    is in every union and in no intersection.

    Args:
        reference: [N, H, W], [N, C, H, W] or [N, H, W, C].
        candidate: of the same shape.

    Returns:
        The mean (1 where no class occurs), and `worst`: that of the worst class; `classes`: how many occur;
        `agreement`: the fraction of equal pixels; `threshold`: where there is one.
    """
    masks, threshold = _masks(reference, candidate)
    known = (masks[0] >= 0) & (masks[1] >= 0)
    classes = np.unique(np.concatenate([mask[mask >= 0] for mask in masks]))
    if threshold:
        classes = classes[classes > 0]
    ious = [_iou(masks[0] == k, masks[1] == k, known) for k in classes]
    if not ious:
        ious = [1.0 if known.all() else 0.0]
    agreement = float(((masks[0] == masks[1]) & known).mean()) if known.size else 1.0
    return float(np.mean(ious)), {
        "worst": min(ious), "classes": float(len(classes)), "agreement": agreement, **threshold}


def _iou(reference: np.ndarray, candidate: np.ndarray, known: np.ndarray) -> float:
    return float((reference & candidate).sum() / (reference | candidate | ~known).sum())


def _masks(reference: np.ndarray, candidate: np.ndarray) -> tuple[list[np.ndarray], dict[str, float]]:
    """Both sides as class numbers, -1 for a NaN, and the threshold that made them, if any."""
    sides = [reference, candidate]
    if reference.dtype.kind == "b":
        return [side.astype(np.int64) for side in sides], {"threshold": 0.5}
    if reference.dtype.kind in "iu":
        return [side.astype(np.int64) for side in sides], {}
    sides = [side.astype(np.float64) for side in sides]
    axis = _class_axis(reference.shape)
    if axis is not None:
        return [np.where(np.isnan(side).any(axis=axis), -1, side.argmax(axis=axis)) for side in sides], {}
    bounded = not sides[0].size or (sides[0].min() >= 0 and sides[0].max() <= 1)
    threshold = 0.5 if bounded else 0.0
    return [np.where(np.isnan(side), -1, side > threshold) for side in sides], {"threshold": threshold}


def _class_axis(shape: Sequence[int]) -> int | None:
    """The axis of the classes of float masks; None where there is one channel."""
    if len(shape) < 4:
        return None
    axis = 1 if shape[1] <= shape[3] else 3
    return axis if shape[axis] > 1 else None
