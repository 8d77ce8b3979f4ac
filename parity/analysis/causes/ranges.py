"""Ranges that do not cover what the model is fed with: clipping all over the model, which no single layer explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from parity.analysis.causes.evidence import Diagnosis, Evidence, emulated_error
from parity.figures import number
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy

# So many tensors, and this share of them, must be clipped for calibration to be named rather than one of them.
_LEAST_TENSORS, _LEAST_SHARE = 2, 0.25
# By which share the emulated error of the outputs must fall with wider ranges, and which share of the seen one it is.
_GAIN, _EMULATED = 0.5, 0.5


@dataclass(frozen=True)
class _Clipped:
    """A quantised activation that the reference's own values leave the range of.

    Attributes:
        node: its QuantizeLinear.
        name: of the tensor in the reference.
        share: of its elements that are clipped.
        ends: of its range.
        reach: smallest and largest value.
        integer: type that it is quantised to.
        real: type of its scale.
    """

    node: Node
    name: str
    share: float
    ends: tuple[float, float]
    reach: tuple[float, float]
    integer: np.dtype[Any]
    real: np.dtype[Any]

    @property
    def factor(self) -> float:
        """How many times too narrow the range is."""
        sides = [r / e for r, e in zip(self.reach, self.ends, strict=True) if e and r / e > 0]
        return max(sides, default=math.inf)

    def widened(self) -> tuple[float, int]:
        """Scale and zero point of a range that holds all of it."""
        low, high = min(self.reach[0], self.ends[0]), max(self.reach[1], self.ends[1])
        first, last = (int(end) for end in (np.iinfo(self.integer).min, np.iinfo(self.integer).max))
        if first and math.isclose(self.ends[0] / first, self.ends[1] / last):  # symmetric: it keeps 0 in the middle
            return max(low / first, high / last), 0
        scale = (high - low) / (last - first)
        return scale, int(np.clip(round(first - low / scale), first, last))


def uncovered(evidence: Evidence) -> Sequence[Diagnosis]:
    """Many activations beyond their ranges, as where calibration saw smaller inputs; wider ranges mend the outputs."""
    if evidence.precision != "int8" or not evidence.diverged:
        return ()
    clipped, count = _clipped(evidence)
    if len(clipped) < max(_LEAST_TENSORS, _LEAST_SHARE * count):
        return ()
    error = emulated_error(evidence, evidence.variant)
    left = emulated_error(evidence, _widened(evidence.variant, clipped))
    if not (left <= (1 - _GAIN) * error and error >= _EMULATED * min(evidence.error, 1.0)):
        return ()
    first, most = clipped[0], max(clipped, key=lambda c: c.share)
    shares = [c.share for c in clipped]
    message = (f"Calibration does not cover these inputs: {len(clipped)} of {count} quantised tensors lie beyond their "
               f"ranges, {_told(first)}{'' if most is first else f' and {_told(most)}'}; with ranges that hold "
               f"them the outputs' error falls from {number(error)} to {number(left)} (relative L2).")
    numbers = {"clipped_tensors": float(len(clipped)), "tensors": float(count), "clipped": first.share,
               "most_clipped": max(shares), "mean_clipped": float(np.mean(shares)), "factor": first.factor,
               "outputs_error": error, "outputs_without": left}
    return (Diagnosis("clipped-calibration", first.name, message, numbers),)


def _told(clipped: _Clipped) -> str:
    low, high = clipped.ends
    least, most = clipped.reach
    return (f"{clipped.share:.2%} of {clipped.name!r} (it runs from {least:.3g} to {most:.3g}, its range from "
            f"{low:.3g} to {high:.3g})")


def _clipped(evidence: Evidence) -> tuple[list[_Clipped], int]:
    """The activations that leave their ranges, in order, and how many there are in all."""
    bench, found = evidence.bench, []
    nodes = {n.inputs[0]: n for n in evidence.variant.graph.nodes
             if n.op == "QuantizeLinear" and n.inputs[0] not in evidence.variant.constants}
    values = evidence.expected([evidence.named(n) for n in nodes])
    for tensor, node in nodes.items():
        name = evidence.named(tensor)
        value, scale = values.get(name, evidence.feed.get(name)), bench.constant(node.inputs[1])
        zero = bench.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.uint8(0)
        if value is None or scale is None or zero is None or scale.size > 1 or zero.dtype.kind not in "iu":
            continue
        if value.dtype.kind != "f" or not value.size or not np.isfinite(value).all():
            continue
        wide, limits = value.astype(np.float64), np.iinfo(zero.dtype)
        step, origin = float(scale.reshape(())), float(zero.reshape(()))
        low, high = ((limit - origin) * step for limit in (limits.min, limits.max))
        share = float(((wide < low - step / 2) | (wide > high + step / 2)).mean())
        if share and math.isfinite(step) and step > 0:
            reach = float(wide.min()), float(wide.max())
            found.append(_Clipped(node, name, share, (low, high), reach, zero.dtype, scale.dtype))
    return found, len(nodes)


def _widened(variant: Model, clipped: Sequence[_Clipped]) -> Model:
    """The variant with ranges that hold the values."""
    proto = shallow_copy(variant.proto)
    by_integers: Mapping[str, _Clipped] = {c.node.outputs[0]: c for c in clipped}
    for place, node in enumerate(proto.graph.node):
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0] if node.input else ""
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or name not in by_integers:
            continue
        change = by_integers[name]
        scale, zero = change.widened()
        names = f"{name}/scale{place}", f"{name}/zero{place}"
        proto.graph.initializer.extend([numpy_helper.from_array(np.asarray(scale, change.real), names[0]),
                                        numpy_helper.from_array(np.asarray(zero, change.integer), names[1])])
        node.input[:] = [node.input[0], *names]
    return Model.from_proto(proto, variant.folder)
