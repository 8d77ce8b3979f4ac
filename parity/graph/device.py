"""Tensors and the executor on another device than the CPU.

What lies there is measured there; numpy sees it where it asks for it, at the price of bringing it over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch

from parity.graph.executor import Executor, Feedable, Rounding, Step
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy, to_numpy
from parity.graph.prepared import Prepared

# Its tensors are numpy's, too.
HOST = "cpu"


@dataclass(frozen=True, eq=False)
class Placed:
    """A tensor on a device, of which numpy knows type and shape, and the values where it asks for them.

    Attributes:
        tensor: of any type and shape.
    """

    tensor: torch.Tensor

    @cached_property
    def dtype(self) -> np.dtype:
        """The type that numpy has for it; BF16 is ml_dtypes' bfloat16."""
        return to_numpy(torch.empty(0, dtype=self.tensor.dtype)).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy has it."""
        return tuple(self.tensor.shape)

    @property
    def size(self) -> int:
        """How many elements."""
        return self.tensor.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.tensor.nbytes

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The values, brought to the CPU."""
        array = to_numpy(self.tensor)
        return array if dtype is None else array.astype(dtype)

    def astype(self, dtype: np.dtype | type) -> Placed:
        """The tensor in another of the types that torch knows, there."""
        like = from_numpy(np.empty(0, dtype))
        assert isinstance(like, torch.Tensor)  # noqa: S101 - what is placed is in a type of torch's
        return Placed(self.tensor.to(like.dtype))


# A tensor to be measured, where it lies.
Lying: TypeAlias = "np.ndarray | Placed"


def lying(value: Value) -> Lying:
    """A tensor where it lies: numpy's on the CPU, and `Placed` elsewhere.

    Raises:
        TypeError: the value is a sequence or absent.
    """
    if isinstance(value, torch.Tensor) and value.device.type != HOST:
        return Placed(value)
    return to_numpy(value)


def value_of(tensor: Lying) -> Value:
    """The same for the executor."""
    return tensor.tensor if isinstance(tensor, Placed) else from_numpy(tensor)


def moved(value: Value, device: torch.device) -> Value:
    """A value with its tensors on a device; what torch has no type for stays."""
    if isinstance(value, list):
        return [moved(v, device) for v in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


class OnDevice(Executor):
    """The executor with its tensors on another device than the CPU.

    What an operator makes elsewhere, as the numpy reference evaluator does, is brought there before it is read.

    Args:
        device: where tensors live.
        model: what to run.
        arithmetic: in which types.
        seed: for the random operators.
        rounding: is applied to the outputs of each node, as `Executor` does.
    """

    def __init__(self, device: torch.device, model: Model, arithmetic: Arithmetic = Arithmetic.DECLARED, *,
                 seed: int = 0, rounding: Rounding | None = None) -> None:
        super().__init__(model, arithmetic, seed=seed, rounding=self._placed)
        self.device = device
        self._after = rounding
        self._prepared: dict[Graph, Prepared] = {}

    def run(self, feed: Feedable, capture: Collection[str] = ()) -> dict[str, Value]:
        """Run the whole model, as `Executor.run` does."""
        with self.device:
            return super().run(feed, capture)

    def steps(self, feed: Feedable, keep: Collection[str] = ()) -> Iterator[Step]:
        """Run the model one node at a time, as `Executor.steps` does."""
        walk = super().steps(feed, keep)
        while True:
            with self.device:  # not across a yield: it holds for all of this thread
                step = next(walk, None)
            if step is None:
                return
            yield step

    def evaluate(self, node: Node, inputs: Sequence[Value], outer: Mapping[str, Value] | None = None) -> list[Value]:
        """Evaluate one node, as `Executor.evaluate` does; the inputs may lie anywhere."""
        around = {name: moved(value, self.device) for name, value in (outer or {}).items()}
        with self.device:
            return super().evaluate(node, [moved(value, self.device) for value in inputs], around)

    def scope(self, feed: Feedable) -> dict[str, Value]:
        """The inputs and the weights, there."""
        return {name: moved(value, self.device) for name, value in super().scope(feed).items()}

    def prepared(self, graph: Graph) -> Prepared:
        """What all runs share, its weights there."""
        found = self._prepared.get(graph)
        if found is None:
            own = super().prepared(graph)
            found = replace(own, weights={n: moved(w, self.device) for n, w in own.weights.items()})
            self._prepared[graph] = found
        return found

    def _placed(self, node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        placed = [moved(value, self.device) for value in outputs]
        return placed if self._after is None else self._after(node, inputs, placed)


def executor_on(device: torch.device | None, model: Model, arithmetic: Arithmetic = Arithmetic.DECLARED, *,
                seed: int = 0, rounding: Rounding | None = None) -> Executor:
    """An executor on a device; None for the CPU."""
    if device is None:
        return Executor(model, arithmetic, seed=seed, rounding=rounding)
    return OnDevice(device, model, arithmetic, seed=seed, rounding=rounding)
