"""A tensor close up: both distributions, what its number format can hold, and what its operator reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto

from parity.analysis.histogram import Distributions, distributions
from parity.analysis.localize import Divergence
from parity.analysis.match import comparable_tensors
from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.precision.elements import TypedGraph, read_types

MOST = 24  # tensors of one candidate that are shown close up
_HALVES = {int(TensorProto.FLOAT16): np.dtype(np.float16), int(TensorProto.BFLOAT16): np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Format:
    """What a number format can hold at one place of a graph.

    Attributes:
        name: e.g. "int8" or "float16".
        low: smallest value.
        high: largest value.
        step: of an integer format the scale, the largest of several; else the smallest normal number.
        scales: how many scales; 1 for one of the whole tensor.
        zero: the integer that stands for 0, where there is one scale.
        clipped: share of the tensor's finite elements beyond the range by more than half a step; None where unknown.
    """

    name: str
    low: float
    high: float
    step: float
    scales: int = 1
    zero: int | None = None
    clipped: float | None = None


@dataclass(frozen=True)
class Operand:
    """One tensor that an operator reads.

    Attributes:
        name: in the user's model.
        low: its smallest finite value on the candidate's side, of a weight the reference's; None where none is shown.
        high: likewise, its largest.
        format: in what the candidate's operator gets it; None where it is the model's own.
    """

    name: str
    low: float | None
    high: float | None
    format: Format | None


@dataclass(frozen=True)
class Portrait:
    """One tensor close up.

    Attributes:
        values: on both sides.
        format: what its readers, or its own type, can hold of it; None where that is no lower precision.
        operands: what its operator reads, in order.
    """

    values: Distributions
    format: Format | None
    operands: tuple[Operand, ...]


def chosen(found: Sequence[Divergence], shares: Mapping[str, float], outputs: Collection[str]) -> tuple[str, ...]:
    """The tensors worth a portrait: outputs, those to blame in order, then those that add most error.

    Args:
        found: the candidate's tensors.
        shares: of the output error, by tensor; where there are none, local errors stand in.
        outputs: names of the graph outputs.
    """
    adds = {d.tensor: abs(shares.get(d.tensor, 0.0)) if shares else _local(d) for d in found}
    ranked = sorted((name for name, amount in adds.items() if amount), key=lambda name: -adds[name])
    blamed = [d.tensor for d in found if d.to_blame]
    return tuple(dict.fromkeys([*(n for n in adds if n in outputs), *blamed[:MOST // 2], *ranked]))[:MOST]


def _local(divergence: Divergence) -> float:
    return 0.0 if divergence.local is None else divergence.local.rel_l2


def portraits(reference: Model, variant: Model, expected: Mapping[str, np.ndarray],
              shown: Mapping[str, np.ndarray]) -> dict[str, Portrait]:
    """Tensors close up.

    Args:
        reference: flat.
        variant: the flat graph that the candidate ran; tensors keep their names in it.
        expected: the reference's values of the tensors to show.
        shown: the candidate's tensors, those and what their operators read.

    Raises:
        ModelError: a weight cannot be read.
    """
    if not expected:
        return {}
    place = _Place(variant, read_types(variant), _arrays(variant), shown, _arrays(reference))
    made = {}
    for name, right in expected.items():
        values = distributions(right, shown[name]) if name in shown else None
        if values is not None:
            made[name] = Portrait(values, place.format_of(name), place.operands(reference.graph.producer.get(name)))
    return made


def reads_of(model: Model) -> dict[str, tuple[str, ...]]:
    """The tensors that the node of each tensor reads: what is computed from the inputs, and the inputs themselves."""
    graph, fed = model.graph, {i.name for i in model.graph.inputs}
    return {name: tuple(n for n in graph.producer[name].reads
                        if n in fed or (n in graph.producer and n not in model.constants))
            for name in comparable_tensors(model)}


def _arrays(model: Model) -> dict[str, np.ndarray]:
    return {n: to_numpy(v) for n, v in constant_values(model).items() if is_tensor(v)}


@dataclass(frozen=True, eq=False)
class _Place:
    """The candidate's graph and what is known of its tensors."""

    variant: Model
    types: TypedGraph
    constants: Mapping[str, np.ndarray]
    shown: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]

    def format_of(self, name: str) -> Format | None:
        """What the readers of a tensor hold it in, else its maker, else its own type."""
        graph, values = self.variant.graph, self.shown.get(name)
        for node in graph.readers.get(name, ()):
            found = self._quantised(node, values) if node.op == "QuantizeLinear" and node.inputs[0] == name else (
                self._half(node.outputs[0], values) if node.op == "Cast" else None)
            if found is not None:
                return found
        maker = graph.producer.get(name)
        if maker is not None and maker.op == "DequantizeLinear":
            return self._quantised(maker, values)
        if maker is not None and maker.op == "Cast":
            return self._half(maker.inputs[0], values)
        return self._half(name, values)

    def operands(self, node: Node | None) -> tuple[Operand, ...]:
        """What the operator of a node of the reference reads, and in what format the candidate's does."""
        if node is None:
            return ()
        other = self._standing_for(node)
        given = other.inputs if other is not None and len(other.inputs) == len(node.inputs) else node.inputs
        return tuple(self._operand(name, own) for name, own in zip(node.inputs, given, strict=True) if name)

    def _standing_for(self, node: Node) -> Node | None:
        """The candidate's node of the same operator behind the same tensor."""
        other = self.variant.graph.producer.get(node.outputs[0])
        while other is not None and other.op != node.op and len(other.inputs) > 0:
            other = self.variant.graph.producer.get(other.inputs[0])
        return other

    def _operand(self, name: str, own: str) -> Operand:
        values = self.shown.get(name, self.weights.get(name))
        maker = self.variant.graph.producer.get(own)
        held = self._quantised(maker, values) if maker is not None and maker.op == "DequantizeLinear" else (
            self._half(own, values))
        numbers = np.empty(0) if values is None or values.dtype.kind not in "biufV" else values.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        if not finite.size:
            return Operand(name, None, None, held)
        return Operand(name, float(finite.min()), float(finite.max()), held)

    def _half(self, name: str, values: np.ndarray | None) -> Format | None:
        """The format of a tensor in half precision."""
        dtype = _HALVES.get(self.types.of(name))
        if dtype is None:
            return None
        info = ml_dtypes.finfo(dtype)
        return _clipping(Format(str(dtype), float(info.min), float(info.max), float(info.smallest_normal)), values)

    def _quantised(self, node: Node, values: np.ndarray | None) -> Format | None:
        """The range of a QuantizeLinear or DequantizeLinear whose scale and zero point are constant."""
        scale = self.constants.get(node.inputs[1])
        named = node.inputs[2] if len(node.inputs) > 2 else ""
        zero = self.constants.get(named, np.zeros(1, np.uint8))
        if scale is None or not scale.size or zero.dtype.kind not in "iu" or (named and named not in self.constants):
            return None
        limits, wide = np.iinfo(zero.dtype), scale.astype(np.float64).ravel()
        offset = np.broadcast_to(zero.astype(np.float64).ravel(), wide.shape) if zero.size in (1, wide.size) else (
            np.zeros_like(wide))
        found = Format(str(zero.dtype), float((wide * (limits.min - offset)).min()),
                       float((wide * (limits.max - offset)).max()), float(wide.max()), wide.size,
                       int(zero.ravel()[0]) if wide.size == 1 else None)
        return _clipping(found, values) if wide.size == 1 else found


def _clipping(found: Format, values: np.ndarray | None) -> Format:
    """The format with the share of these values that it cannot hold."""
    if values is None or values.dtype.kind not in "biufV":
        return found
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    margin = found.step / 2
    beyond = np.count_nonzero((finite < found.low - margin) | (finite > found.high + margin))
    share = beyond / finite.size if finite.size else None
    return Format(found.name, found.low, found.high, found.step, found.scales, found.zero, share)
