"""One tensor as the same numbers of another in another order: rows swapped, rolled, in blocks, axes transposed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import numpy as np

# Rows that are found among others by distance; with exact copies there is no limit.
_MOST_ROWS = 2048
# Numbers that a list is told with.
_MOST_TOLD = 16

Same = Callable[[np.ndarray], bool]


def order_of(expected: np.ndarray, found: np.ndarray, slack: float) -> list[int] | None:
    """Which row of one matrix each row of another is.

    Args:
        expected: [rows, elements].
        found: likewise.
        slack: how far an element may be off.

    Returns:
        For each found row the expected one, each of them once; None where they are not the same rows.
    """
    exact = _exact_order(expected, found)
    if exact is not None or not slack or len(expected) > _MOST_ROWS:
        return exact
    apart = (found**2).sum(1)[:, None] + (expected**2).sum(1)[None] - 2 * found @ expected.T
    order = [int(i) for i in apart.argmin(axis=1)]
    whole = sorted(order) == list(range(len(order)))
    return order if whole and bool((np.abs(expected[order] - found) <= slack).all()) else None


def _exact_order(expected: np.ndarray, found: np.ndarray) -> list[int] | None:
    """The same for equal rows; of several alike, the one in its own place first."""
    wanted, given = ([row.tobytes() for row in np.ascontiguousarray(m + 0.0)] for m in (expected, found))
    free: dict[bytes, list[int]] = {}
    for i in reversed(range(len(wanted))):
        if wanted[i] != given[i]:
            free.setdefault(wanted[i], []).append(i)
    order = []
    for i, row in enumerate(given):
        if wanted[i] == row:
            order.append(i)
        elif free.get(row):
            order.append(free[row].pop())
        else:
            return None
    return order


def told_order(order: Sequence[int], what: str) -> str:
    """An order in words.

    Args:
        order: for each place, what stands there; not in order.
        what: what the places are, in the plural.
    """
    size, moved = len(order), [i for i, o in enumerate(order) if i != o]
    if len(moved) == 2:
        return f"with {what} {moved[0]} and {moved[1]} swapped"
    if list(order) == list(range(size))[::-1]:
        return f"with {what} reversed"
    shift = (size - order[0]) % size
    if [(i - shift) % size for i in range(size)] == list(order):
        return f"with {what} rolled by {shift - size if shift > size / 2 else shift}"
    for block in (b for b in range(size // 2, 1, -1) if size % b == 0):
        rows = np.asarray(order).reshape(-1, block)
        if (rows[:, 0] % block == 0).all() and (rows == rows[:, :1] + np.arange(block)).all():
            return f"with {what}, in blocks of {block}, in the order {told([int(r) // block for r in rows[:, 0]])}"
    for outer in (n for n in range(2, size // 2 + 1) if size % n == 0):
        if np.array_equal(np.arange(size).reshape(outer, -1).T.ravel(), order):
            return f"with {what} taken as {size // outer} × {outer} where they are {outer} × {size // outer}"
    return f"with {what} in the order {told(order)}"


def told(numbers: Sequence[int]) -> str:
    """A list of whole numbers, the first few where it is long."""
    return f"[{', '.join(map(str, numbers[:_MOST_TOLD]))}{', …' if len(numbers) > _MOST_TOLD else ''}]"


def transposed(expected: np.ndarray, axes: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """A tensor with its axes exchanged, or some of them flipped, in words; all of its own shape.

    Args:
        expected: the tensor, of up to 5 axes.
        axes: what each of them counts, in the plural.
    """
    rank, shape = expected.ndim, expected.shape
    for perm in permutations(range(rank)) if rank <= 5 else ():
        moved = [i for i, p in enumerate(perm) if i != p]
        if tuple(shape[p] for p in perm) == shape and any(shape[i] > 1 for i in moved):
            what = f"{axes[moved[0]]} and {axes[moved[-1]]} swapped" if len(moved) == 2 else f"axes as {list(perm)}"
            yield "transposed" if rank == 2 else f"with {what}", expected.transpose(perm)
    if rank == 2 and shape[0] != shape[1]:
        yield "read in the other memory order", expected.T.reshape(shape)
    if rank > 2 and max(shape[2:]) > 1:
        yield "flipped, as a convolution in the strict sense", np.flip(expected, tuple(range(2, rank)))
