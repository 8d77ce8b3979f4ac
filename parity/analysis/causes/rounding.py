"""What rounding does: a small difference of large terms, a saturated function whose tail is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, ancestors, that_reach
from parity.analysis.causes.formats import SATURATING, spoilt_operand
from parity.analysis.causes.sums import terms_of
from parity.analysis.causes.underflow import underflow
from parity.analysis.causes.unit import unit_of
from parity.figures import number
from parity.graph.graph import Node

# Unit round-off by precision; INT8's is a step of a range that is used in full.
_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-8, "fp64": 2.0**-53}
# How many times an operator must enlarge the relative error of its inputs to be named for it.
_AMPLIFIED = 6.0


def cancellation(evidence: Evidence) -> Sequence[Diagnosis]:
    """A large term minus a large term: the difference keeps the error of the terms, and little else."""
    found = []
    for divergence in evidence.suspects():
        node, own = divergence.node, divergence.accumulated
        if own is None or not own.rel_l2 > evidence.limit or not own.reference_l2:
            continue
        before = _error_before(evidence, node)
        amplified = own.rel_l2 / max(before, _ROUNDOFF.get(evidence.precision, 2.0**-24))
        if amplified < _AMPLIFIED:
            continue
        condition = _condition(evidence, node, own.reference_l2, own.size)
        # The terms' own error, blown up by the condition, must be what is seen.
        if condition < _AMPLIFIED or not 0.2 < condition / amplified < 50:
            continue
        message = (f"{node.op} {node.label!r} subtracts terms {condition:.3g} times as large as the difference: their "
                   f"error of {number(before)} (relative L2) becomes {number(own.rel_l2)} at {divergence.tensor!r}.")
        found.append(Diagnosis("cancellation", divergence.tensor, message,
                               {"condition": condition, "error_before": before, "error": own.rel_l2}))
    return that_reach(evidence, found)


def _error_before(evidence: Evidence, node: Node) -> float:
    """Largest relative L2 error, accumulated, of what a node reads."""
    errors = (evidence.of[n].accumulated for n in node.reads if n in evidence.of)
    return max((a.rel_l2 for a in errors if a is not None), default=0.0)


def _condition(evidence: Evidence, node: Node, norm: float, size: int) -> float:
    """How many times larger the terms are than their sum (relative L2)."""
    if node.op in ("Add", "Sub", "Sum") and norm:
        return max((_norm(evidence, n, size) for n in node.inputs), default=0.0) / norm
    name = node.inputs[0] if node.inputs else ""
    if node.op in ("LayerNormalization", "InstanceNormalization"):
        value = evidence.shown.get(name)
        if value is None or value.dtype.kind not in "fV" or value.ndim < 2:
            return 0.0
        wide = value.astype(np.float64)
        axes = (wide.ndim - 1,) if node.op == "LayerNormalization" else tuple(range(2, wide.ndim))
        spread = float(np.sqrt(np.mean(wide.var(axis=axes))))
        return float(np.sqrt(np.mean(wide**2))) / spread if spread else 0.0
    if node.op in ("ReduceMean", "ReduceSum", "MatMul", "Gemm", "Conv", "GlobalAveragePool"):
        return _of_sum(evidence, node)
    return 0.0


def _of_sum(evidence: Evidence, node: Node) -> float:
    """Of a sum of products: the same sum of magnitudes against it."""
    found = evidence.of.get(node.outputs[0])
    unit = None if found is None else unit_of(evidence, found, of_reference=True)
    if unit is None:
        return 0.0
    read = {n: unit.input(n) for n in unit.last.inputs if n}
    absolute = {n: np.abs(v) for n, v in read.items() if v is not None and v.dtype.kind == "f"}
    made, norm = unit.tried({}, absolute), float(np.linalg.norm(unit.gold))
    # Random signs cancel as the square root of their number does; that is no cancellation.
    return float(np.linalg.norm(made)) / norm / math.sqrt(terms_of(unit)) if made is not None and norm else 0.0


def _norm(evidence: Evidence, name: str, size: int) -> float:
    """The L2 norm of a term, spread to `size` elements."""
    found = evidence.of.get(name)
    if found is not None and found.accumulated is not None and found.accumulated.size:
        return found.accumulated.reference_l2 * math.sqrt(size / found.accumulated.size)
    value = evidence.original.constant(name) if name in evidence.original.constants else evidence.feed.get(name)
    if value is None or not value.size or value.dtype.kind not in "fiu":
        return 0.0
    return float(np.linalg.norm(value.astype(np.float64))) * math.sqrt(size / value.size)


def tails(evidence: Evidence) -> Sequence[Diagnosis]:
    """A probability rounded to 0 or 1, whose distance from it is read further on."""
    found = []
    for divergence in evidence.suspects():
        node, own = divergence.node, divergence.accumulated
        if node.op not in ("Log", "Sub", "Div", "Reciprocal") or own is None or not own.rel_l2 > evidence.limit:
            continue
        for name in node.inputs:
            maker, value = evidence.reference.graph.producer.get(name), _read(evidence, divergence.tensor, name)
            before = evidence.of.get(name)
            if maker is None or maker.op not in SATURATING or value is None or before is None:
                continue
            if before.accumulated is None or own.rel_l2 < _AMPLIFIED * before.accumulated.rel_l2:
                continue
            right, ends = evidence.expected([name])[name], (0.0, 1.0, -1.0)
            lost = _at(value, ends) & ~_at(right, ends)
            if not lost.any():
                continue
            gap = float(np.min([np.abs(right[lost].astype(np.float64) - e).min() for e in ends]))
            message = (f"{lost.mean():.1%} of {name!r} ({maker.op}) is exactly 0 or ±1, where the reference is up to "
                       f"{number(gap)} away; {node.op} {node.label!r} reads that distance, and its error grows from "
                       f"{number(before.accumulated.rel_l2)} to {number(own.rel_l2)} (relative L2).")
            found.append(Diagnosis("saturated-tails", name, message, {
                "share": float(lost.mean()), "smallest_distance": gap, "error_before": before.accumulated.rel_l2,
                "error": own.rel_l2}))
    return that_reach(evidence, found)


def _read(evidence: Evidence, tensor: str, name: str) -> np.ndarray | None:
    """What the candidate reads a tensor as, where it makes another of it: after Casts and Q/DQ, if it has any."""
    node = evidence.variant.graph.producer.get(tensor)
    own = (evidence.seen(n) for n in (() if node is None else node.inputs) if n and evidence.named(n) == name)
    return next((v for v in own if v is not None), evidence.shown.get(name))


def _at(value: np.ndarray, ends: Sequence[float]) -> np.ndarray:
    """Which elements are one of some numbers, to what a multiple of a step can be of it."""
    wide, close = value.astype(np.float64), 2.0**-23 if value.dtype == np.float32 else 0.0
    found: np.ndarray = np.any([np.abs(wide - end) <= close * abs(end) for end in ends], axis=0)
    return found


def before_nonfinite(evidence: Evidence) -> Sequence[Diagnosis]:
    """A loss of precision that gives a later operator zero or a negative number to make NaN or Inf of."""
    spoilt = spoilt_operand(evidence)
    operand = None if spoilt is None else evidence.of.get(spoilt.source)
    if spoilt is None or operand is None:
        return ()
    before = ancestors(evidence.reference, spoilt.source)
    concerned = [d for d in evidence.found if d.tensor in before]
    at_operand = replace(evidence, blamed=(operand, "precision"), found=concerned)
    # A few elements that count need not show in the norm of all.
    attempts = ((underflow, at_operand), (tails, at_operand), (cancellation, at_operand),
                (tails, replace(at_operand, limit=0.0)))
    found = next((f for cause, shown in attempts if (f := cause(shown))), ())
    return tuple(replace(d, message=f"{d.message[:-1]}; then {spoilt.told}.") for d in found)
