"""The two sides of an attribution, and what the reference's operators make of the candidate's values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from parity.analysis.derivative import Parts, difference, parts_of
from parity.errors import ModelError
from parity.graph.constants import constant_values
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy, in_arithmetic
from parity.graph.store import ValueStore


class Sides:
    """Every tensor of the reference in FP64, and how far the candidate's is from it.

    Attributes:
        model: the reference.
        nodes: those whose results depend on an input, in order.
        executor: evaluates in FP64, recording for autograd.
        distances: candidate minus reference, of the tensors that differ and can be compared.
        locals: candidate minus what the reference's operator makes of the candidate's inputs, where that is not 0.
        shown: the candidate's graph outputs; of a hidden one, what the operator makes of its inputs.
    """

    def __init__(self, model: Model, tensors: Mapping[str, np.ndarray], memory: int, seed: int) -> None:
        """Make ready.

        Args:
            model: the reference, flat.
            tensors: what the candidate shows.
            memory: bytes of tensors to hold, beside those that a plain run holds; more go to files.
            seed: of the random operators.
        """
        self.model = model
        self.executor = Executor(model, Arithmetic.DOUBLE, gradients=True, seed=seed)
        self.nodes = [n for n in model.graph.nodes if n.outputs and not model.constants.issuperset(n.outputs)]
        self.distances, self.locals = ValueStore(memory // 3), ValueStore(memory // 3)
        self.shown: dict[str, Value] = {}
        self._tensors = tensors
        self._constants = constant_values(model)
        self._expected = ValueStore(memory // 3)

    def run(self, feed: Mapping[str, np.ndarray]) -> None:
        """Run the reference, and each of its operators at the candidate's inputs where these differ."""
        own: dict[str, Value] = {}  # the candidate's value of each tensor that differs
        unread = self.executor.prepared(self.model.graph).unread
        for name, array in feed.items():
            self._take(name, in_arithmetic(from_numpy(array), Arithmetic.DOUBLE), own, None)
        for node in self.nodes:
            right = self._evaluate(node, {n: self.expected(n) for n in node.reads})
            made: Mapping[str, Value] | None = right
            if not own.keys().isdisjoint(node.reads):
                try:
                    made = self._evaluate(node, {n: own[n] if n in own else self.expected(n) for n in node.reads})
                except ModelError:  # shapes that do not fit each other
                    made = None
            for name, value in right.items():
                self._take(name, value, own, made)
            for name in unread[node.index]:
                own.pop(name, None)
        results = (o.name for o in self.model.graph.outputs)
        self.shown = {n: own[n] if n in own else self.expected(n) for n in results}

    def expected(self, name: str) -> Value:
        """The reference's value."""
        return self._constants[name] if name in self._constants else self._expected[name]

    def distance(self, name: str) -> Parts | None:
        """The candidate's value minus the reference's; None where they are equal or cannot be compared."""
        return parts_of(self.distances[name]) if name in self.distances else None

    def local(self, name: str) -> Parts | None:
        """The local error; None where it is 0 or cannot be told."""
        return parts_of(self.locals[name]) if name in self.locals else None

    def drop(self, name: str) -> None:
        """Free a tensor that nobody needs any more."""
        for store in (self._expected, self.distances, self.locals):
            store.pop(name, None)

    def _take(self, name: str, right: Value, own: dict[str, Value], made: Mapping[str, Value] | None) -> None:
        """Note the reference's value of a tensor, and what sets the candidate's apart from it."""
        self._expected[name] = right
        operator = right if made is None else made[name]
        shown = _like(self._tensors[name], right) if name in self._tensors else operator
        if _equal(shown, right):
            return
        own[name] = shown
        if (distance := difference(shown, right)) is not None:
            self.distances[name] = list(distance)
        if shown is not operator and made is not None and (local := difference(shown, operator)) is not None:
            self.locals[name] = list(local)

    def _evaluate(self, node: Node, values: Mapping[str, Value]) -> dict[str, Value]:
        made = self.executor.evaluate(node, [values[n] if n else None for n in node.inputs], values)
        return {n: v for n, v in zip(node.proto.output, made, strict=False) if n}


def _like(array: np.ndarray, right: Value) -> Value:
    """A value that the candidate shows, in the type of the reference's; the latter where they are of another kind."""
    value = from_numpy(array)
    if isinstance(value, torch.Tensor) and isinstance(right, torch.Tensor):
        return value.to(right.dtype)
    numbers = isinstance(right, np.ndarray) and array.dtype.kind != "O" and right.dtype.kind != "O"
    return from_numpy(array.astype(right.dtype)) if isinstance(right, np.ndarray) and numbers else right


def _equal(one: Value, other: Value) -> bool:
    if one is other:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and bool(np.array_equal(one, other))
