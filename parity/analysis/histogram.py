"""How the values of one tensor are distributed on both sides, and which of its elements differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 64
WORST = 8  # elements that are named


@dataclass(frozen=True)
class Histogram:
    """Counts of finite values in bins of one width.

    Attributes:
        low: lower edge of the first bin.
        high: upper edge of the last bin, which it belongs to.
        counts: one a bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Element:
    """One element on both sides; complex numbers and others beside floats are taken as FP64."""

    index: tuple[int, ...]
    reference: float
    candidate: float


@dataclass(frozen=True)
class Distributions:
    """One tensor on both sides.

    Attributes:
        reference: its values, in the same bins as the candidate's.
        candidate: likewise.
        error: candidate less reference, where both are finite.
        worst: the elements that differ most, worst first; those that are finite on one side only come before all.
    """

    reference: Histogram
    candidate: Histogram
    error: Histogram
    worst: tuple[Element, ...]


def distributions(reference: np.ndarray, candidate: np.ndarray) -> Distributions | None:
    """Both sides of a tensor, close up.

    Args:
        reference: of any real type and shape.
        candidate: of the same shape.

    Returns:
        None for text, complex numbers, other shapes, and tensors without elements.
    """
    if reference.shape != candidate.shape or not reference.size or not (_real(reference) and _real(candidate)):
        return None
    right, other = (side.astype(np.float64, copy=False).ravel() for side in (reference, candidate))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = other - right
    bounds = _bounds(np.concatenate((_ends(right), _ends(other))))
    return Distributions(histogram(right, *bounds), histogram(other, *bounds),
                         histogram(difference, *_bounds(_ends(difference))), _worst(right, other, difference,
                                                                                   reference.shape))


def histogram(values: np.ndarray, low: float, high: float) -> Histogram:
    """Count the finite values from `low` to `high`; where both are equal, all of them lie in the first bin.

    Args:
        values: float64, any shape.
        low: at most `high`.
        high: finite.
    """
    inside = values[(values >= low) & (values <= high)]
    width = high / BINS - low / BINS  # high - low may overflow
    if not width > 0:
        return Histogram(low, high, (int(inside.size), *(0,) * (BINS - 1)))
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.minimum((inside / width - low / width).astype(np.int64), BINS - 1)
    return Histogram(low, high, tuple(np.bincount(np.maximum(places, 0), minlength=BINS).tolist()))


def _real(values: np.ndarray) -> bool:
    """Numbers, those of ml_dtypes (kind "V") among them."""
    return values.dtype.kind in "biuf" or (values.dtype.kind == "V" and values.dtype.names is None)


def _ends(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    return np.array([finite.min(), finite.max()]) if finite.size else np.empty(0)


def _bounds(ends: np.ndarray) -> tuple[float, float]:
    return (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)


def _worst(right: np.ndarray, other: np.ndarray, difference: np.ndarray, shape: tuple[int, ...],
           ) -> tuple[Element, ...]:
    size = np.abs(difference)
    same = (right == other) | (np.isnan(right) & np.isnan(other))
    size[np.isnan(size) | np.isinf(size)] = np.inf
    size[same] = 0.0
    few = min(WORST, size.size)
    found = np.argpartition(-size, few - 1)[:few]
    found = found[np.lexsort((found, -size[found]))]
    return tuple(Element(tuple(map(int, np.unravel_index(place, shape))), float(right[place]), float(other[place]))
                 for place in found if size[place] > 0)
