"""Which values a graph input may take, read off what the model does with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from parity.graph.graph import TensorSpec
from parity.graph.seeding import Choice, Domain, Fill, Integers, Lengths, Mask, Normal, Positions, Positive
from parity.graph.uses import Context, Use, uses_of

# (operator, operand that holds indices) → (operand that is indexed, attribute naming the axis, its default).
_LOOKUPS: Mapping[tuple[str, int], tuple[int, str, int]] = {
    ("Gather", 1): (0, "axis", 0),
    ("GatherElements", 1): (0, "axis", 0),
    ("ScatterElements", 1): (0, "axis", 0),
    ("Scatter", 1): (0, "axis", 0),
    ("RoiAlign", 2): (0, "", 0),
    ("NegativeLogLikelihoodLoss", 1): (0, "", 1),
    ("SoftmaxCrossEntropyLoss", 1): (0, "", 1),
    ("RotaryEmbedding", 3): (1, "", 0),
    ("ai.onnx.ml::ArrayFeatureExtractor", 1): (0, "", -1),
    ("com.microsoft::RotaryEmbedding", 1): (2, "", 0),
    ("com.microsoft::GatherBlockQuantized", 1): (0, "gather_axis", 0),
    ("com.microsoft::EmbedLayerNormalization", 0): (2, "", 0),
    ("com.microsoft::EmbedLayerNormalization", 1): (4, "", 0),
    ("com.microsoft::EmbedLayerNormalization", 8): (3, "", 0),
    ("com.microsoft::QEmbedLayerNormalization", 0): (2, "", 0),
    ("com.microsoft::QEmbedLayerNormalization", 1): (4, "", 0),
}
# Indices into several axes at once.
_MULTI_LOOKUPS = frozenset({("GatherND", 1), ("ScatterND", 1)})
_MASKS = frozenset({
    ("Where", 0), ("Not", 0), ("And", 0), ("And", 1), ("Or", 0), ("Or", 1), ("Compress", 1),
    ("com.microsoft::EmbedLayerNormalization", 7), ("com.microsoft::Attention", 3),
    ("com.microsoft::QAttention", 5), ("com.microsoft::MultiHeadAttention", 4),
})
# Operand that holds sequence lengths → (operand that holds the sequences, its time axis).
_LENGTHS: Mapping[tuple[str, int], tuple[int, int]] = {
    ("LSTM", 4): (0, 0), ("GRU", 4): (0, 0), ("RNN", 4): (0, 0), ("ReverseSequence", 1): (0, 0),
}
# Operands that are shapes, axes or counts → (value that always works, value of the first element).
_FILLS: Mapping[tuple[str, int], tuple[int, int]] = {
    ("Reshape", 1): (1, -1), ("Expand", 1): (1, 1), ("Tile", 1): (1, 1), ("ConstantOfShape", 0): (2, 2),
    ("Range", 0): (0, 0), ("Range", 1): (8, 8), ("Range", 2): (1, 1), ("TopK", 1): (1, 1), ("Loop", 0): (3, 3),
    ("Slice", 1): (0, 0), ("Slice", 2): (2**31 - 1, 2**31 - 1), ("Slice", 3): (0, 0), ("Slice", 4): (1, 1),
    ("Pad", 1): (0, 0), ("Resize", 2): (1, 1), ("Upsample", 1): (1, 1), ("OneHot", 1): (16, 16), ("CumSum", 1): (0, 0),
    ("Trilu", 1): (0, 0), ("NonMaxSuppression", 2): (10, 10),
}
_MASK_NAME = re.compile(r"mask", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"lengths?$|_lens?$|^lens?$|seqlen", re.IGNORECASE)
_POSITION_NAME = re.compile(r"position", re.IGNORECASE)
_SEGMENT_NAME = re.compile(r"token_?type|segment", re.IGNORECASE)
# Additive attention masks are -10000 in BERT's first code, the type's lowest number today.
_LARGE_NEGATIVE = -1000.0


def domain_of(context: Context, spec: TensorSpec) -> Domain:
    """The values to draw for an input: what it is for is told by its type, its name and its readers.

    Args:
        context: the model and the shapes that its inputs will have.
        spec: a tensor input of numbers or booleans.
    """
    assert spec.dtype is not None  # noqa: S101 - refused before
    uses = uses_of(context, spec.name)
    if spec.dtype.kind == "b" or _MASK_NAME.search(spec.name):
        return Mask()
    if spec.dtype.kind not in "iu":
        return _index(context, uses) or _real(context, uses)
    index = _index(context, uses)
    top = index.high if index else 2**31
    if _POSITION_NAME.search(spec.name):
        return Positions(top)
    if _SEGMENT_NAME.search(spec.name):
        return Integers(0, min(2, top), "seeded segment 0 or 1")
    if index:
        return index
    return _length(context, spec, uses) or _fill(uses) or _choice(context, spec, uses) or _counts(context, spec, uses)


def _index(context: Context, uses: list[Use]) -> Integers | None:
    """The widest range that stays inside every table which the values index, or None where they index none."""
    limits = [(use, n) for use in uses if (n := _table_size(context, use)) is not None and use.scale]
    if not limits:
        return None
    low, high = 0, 2**31
    for use, size in limits:
        ends = sorted((-use.offset / use.scale, (size - 1 - use.offset) / use.scale))
        if ends[1] < 0:
            continue  # the branch that exporters add to wrap negative indices
        low, high = max(low, math.ceil(ends[0])), min(high, math.floor(ends[1]) + 1)
    high = max(high, low + 1)
    return Integers(low, high, f"seeded index < {high}" if low == 0 else f"seeded index {low}…{high - 1}")


def _table_size(context: Context, use: Use) -> int | None:
    """How many entries the axis has that a use indexes; None where it indexes nothing, 1 where that is unknown."""
    node = use.node
    if use.key == ("OneHot", 0):
        depth = context.scalar(use.scopes, node.inputs[1])
        return None if depth is None else int(depth)
    if use.key in _MULTI_LOOKUPS:
        shape = context.shape(use.scopes, node.inputs[0])
        return max(1, min(shape)) if shape else 1
    if use.key not in _LOOKUPS:
        return None
    table, attribute, axis = _LOOKUPS[use.key]
    axis = next((a.i for a in node.proto.attribute if a.name == attribute), axis)
    shape = context.shape(use.scopes, node.inputs[table])
    return max(1, shape[axis]) if shape and -len(shape) <= axis < len(shape) else 1


def _real(context: Context, uses: list[Use]) -> Domain:
    if any(_hides(context, use) for use in uses):
        return Mask()
    if any(use.key in {("Sqrt", 0), ("Log", 0)} for use in uses):
        return Positive()
    return next((f for f in [_fill([u for u in uses if u.key in {("Resize", 2), ("Upsample", 1)}])] if f), Normal())


def _hides(context: Context, use: Use) -> bool:
    """Whether a use is the (1 - mask) · -large of an additive attention mask."""
    other = use.node.inputs[1 - use.operand] if use.key in {("Mul", 0), ("Mul", 1)} else ""
    factor = context.scalar(use.scopes, other) if other else None
    return factor is not None and factor <= _LARGE_NEGATIVE and (use.scale, use.offset) == (-1.0, 1.0)


def _length(context: Context, spec: TensorSpec, uses: list[Use]) -> Lengths | None:
    for use in uses:
        if use.key in _LENGTHS:
            operand, axis = _LENGTHS[use.key]
            named = {"layout": lambda a: a.i, "time_axis": lambda a: a.i}
            axis = next((named[a.name](a) for a in use.node.proto.attribute if a.name in named), axis)
            shape = context.shape(use.scopes, use.node.inputs[operand])
            return Lengths(max(1, shape[axis]) if shape else 1)
    return Lengths(_shortest(context, spec)) if _LENGTH_NAME.search(spec.name) else None


def _shortest(context: Context, spec: TensorSpec) -> int:
    """The smallest extent that a length may mean: over the other inputs, first their open axes, then all."""
    others = [s for s in context.model.graph.inputs if s.name != spec.name and len(context.shapes[s.name]) > 1]
    sizes = [(isinstance(d, int), n) for s in others
             for d, n in list(zip(s.shape or (), context.shapes[s.name], strict=False))[1:] if n > 1]
    return min(sizes, default=(True, 1))[1]


def _fill(uses: list[Use]) -> Fill | None:
    for use in uses:
        if use.key in _FILLS:
            value, first = _FILLS[use.key]
            return Fill(value, first, use.node.op)
    return None


def _choice(context: Context, spec: TensorSpec, uses: list[Use]) -> Domain | None:
    """One of the constants that the values are compared with: a sample rate, a mode, a byte in a one-hot code."""
    values: list[int] = []
    for use in (u for u in uses if u.node.op == "Equal" and u.scale == 1):
        constant = context.constant(use.scopes, use.node.inputs[1 - use.operand])
        if constant is not None and constant.dtype.kind in "iuf":
            values.extend(int(v - use.offset) for v in np.unique(constant))
    values = list(dict.fromkeys(values))
    lone = math.prod(context.shapes[spec.name]) == 1
    if values and set(values) <= {0, 1} and not lone:
        return Mask()
    return Choice(tuple(values)) if values and (lone or len(values) > 1) else None


def _counts(context: Context, spec: TensorSpec, uses: list[Use]) -> Domain:
    """What is left: a mask, all values of a narrow type, small positive numbers (a divisor may not be 0)."""
    assert spec.dtype is not None  # noqa: S101 - refused before
    if any(use.key in _MASKS or _hides(context, use) for use in uses):
        return Mask()
    info = np.iinfo(spec.dtype)
    if info.bits <= 16:
        return Integers(int(info.min), int(info.max) + 1, f"seeded integer {info.min}…{info.max}")
    return Integers(1, 10, "seeded integer 1…9")
