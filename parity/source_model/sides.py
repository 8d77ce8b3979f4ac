"""The ONNX graph's tensors on one feed, in FP64, computed from the module's own values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy, in_arithmetic
from parity.source_model.mapping import Match
from parity.source_model.rounded import unrounded
from parity.source_model.trace import Trace


class Side:
    """The module's values where tensors are matched, else what the nodes make of those.

    Args:
        flat: functions and branches inlined.
        feed: a value for every input.
        trace: of the module on the same feed.
        matches: those found so far; the walk adds to them.
        beside: another side, whose weights are shared.

    Attributes:
        own: what the nodes made, by tensor.
        evaluated: how many nodes were.
    """

    def __init__(self, flat: Model, feed: Mapping[str, np.ndarray], trace: Trace, matches: Mapping[str, Match],
                 beside: Side | None = None) -> None:
        self.flat, self.trace, self.matches = flat, trace, matches
        self.executor: Executor = Executor(flat, Arithmetic.DOUBLE) if beside is None else beside.executor
        self.own: dict[str, Value] = {n: in_arithmetic(from_numpy(a), Arithmetic.DOUBLE) for n, a in feed.items()}
        self.weights: dict[str, Value] = _weights(self.executor, trace) if beside is None else beside.weights
        self.evaluated = 0

    def value(self, name: str) -> Value:
        """A tensor, evaluated now if it was not yet."""
        match = self.matches.get(name)
        if match is not None and match.activation in self.trace.values:
            return match.layout.apply(self.trace.values[match.activation])
        if name not in self.own and name not in self.weights:
            self.evaluate(self.flat.graph.producer[name])
        if name in self.own:
            return self.own[name]
        self.weights[name] = in_arithmetic(self.weights[name], Arithmetic.DOUBLE)  # once, whoever reads it next
        return self.weights[name]

    def evaluate(self, node: Node) -> Mapping[str, Value]:
        """What a node makes; it is kept."""
        self.evaluated += 1
        made = [n for n in node.proto.output if n]
        if made and made[0] in self.weights:
            return {}
        outer = {n: self.value(n) for n in node.reads} if node.subgraphs else {}
        results = self.executor.evaluate(node, [self.value(n) if n else None for n in node.inputs], outer)
        found = {n: v for n, v in zip(node.proto.output, results, strict=False) if n}
        self.own.update(found)
        return found


def _weights(executor: Executor, trace: Trace) -> dict[str, Value]:
    """The graph's weights; of those that are the module's rounded, the module's."""
    held = executor.prepared(executor.model.graph).weights
    return {**held, **dict(unrounded(held, trace))}
