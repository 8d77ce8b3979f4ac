"""Tensors made, reshaped, joined and cut."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto

from parity.graph.ops.call import Call, Tensor, Value, from_numpy
from parity.graph.ops.dtypes import tensor_kernel, via_int64
from parity.graph.weights import read_sparse_weight


@tensor_kernel("Identity", halves=True)
def identity(_: Call, x: Value) -> Value:
    """The input itself: a tensor, a sequence or nothing."""
    return x


@tensor_kernel("Constant", halves=True)
def constant(call: Call) -> Value:
    """The value in the node's one attribute, in any of its forms."""
    if call.has("value"):
        return call.tensor("value")
    for name in ("value_float", "value_floats"):
        if call.has(name):
            number = call.numbers(name) if name.endswith("s") else call.number(name)
            return torch.tensor(number, dtype=call.dtype(TensorProto.FLOAT))
    for name in ("value_int", "value_ints"):
        if call.has(name):
            return torch.tensor(call.integers(name) if name.endswith("s") else call.integer(name), dtype=torch.int64)
    if call.has("value_string"):
        return np.array(call.text("value_string"))
    if call.has("value_strings"):
        return np.array(call.texts("value_strings"), dtype=np.str_)
    sparse = call.attribute("sparse_value")
    if sparse is None:
        raise NotImplementedError("a Constant without a value")
    return call.real(from_numpy(read_sparse_weight(sparse.sparse_tensor, call.folder)))


@tensor_kernel("ConstantOfShape", halves=True)
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    """One number everywhere; FP32 zero where the node gives none."""
    value = call.tensor("value") if call.has("value") else torch.zeros(1, dtype=call.dtype(TensorProto.FLOAT))
    if not isinstance(value, torch.Tensor):
        raise NotImplementedError("torch has no such type")
    return value.reshape(()).expand(shape.tolist()).contiguous()


@tensor_kernel("EyeLike", halves=True)
def eye_like(call: Call, x: Tensor) -> Tensor:
    """Ones on the k-th diagonal, in the shape of `x`."""
    dtype = call.dtype(call.integer("dtype")) if call.has("dtype") else x.dtype
    rows, columns = (torch.arange(n) for n in x.shape)
    return (rows[:, None] + call.integer("k") == columns).to(dtype)


@tensor_kernel("Range")
def arange(_: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from `start` on by steps of `delta`, up to but without `limit`."""
    start, limit, delta = start.reshape(()), limit.reshape(()), delta.reshape(())
    if start.is_floating_point():
        steps = torch.arange(max(ceil((limit - start).item() / delta.item()), 0), dtype=start.dtype)
        return start + steps * delta
    numbers = range(int(start), int(limit), int(delta))
    return torch.tensor(numbers, dtype=torch.int64).to(start.dtype)


@tensor_kernel("Shape", halves=True)
def shape_of(call: Call, x: Tensor) -> Tensor:
    """The shape, or from opset 15 the part of it from `start` to `end`."""
    shape = list(x.shape)
    return torch.tensor(shape[call.integer("start"):call.integer("end", len(shape))], dtype=torch.int64)


@tensor_kernel("Size", halves=True)
def size_of(_: Call, x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(x.numel())


@tensor_kernel("Reshape", halves=True)
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """The same elements in another shape: 0 copies a length (unless `allowzero`), -1 is worked out."""
    wanted = shape.tolist()
    if not call.integer("allowzero"):
        wanted = [n or x.shape[i] for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@tensor_kernel("Flatten", halves=True)
def flatten(call: Call, x: Tensor) -> Tensor:
    """A matrix: the axes before `axis`, and the others."""
    axis = call.integer("axis", 1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@tensor_kernel("Transpose", halves=True)
def transpose(call: Call, x: Tensor) -> Tensor:
    """Axes in another order; reversed by default."""
    order = call.integers("perm")
    return x.permute(list(range(x.ndim))[::-1] if order is None else order)


def _axes(call: Call, axes: Tensor | None) -> list[int] | None:
    """Axes as an input (from opset 13), or as an attribute."""
    return call.integers("axes") if axes is None else axes.reshape(-1).tolist()


@tensor_kernel("Squeeze", halves=True)
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without the given axes of length 1; by default without any such axis."""
    listed = _axes(call, axes)
    if listed is None:
        return x.squeeze()
    if any(x.shape[a] != 1 for a in listed):
        raise ValueError(f"axes {listed} are not all of length 1")
    return x.squeeze(listed)


@tensor_kernel("Unsqueeze", halves=True)
def unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With axes of length 1 put in, counted in the result."""
    listed = _axes(call, axes) or []
    rank = x.ndim + len(listed)
    for axis in sorted(a % rank for a in listed):
        x = x.unsqueeze(axis)
    return x


@tensor_kernel("Concat", halves=True)
def concat(call: Call, *inputs: Tensor) -> Tensor:
    """The inputs one after another along an axis."""
    return torch.cat(inputs, call.integer("axis"))


@tensor_kernel("Split", halves=True)
def split(call: Call, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts along an axis: of given lengths (an attribute before opset 13), or as equal as can be."""
    axis = call.integer("axis")
    given = call.integers("split") if lengths is None else lengths.tolist()
    if given is None:
        count = call.integer("num_outputs", call.output_count)
        total, part = x.shape[axis], -(-x.shape[axis] // count)
        given = [max(0, min(part, total - i * part)) for i in range(count)]
    return torch.split(x, given, axis)


@tensor_kernel("Expand", halves=True)
def expand(_: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast with a shape."""
    return x.expand(np.broadcast_shapes(x.shape, shape.tolist()))


@tensor_kernel("Tile", halves=True)
def tile(_: Call, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(repeats.tolist())


@tensor_kernel("Pad", halves=True)
def pad(call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None,
        axes: Tensor | None = None) -> Tensor:
    """Longer at both ends of the axes, or shorter where a pad is negative."""
    amounts = (call.integers("pads") or []) if pads is None else pads.tolist()
    listed = range(x.ndim) if axes is None else axes.tolist()
    widths = {a % x.ndim: (amounts[i], amounts[i + len(listed)]) for i, a in enumerate(listed)}
    mode = call.text("mode", "constant")
    if mode != "constant":
        for axis, (before, after) in widths.items():
            x = x.index_select(axis, _source_indices(x.shape[axis], before, after, mode))
        return x
    flat = [n for axis in reversed(range(x.ndim)) for n in widths.get(axis, (0, 0))]
    if value is None and not call.number("value"):
        return F.pad(x, flat)
    fill = torch.tensor(call.number("value"), dtype=x.dtype) if value is None else value.reshape(())
    inside = F.pad(torch.ones(x.shape, dtype=torch.bool), flat)
    return torch.where(inside, F.pad(x, flat), fill)


def _source_indices(length: int, before: int, after: int, mode: str) -> Tensor:
    """Where each element of a padded axis is taken from."""
    positions = torch.arange(-before, length + after)
    if mode == "edge":
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions % length
    period = max(2 * (length - 1), 1)
    return torch.minimum(positions % period, period - positions % period) if length > 1 else positions * 0


@tensor_kernel("Trilu", halves=True)
@via_int64
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle, zero elsewhere."""
    diagonal = 0 if k is None else int(k.reshape(()))
    return torch.triu(x, diagonal) if call.integer("upper", 1) else torch.tril(x, diagonal)


@tensor_kernel("DepthToSpace", halves=True)
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Blocks of channels moved into the image plane."""
    n, c, h, w = x.shape
    b = call.integer("blocksize")
    if call.text("mode", "DCR") == "DCR":
        blocks = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (b * b), h * b, w * b)


@tensor_kernel("SpaceToDepth", halves=True)
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """Blocks of the image plane moved into channels."""
    n, c, h, w = x.shape
    b = call.integer("blocksize")
    order = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b * b, h // b, w // b)


@tensor_kernel("Dropout", halves=True)
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None,
            training: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The input as it is, and a mask that is true everywhere; what training would drop is random."""
    if training is not None and bool(training) and (ratio is None or bool(ratio > 0)):
        raise NotImplementedError("dropout in training")
    return x, torch.ones(x.shape, dtype=x.dtype if call.opset < 10 else torch.bool)
