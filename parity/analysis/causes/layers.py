"""One operator of an INT8 model: its quantised operands beside their values, and ways to quantise them otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parity.analysis.causes.evidence import Evidence, relative
from parity.analysis.causes.saturate import pair_sums
from parity.analysis.causes.unit import Unit, unit_of
from parity.analysis.localize import Divergence
from parity.graph.graph import Node
from parity.graph.ops.call import from_numpy

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A tensor and how it is quantised.

    Attributes:
        name: of the tensor in the reference.
        value: before it is quantised, FP64.
        scale: ready to broadcast against `value`.
        zero: likewise.
        limits: smallest and largest integer.
    """

    name: str
    value: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    limits: tuple[int, int]

    @property
    def steps(self) -> float:
        """Steps from zero to the end of the range that is farther away."""
        return float(max((self.limits[1] - self.zero).max(), (self.zero - self.limits[0]).max()))

    @property
    def largest(self) -> np.ndarray:
        """The magnitude at the farther end of the range."""
        ends: np.ndarray = self.scale * np.maximum(self.limits[1] - self.zero, self.zero - self.limits[0])
        return ends

    def integers(self) -> np.ndarray:
        """The tensor as integers."""
        return self._integers(self.scale)

    def quantised(self) -> np.ndarray:
        """The tensor as its integers have it."""
        return self.requantised(self.scale)

    def requantised(self, scale: np.ndarray) -> np.ndarray:
        """The tensor with another scale."""
        with np.errstate(all="ignore"):
            back: np.ndarray = (self._integers(scale) - self.zero) * scale
        return back

    def requantised_by_channel(self, axis: int) -> np.ndarray:
        """The tensor with a scale of its own for each channel."""
        ranges = self.by_channel(axis)
        along = [len(ranges) if i == axis else 1 for i in range(self.value.ndim)]
        return self.requantised(np.where(ranges > 0, ranges, 1.0).reshape(along) / self.steps)

    def beyond(self) -> np.ndarray:
        """Which elements lie more than half a step beyond the range."""
        with np.errstate(all="ignore"):
            levels = self.value / self.scale + self.zero
        outside: np.ndarray = (levels > self.limits[1] + 0.5) | (levels < self.limits[0] - 0.5)
        return outside

    def reach(self) -> np.ndarray:
        """Largest magnitude, for each scale."""
        axes = tuple(i for i in range(self.value.ndim) if self.scale.ndim <= i or self.scale.shape[i] == 1)
        largest: np.ndarray = np.abs(self.value).max(axis=axes, keepdims=True, initial=0.0)
        return largest

    def by_channel(self, axis: int) -> np.ndarray:
        """Largest magnitude of each channel."""
        others = tuple(i for i in range(self.value.ndim) if i != axis)
        largest: np.ndarray = np.abs(self.value).max(axis=others, initial=0.0)
        return largest

    def error_in_steps(self) -> float:
        """Root mean square of the error, in steps; evenly spread values give 1/√12 = 0.289."""
        with np.errstate(all="ignore"):
            error = (self.quantised() - self.value) / self.scale
        return float(np.sqrt(np.mean(error**2))) if error.size else 0.0

    def _integers(self, scale: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            levels: np.ndarray = np.clip(np.rint(self.value / scale) + self.zero, *self.limits)
        return np.where(np.isfinite(levels), levels, self.zero)


@dataclass(frozen=True, eq=False)
class Quantised:
    """An operator with quantised operands.

    Attributes:
        unit: the reference's operator at what the candidate fed it with.
        node: the variant's.
        quantizers: by operand.
        weight: the operand that no input changes, where there is one.
        activation: the first of the others.
    """

    unit: Unit
    node: Node
    quantizers: tuple[Quantizer, ...]
    weight: Quantizer | None
    activation: Quantizer | None

    @cached_property
    def error(self) -> float:
        """Relative L2 error of the operator's result from what INT8 makes of its operands."""
        return self.with_values({})

    def with_values(self, changed: Mapping[Quantizer, np.ndarray]) -> float:
        """The same with some operands exchanged."""
        made = self.made(changed)
        return np.inf if made is None else relative(self.unit.gold, made)

    def made(self, changed: Mapping[Quantizer, np.ndarray]) -> np.ndarray | None:
        """The operator's result with quantised operands, some of them exchanged."""
        return self.unit.tried({}, {q.name: changed[q] if q in changed else q.quantised() for q in self.quantizers})

    def by_channel(self, changed: Mapping[Quantizer, np.ndarray]) -> float:
        """Root mean square over output channels of each one's relative error: what a normalisation after it shows."""
        made, gold = self.made(changed), self.unit.gold
        axis = gold.ndim - 1 if self.unit.last.op in ("MatMul", "Gemm") else 1
        if made is None or gold.ndim < 2:
            return np.inf
        others = tuple(i for i in range(gold.ndim) if i != axis)
        error, norm = (np.sqrt((v.astype(np.float64)**2).sum(axis=others)) for v in (made - gold, gold))
        return float(np.sqrt(np.mean((error[norm > 0] / norm[norm > 0])**2))) if norm.any() else 0.0

    def without(self, quantizer: Quantizer) -> float:
        """The same with one operand as it is."""
        return self.with_values({quantizer: quantizer.value})

    @property
    def channel_axis(self) -> int | None:
        """Which axis of the activation the weight sums over; None for a lesser rank."""
        q = self.activation
        if q is None or q.value.ndim < 2:
            return None
        if self.unit.last.op == "Gemm":
            return 0 if _flag(self.unit.last, "transA") else 1
        return q.value.ndim - 1 if self.unit.last.op == "MatMul" else 1

    @property
    def output_axis(self) -> int | None:
        """The weight's axis of output channels."""
        if self.weight is None or self.weight.value.ndim < 2:
            return None
        return _output_axis(self.unit.last, self.weight.value.ndim)

    @property
    def _input_axis(self) -> int | None:
        """The weight's axis that meets the activation's channels."""
        if self.weight is None or self.output_axis is None:
            return None
        other = {"Conv": 1, "ConvTranspose": 0, "MatMul": self.weight.value.ndim - 2}
        return other.get(self.unit.last.op, 1 - self.output_axis)

    def balanced(self, ranges: np.ndarray, middle: float) -> float:
        """The error after wide channels were narrowed to `middle` and their weights widened as much, which is exact."""
        q, axis = self.activation, self.channel_axis
        if q is None or axis is None:
            return np.inf
        factor = np.maximum(ranges / middle, 1.0)
        changed = {q: _scaled(q, axis, 1 / factor)}
        inner, outer = self._input_axis, self.output_axis
        if self.weight is not None and inner is not None and self.weight.value.shape[inner] == len(factor):
            by = outer if self.weight.scale.size > 1 else None
            changed[self.weight] = _scaled(self.weight, inner, factor, by)
        return self.with_values(changed)

    def saturated(self) -> Iterator[tuple[str, np.ndarray, float, float]]:
        """What 16-bit sums of pairs of products would give: in words, the result, the largest sum, the share beyond."""
        if self.activation is None or self.weight is None:
            return
        q, w = self.activation, self.weight
        if q.scale.size > 1 or w.zero.any():
            return
        bare = self.unit.tried({}, {q.name: np.zeros_like(q.value), w.name: np.zeros_like(w.value)})
        if bare is None:
            return
        scale = float(q.scale.max()) * (w.scale.reshape(-1) if w.scale.size > 1 else float(w.scale.max()))
        for found in pair_sums(self.unit.last, q.integers(), int(q.zero.max()), w.integers(), signed=q.limits[0] < 0):
            along = [1] * found.sums.ndim
            along[-1 if self.unit.last.op in ("MatMul", "Gemm") else 1] = -1
            by_channel = scale.reshape(along) if isinstance(scale, np.ndarray) else scale
            yield found.words, bare + found.sums.reshape(bare.shape) * by_channel, found.largest, found.share


def _scaled(quantizer: Quantizer, axis: int, factor: np.ndarray, by: int | None = None) -> np.ndarray:
    """A tensor quantised after its channels were multiplied, and divided again."""
    along = [len(factor) if i == axis else 1 for i in range(quantizer.value.ndim)]
    spread = factor.reshape(along)
    wide = Quantizer(quantizer.name, quantizer.value * spread, quantizer.scale, quantizer.zero, quantizer.limits)
    one = np.full((1,) * wide.value.ndim, np.abs(wide.value).max() / wide.steps)
    back: np.ndarray = (wide.requantised(one) if by is None else wide.requantised_by_channel(by)) / spread
    return back


def _flag(node: Node, name: str) -> bool:
    return any(a.name == name and a.i for a in node.proto.attribute)


def layer_of(evidence: Evidence, divergence: Divergence, *, at_reference: bool = False) -> Quantised | None:
    """A tensor's operator, where the variant quantises what it reads.

    Args:
        evidence: of an INT8 candidate.
        divergence: a tensor that the reference has, too.
        at_reference: feed it with the reference's own tensors, not with those of the candidate, which errors upstream
            may have moved beyond the ranges.
    """
    unit = unit_of(evidence, divergence, of_reference=True)
    if unit is None:
        return None
    if at_reference:
        own = evidence.expected([n for n in unit.inputs if n in evidence.reference.graph.producer
                                 and n not in evidence.original.constants])
        unit = replace(unit, inputs={**unit.inputs, **{n: from_numpy(v) for n, v in own.items()}})
    node = unit.last
    other = evidence.variant.graph.producer.get(unit.tensor)
    while other is not None and other.op != node.op and len(other.inputs) == 1:  # a part of what was one operator
        other = evidence.variant.graph.producer.get(other.inputs[0])
    if other is None or other.op not in _WEIGHTED or len(other.inputs) < 2:
        return None
    found = [_quantizer(evidence, unit, n, v) for n, v in zip(node.inputs[:2], other.inputs[:2], strict=True)]
    present = tuple(q for q in found if q is not None)
    constant = evidence.original.constants
    weight = next((q for q in present if q.name in constant), None)
    activation = next((q for q in present if q.name not in constant), None)
    return Quantised(unit, other, present, weight, activation) if present else None


def shares_scale(evidence: Evidence, divergence: Divergence, factor: float) -> bool:
    """Whether the weights behind a tensor have one scale, though some output channels are `factor` times others."""
    node = evidence.variant.graph.producer.get(divergence.tensor)
    if node is None or node.op not in _WEIGHTED or len(node.inputs) < 2:
        return False
    maker = evidence.variant.graph.producer.get(node.inputs[1])
    scale = evidence.bench.constant(maker.inputs[1]) if maker is not None and maker.op == "DequantizeLinear" else None
    weight = evidence.bench.constant(node.inputs[1])
    if scale is None or scale.size > 1 or weight is None or weight.ndim < 2:
        return False
    axis = _output_axis(node, weight.ndim)
    ranges = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    return bool(ranges.any()) and float(ranges.max()) > factor * float(ranges[ranges > 0].min())


def _output_axis(node: Node, rank: int) -> int:
    if node.op == "Gemm":
        return 0 if _flag(node, "transB") else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op, rank - 1)


def _quantizer(evidence: Evidence, unit: Unit, name: str, dequantised: str) -> Quantizer | None:
    """How the variant quantises one operand of the reference."""
    bench = evidence.bench
    node = bench.model.graph.producer.get(dequantised)
    value = unit.input(name)
    if node is None or node.proto.op_type != "DequantizeLinear" or value is None or value.dtype.kind not in "fV":
        return None
    scale = bench.constant(node.inputs[1])
    if scale is None or scale.ndim > 1:
        return None
    zero = bench.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if zero is None:
        stored = bench.constant(node.inputs[0])
        zero = np.zeros(scale.shape, np.uint8 if stored is None else stored.dtype)
    if zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    axis = next((a.i for a in node.proto.attribute if a.name == "axis"), 1) % max(value.ndim, 1)
    along = [scale.size if i == axis else 1 for i in range(value.ndim)] if scale.size > 1 else [1] * value.ndim
    return Quantizer(name, value.astype(np.float64), scale.astype(np.float64).reshape(along),
                     zero.astype(np.float64).reshape(along), (int(limits.min), int(limits.max)))
