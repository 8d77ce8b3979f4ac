"""What object detectors end in, on torch."""

from __future__ import annotations

import torch

from parity.graph.ops.call import Call, Tensor, kernel


@kernel("NonMaxSuppression")
def non_max_suppression(call: Call, boxes: Tensor, scores: Tensor, limit: Tensor | None = None,
                        overlap: Tensor | None = None, least: Tensor | None = None) -> Tensor:
    """Of boxes [batch, boxes, 4] with scores [batch, classes, boxes], the best that overlap no better one too much.

    Returns:
        (batch, class, box) of each that is kept [kept, 3], the best of a class first; equal scores by their index.
    """
    most = 0 if limit is None else int(limit)
    threshold = 0.0 if overlap is None else float(overlap)
    corners = _from_centers(boxes) if call.integer("center_point_box") else _ordered(boxes)
    rows = []
    for batch in range(scores.shape[0]):
        for category in range(scores.shape[1]):
            own = scores[batch, category]
            order = own.argsort(descending=True, stable=True)
            order = order if least is None else order[own[order] > least.reshape(())]
            rows += [(batch, category, box) for box in _kept(corners[batch], order, most, threshold)]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def _from_centers(boxes: Tensor) -> Tensor:
    """(x, y, width, height) as (x0, y0, x1, y1)."""
    centers, sizes = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centers - sizes, centers + sizes], -1)


def _ordered(boxes: Tensor) -> Tensor:
    """Two opposite corners, whichever they are, as the lower and the upper one."""
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _kept(corners: Tensor, order: Tensor, most: int, threshold: float) -> list[int]:
    kept: list[int] = []
    while len(kept) < most and order.numel():
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[_overlap(corners[best], corners[order]) <= threshold]
    return kept


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box with each of the others; none where there is no area."""
    shared = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0).prod(-1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - shared
    return torch.where(shared > 0, shared / union, 0.0)
