"""Control flow, sequences and optionals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from onnx import TensorProto

from parity.graph.graph import Graph
from parity.graph.ops.call import Call, Tensor, Value, kernel


@kernel("If", halves=True)
def branch(call: Call, condition: Tensor) -> tuple[Value, ...]:
    """The outputs of one of two bodies."""
    return tuple(call.run_body(call.body("then_branch" if bool(condition) else "else_branch"), []))


@kernel("Loop", halves=True)
def loop(call: Call, limit: Tensor | None = None, condition: Tensor | None = None,
         *initial: Value) -> tuple[Value, ...]:
    """Run a body until its condition fails or `limit` is reached: the last state, and what each iteration adds."""
    body = call.body("body")
    state = list(initial)
    rows: list[list[Value]] = []
    index, go_on = 0, condition is None or bool(condition)
    while go_on and (limit is None or index < int(limit)):
        proceed, *made = call.run_body(body, [torch.tensor(index), torch.tensor(go_on), *state])
        state = made[:len(initial)]
        rows.append(made[len(initial):])
        index, go_on = index + 1, bool(proceed)
    return *state, *_stacked(call, body, 1 + len(initial), rows, [])


def _stacked(call: Call, body: Graph, first: int, rows: Sequence[Sequence[Value]], axes: Sequence[int]) -> list[Tensor]:
    """Scan outputs: the body's outputs from the `first` on, of all iterations, on a new axis each (default 0)."""
    count = len(body.proto.output) - first
    axes = [*axes, *[0] * (count - len(axes))]
    if not rows:
        return [_no_rows(call, body, first + i, axes[i]) for i in range(count)]
    return [torch.stack([cast("Tensor", row[i]) for row in rows], axes[i]) for i in range(count)]


def _no_rows(call: Call, body: Graph, output: int, axis: int) -> Tensor:
    """What a scan output is after no iterations: empty, with what the body declares of its element."""
    declared = body.proto.output[output].type.tensor_type
    element = torch.zeros([d.dim_value for d in declared.shape.dim],
                          dtype=call.dtype(declared.elem_type or TensorProto.FLOAT))
    return torch.stack([element], axis).narrow(axis, 0, 0)


@kernel("Scan", halves=True)
def scan(call: Call, *inputs: Value) -> tuple[Value, ...]:
    """Run a body over the slices of some inputs: the last state, and the outputs of all slices."""
    if call.opset < 9:
        return _batched_scan(call, *inputs)
    count = call.integer("num_scan_inputs")
    axes = call.integers("scan_input_axes") or [0] * count
    backward = call.integers("scan_input_directions") or [0] * count
    return _scan(call, inputs[:-count], cast("Sequence[Tensor]", inputs[-count:]), axes, backward)


def _scan(call: Call, initial: Sequence[Value], scanned: Sequence[Tensor], axes: Sequence[int],
          backward: Sequence[int]) -> tuple[Value, ...]:
    body = call.body("body")
    slices = [x.unbind(a)[::-1] if b else x.unbind(a) for x, a, b in zip(scanned, axes, backward, strict=True)]
    state, rows = list(initial), []
    for elements in zip(*slices, strict=True):
        made = call.run_body(body, [*state, *elements])
        state = made[:len(initial)]
        rows.append(made[len(initial):])
    out_axes = call.integers("scan_output_axes") or []
    outputs = _stacked(call, body, len(initial), rows, out_axes)
    prepend = call.integers("scan_output_directions") or []
    for i, flipped in enumerate(prepend):
        if flipped:
            axis = out_axes[i] if out_axes else 0
            outputs[i] = outputs[i].flip(axis)
    return *state, *outputs


def _batched_scan(call: Call, lengths: Value, *inputs: Value) -> tuple[Value, ...]:
    """Scan before opset 9: over axis 1 of every batch on its own, each as long as `lengths` says."""
    tensors = cast("Sequence[Tensor]", inputs)
    counts = cast("Tensor | None", lengths)
    count = call.integer("num_scan_inputs")
    states, scanned = tensors[:-count], tensors[-count:]
    backward = call.integers("directions") or [0] * count
    longest = scanned[0].shape[1]
    batches = []
    for i in range(scanned[0].shape[0]):
        length = longest if counts is None else int(counts[i])
        made = _scan(call, [s[i] for s in states], [x[i, :length] for x in scanned], [0] * count, backward)
        final, outputs = made[:len(states)], cast("Sequence[Tensor]", made[len(states):])
        padded = [torch.cat([o, o.new_zeros(longest - length, *o.shape[1:])]) for o in outputs]
        batches.append([*cast("Sequence[Tensor]", final), *padded])
    return tuple(torch.stack(column) for column in zip(*batches, strict=True))


@kernel("SequenceEmpty", halves=True)
def sequence_empty(_: Call) -> Value:
    """A sequence of nothing."""
    return []


@kernel("SequenceConstruct", halves=True)
def sequence_construct(_: Call, *elements: Value) -> Value:
    """A sequence of the inputs."""
    return list(elements)


@kernel("SequenceAt", halves=True)
def sequence_at(_: Call, sequence: list[Value], position: Tensor) -> Value:
    """One element; negative positions count from the back."""
    return sequence[int(position)]


@kernel("SequenceErase", halves=True)
def sequence_erase(_: Call, sequence: list[Value], position: Tensor | None = None) -> Value:
    """Without one element, by default the last."""
    at = range(len(sequence))[-1 if position is None else int(position)]
    return [*sequence[:at], *sequence[at + 1:]]


@kernel("SequenceInsert", halves=True)
def sequence_insert(_: Call, sequence: list[Value], element: Value, position: Tensor | None = None) -> Value:
    """With an element put before a position, by default at the end."""
    at = len(sequence) if position is None else int(position)
    return [*sequence[:at], element, *sequence[at:]]


@kernel("SequenceLength", halves=True)
def sequence_length(_: Call, sequence: list[Value]) -> Tensor:
    """The number of elements."""
    return torch.tensor(len(sequence))


@kernel("SplitToSequence", halves=True)
def split_to_sequence(call: Call, x: Tensor, lengths: Tensor | None = None) -> Value:
    """Parts along an axis, of given lengths or all of one length, by default 1."""
    axis = call.integer("axis")
    if lengths is None:
        return list(torch.split(x, 1, axis) if call.integer("keepdims", 1) else x.unbind(axis))
    return list(torch.split(x, lengths.tolist(), axis))


@kernel("ConcatFromSequence", halves=True)
def concat_from_sequence(call: Call, sequence: list[Value]) -> Tensor:
    """The elements one after another along an axis, which is new where `new_axis` says so."""
    if not all(isinstance(element, torch.Tensor) for element in sequence):
        raise NotImplementedError("a sequence of strings")
    join = torch.stack if call.integer("new_axis") else torch.cat
    return join(cast("list[Tensor]", sequence), call.integer("axis"))


@kernel("Optional", halves=True)
def optional(_: Call, x: Value = None) -> Value:
    """The input, or nothing."""
    return x


@kernel("OptionalHasElement", halves=True)
def optional_has_element(_: Call, x: Value = None) -> Tensor:
    """Whether there is something."""
    return torch.tensor(x is not None)


@kernel("OptionalGetElement", halves=True)
def optional_get_element(_: Call, x: Value) -> Value:
    """What there is."""
    if x is None:
        raise ValueError("the optional is empty")
    return x
