"""What 16-bit formats and rounding do: overflow, underflow, cancellation, long sums, saturated functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, ancestors
from parity.analysis.causes.unit import Unit, unit_of
from parity.analysis.localize import Divergence
from parity.figures import number
from parity.graph.graph import Node

FP16_LARGEST = 65504.0
FP16_SUBNORMAL = 2.0**-24
# Halfway to the next power of two above the largest number, everything rounds to infinity.
_FP16_OVERFLOWS = FP16_LARGEST * (1 + 2.0**-12)
SATURATING = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf"})


def nonfinite(evidence: Evidence) -> Sequence[Diagnosis]:
    """A NaN or Inf of overflow, or of a number that underflow made zero."""
    blamed = evidence.blamed_for("nonfinite")
    if blamed is None:
        return ()
    unit = _born(evidence, blamed)
    if unit is None:
        return _overflowed_unseen(evidence, blamed)
    broken = ~np.isfinite(unit.candidate.astype(np.float64)) & np.isfinite(unit.gold)
    if broken.any():
        return _overflow(evidence, unit, broken)
    spoilt = spoilt_operand(evidence)
    return () if spoilt is None else _rounded_away(evidence, spoilt)


def born(evidence: Evidence) -> Sequence[Diagnosis]:
    """A NaN or Inf that an operator makes of numbers outside of its domain: which, and what they should have been."""
    spoilt = spoilt_operand(evidence)
    if spoilt is None:
        return ()
    smallest = spoilt.numbers["smallest_reference"]
    message = f"{spoilt.told[0].upper()}{spoilt.told[1:]}; the reference has {smallest:.2g} there."
    return (Diagnosis("nonfinite-born", evidence.named(spoilt.unit.tensor), message, spoilt.numbers),)


def _born(evidence: Evidence, blamed: Divergence) -> Unit | None:
    """The operator that makes the first NaN or Inf."""
    place = _birthplace(evidence, blamed)
    unit = None if place is None else unit_of(evidence, place)
    return unit if unit is not None and unit.gold.shape == unit.candidate.shape else None


def _birthplace(evidence: Evidence, blamed: Divergence) -> Divergence | None:
    """The first tensor before the blamed one, or that itself, that is not finite though what it is made of is right."""
    wanted = ancestors(evidence.variant, blamed.tensor)
    for node in evidence.variant.graph.nodes:
        for name in node.outputs:
            found = evidence.of.get(name)
            if name not in wanted or found is None or name not in evidence.shown or _finite(evidence.shown[name]):
                continue
            if found.accumulated is not None and not found.accumulated.mismatched_nonfinite:
                continue
            if all(_sound(evidence, n) for n in node.reads):
                return found
    return None


def _sound(evidence: Evidence, name: str) -> bool:
    """Whether a tensor is finite, or where it is not the reference's is not either; or it is hidden."""
    seen, found = evidence.seen(name), evidence.of.get(name)
    alike = found is not None and found.accumulated is not None and not found.accumulated.mismatched_nonfinite
    return seen is None or name in evidence.feed or alike or _finite(seen)


def _finite(value: np.ndarray) -> bool:
    return value.dtype.kind not in "fV" or bool(np.isfinite(value.astype(np.float32, copy=False)).all())


def _overflow(evidence: Evidence, unit: Unit, broken: np.ndarray) -> Sequence[Diagnosis]:
    largest = float(np.abs(unit.gold[broken]).max())
    count, share = int(broken.sum()), float(broken.mean())
    numbers = {"largest": largest, "limit": FP16_LARGEST, "elements": float(count), "share": share}
    half, tensor = unit.candidate.dtype == np.float16, evidence.named(unit.tensor)
    if half and largest > _FP16_OVERFLOWS:
        message = (f"{tensor!r} reaches {largest:.4g} here, beyond FP16's {FP16_LARGEST:.0f}: {count} of "
                   f"{broken.size} elements ({share:.2%}) are Inf or NaN.")
        return (Diagnosis("fp16-overflow", tensor, message, numbers),)
    inside = _inside(unit, unit.last) if half else 0.0
    if inside > _FP16_OVERFLOWS:
        message = (f"{unit.last.op} {unit.last.label!r} adds up to {inside:.4g} inside, beyond FP16's "
                   f"{FP16_LARGEST:.0f}, though its result is {largest:.4g}: {count} of {broken.size} elements "
                   f"({share:.2%}) are Inf or NaN.")
        return (Diagnosis("fp16-overflow", tensor, message, {**numbers, "inside": inside}),)
    return ()


def _inside(unit: Unit, node: Node) -> float:
    """The largest number that an operator may meet on its way to its result."""
    x = unit.input(node.inputs[0]) if node.inputs and node.inputs[0] else None
    if x is None or not x.size or x.dtype.kind not in "fV":
        return 0.0
    wide = np.abs(x.astype(np.float64))
    if node.op in ("LayerNormalization", "InstanceNormalization", "ReduceL2", "ReduceSumSquare", "LpNormalization",
                   "GroupNormalization", "RMSNormalization"):
        return float((wide**2).sum() if x.ndim < 2 else (wide**2).sum(axis=-1).max())
    if node.op in ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool"):
        made = unit.tried({}, {node.inputs[0]: _absolute(unit, node.inputs[0])})
        size = x.size / max(unit.gold.size, 1) if node.op != "ReduceSum" else 1.0
        return 0.0 if made is None else float(np.abs(made).max()) * size
    if node.op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
        made = unit.tried({}, {n: _absolute(unit, n) for n in node.inputs if n})
        return 0.0 if made is None else float(made.max())
    return float(np.exp(min(float(x.max()), 700.0))) if node.op in ("Softmax", "LogSoftmax", "Exp") else 0.0


def _absolute(unit: Unit, name: str) -> np.ndarray:
    value = unit.input(name)
    assert value is not None  # noqa: S101 - the node reads it
    wide: np.ndarray = np.abs(value.astype(np.float64))
    return wide


_REASONS = {"Log": "the logarithm of", "Sqrt": "the square root of", "Div": "a division by",
            "Reciprocal": "a division by", "Pow": "a power of"}


@dataclass(frozen=True, eq=False)
class Spoilt:
    """An operand outside of its operator's domain.

    Attributes:
        unit: the operator.
        source: the operand, by the reference's name.
        zero: which of the elements that count are zero.
        least: format of the operand, and the step from 0 to the next number that it has; 0.0 for wider ones.
        meant: what the reference has in those elements.
        told: in words.
        numbers: figures.
    """

    unit: Unit
    source: str
    zero: np.ndarray
    least: tuple[str, float]
    meant: np.ndarray
    told: str
    numbers: Mapping[str, float]


def spoilt_operand(evidence: Evidence) -> Spoilt | None:
    """The zero or negative number behind a NaN or Inf, where the reference has none."""
    blamed = evidence.blamed_for("nonfinite")
    unit = None if blamed is None else _born(evidence, blamed)
    if unit is None or unit.last.op not in _REASONS:
        return None
    node, broken = unit.last, ~np.isfinite(unit.candidate.astype(np.float64))
    name = node.inputs[1 if node.op == "Div" else 0]
    value, source = unit.input(name), evidence.named(name)
    right = evidence.expected([source]).get(source)
    if value is None or right is None or right.shape != value.shape or not broken.any():
        return None
    at, meant = (np.broadcast_to(v.astype(np.float64), broken.shape)[broken] for v in (value, right))
    zero, count = at == 0, int(broken.sum())
    numbers = {"elements": float(count), "share": float(broken.mean()), "zeros": float(zero.mean()),
               "smallest_reference": float(np.abs(meant).min()), "largest_reference": float(np.abs(meant).max())}
    told = (f"{_REASONS[node.op]} {'zero' if zero.mean() > 0.5 else 'a negative number'} in {node.op} {node.label!r} "
            f"makes {count} of {broken.size} elements Inf or NaN")
    return Spoilt(unit, source, zero, _least(unit, name, value), meant, told, numbers)


def _least(unit: Unit, name: str, value: np.ndarray) -> tuple[str, float]:
    maker = unit.bench.model.graph.producer.get(name)
    scale = unit.bench.constant(maker.inputs[1]) if maker is not None and maker.op == "DequantizeLinear" else None
    if scale is not None and scale.size == 1:
        return "INT8", float(scale.reshape(()))
    return ("FP16", FP16_SUBNORMAL) if value.dtype == np.float16 else ("", 0.0)


def _rounded_away(evidence: Evidence, spoilt: Spoilt) -> Sequence[Diagnosis]:
    """Zero that is a number too small for its format in the reference."""
    kind, least = spoilt.least
    if not least or spoilt.zero.mean() <= 0.5 or np.abs(spoilt.meant[spoilt.zero]).max() > least:
        return ()
    maker = evidence.reference.graph.producer.get(spoilt.source)
    tails = maker is not None and maker.op in SATURATING
    smallest, largest = spoilt.numbers["smallest_reference"], spoilt.numbers["largest_reference"]
    message = (f"{spoilt.source!r} is {smallest:.2g} to {largest:.2g} in the reference, below the smallest number that "
               f"{kind} has there, {number(least)}, and becomes 0: {spoilt.told}.")
    return (Diagnosis("saturated-tails" if tails else f"{kind.lower()}-underflow", spoilt.source, message,
                      {**spoilt.numbers, "least": least}),)


def _overflowed_unseen(evidence: Evidence, blamed: Divergence) -> Sequence[Diagnosis]:
    """A tensor beyond FP16 that the candidate hides."""
    if evidence.precision != "fp16":
        return ()
    hidden = {n for n in ancestors(evidence.reference, blamed.tensor) if n not in evidence.shown
              and n in evidence.reference.graph.producer and n not in evidence.reference.constants}
    largest = {n: float(np.abs(v.astype(np.float64)).max(initial=0.0))
               for n, v in evidence.expected(hidden | {blamed.tensor}).items() if v.dtype.kind in "fV"}
    for node in evidence.reference.graph.nodes:
        for name in node.outputs:
            if _FP16_OVERFLOWS < largest.get(name, 0.0) < math.inf:
                message = (f"{name!r} reaches {largest[name]:.4g} in the reference, beyond FP16's {FP16_LARGEST:.0f}; "
                           f"the candidate shows it first at {blamed.tensor!r}.")
                return (Diagnosis("fp16-overflow", name, message, {"largest": largest[name], "limit": FP16_LARGEST}),)
    return ()
