"""The part of the graph between tensors that the candidate shows and one to explain, ready to be tried otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from parity.analysis.causes.evidence import Bench, Evidence, relative
from parity.analysis.localize import Divergence
from parity.errors import ModelError
from parity.graph.graph import Node
from parity.graph.ops.call import Value, from_numpy, is_tensor, to_numpy

# What stands for a node: another node, or a function of its inputs.
Stand: TypeAlias = "Node | Callable[[Sequence[Value]], list[Value]]"
# What an alternative must keep to where the operator itself is exact: rounding of FP32 arithmetic.
_LEAST_FLOOR = 1e-6
# By how much an alternative must lower the error: less may be chance.
_GAIN = 10.0
# Beyond this many nodes between what is shown, nobody can say which one is meant.
MOST_NODES = 48


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes that make one tensor of the candidate from others that it shows.

    Attributes:
        bench: evaluates them.
        nodes: in order; the last one makes the tensor.
        position: of the tensor among that node's outputs.
        inputs: what the candidate read, constants included.
        candidate: what it shows of the tensor.
        floor: relative L2 error up to which a value explains the candidate's.
    """

    bench: Bench
    nodes: tuple[Node, ...]
    position: int
    inputs: Mapping[str, Value]
    candidate: np.ndarray
    floor: float

    @property
    def last(self) -> Node:
        """The node that makes the tensor."""
        return self.nodes[-1]

    @property
    def tensor(self) -> str:
        """The tensor to explain."""
        return str(self.last.proto.output[self.position])

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Every tensor of the unit, as the reference's operators make it from the candidate's inputs.

        Raises:
            ModelError: they cannot be evaluated.
        """
        return self._run({}, {})

    @cached_property
    def gold(self) -> np.ndarray:
        """What the reference's operators make of the candidate's inputs, in FP64."""
        return to_numpy(self.values[self.tensor])

    @cached_property
    def error(self) -> float:
        """The relative L2 error that is to be explained; inf where the shapes differ."""
        return relative(self.gold, self.candidate)

    def tried(self, stands: Mapping[str, Stand],
              inputs: Mapping[str, np.ndarray] = MappingProxyType({})) -> np.ndarray | None:
        """The tensor with some nodes, by first output, or some inputs exchanged; None where that cannot run."""
        try:
            given = {n: from_numpy(np.asarray(v)) for n, v in inputs.items()}
            made = self._run(stands, given)[self.tensor]
        except ModelError:
            return None
        return to_numpy(made) if is_tensor(made) else None

    def explains(self, value: np.ndarray | None) -> bool:
        """Whether the candidate's tensor is this value but for noise, and the reference's is not."""
        if value is None:
            return False
        left = relative(value, self.candidate)
        return left <= self.floor and (left * _GAIN < self.error or math.isinf(self.error))

    def input(self, name: str) -> np.ndarray | None:
        """A tensor that a node of the unit reads, as an array."""
        value = self.inputs[name] if name in self.inputs else self.values.get(name)
        return to_numpy(value) if is_tensor(value) else None

    def _run(self, stands: Mapping[str, Stand], inputs: Mapping[str, Value]) -> dict[str, Value]:
        values = {**self.inputs, **inputs}
        changed = {*stands, *inputs}
        known = self.__dict__.get("values", {})
        for node in self.nodes:
            if known and changed.isdisjoint((node.outputs[0], *node.reads)):
                values.update((n, known[n]) for n in node.outputs if n in known)
                continue
            changed.update(node.outputs)
            stand = stands.get(node.outputs[0], node)
            if isinstance(stand, Node):
                given = [values[n] if n else None for n in stand.inputs]
                made = self.bench.executor.evaluate(stand, given, values)
            else:
                made = stand([values[n] if n else None for n in node.inputs])
            values.update({n: v for n, v in zip(node.proto.output, made, strict=False) if n})
        return values


def unit_of(evidence: Evidence, divergence: Divergence, *, of_reference: bool = False,
            most: float = MOST_NODES) -> Unit | None:
    """The unit that makes a tensor in what the candidate should run.

    Args:
        evidence: of the candidate.
        divergence: the tensor.
        of_reference: take the reference's nodes, not the variant's.
        most: how many nodes there may be.

    Returns:
        None where the candidate shows too little, or nothing of the tensor.
    """
    return unit_in(evidence.original if of_reference else evidence.bench, evidence, divergence, most)


def unit_in(bench: Bench, evidence: Evidence, divergence: Divergence, most: float = MOST_NODES) -> Unit | None:
    """The unit that makes a tensor in any graph that has it, from what the candidate shows.

    Args:
        bench: evaluates the graph.
        evidence: of the candidate.
        divergence: the tensor.
        most: how many nodes there may be.

    Returns:
        None where the candidate shows too little, or nothing of the tensor.
    """
    last = bench.model.graph.producer.get(divergence.tensor)
    if last is None or divergence.tensor not in evidence.shown:
        return None
    nodes: dict[int, Node] = {}
    inputs: dict[str, Value] = {}
    stack = [last]
    while stack:
        node = stack.pop()
        if node.index in nodes:
            continue
        nodes[node.index] = node
        for name in node.reads:
            value = bench.value(evidence, name)
            if value is not None:
                inputs[name] = value
            elif name in bench.model.graph.producer:
                stack.append(bench.model.graph.producer[name])
            else:
                return None
        if len(nodes) > most:
            return None
    judgement = divergence.judgement
    half = np.asarray(evidence.shown[divergence.tensor]).dtype.itemsize == 2
    least = 2.0**-9 if half else _LEAST_FLOOR
    floor = max(judgement.floor, least) if judgement is not None and math.isfinite(judgement.floor) else least
    return Unit(bench, tuple(nodes[i] for i in sorted(nodes)), list(last.proto.output).index(divergence.tensor),
                inputs, np.asarray(evidence.shown[divergence.tensor]), floor)
