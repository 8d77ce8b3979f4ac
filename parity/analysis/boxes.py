"""Detections compared as a user of a detector sees them: boxes that are found again, how well, and how sure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.errors import UsageError

MATCHING_IOU = 0.5  # PASCAL VOC's and COCO's AP50: from here on a box is said to be found
SURE_SCORE = 0.3
MOST_BOXES = 100  # COCO's maxDets
_SLACK = 1e-3  # by which rounding may take a probability out of [0, 1]
_BOXES = re.compile(r"box|bbox", re.IGNORECASE)
_SCORES = re.compile(r"score|conf|prob|cls|class|logit", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes of one image.

    Attributes:
        corners: x1, y1, x2, y2 of each, float64 [N, 4].
        scores: of its best class, float64 [N]; NaN where any class has that, which counts nowhere.
        classes: that class, int64 [N].
    """

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def at(self, chosen: np.ndarray) -> Detections:
        """Those that an index or a mask chooses."""
        return Detections(self.corners[chosen], self.scores[chosen], self.classes[chosen])

    def from_score(self, least: float) -> Detections:
        """Those with at least this score."""
        return self.at(self.scores >= least)


@dataclass(frozen=True)
class Reading:
    """How a pair of outputs is to be read, decided on the reference alone.

    Attributes:
        centred: the boxes are centre x, centre y, width, height; else two corners.
        background: column of the scores that says "nothing here"; None where there is none.
        logistic: the scores are logits of one class, to be taken through the logistic function.
    """

    centred: bool
    background: int | None
    logistic: bool


def is_real(array: np.ndarray) -> bool:
    """Whether an array holds floats of any width, bfloat16 and the like included (whose kind numpy gives as "V")."""
    return array.dtype.kind not in "biuOSUMmc"


def is_boxes(name: str, array: np.ndarray) -> bool:
    """Whether an output looks like boxes: floats [N, 4] or [images, N, 4], with "box" in its name."""
    return may_be_boxes(array) and bool(_BOXES.search(name))


def may_be_boxes(array: np.ndarray) -> bool:
    """Whether an output has the shape of boxes: floats [N, 4] or [images, N, 4]."""
    return array.ndim in (2, 3) and array.shape[-1] == 4 and is_real(array)


def scores_of(boxes: str, outputs: Mapping[str, np.ndarray]) -> str | None:
    """The output that scores an output of boxes: a score a box, or one a box and class; best one named so."""
    found = [name for name, array in outputs.items() if name != boxes and are_scored(outputs[boxes], array)]
    return next((n for n in found if _SCORES.search(n)), found[0] if found else None)


def are_scored(boxes: np.ndarray, scores: np.ndarray) -> bool:
    """Whether the shapes fit: boxes [..., N, 4] and scores [..., N] or [..., N, C]."""
    places = boxes.shape[:-1]
    return (may_be_boxes(boxes) and is_real(scores) and scores.shape[:len(places)] == places
            and scores.ndim in (len(places), len(places) + 1))


def compare_boxes(boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[float, dict[str, float]]:
    """How many of each side's detections the other side has too.

    Of an image the reference's boxes with a score of at least 0.3 count, the 100 best of them at most, and where none
    reaches 0.3 the 100 best of all. In the order of their scores each takes, among the candidate's boxes of its class
    that are still free, the one with the highest intersection over union, if that is at least 0.5 (the greedy matching
    of PASCAL VOC, Everingham et al. 2010, and COCO; of equals the nearest in score). The same is done the other
    way round with the candidate's boxes from 0.3 on (from the lowest score that counted, where it was another). A box
    may find its match at half that score, so that slipping across a threshold costs score difference and not a match.

    Of classes that sum to 1, a first or last one that holds the larger part of all probability is background (SSD has
    it first, DETR last). Boxes are corners where no counted box of the reference would be inside out, else centre
    and size; the order of x and y does not matter. Boxes with a NaN match none.

    Args:
        boxes: reference's and candidate's, [N, 4] or [images, N, 4]; N may differ.
        scores: theirs, [..., N] or [..., N, classes], probabilities (or logits, where there is one class only).

    Returns:
        The smaller of the two matched fractions (1 where neither side finds anything), and `boxes`: how many of the
        reference's counted; `found` and `confirmed`: the fractions of the reference's and of the candidate's that
        matched; `mean_iou` and `mean_score_difference` (absolute): over the former's matches; `spurious`: candidate's
        boxes that match none.

    Raises:
        UsageError: logits of several classes: there is no telling Softmax from Sigmoid.
    """
    (right, right_scores), (other, other_scores) = map(_as_images, boxes, scores)
    if len(right) != len(other):
        return math.nan, {}
    reading = _reading(right, right_scores)
    tallies = [_tally(_detections(right[i], right_scores[i], reading), _detections(other[i], other_scores[i], reading))
               for i in range(len(right))]
    counted, claimed = sum(t.counted for t in tallies), sum(t.claimed for t in tallies)
    pairs = [pair for t in tallies for pair in t.pairs]
    confirmed = sum(t.confirmed for t in tallies)
    found = len(pairs) / counted if counted else 1.0
    certain = confirmed / claimed if claimed else 1.0
    mean_iou, difference = np.mean(pairs, axis=0) if pairs else (math.nan, math.nan)
    return min(found, certain), {
        "boxes": float(counted), "found": found, "confirmed": certain, "spurious": float(claimed - confirmed),
        "mean_iou": float(mean_iou), "mean_score_difference": float(difference)}


@dataclass(frozen=True)
class _Tally:
    """One image: how many boxes counted on each side, and what was matched."""

    counted: int
    claimed: int
    confirmed: int
    pairs: list[tuple[float, float]]


def _tally(reference: Detections, candidate: Detections) -> _Tally:
    counted = _counted(reference)
    some = counted.scores.size < MOST_BOXES and bool((counted.scores >= SURE_SCORE).all())
    least = SURE_SCORE if some else float(counted.scores.min())
    claims = candidate.from_score(least)
    return _Tally(len(counted.scores), len(claims.scores), len(match(claims, reference.from_score(least / 2))),
                  match(counted, candidate.from_score(least / 2)))


def match(reference: Detections, candidate: Detections) -> list[tuple[float, float]]:
    """Greedy one-to-one matches within a class, best score first: the IoU and score difference of each."""
    overlap = iou_matrix(reference.corners, candidate.corners)
    overlap[reference.classes[:, np.newaxis] != candidate.classes] = -1
    pairs = []
    for i in np.argsort(-reference.scores, kind="stable") if len(candidate.scores) else ():
        gaps = np.abs(candidate.scores - reference.scores[i])
        best = int(np.lexsort((gaps, -overlap[i]))[0])
        if overlap[i, best] >= MATCHING_IOU:
            pairs.append((float(overlap[i, best]), float(gaps[best])))
            overlap[:, best] = -1
    return pairs


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes.

    Args:
        a: corners, float64 [N, 4]; a box that is inside out has no area.
        b: likewise, [M, 4].

    Returns:
        float64 [N, M]; 1 for a box without area and itself, 0 where a coordinate is not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        low = np.maximum(a[:, np.newaxis, :2], b[np.newaxis, :, :2])
        high = np.minimum(a[:, np.newaxis, 2:], b[np.newaxis, :, 2:])
        common = np.clip(high - low, 0, None).prod(axis=-1)
        areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=-1) for x in (a, b)]
        union = areas[0][:, np.newaxis] + areas[1] - common
        same = (a[:, np.newaxis] == b[np.newaxis]).all(axis=-1)
        overlap: np.ndarray = np.where(union > 0, common / np.where(union > 0, union, 1), same)
    overlap[~(np.isfinite(a).all(axis=-1)[:, np.newaxis] & np.isfinite(b).all(axis=-1))] = 0
    return overlap


def _as_images(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same as float64 [images, N, 4] and [images, N, classes]."""
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    if boxes.ndim == 2:
        boxes, scores = boxes[np.newaxis], scores[np.newaxis]
    return boxes, scores[..., np.newaxis] if scores.ndim == 2 else scores


def _reading(boxes: np.ndarray, scores: np.ndarray) -> Reading:
    logits = bool(((scores < -_SLACK) | (scores > 1 + _SLACK)).any())
    if logits and scores.shape[-1] > 1:
        raise UsageError("the scores beside the boxes are not in [0, 1], and logits of several classes could be meant "
                         "for Softmax or Sigmoid", "End the model with it, or judge them by top1.")
    reading = Reading(centred=False, background=_background(scores), logistic=logits)
    for image in range(len(boxes)):
        corners = _counted(_detections(boxes[image], scores[image], reading)).corners
        if (corners[:, 2:] < corners[:, :2]).any():
            return Reading(True, reading.background, logits)
    return reading


def _background(scores: np.ndarray) -> int | None:
    rows = scores.reshape(-1, scores.shape[-1])
    rows = rows[~np.isnan(rows).any(axis=1)]
    if rows.shape[1] < 2 or not len(rows) or not np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        return None
    share = rows.mean(axis=0)
    return next((column for column in (0, len(share) - 1) if share[column] > 0.5), None)


def _detections(boxes: np.ndarray, scores: np.ndarray, reading: Reading) -> Detections:
    """Detections of one image from boxes [N, 4] and scores [N, classes]."""
    if reading.centred:
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    if reading.logistic:
        scores = 0.5 * (1 + np.tanh(scores / 2))
    if reading.background is not None:
        scores = np.delete(scores, reading.background, axis=1)
    classes = scores.argmax(axis=1)
    return Detections(boxes, scores[np.arange(len(scores)), classes], classes)


def _counted(detections: Detections) -> Detections:
    """The boxes that count, best first."""
    order = np.argsort(-detections.scores, kind="stable")[:MOST_BOXES]
    best = detections.at(order[detections.scores[order] >= 0])
    sure = best.from_score(SURE_SCORE)
    return sure if sure.scores.size else best
