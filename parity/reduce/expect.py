"""What the outputs of a part should be, and how far they may be from that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from parity.analysis.judge import Ruler, judge, unrounded
from parity.analysis.streams import Inputs, Rulers
from parity.analysis.tolerance import (
    BOUNDED,
    EXCESS_LIMIT,
    HALF_FORMATS,
    QUANTIZERS,
    fp32_factor,
    fp32_floor,
)
from parity.backends.base import Feed
from parity.errors import ModelError
from parity.graph.ops.call import is_tensor, to_numpy
from parity.reduce.part import Part


@dataclass(frozen=True, eq=False)
class Expectation:
    """One output of a part.

    Attributes:
        tensor: its name.
        values: what it should be.
        tolerance: how large the difference may be.
        norm: of the difference: "l2", or "max", the greatest element.
        why: where the tolerance comes from, in a sentence.
    """

    tensor: str
    values: np.ndarray
    tolerance: float
    norm: Literal["l2", "max"]
    why: str

    def error(self, got: np.ndarray) -> float:
        """How far a value is from this; inf for another shape, and for NaN or Inf in other places."""
        if got.shape != self.values.shape:
            return math.inf
        if got.dtype.kind in "OSU" or self.values.dtype.kind in "OSU":
            return 0.0 if np.array_equal(got, self.values) else math.inf
        right, value = self.values.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(right)
        if not np.array_equal(right[~finite], value[~finite], equal_nan=True) or not np.isfinite(value[finite]).all():
            return math.inf
        gap = np.abs(value[finite] - right[finite])
        if self.norm == "l2":
            return float(np.linalg.norm(gap))
        return float(gap.max(initial=0.0))

    def broken_by(self, got: np.ndarray) -> bool:
        """Whether a value is further off than the tolerance."""
        return not self.error(got) <= self.tolerance


def by_floor(part: Part) -> tuple[Expectation, ...]:
    """The outputs as the operators make them in FP64, with what their own rounding explains as the tolerance.

    Raises:
        ModelError: the reference cannot evaluate the part on these values.
    """
    return tuple(_within_floor(name, ruler, position) for name, ruler, position in _rulers(part, part.feed))


def by_limit(part: Part, limit: float) -> tuple[Expectation, ...]:
    """The outputs as the reference makes them in FP64, to a relative L2 error.

    Args:
        part: whose reference is the model in full precision.
        limit: relative L2.

    Raises:
        ModelError: the reference cannot evaluate the part on these values.
    """
    why = f"It is {limit:.3g} of the L2 norm of the result in FP64."
    found = []
    for name, ruler, position in _rulers(part, part.reference_feed):
        gold = to_numpy(ruler.gold[position])
        norm = _norm(gold) if gold.dtype.kind == "f" else 0.0
        found.append(Expectation(name, gold, limit * norm, "l2", why))
    return tuple(found)


def _rulers(part: Part, feed: Feed) -> Iterator[tuple[str, Ruler, int]]:
    """Each output with its node at the part's own inputs; tensors inside are what FP64 makes of them."""
    rulers, inputs, wanted = Rulers(part.reference), Inputs(), frozenset(part.outputs)
    for name, value in feed.items():
        inputs.show(name, value, None)
    for node in part.reference.graph.nodes:
        if part.reference.constants.issuperset(node.outputs):
            continue
        ruler = rulers.at(node, inputs)
        if ruler is None:
            raise ModelError(f"node {node.label!r} reads a tensor that is not known", "Take in what makes it.")
        moved = rulers.moved.evaluate(node, ruler.narrow, ruler.outer[1])
        for position, name in enumerate(node.proto.output):
            if not name:
                continue
            inputs.estimate(name, ruler.gold[position], moved[position])
            if name in wanted and is_tensor(ruler.gold[position]):
                yield name, ruler, position


def _within_floor(name: str, ruler: Ruler, position: int) -> Expectation:
    gold, declared = to_numpy(ruler.gold[position]), to_numpy(ruler.declared[position])
    if gold.dtype.kind in "OSU":
        return Expectation(name, gold, 0.0, "max", "Text must be equal.")
    if gold.dtype.kind != "f":
        return _whole(name, ruler, gold)
    if declared.dtype.name in HALF_FORMATS:
        right = declared
        why = (f"It is the largest of 8 times what one rounding of the inputs, or of the operator in "
               f"{declared.dtype.name}, changes.")
    else:
        right = _finite_where_the_type_is(gold, declared)
        why = "It is 32 times or more what the operator's own rounding explains: the operator in FP32 against FP64."
    return Expectation(name, right, _floor(ruler, position, gold, declared), "l2", why)


def _whole(name: str, ruler: Ruler, gold: np.ndarray) -> Expectation:
    """Integers and booleans: equal, but for a quantiser's right to round either way."""
    steps = unrounded(ruler, gold) if ruler.node.op in QUANTIZERS else None
    if steps is not None:
        why = f"Half a step to either side of the value before it is rounded, and {EXCESS_LIMIT} for its own noise."
        return Expectation(name, steps, 0.5 + EXCESS_LIMIT, "max", why)
    if ruler.node.op in QUANTIZERS or "QLinear" in ruler.node.op:
        return Expectation(name, gold, 1.0, "max", "A quantised value may be rounded either way.")
    return Expectation(name, gold, 0.0, "max", "Integers and booleans must be equal.")


def _floor(ruler: Ruler, position: int, gold: np.ndarray, declared: np.ndarray) -> float:
    """L2 error that a clean kernel may have: the local rule's floor, asked for with a value that is surely wrong."""
    norm = _norm(gold)
    bounded = ruler.node.op in BOUNDED
    if norm == 0 and declared.dtype.name not in HALF_FORMATS:
        return fp32_floor(fp32_factor(ruler.node.op, 1, 1, 1), 0.0, 0.0, gold.size, bounded=bounded)
    found = judge(ruler, position, (declared * declared.dtype.type(0.5)).astype(declared.dtype))
    return found.floor * (norm or 1.0)


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(np.where(np.isfinite(values), values, 0.0).astype(np.float64)))


def _finite_where_the_type_is(gold: np.ndarray, declared: np.ndarray) -> np.ndarray:
    """FP64 values, but for NaN and Inf as the tensor's own type has them."""
    if np.array_equal(np.isfinite(gold), np.isfinite(declared)):
        return gold
    return np.where(np.isfinite(declared) & np.isfinite(gold), gold, declared.astype(np.float64))

