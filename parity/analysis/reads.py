"""Which elements of a tensor anything reads: what lies in padding that is cut away again is nobody's fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from parity.analysis.localize import Divergence
from parity.analysis.match import MOVES, takes
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Value, to_numpy


def without_unread(found: Sequence[Divergence], model: Model, feed: Mapping[str, np.ndarray]) -> list[Divergence]:
    """Acquit the tensors whose error lies only in elements that nothing reads.

    Args:
        found: of one walk.
        model: the flat reference.
        feed: its inputs.
    """
    return [_acquitted(d) if d.error is not None and _unread(d, model, feed) else d for d in found]


def _unread(divergence: Divergence, model: Model, feed: Mapping[str, np.ndarray]) -> bool:
    assert divergence.error is not None  # noqa: S101 - the caller looked
    assert divergence.judgement is not None  # noqa: S101 - an error was measured, so it was judged
    read = read_elements(model, feed, divergence.tensor, divergence.shape)
    if read.all():
        return False
    left = float(np.linalg.norm(divergence.error[read]))
    floor = divergence.judgement.floor * divergence.judgement.local.reference_l2
    return left <= floor


def _acquitted(divergence: Divergence) -> Divergence:
    assert divergence.judgement is not None  # noqa: S101 - it was judged bad
    return replace(divergence, judgement=replace(divergence.judgement, passed=True), error=None)


def read_elements(model: Model, feed: Mapping[str, np.ndarray], tensor: str, shape: tuple[int, ...]) -> np.ndarray:
    """Follow the elements of a tensor through operators that only move them.

    Args:
        model: a flat model.
        feed: its inputs.
        tensor: whose elements.
        shape: of that tensor.

    Returns:
        bool, of `shape`: whether the element reaches a graph output or an operator that computes.
    """
    size = int(np.prod(shape))
    read = np.zeros(size + 1, bool)  # element 0 stands for every other tensor's elements
    results = {o.name for o in model.graph.outputs}
    followed: dict[str, torch.Tensor] = {tensor: torch.arange(1, size + 1).reshape(shape)}
    executor = Executor(model)
    values = executor.run(feed, capture={n for node in model.graph.nodes if node.op in MOVES for n in node.reads})
    values.update(executor.scope(feed))
    for node in model.graph.nodes:
        taken = [n for n in node.reads if n in followed]
        if not taken:
            continue
        if not all(takes(node, n) for n in taken):
            for name in taken:
                read[to_numpy(followed[name]).ravel()] = True
            continue
        moved = executor.evaluate(node, _labelled(node, followed, values))
        followed.update({n: v for n, v in zip(node.outputs, moved, strict=False) if isinstance(v, torch.Tensor)})
    for name in results & followed.keys():
        read[to_numpy(followed[name]).ravel()] = True
    return read[1:].reshape(shape)


def _labelled(node: Node, followed: Mapping[str, torch.Tensor], values: Mapping[str, Value]) -> list[Value]:
    """The node's inputs with element labels in place of data, zero for data that is not followed."""
    positions = MOVES[node.op]
    inputs: list[Value] = []
    for i, name in enumerate(node.inputs):
        value = values.get(name)
        if name in followed:
            inputs.append(followed[name])
        elif (positions is None or i in positions) and isinstance(value, torch.Tensor):
            inputs.append(torch.zeros(value.shape, dtype=torch.int64))
        else:
            inputs.append(value)
    return inputs
