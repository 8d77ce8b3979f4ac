"""The batch axis of a model: which axis of each input counts rows, and where a row is found again in a tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.errors import FeedError
from parity.graph.feeds import Feed, seeded_feed
from parity.graph.model import Model
from parity.graph.shapes import dims_of

# Open leading axes that by their names count something else than samples.
_NOT_ROWS = re.compile(r"seq|time|frame|token|length|step|audio|wave|height|width|point|^(t|l|h|w)$", re.IGNORECASE)


@dataclass(frozen=True)
class Batch:
    """The rows of a feed.

    Attributes:
        axes: the axis that counts rows, of every input that has one.
        size: how many rows there are.
    """

    axes: Mapping[str, int]
    size: int

    def take(self, feed: Feed, rows: Sequence[int]) -> Feed:
        """The feed of these rows alone; inputs without rows stay."""
        return {name: np.take(value, rows, self.axes[name]) if name in self.axes else value
                for name, value in feed.items()}


def batch_of(model: Model, feed: Feed) -> Batch | None:
    """The rows of a feed, where the model leaves their number open.

    The batch is the open dimension on axis 0 of an input. Other inputs count the same rows along the axis of the same
    symbol, or along an open axis 0 of another one (exporters give each input a symbol of its own).

    Returns:
        None where the model fixes the batch, or its inputs are of several batch sizes.
    """
    dims = {spec.name: dims_of(spec) or () for spec in model.graph.inputs}
    leading = {name: d[0] for name, d in dims.items() if d and isinstance(d[0], str) and not _NOT_ROWS.search(d[0])}
    if not leading:
        return None
    symbol = next(iter(leading.values()))
    axes = {name: d.index(symbol) if symbol in d else 0 for name, d in dims.items() if symbol in d or name in leading}
    sizes = {feed[name].shape[axis] for name, axis in axes.items()}
    return Batch(axes, sizes.pop()) if len(sizes) == 1 else None


def grown(model: Model, feed: Feed, batch: Batch, size: int, seed: int) -> tuple[Feed, Batch]:
    """The feed with seeded rows behind its own, to make `size` rows; as it is where it has as many.

    Raises:
        FeedError: no such rows can be made.
    """
    if batch.size >= size:
        return feed, batch
    shapes = {name: _with(value.shape, batch.axes[name], size - batch.size) if name in batch.axes else value.shape
              for name, value in feed.items()}
    more, _ = seeded_feed(model, seed, shapes, sample=1)
    for name in batch.axes:
        if more[name].dtype != feed[name].dtype:
            raise FeedError(f"for input {name!r}, {feed[name].dtype}, no rows can be made", "Feed several rows.")
    rows = {name: np.concatenate([value, more[name]], batch.axes[name]) if name in batch.axes else value
            for name, value in feed.items()}
    return rows, Batch(batch.axes, size)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1:])


def row_axis(together: Sequence[int], alone: Sequence[int], size: int) -> int | None:
    """The axis along which a tensor grew from one row to `size` of them; None where it did not grow so.

    Args:
        together: its shape for the whole batch.
        alone: its shape for one row.
        size: rows in the batch, at least 2.
    """
    if len(together) != len(alone):
        return None
    grew = [axis for axis, (many, one) in enumerate(zip(together, alone, strict=True)) if many != one]
    if len(grew) != 1 or together[grew[0]] != size * alone[grew[0]]:
        return None
    return grew[0]


def places_of(tensor: np.ndarray, axis: int, size: int, row: int) -> list[np.ndarray]:
    """Where one row of the batch may lie in a tensor: as a run of `axis`, or interleaved with the other rows.

    A Reshape may have merged the batch with another axis, before it or behind it, and the shape does not say which.
    """
    width = tensor.shape[axis] // size
    run = np.take(tensor, range(row * width, (row + 1) * width), axis)
    return [run] if width == 1 else [run, np.take(tensor, range(row, tensor.shape[axis], size), axis)]
