"""What each side shows, and what the candidate's operators therefore saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from parity.analysis.judge import Ruler
from parity.analysis.noise import Movement
from parity.graph.constants import constant_values
from parity.graph.device import Lying, executor_on, moved, value_of
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy


@dataclass
class Stream:
    """One side's tensors, in the order it shows them, held until the walk has passed their last reader.

    Attributes:
        chunks: the tensors as they become known.
        shown: the names that `chunks` may bring.
        order: place of each name in the graph.
        memory: bytes of tensors to read ahead of one that does not come, before it is taken for hidden.
        values: what is held now.
    """

    chunks: Iterator[Mapping[str, Lying]]
    shown: frozenset[str]
    order: Mapping[str, int] = field(default_factory=dict)
    memory: int = 0
    values: dict[str, Lying] = field(default_factory=dict)
    _held: int = 0
    _reached: int = -1

    def pull(self, name: str) -> Lying | None:
        """The value of a tensor, reading on until it arrives; None where this side hides it.

        It hides what a chunk from further down the graph comes before, once much was read: to look for it to the end
        would hold all tensors of the model at once. Before that, it may be that this side has another order.
        """
        while name in self.shown and name not in self.values:
            if self._held > self.memory and self._reached > self.order.get(name, self._reached):
                return None
            chunk = next(self.chunks, None)
            if chunk is None:
                return None
            for arrived, value in chunk.items():
                self.drop(arrived)
                self.values[arrived] = value
                self._held += value.nbytes
            self._reached = min((self.order.get(n, -1) for n in chunk), default=self._reached)
        return self.values.get(name)

    def drop(self, name: str) -> None:
        """Free a tensor that nobody needs any more."""
        value = self.values.pop(name, None)
        self._held -= 0 if value is None else value.nbytes


@dataclass
class Inputs:
    """What the candidate's operators saw: its own values, or FP64 and FP32 estimates of those that it hides."""

    wide: dict[str, Value] = field(default_factory=dict)
    narrow: dict[str, Value] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def show(self, name: str, value: Lying, like: Lying | None) -> None:
        """Take a value that the candidate shows: as it is, and in the floating-point type of `like` if there is one."""
        self.wide[name] = self.narrow[name] = value_of(value)
        other = like is not None and like.dtype != value.dtype and like.dtype.kind == "f"
        if like is not None and other and np.can_cast(value.dtype, like.dtype, "same_kind"):
            self.narrow[name] = value_of(value.astype(like.dtype))

    def estimate(self, name: str, gold: Value, declared: Value) -> None:
        """Stand in for a hidden tensor, so that the sub-graph up to the next shown one is judged as a whole."""
        self.hidden.add(name)
        self.wide[name], self.narrow[name] = gold, declared

    def drop(self, name: str) -> None:
        """Free a tensor that nobody needs any more."""
        self.wide.pop(name, None)
        self.narrow.pop(name, None)


class Rulers:
    """A flat model whose nodes can be evaluated, one at a time, at the candidate's inputs.

    Args:
        model: which.
        device: where to evaluate them; None for the CPU.
    """

    def __init__(self, model: Model, device: torch.device | None = None) -> None:
        self.model = model
        self.gold = executor_on(device, model, Arithmetic.DOUBLE)
        self.declared = executor_on(device, model)
        # What a kernel nobody saw may have made of it.
        self.moved = executor_on(device, model, rounding=Movement(0))
        self._device = device

    def at(self, node: Node, inputs: Inputs) -> Ruler | None:
        """The node at what the candidate's operator saw; None where one of its inputs was never seen."""
        if not all(n in self.constants or n in inputs.wide for n in node.reads):
            return None
        wide = {n: self.constants[n] if n in self.constants else inputs.wide[n] for n in node.reads}
        narrow = {n: self.constants[n] if n in self.constants else inputs.narrow[n] for n in node.reads}
        return Ruler(
            node, [wide[n] if n else None for n in node.inputs], [narrow[n] if n else None for n in node.inputs],
            (wide, narrow), not inputs.hidden.isdisjoint(node.reads),
            [not n or n in self.model.constants for n in node.inputs], self._accumulator_step(node),
            self.gold, self.declared)

    def _accumulator_step(self, node: Node) -> float:
        """The product of the scales of a dequantised input and weight, where the node adds a bias.

        ONNX Runtime's optimiser quantises such a bias to int32 with that product as its scale.
        """
        if node.proto.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 3 or not node.inputs[2]:
            return 0.0
        makers = [self.model.graph.producer.get(n) for n in node.inputs[:2]]
        scales = [to_numpy(self.constants[m.inputs[1]]).astype(np.float64) for m in makers
                  if m is not None and m.proto.op_type == "DequantizeLinear" and m.inputs[1] in self.constants]
        return float(np.sqrt(np.mean(np.square(scales[0] * scales[1])))) if len(scales) == 2 else 0.0

    @cached_property
    def constants(self) -> dict[str, Value]:
        """Every tensor that no input can change, in its declared type."""
        values = constant_values(self.model)
        return values if self._device is None else {n: moved(v, self._device) for n, v in values.items()}
