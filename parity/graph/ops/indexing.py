"""Elements picked out of a tensor, and written into a copy of one."""

from __future__ import annotations

from math import prod

import torch

from parity.graph.ops.call import Call, Tensor
from parity.graph.ops.dtypes import tensor_kernel, via_int64

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@tensor_kernel("Slice", halves=True)
def slice_of(call: Call, x: Tensor, *given: Tensor | None) -> Tensor:
    """A range along each of some axes; starts, ends, axes and steps are attributes before opset 10, inputs since."""
    names = ("starts", "ends", "axes", "steps")
    inputs = dict(zip(names, (None if v is None else v.tolist() for v in given), strict=False))
    starts, ends, axes, steps = (inputs.get(n) or call.integers(n) or [] for n in names)
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        picked = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, picked.start if picked else 0, len(picked))
        else:
            x = x.index_select(axis, torch.tensor(picked, dtype=torch.int64))
    return x


def _non_negative(indices: Tensor, length: int) -> Tensor:
    """Indices that count from the front, as torch wants them."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


@tensor_kernel("Gather", halves=True)
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """The slices of an axis that the indices name; their shape takes the place of the axis."""
    axis = call.integer("axis") % x.ndim
    flat = _non_negative(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]))


@tensor_kernel("GatherElements", halves=True)
@via_int64
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """One element for each index, whose place in `indices` gives the other axes."""
    axis = call.integer("axis")
    return torch.gather(x, axis, _non_negative(indices, x.shape[axis]))


@tensor_kernel("GatherND", halves=True)
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """The slices that tuples of indices name, each within its own batch."""
    batch = call.integer("batch_dims")
    depth = indices.shape[-1]
    rows = prod(indices.shape[:batch])
    places = indices.reshape(rows, prod(indices.shape[batch:-1]), depth).to(torch.int64)
    flat = x.reshape(rows, *x.shape[batch:])
    found = flat[(torch.arange(rows)[:, None], *places.unbind(-1))]
    return found.reshape((*indices.shape[:-1], *x.shape[batch + depth:]))


@tensor_kernel("Scatter", "ScatterElements")
@via_int64
def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy with one element written, or combined, for each index."""
    axis, how = call.integer("axis"), call.text("reduction", "none")
    indices = _non_negative(indices, x.shape[axis])
    if how == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, _REDUCE[how], include_self=True)


@tensor_kernel("ScatterND")
@via_int64
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy with one slice written, or combined, for each tuple of indices."""
    depth, how = indices.shape[-1], call.text("reduction", "none")
    lengths, tail = x.shape[:depth], prod(x.shape[depth:])
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, length in enumerate(lengths):
        flat = flat * length + _non_negative(indices[..., i], length)
    rows = flat.reshape(-1, 1).expand(-1, tail)
    old, new = x.reshape(prod(lengths), tail), updates.reshape(rows.shape)
    if how == "none":
        return old.scatter(0, rows, new).reshape(x.shape)
    return old.scatter_reduce(0, rows, new, _REDUCE[how], include_self=True).reshape(x.shape)


@tensor_kernel("TensorScatter")
@via_int64
def tensor_scatter(call: Call, cache: Tensor, update: Tensor, write_indices: Tensor | None = None) -> Tensor:
    """A cache with new entries written along an axis, from an index of its own in each batch."""
    axis = call.integer("axis", -2) % cache.ndim
    starts = torch.zeros(cache.shape[0], dtype=torch.int64) if write_indices is None else write_indices
    places = starts[:, None] + torch.arange(update.shape[axis])
    if call.text("mode", "linear") == "circular":
        places = places % cache.shape[axis]
    shape = [1] * cache.ndim
    shape[0], shape[axis] = places.shape
    return cache.scatter(axis, places.reshape(shape).expand(update.shape), update)


@tensor_kernel("NonZero", halves=True)
def non_zero(_: Call, x: Tensor) -> Tensor:
    """Indices of the elements that are not zero, one column each."""
    return torch.nonzero(x != 0).T


@tensor_kernel("Compress", halves=True)
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """The slices of an axis, or the elements of the flat tensor, where the condition holds."""
    kept = torch.nonzero(condition).reshape(-1)
    return x.index_select(call.integer("axis"), kept) if call.has("axis") else x.reshape(-1).index_select(0, kept)


@tensor_kernel("OneHot", halves=True)
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """`values` = (off, on): on where a place on the new axis equals the index, off elsewhere."""
    count = int(depth.reshape(()))
    axis = call.integer("axis", -1) % (indices.ndim + 1)
    wide = indices.to(torch.int64).unsqueeze(axis)
    places = torch.arange(count).reshape([-1 if i == axis else 1 for i in range(wide.ndim)])
    hot = (places == wide) | (places - count == wide)
    return torch.where(hot, values[1], values[0])


@tensor_kernel("Unique")
@via_int64
def unique(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The distinct elements or slices, where each is seen first, which is which, and how often."""
    axis = call.integer("axis") if call.has("axis") else 0
    x = x if call.has("axis") else x.reshape(-1)
    _, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    positions = torch.arange(x.shape[axis])
    first = torch.full(counts.shape, x.shape[axis]).scatter_reduce(0, inverse, positions, "amin")
    if not call.integer("sorted", 1):
        order = torch.argsort(first)
        first, counts, inverse = first[order], counts[order], torch.argsort(order)[inverse]
    return x.index_select(axis, first), first, inverse, counts


@tensor_kernel("ReverseSequence", halves=True)
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """The first elements of every sequence in reverse order, the rest as they are."""
    time, batch = call.integer("time_axis"), call.integer("batch_axis", 1)
    moved = x.movedim((time, batch), (0, 1))
    steps = torch.arange(moved.shape[0])[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return moved[source, torch.arange(moved.shape[1])].movedim((0, 1), (time, batch))
