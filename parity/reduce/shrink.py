"""Smaller values for a part that shows a fault: one row of the batch, and only the rows of a table that are used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.reduce.part import Part
from parity.reduce.trials import Shown


def one_row(shown: Shown) -> Part | None:
    """The part on the row of the batch that is furthest off; None where there is no batch."""
    if not shown.broken:
        return None
    expected = shown.broken[0]
    count = expected.values.shape[0] if expected.values.ndim else 1
    batched = [n for n, v in shown.part.feed.items() if v.ndim and v.shape[0] == count]
    if count < 2 or not batched:
        return None
    row = 0
    got = shown.outputs.get(expected.tensor)
    if got is not None and got.shape == expected.values.shape:
        row = max(range(count), key=lambda i: replace(expected, values=expected.values[i]).error(got[i]))
    return shown.part.fed({n: v[row:row + 1] if n in batched else v for n, v in shown.part.feed.items()})


def used_rows(part: Part) -> Part | None:
    """The part with tables cut down to the rows that its indices name; None where there are no such tables."""
    tables = {name: rows for name, value in part.feed.items() if value.dtype.kind in "iu" and value.size
              for rows in [_rows(part.candidate, name)] if rows is not None and rows == _rows(part.reference, name)}
    if not tables:
        return None
    feed, candidate, reference = dict(part.feed), part.candidate, part.reference
    for name, rows in tables.items():
        used, renamed = np.unique(part.feed[name] % rows, return_inverse=True)
        feed[name] = renamed.reshape(part.feed[name].shape).astype(part.feed[name].dtype)
        candidate, reference = _cut_down(candidate, name, used), _cut_down(reference, name, used)
    return Part(candidate, reference, feed)


def _rows(model: Model, indices: str) -> int | None:
    """Rows of the tables that these indices are for; None where they are used for anything else."""
    readers = model.graph.readers.get(indices, ())
    counts = {model.graph.initializers[n.inputs[0]].dims[0] if _looks_up(model, n, indices) else 0 for n in readers}
    return counts.pop() if len(counts) == 1 and 0 not in counts else None


def _looks_up(model: Model, node: Node, indices: str) -> bool:
    axis = next((a.i for a in node.proto.attribute if a.name == "axis"), 0)
    if node.op != "Gather" or axis != 0 or node.inputs[1] != indices or node.inputs[0] not in model.graph.initializers:
        return False
    return len(model.graph.readers[node.inputs[0]]) == 1


def _cut_down(model: Model, indices: str, used: np.ndarray) -> Model:
    tables = {node.inputs[0] for node in model.graph.readers[indices]}
    proto = shallow_copy(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in tables:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(model.weight(tensor.name)[used]), tensor.name))
    return replace(model, proto=proto)
