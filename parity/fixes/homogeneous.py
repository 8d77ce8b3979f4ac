"""What each operator makes of a factor on its inputs: the algebra that rescaling rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np

from parity.graph.graph import Node

_ALL = tuple(range(64))


class Kind(Enum):
    """How an operator treats a positive factor c on its inputs.

    JOIN: f(c·x, c·y) = c·f(x, y); of comparisons, indices and signs: = f(x, y).
    PRODUCT: f(c·x, d·y) = cᵖ·dᵠ·f(x, y), p and q the degrees of its operands.
    LOG: log(c·x) = log x + log c.
    NORMALISE: f(c·x, c²·epsilon) = f(x, epsilon).
    BATCH_NORM: (x - mean)/√(var + epsilon)·scale + bias, with five operands.
    BOUNDED: beyond ±`BOUND` it has reached its limits in FP64.
    SHIFT: only differences count, so that a factor changes the result, and the small ones matter beside the large.
    OTHER: nothing is known.
    """

    JOIN = "join"
    PRODUCT = "product"
    LOG = "log"
    NORMALISE = "normalise"
    BATCH_NORM = "batch normalisation"
    BOUNDED = "bounded"
    SHIFT = "shift"
    OTHER = "other"


# exp(-4096) is 0 in FP64, and exp(4096) infinite; Erf, Tanh and Sigmoid reach their limits much earlier.
BOUND = 4096.0


@dataclass(frozen=True)
class Role:
    """An operator's algebra, for one node.

    Attributes:
        kind: see `Kind`.
        operands: of a JOIN: indices of the inputs that the factor is on.
        gives: of a JOIN: whether the result has the factor.
        degrees: of a PRODUCT: by index of the input.
        offset: of a PRODUCT: the input that is added to the result, -1 for none.
    """

    kind: Kind
    operands: tuple[int, ...] = ()
    gives: bool = True
    degrees: Mapping[int, Fraction] = field(default_factory=dict)
    offset: int = -1

    def data(self, node: Node) -> list[str]:
        """The inputs of a node that this is about."""
        indices = {Kind.JOIN: self.operands, Kind.PRODUCT: tuple(self.degrees), Kind.BATCH_NORM: _ALL[:5],
                   Kind.OTHER: ()}.get(self.kind, (0,))
        return [node.inputs[i] for i in indices if i < len(node.inputs) and node.inputs[i]]


_MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Trilu",
          "GatherElements", "GatherND", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout", "Cast", "Resize",
          "Upsample", "ReverseSequence", "Compress", "GridSample", "Abs", "Neg", "Relu", "LeakyRelu", "PRelu",
          "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean",
          "ReduceSum", "ReduceL1", "ReduceL2", "CumSum", "TopK")
_JOINS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_MOVES, (0,)), **dict.fromkeys(("Add", "Sub", "Max", "Min", "Sum", "Mean", "Concat"), _ALL),
    "Where": (1, 2), "Clip": (0, 1, 2), "Pad": (0, 2), "ScatterND": (0, 2), "ScatterElements": (0, 2)}
_INDIFFERENT: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Shape", "Size", "Sign", "IsNaN", "IsInf", "NonZero", "ArgMax", "ArgMin"), (0,)),
    "LpNormalization": (0,),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (0, 1))}
_BILINEAR = ("Mul", "MatMul", "Gemm", "Conv", "ConvTranspose")
_DEGREES: Mapping[str, tuple[Fraction, ...]] = {
    **dict.fromkeys(_BILINEAR, (Fraction(1), Fraction(1))), "Div": (Fraction(1), Fraction(-1)),
    "Reciprocal": (Fraction(-1),), "Sqrt": (Fraction(1, 2),), "ReduceSumSquare": (Fraction(2),)}
_KINDS: Mapping[str, Kind] = {
    "Log": Kind.LOG, "BatchNormalization": Kind.BATCH_NORM,
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
                    Kind.NORMALISE),
    **dict.fromkeys(("Erf", "Tanh", "Sigmoid", "Exp"), Kind.BOUNDED),
    **dict.fromkeys(("Softmax", "LogSoftmax", "ReduceLogSumExp", "LogSumExp"), Kind.SHIFT)}
_OFFSETS: Mapping[str, int] = dict.fromkeys(("Gemm", "Conv", "ConvTranspose"), 2)
_POWERS = frozenset({-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0})
# Attributes that are values of the operator's input type.
VALUES: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"), "Pad": ("value",), "Resize": ("extrapolation_value",)}


def role_of(node: Node, constants: Mapping[str, np.ndarray]) -> Role:
    """The algebra of a node.

    Args:
        node: any.
        constants: values of its constant inputs, by name: a Pow has an algebra where its exponent is known.
    """
    op = node.op
    if op in _JOINS or op in _INDIFFERENT:
        return Role(Kind.JOIN, _JOINS.get(op) or _INDIFFERENT[op], gives=op in _JOINS)
    if op == "Pow":
        return _power(node, constants)
    if op == "Einsum":
        return Role(Kind.PRODUCT, degrees=dict.fromkeys(range(len(node.inputs)), Fraction(1)))
    if op in _DEGREES:
        return Role(Kind.PRODUCT, degrees=dict(enumerate(_DEGREES[op])), offset=_OFFSETS.get(op, -1))
    kind = _KINDS.get(op, Kind.OTHER)
    return Role(Kind.OTHER if _has_state(node, kind) else kind)


def degrees_by_name(node: Node, role: Role) -> dict[str, Fraction]:
    """Degrees of a PRODUCT's operands by name: x·x is of degree 2 in x."""
    degrees: dict[str, Fraction] = {}
    for i, degree in role.degrees.items():
        degrees[node.inputs[i]] = degrees.get(node.inputs[i], Fraction(0)) + degree
    return degrees


def _power(node: Node, constants: Mapping[str, np.ndarray]) -> Role:
    exponent = constants.get(node.inputs[1])
    power = float(exponent.reshape(())) if exponent is not None and exponent.size == 1 else 0.0
    return Role(Kind.PRODUCT, degrees={0: Fraction(power)}) if power in _POWERS else Role(Kind.OTHER)


def _has_state(node: Node, kind: Kind) -> bool:
    """A normalisation that hands out its statistics, which have the factor too, or computes them anew."""
    return kind in {Kind.NORMALISE, Kind.BATCH_NORM} and (
        len(node.outputs) > 1 or any(a.name == "training_mode" and a.i for a in node.proto.attribute))
