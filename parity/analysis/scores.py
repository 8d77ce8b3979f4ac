"""Figures for rows of numbers: class scores (agreement, accuracy, divergence) and embeddings (who is near whom)."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from parity.errors import UsageError

# A figure, and what stands beside it by name.
Verdict: TypeAlias = tuple[float, dict[str, float]]

_SMALLEST = 2.0**-126  # the smallest normal FP32 number
_MOST_NEIGHBOURS = 10


def rows_of(array: np.ndarray) -> np.ndarray | None:
    """Class scores as float64 [rows, classes]: from [N, C] or [N, T, C], axes of size 1 behind left out; else None."""
    shape = array.shape
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or shape[-1] < 2 or array.dtype.kind in "bOSUMmc":
        return None
    return array.reshape(-1, shape[-1]).astype(np.float64)


def compare_leaders(reference: np.ndarray, candidate: np.ndarray, count: int) -> Verdict:
    """Agreement of the highest scores: mean over rows of |A ∩ B| / count, A and B the `count` best of each side.

    With count 1 that is the fraction of rows with the same arg-max. Of equal scores the first counts, as numpy and
    torch have it. A row with a NaN on either side agrees in nothing.

    Args:
        reference: float64 [rows, classes], more classes than `count`.
        candidate: likewise.
        count: how many of the best.

    Returns:
        The agreement (1 of no rows), and `rows`; `disagreeing`: rows whose sets differ; where some do, `worst_margin`
        and `mean_margin`: over those, the reference's gap between the last score inside its set and the first outside
        (a wide one was a clear decision); `median_margin`: the same over all rows; `ties`: rows where that gap is 0.
    """
    shared = _overlap(_leaders(reference, count), _leaders(candidate, count))
    shared[np.isnan(reference).any(axis=1) | np.isnan(candidate).any(axis=1)] = 0
    ordered = -np.partition(-reference, (count - 1, count), axis=1)
    with np.errstate(invalid="ignore"):
        margins = ordered[:, count - 1] - ordered[:, count]
    known = ~np.isnan(margins)
    parted = margins[(shared < 1) & known]
    clear = {"worst_margin": float(parted.max()), "mean_margin": float(parted.mean())} if parted.size else {}
    return _mean(shared, empty=1.0), {
        "rows": float(len(reference)), "disagreeing": float((shared < 1).sum()), **clear,
        "median_margin": float(np.median(margins[known])) if known.any() else math.nan,
        "ties": float((margins == 0).sum())}


def compare_accuracy(reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray) -> Verdict:
    """Accuracy of the candidate: the fraction of rows whose arg-max (the first of equals) is the label.

    Args:
        reference: float64 [rows, classes].
        candidate: likewise.
        labels: integers, one a row.

    Returns:
        That (NaN of no rows; a row with a NaN is wrong), and `reference`: the reference's; `lost`: by how much that is
        higher; `rows`.

    Raises:
        UsageError: another number of labels than of rows.
    """
    if labels.size != len(reference):
        raise UsageError(f"there are {labels.size} labels for {len(reference)} rows of class scores",
                         "Give one label for every row of the batch.")
    truth = labels.reshape(-1)
    before, after = (_mean((side.argmax(axis=1) == truth) & ~np.isnan(side).any(axis=1), empty=math.nan)
                     for side in (reference, candidate))
    return after, {"reference": before, "lost": before - after, "rows": float(len(reference))}


def compare_distributions(reference: np.ndarray, candidate: np.ndarray) -> Verdict:
    """Kullback-Leibler divergence of the candidate's distributions from the reference's, in nats, mean over rows.

    KL(p ‖ q) = Σ p ln(p/q) (Kullback and Leibler 1951), in float64. Where every row of the reference is ≥ 0 and sums
    to 1 ± 0.01 the rows of both sides are probabilities, and are brought to the sum 1; else they are logits, and go
    through softmax. A given probability below 2⁻¹²⁶, the smallest normal FP32 number, counts as that: an underflow
    then costs what its class weighs instead of infinity.

    Args:
        reference: float64 [rows, classes].
        candidate: likewise.

    Returns:
        The mean (0 of no rows, NaN where a row is no distribution: a NaN, or +Inf among logits), and `worst`: the
        largest of any row; `entropy`: the reference's own, mean, in nats; `probabilities`: 1 or 0; `rows`.
    """
    certain = bool((reference >= 0).all() and (np.abs(reference.sum(axis=1) - 1) <= 1e-2).all())
    log_p, log_q = (_log_shares(side, probabilities=certain) for side in (reference, candidate))
    p, q = np.exp(log_p), np.exp(log_q)
    with np.errstate(invalid="ignore"):
        # The added q - p sums to nothing and keeps every term, and so the rounded sum, from falling below 0.
        divergence = np.maximum((np.where(p == 0, 0, p * (log_p - log_q)) - p + q).sum(axis=1), 0)
        entropy = -np.where(p == 0, 0, p * log_p).sum(axis=1)
    return _mean(divergence, empty=0.0), {
        "worst": float(divergence.max(initial=0.0)), "entropy": _mean(entropy, empty=0.0),
        "probabilities": float(certain), "rows": float(len(reference))}


def _log_shares(rows: np.ndarray, *, probabilities: bool) -> np.ndarray:
    """Natural logarithms of the distributions."""
    if probabilities:
        shares = np.maximum(rows, _SMALLEST)
        return np.asarray(np.log(shares / shares.sum(axis=1, keepdims=True)))
    with np.errstate(invalid="ignore"):
        centred = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(centred - np.log(np.exp(centred).sum(axis=1, keepdims=True)))


def compare_neighbours(reference: np.ndarray, candidate: np.ndarray) -> Verdict:
    """Agreement of embeddings on who is near whom: Spearman's rank correlation of their cosine similarities.

    For each row the similarities to all other rows are ranked on both sides, ties by their mean rank (Spearman 1904);
    the figure is the mean correlation over rows. Similarities within 1e-12 are tied; a zero vector has similarity 0
    to all. Where all similarities of a row are tied, the correlation is 1 if they are so on both sides, else 0.

    Args:
        reference: [N, ...], N ≥ 3, flattened to one vector a row.
        candidate: likewise.

    Returns:
        The mean correlation, in [-1, 1] (NaN where a side is not finite), and `worst`: of the worst row; `neighbours`:
        the mean fraction shared of the k nearest rows, k a third of the others, from 1 to 10; `cosine`: the lowest
        of any row with itself on the other side; `rows`.
    """
    sides = [side.reshape(len(side), -1).astype(np.float64) for side in (reference, candidate)]
    if not np.isfinite(sides).all():
        return math.nan, {}
    right, other = map(_unit, sides)
    alike = [_without_diagonal(np.round(side @ side.T, 12)) for side in (right, other)]
    correlations = np.array([_spearman(a, b) for a, b in zip(*alike, strict=True)])
    count = min(_MOST_NEIGHBOURS, max(1, (len(right) - 1) // 3))
    same = np.where((right == other).all(axis=1), 1.0, (right * other).sum(axis=1))
    return float(correlations.mean()), {
        "worst": float(correlations.min()), "rows": float(len(right)), "cosine": float(same.min()),
        "neighbours": _mean(_overlap(*(_leaders(side, count) for side in alike)), empty=1.0)}


def _unit(rows: np.ndarray) -> np.ndarray:
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    rows = rows / np.where(largest > 0, largest, 1)  # so that no square leaves the range
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1))


def _without_diagonal(square: np.ndarray) -> np.ndarray:
    return square[~np.eye(len(square), dtype=bool)].reshape(len(square), -1)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(np.clip(x @ y / norm, -1, 1)) if norm else float(not x.any() and not y.any())


def _ranks(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2


def _leaders(rows: np.ndarray, count: int) -> np.ndarray:
    """Columns of the highest values of each row, the first of equals: int64 [rows, count]."""
    if count == 1:
        return np.asarray(rows.argmax(axis=1)[:, np.newaxis])
    return np.asarray(np.argsort(-rows, axis=1, kind="stable")[:, :count])


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The fraction of each row of `a` that is in the same row of `b`: float64 [rows]."""
    return np.asarray((a[:, :, np.newaxis] == b[:, np.newaxis, :]).any(axis=2).mean(axis=1))


def _mean(values: np.ndarray, *, empty: float) -> float:
    return float(values.mean()) if values.size else empty
