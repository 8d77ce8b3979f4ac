"""The slopes of one node, averaged along the way from the reference's inputs to the candidate's.

What is asked for is never a slope by itself, but its product with the adjoints of the node's outputs, S^T a. With the
slope averaged rightly, S^T a · (c − r) = a · (f(c) − f(r)), which a derivative at one end misses by far where f bends:
at the kinks of Relu, near the zero of Sqrt and Log, and where MaxPool takes another element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from parity.analysis.derivative import Derivative, Parts, difference, dot, finite, reals
from parity.analysis.fused import stages
from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.ops.call import Value

RULE = ("secant for element-wise operators and maxima, midpoint for linear and bilinear ones, Gauss-Legendre with 4 "
        "points for softmax and recurrent ones and with 2 for all others (more where they miss much), straight through "
        "quantisation")
_ELEMENTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu",
    "Erf", "Exp", "FastGelu", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish",
    "Mod", "Pow", "PRelu", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"})
# Of degree two at most in all inputs together, so that the slope at the midpoint is the exact average.
_BILINEAR = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "CastLike", "CenterCropPad", "Col2Im", "Compress", "Concat",
    "ConcatFromSequence", "Conv", "ConvTranspose", "CumSum", "DFT", "DepthToSpace", "DequantizeLinear", "Dropout",
    "Einsum", "Expand", "Flatten", "FusedMatMul", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool",
    "Identity", "MatMul", "MaxUnpool", "Mean", "Mul", "Neg", "Pad", "QuantizeLinear", "ReduceMean", "ReduceSum",
    "ReduceSumSquare", "Reshape", "Resize", "ReverseSequence", "STFT", "ScatterElements", "ScatterND", "SequenceAt",
    "SequenceConstruct", "SequenceErase", "SequenceInsert", "Slice", "SpaceToDepth", "Split", "SplitToSequence",
    "Squeeze", "Sub", "Sum", "Tile", "Transpose", "TransposeMatMul", "Trilu", "Unsqueeze", "Upsample", "Where"})
# Of degree two in a single input; or bent, at the ends of the range.
_SQUARING = frozenset({"QuantizeLinear", "ReduceSumSquare"})
# Each element of the output is one of the input's elements.
_SELECTING = frozenset({"GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "TopK"})
_BENT = frozenset({"GRU", "Hardmax", "LSTM", "LogSoftmax", "RNN", "ReduceLogSumExp", "Softmax"})
# Relative change of an input below which the difference of two outputs is mostly rounding, also in FP64.
_TOO_NEAR = 1e-7
_MOST_POINTS = 32
# So far from an end of the line that equal elements are told apart by where they are heading.
_INSIDE = 1e-6
# Elements to choose from beyond which the choice is followed in so many pieces of the line.
_MANY, _PIECES = 16, 8


@dataclass(frozen=True, eq=False)
class Segment:
    """One node on the straight line between two sets of inputs.

    Attributes:
        node: the node.
        start: everything that it reads, where the line starts.
        steps: for the inputs whose slope is asked for, the end of the line minus its start.
        rises: for the outputs that can be compared, the value at the end minus that at the start.
    """

    node: Node
    start: Mapping[str, Value]
    steps: Mapping[str, Parts]
    rises: Mapping[str, Parts]


def averaged(executor: Executor, segment: Segment, adjoints: Mapping[str, Parts], enough: float) -> dict[str, Parts]:
    """The products of a node's averaged slopes with the adjoints of its outputs.

    Args:
        executor: in FP64, with gradients.
        segment: the node, and between which inputs.
        adjoints: for each output that has one, in its shape.
        enough: how much of Σ adjoint · rise the slopes may miss before they are averaged over more points.

    Returns:
        For every input in `segment.steps` that has a slope, its adjoint; what is not finite in it has become 0.
    """
    op = segment.node.proto.op_type
    if (parts := stages(segment.node)) is not None:
        return _in_stages(executor, segment, adjoints, *parts)
    if op in _ELEMENTWISE and _keeps_shape(segment):
        return _secant(executor, segment, adjoints)
    if bilinear(segment.node):
        return _at(executor, segment, 0.0 if _linear(segment) else 0.5, adjoints)
    if op in _SELECTING:
        return _blended(executor, segment, adjoints)
    rise = sum(dot(a, segment.rises.get(n)) for n, a in adjoints.items())
    points = 4 if op in _BENT else 2
    while True:
        found = _quadrature(executor, segment, adjoints, points)
        missed = rise - sum(dot(p, segment.steps[n]) for n, p in found.items())
        if not found or abs(missed) <= enough or points >= _MOST_POINTS:
            return found
        points *= 2


def bilinear(node: Node) -> bool:
    """Whether the slope at the midpoint is the exact average; `Segment.rises` is not looked at then."""
    return node.proto.op_type in _BILINEAR


def _linear(segment: Segment) -> bool:
    """Whether the slope is the same everywhere on the line."""
    reads = [n for n in segment.node.inputs if n in segment.steps]
    return len(reads) == 1 and segment.node.proto.op_type not in _SQUARING


def _in_stages(executor: Executor, segment: Segment, adjoints: Mapping[str, Parts], linear: Node, activation: Node,
               ) -> dict[str, Parts]:
    """The exact averages of a linear part and of its element-wise activation, one after the other."""
    middle = linear.outputs[0]
    ends = [_between(segment, place) for place in (0.0, 1.0)]
    low, high = (executor.evaluate(linear, [v[n] if n else None for n in linear.inputs], v)[0] for v in ends)
    step = difference(high, low)
    if step is None:
        return {}
    after = Segment(activation, {middle: low}, {middle: step}, segment.rises)
    return averaged(executor, Segment(linear, segment.start, segment.steps, {}),
                    averaged(executor, after, adjoints, math.inf), math.inf)


def _keeps_shape(segment: Segment) -> bool:
    """Whether one tensor alone moves, and each element of it gives one element of the output."""
    rise = segment.rises.get(segment.node.outputs[0])
    if len(segment.steps) != 1 or rise is None or len(rise) != 1:
        return False
    (step,) = segment.steps.values()
    return len(step) == 1 and step[0].shape == rise[0].shape


def _secant(executor: Executor, segment: Segment, adjoints: Mapping[str, Parts]) -> dict[str, Parts]:
    """Return (f(c) − f(r)) / (c − r), or the derivative where c and r are too near to each other for that."""
    ((name, (step,)),) = segment.steps.items()
    output = segment.node.outputs[0]
    slope = adjoints[output][0] * segment.rises[output][0] / step
    near = step.abs() <= _TOO_NEAR * reals(segment.start[name], torch.float64)[0].abs()
    if near.any():
        derived = _at(executor, segment, 0.5, adjoints).get(name)
        slope = torch.where(near, torch.zeros_like(slope) if derived is None else derived[0], slope)
    return {name: [finite(slope)]}


def _blended(executor: Executor, segment: Segment, adjoints: Mapping[str, Parts]) -> dict[str, Parts]:
    """The slopes at both ends, S = t J(r) + (1 − t) J(c), with t such that S · (c − r) = f(c) − f(r) in every element.

    A maximum that moves from element i to j takes the slope of i up to the place t where the two are equal, and that
    of j from there on. Where it may move through many elements, this is done piece by piece.
    """
    output = segment.node.outputs[0]
    if output not in adjoints:
        return {}
    many = sum(p.numel() for parts in segment.steps.values() for p in parts) > _MANY * adjoints[output][0].numel()
    pieces = _PIECES if many else 1
    places = [min(max(i / pieces, _INSIDE), 1 - _INSIDE) for i in range(pieces + 1)]
    knots = [Derivative(executor, segment.node, _between(segment, place), segment.steps) for place in places]
    slopes = [knot.push(output, segment.steps) for knot in knots]
    values = [knot.outputs[output][0].detach() for knot in knots]
    weights = [torch.zeros_like(values[0]) for _ in knots]
    for i in range(pieces):
        early, late, width = slopes[i], slopes[i + 1], places[i + 1] - places[i]
        if early is None or late is None:
            return {}
        rise = (values[i + 1] - values[i]) / width
        t = torch.where(early == late, 0.5, (rise - late) / (early - late)).clamp(0, 1)
        weights[i] += width * t
        weights[i + 1] += width * (1 - t)
    pulled = [knot.pull({output: [weight * adjoints[output][0]]}) for knot, weight in zip(knots, weights, strict=True)]
    return {n: [torch.stack(knots).sum(0) for knots in zip(*(p[n] for p in pulled), strict=True)] for n in pulled[0]}


def _quadrature(executor: Executor, segment: Segment, adjoints: Mapping[str, Parts], points: int) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for place, weight in _gauss(points):
        for name, parts in _at(executor, segment, place, adjoints).items():
            weighted = [weight * p for p in parts]
            found[name] = [a + b for a, b in zip(found[name], weighted, strict=True)] if name in found else weighted
    return found


def _gauss(points: int) -> list[tuple[float, float]]:
    """Places and weights of Gauss-Legendre quadrature on [0, 1]."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return [(float(x + 1) / 2, float(w) / 2) for x, w in zip(places, weights, strict=True)]


def _at(executor: Executor, segment: Segment, place: float, adjoints: Mapping[str, Parts]) -> dict[str, Parts]:
    try:
        derivative = Derivative(executor, segment.node, _between(segment, place), segment.steps.keys())
    except ModelError:  # there are functions that take both ends, but nothing between them
        return {}
    return derivative.pull(adjoints)


def _between(segment: Segment, place: float) -> dict[str, Value]:
    """What the node reads at a place on the line, 0 at its start and 1 at its end."""
    values = dict(segment.start)
    for name, steps in segment.steps.items() if place else ():
        moved = [r + place * d for r, d in zip(reals(values[name], torch.float64), steps, strict=True)]
        values[name] = list(moved) if isinstance(values[name], list) else moved[0]
    return values
