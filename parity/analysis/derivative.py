"""One node's derivative at one place, and the arithmetic of what it is multiplied with."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from parity.analysis.match import takes
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.ops.call import FLOATS, Arithmetic, Tensor, Value
from parity.graph.ops.quantize import along, as_real

# A tensor, or the elements of a sequence, as a flat list: what sums and products are taken over.
Parts: TypeAlias = list[Tensor]


class Derivative:
    """One node evaluated at some inputs, ready to give products with its derivative there.

    Attributes:
        outputs: what it makes, the tensors of each output.
    """

    def __init__(self, executor: Executor, node: Node, values: Mapping[str, Value], wrt: Collection[str]) -> None:
        """Evaluate the node, recording what autograd needs.

        Args:
            executor: with gradients.
            node: any.
            values: everything that it reads, constants included.
            wrt: inputs whose adjoints will be asked for; integers among them count as real numbers.

        Raises:
            ModelError: it cannot be evaluated there.
        """
        dtype = torch.float64 if executor.arithmetic is Arithmetic.DOUBLE else torch.float32
        self._leaves = {n: [t.detach().requires_grad_() for t in reals(values[n], dtype)] for n in wrt}
        given = dict(values)
        for name, leaves in self._leaves.items():
            given[name] = list(leaves) if isinstance(given[name], list) else leaves[0]
        made = _evaluate(executor, node, given)
        self.outputs = {n: parts_of(v) for n, v in zip(node.proto.output, made, strict=False) if n}

    def pull(self, adjoints: Mapping[str, Parts]) -> dict[str, Parts]:
        """The products of the derivative with adjoints of outputs, for every input that has any; asked for once.

        Args:
            adjoints: for each output that has one.
        """
        return self._pull(adjoints, stacked=False)

    def pull_each(self, adjoints: Mapping[str, Parts]) -> dict[str, Parts]:
        """The same for many adjoints at once, which are stacked along a first axis, as are the results."""
        try:
            return self._pull(adjoints, stacked=True)
        except (RuntimeError, NotImplementedError):  # not every operator's derivative can be taken of a stack
            count = len(next(iter(adjoints.values()))[0])
            rows = [self._pull({n: [p[k] for p in parts] for n, parts in adjoints.items()}, stacked=False, again=True)
                    for k in range(count)]
        return {n: [torch.stack(column) for column in zip(*(row[n] for row in rows), strict=True)] for n in rows[0]}

    def _pull(self, adjoints: Mapping[str, Parts], *, stacked: bool, again: bool = False) -> dict[str, Parts]:
        pairs = [(y, a) for n, parts in adjoints.items() for y, a in zip(self.outputs.get(n, []), parts, strict=False)
                 if y.requires_grad and y.shape == a.shape[int(stacked):]]
        leaves = [t for parts in self._leaves.values() for t in parts]
        if not pairs or not leaves:
            return {}
        gradients = iter(torch.autograd.grad(
            [y for y, _ in pairs], leaves, [a.to(y.dtype) for y, a in pairs], allow_unused=True,
            retain_graph=stacked or again, is_grads_batched=stacked))
        found = {n: [next(gradients) for _ in parts] for n, parts in self._leaves.items()}
        rows = pairs[0][1].shape[:int(stacked)]
        return {n: [t.new_zeros(*rows, *t.shape) if g is None else finite(g)
                    for t, g in zip(self._leaves[n], parts, strict=True)]
                for n, parts in found.items() if any(g is not None for g in parts)}

    def push(self, output: str, steps: Mapping[str, Parts]) -> Tensor | None:
        """The product of the derivative of one output with steps of the inputs; None where it has none."""
        (y,) = self.outputs[output]
        if not y.requires_grad:
            return None
        # The product from the left is linear in what it is given: its own derivative is the product from the right.
        left = torch.zeros_like(y, requires_grad=True)
        leaves = {n: leaf for n, parts in self._leaves.items() for leaf in parts}
        found = torch.autograd.grad(y, list(leaves.values()), left, create_graph=True, allow_unused=True)
        pairs = [(g, steps[n][0]) for n, g in zip(leaves, found, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return None
        (pushed,) = torch.autograd.grad([g for g, _ in pairs], left, [d for _, d in pairs], retain_graph=True)
        return finite(pushed)


def _evaluate(executor: Executor, node: Node, values: Mapping[str, Value]) -> Sequence[Value]:
    inputs = [values[n] if n else None for n in node.inputs]
    if node.proto.op_type == "QuantizeLinear":
        unrounded = _straight_through(node, inputs)
        if unrounded is not None:
            return [unrounded]
    return executor.evaluate(node, inputs, values)


def _straight_through(node: Node, inputs: Sequence[Value]) -> Tensor | None:
    """QuantizeLinear without its rounding: x / scale + zero_point, clipped to the type's range; None for odd forms."""
    attributes = {a.name: a.i for a in node.proto.attribute}
    x, scale = inputs[0], inputs[1]
    if attributes.get("block_size") or not isinstance(x, torch.Tensor) or not isinstance(scale, torch.Tensor):
        return None
    zero_point = inputs[2] if len(inputs) > 2 else None
    dtype = zero_point.dtype if isinstance(zero_point, torch.Tensor) else torch.uint8
    if attributes.get("output_dtype") or dtype in FLOATS:
        return None
    limits, axis = torch.iinfo(dtype), attributes.get("axis", 1)
    steps = x / along(scale.to(x.dtype), x.shape, axis)
    if isinstance(zero_point, torch.Tensor):
        steps = steps + along(zero_point.to(x.dtype), x.shape, axis)
    return steps.clamp(limits.min, limits.max)


def carries(node: Node, name: str, value: Value, adjoints: Collection[str]) -> bool:
    """Whether an input of a node has a slope at all.

    Floating-point tensors have; integers only where they stand for real numbers: what DequantizeLinear reads, and
    what data movement passes on to it.

    Args:
        node: the node.
        name: of the input.
        value: of the input.
        adjoints: names of its outputs that have an adjoint.
    """
    if isinstance(value, list):
        return bool(value) and all(carries(node, name, element, adjoints) for element in value)
    if isinstance(value, torch.Tensor) and value.dtype in FLOATS:
        return True
    if value is None or (isinstance(value, np.ndarray) and value.dtype.kind == "O"):
        return False
    if node.proto.op_type == "DequantizeLinear":
        return name == node.inputs[0]
    return takes(node, name) and bool(adjoints) and not (isinstance(value, torch.Tensor) and value.dtype == torch.bool)


def parts_of(value: Value) -> Parts:
    """The tensors that a value consists of; those that torch does not know are left out."""
    if isinstance(value, list):
        return [t for element in value for t in parts_of(element)]
    return [value] if isinstance(value, torch.Tensor) else []


def difference(end: Value, start: Value) -> Parts | None:
    """One value minus another in FP64; 0 where that is not finite, as where both hold the same infinity.

    Returns:
        One tensor for each part; None where the shapes differ, or there are no numbers.
    """
    ends, starts = reals(end, torch.float64), reals(start, torch.float64)
    if len(ends) != len(starts) or not ends or any(e.shape != s.shape for e, s in zip(ends, starts, strict=True)):
        return None
    return [finite(e - s) for e, s in zip(ends, starts, strict=True)]


def dot(adjoints: Parts, values: Parts | None) -> float:
    """Σ a·v over all elements, 0 without values."""
    if values is None:
        return 0.0
    return sum(float(torch.dot(a.reshape(-1), v.reshape(-1))) for a, v in zip(adjoints, values, strict=True))


def reals(value: Value, dtype: torch.dtype) -> Parts:
    """The numbers of a value as `dtype`; text and complex numbers are left out."""
    if isinstance(value, list):
        return [t for element in value for t in reals(element, dtype)]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return [as_real(value, dtype)]
    if not isinstance(value, torch.Tensor) or value.dtype.is_complex:
        return []
    return [value.to(dtype)]


def finite(value: Tensor) -> Tensor:
    """A tensor with 0 for NaN and infinities."""
    if math.isfinite(float(value.sum())):  # the usual case, at the least cost
        return value
    return torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
