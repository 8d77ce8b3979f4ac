"""Formulas that lose digits or overflow in a narrow format, each with one that is equal in real arithmetic.

Every function takes a node, and returns what can make its first output instead; None where the formula is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import NodeProto

from parity.fixes.match import Neighbourhood, attribute, keeps
from parity.graph.graph import Node

# Since which opset Softmax is along one axis; before, along all from its axis on.
_SOFTMAX_AXIS_OPSET = 13
_LAYER_NORM_OPSET, _RMS_NORM_OPSET = 17, 23
# The least number of FP16, and what of a mask counts as open.
_FP16_LEAST, _OPEN = -65504.0, -1000.0


def log_softmax(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition log softmax(x) = LogSoftmax(x); a probability below 6e-8 is 0 in FP16, its logarithm -inf."""
    softmax = near.maker(node.inputs[0], "Softmax") if node.op == "Log" else None
    if softmax is None:
        return None
    made = near.make("LogSoftmax", softmax.inputs, node.outputs[0])
    made.attribute.extend(softmax.proto.attribute)
    return [made]


def log_sum_exp(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition log Σ exp x = ReduceLogSumExp(x), which takes the largest x out first; exp 11.1 overflows FP16."""
    total = near.maker(node.inputs[0], "ReduceSum") if node.op == "Log" else None
    power = near.maker(total.inputs[0], "Exp") if total else None
    axes = near.axes(total)
    if total is None or power is None or axes is None:
        return None
    return [near.reduce("ReduceLogSumExp", power.inputs[0], axes, node.outputs[0], keep=keeps(total))]


def softplus(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition log(1 + exp x) = Softplus(x)."""
    added = near.maker(node.inputs[0], "Add") if node.op == "Log" else None
    power = near.maker(near.beside(added, 1.0) or "", "Exp")
    return [near.make("Softplus", power.inputs, node.outputs[0])] if power else None


def log_sigmoid(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """With σ(x) = 1/(1 + exp(-x)): log σ(x) = -Softplus(-x), and log(1 - σ(x)) = -Softplus(x); σ underflows first."""
    if node.op != "Log":
        return None
    name, out = node.inputs[0], node.outputs[0]
    sigmoid, rest = near.maker(name, "Sigmoid"), near.maker(name, "Sub")
    made: list[NodeProto] = []
    if sigmoid is not None:
        argument = near.edit.fresh(f"{out}/negative")
        made.append(near.make("Neg", sigmoid.inputs, argument))
    else:
        inner = near.maker(rest.inputs[1], "Sigmoid") if rest else None
        if rest is None or inner is None or near.number(rest.inputs[0], rest.inputs[1]) != 1:
            return None
        argument = inner.inputs[0]
    positive = near.edit.fresh(f"{out}/positive")
    return [*made, near.make("Softplus", [argument], positive), near.make("Neg", [positive], out)]


def softmax(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition exp x / Σ exp x = Softmax(x), which takes the largest x out; not where that is done already."""
    for top, bottom in near.quotients(node):
        power, total = near.maker(top, "Exp"), near.maker(bottom, "ReduceSum")
        axes = near.axes(total)
        if power is None or total is None or total.inputs[0] != top or axes is None or len(axes) != 1:
            continue
        shifted = near.maker(power.inputs[0], "Sub")
        if not keeps(total) or (shifted and near.maker(shifted.inputs[1], "ReduceMax")):
            continue
        if near.opset >= _SOFTMAX_AXIS_OPSET or axes == (-1,):
            return [near.make("Softmax", power.inputs, node.outputs[0], axis=axes[0])]
    return None


def sigmoid(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition 1/(1 + exp(-x)) = exp x/(1 + exp x) = Sigmoid(x); the second is Inf/Inf where exp x overflows."""
    for top, bottom in near.quotients(node):
        power = near.maker(near.beside(near.maker(bottom, "Add"), 1.0) or "", "Exp")
        if power is None:
            continue
        x = power.inputs[0] if power.outputs[0] == top else near.negative(power.inputs[0]) if top == "" else None
        if x is not None:
            return [near.make("Sigmoid", [x], node.outputs[0])]
    return None


def tanh(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition (exp x - exp(-x))/(exp x + exp(-x)) = Tanh(x); Inf/Inf where exp x overflows."""
    for top, bottom in near.quotients(node):
        difference = near.maker(top, "Sub")
        added = near.maker(bottom, "Add")
        if difference is None or difference.inputs not in list(near.either(added)):
            continue
        powers = [near.maker(n, "Exp") for n in difference.inputs]
        if powers[0] and powers[1] and near.negative(powers[1].inputs[0]) == powers[0].inputs[0]:
            return [near.make("Tanh", powers[0].inputs, node.outputs[0])]
    return None


def norm(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition √Σx² = ReduceL2(x); x² overflows FP16 from 256 on, and is 0 below 2e-4."""
    inner = near.root(node)
    total = near.maker(inner or "", "ReduceSum", "ReduceSumSquare")
    axes = near.axes(total)
    if total is None or axes is None:
        return None
    x = total.inputs[0] if total.op == "ReduceSumSquare" else near.square(total.inputs[0])
    return [near.reduce("ReduceL2", x, axes, node.outputs[0], keep=keeps(total))] if x else None


def variance(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By expanding the square, E[x²] - E[x]² = E[(x - E[x])²], which does not cancel."""
    if node.op != "Sub":
        return None
    of_square, mean = _mean(near, node.inputs[0]), _mean(near, near.square(node.inputs[1]) or "")
    if of_square is None or mean is None or near.square(of_square[0]) != mean[0] or of_square[1:] != mean[1:]:
        return None
    x, axes, keep = mean
    out = node.outputs[0]
    centre, apart, square = (near.edit.fresh(f"{out}/{part}") for part in ("mean", "deviation", "square"))
    return [near.reduce("ReduceMean", x, axes, centre, keep=True), near.make("Sub", [x, centre], apart),
            near.make("Mul", [apart, apart], square), near.reduce("ReduceMean", square, axes, out, keep=keep)]


def _mean(near: Neighbourhood, name: str) -> tuple[str, tuple[int, ...], bool] | None:
    """What a tensor is the mean of, over which axes, and whether those are kept; a sum over its length is one too."""
    node = near.maker(name, "ReduceMean")
    if node is None:
        node = _sum_by_length(near, name)
    axes = near.axes(node)
    return (node.inputs[0], axes, keeps(node)) if node is not None and axes is not None else None


def _sum_by_length(near: Neighbourhood, name: str) -> Node | None:
    """The ReduceSum of which a tensor is the mean, where the number that it is divided by is its length exactly."""
    scaled = near.maker(name, "Mul", "Div")
    for part, factor in list(near.either(scaled))[:1 if scaled and scaled.op == "Div" else 2]:
        total, value = near.maker(part, "ReduceSum"), near.number(factor, part)
        axes, shape = near.axes(total), near.shape(total.inputs[0]) if total else None
        if scaled is None or value is None or axes is None or shape is None:
            continue
        sizes = [shape[a] for a in axes]
        length = float(np.prod([s for s in sizes if isinstance(s, int)]))
        if all(isinstance(s, int) for s in sizes) and (value == length if scaled.op == "Div" else value * length == 1):
            return total
    return None


def layer_norm(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By definition (x - E[x])/√(E[(x - E[x])²] + ε)·γ + β = LayerNormalization(x, γ, β), whose statistics are wide.

    Without the mean it is RMSNormalization. γ and β are constants, or absent.
    """
    out = node.outputs[0] if node.op in {"Add", "Mul", "Div"} else ""
    bodies = [(out, None), *((body, near.value(beta)) for body, beta in near.either(near.maker(out, "Add")))]
    for body, beta in bodies:
        for inner, gamma in ((body, None), *((n, near.value(g)) for n, g in near.either(near.maker(body, "Mul")))):
            core = near.maker(inner, "Div", "Mul")
            if core is not None and (beta is None) == (body == out) and (gamma is None) == (inner == body):
                made = _normalised(near, core, gamma, beta, out)
                if made is not None:
                    return made
    return None


def _normalised(near: Neighbourhood, core: Node, gamma: np.ndarray | None, beta: np.ndarray | None,
                out: str) -> list[NodeProto] | None:
    """The normalisation that a quotient is, with γ and β spread over the axes that are normalised."""
    found = next(_centred(near, core), None)
    if found is None:
        return None
    op, x, axes, epsilon = found
    whole = near.shape(x)
    shape = [a for a in whole[-len(axes):] if isinstance(a, int)] if whole else []
    if whole is None or axes != tuple(range(-len(axes), 0)) or len(shape) != len(axes):
        return None
    scale, bias = _spread(np.ones(1) if gamma is None else gamma, shape), _spread(beta, shape)
    if scale is None or (bias is None and beta is not None):
        return None
    if near.opset < (_LAYER_NORM_OPSET if op == "LayerNormalization" else _RMS_NORM_OPSET):
        return None
    inputs = [x, near.edit.weight(f"{out}/scale", scale)]
    if bias is not None and op == "LayerNormalization":
        inputs.append(near.edit.weight(f"{out}/bias", bias))
    elif bias is not None:
        return None
    return [near.make(op, inputs, out, axis=-len(shape), epsilon=epsilon)]


def _centred(near: Neighbourhood, core: Node) -> Iterator[tuple[str, str, tuple[int, ...], float]]:
    """Of d/√(E[d²] + ε): the operator that it is, x, the axes and ε; d is x - E[x], or x itself."""
    for top, bottom in near.quotients(core):
        root = near.maker(bottom, "Sqrt", "Pow")
        added = near.maker((near.root(root) if root else None) or "", "Add")
        for spread, constant in near.either(added):
            epsilon, mean = near.number(constant, spread), _mean(near, spread)
            deviation = near.square(mean[0]) if mean and mean[2] else None
            if not epsilon or epsilon < 0 or mean is None or deviation is None or not _same(near, deviation, top):
                continue
            centred = near.maker(top, "Sub")
            centre = _mean(near, centred.inputs[1]) if centred else None
            if centred is not None and centre == (centred.inputs[0], mean[1], True):
                yield "LayerNormalization", centred.inputs[0], mean[1], epsilon
            else:
                yield "RMSNormalization", top, mean[1], epsilon


def _same(near: Neighbourhood, one: str, other: str) -> bool:
    """Whether two tensors are one, or the same difference computed twice."""
    makers = near.maker(one, "Sub"), near.maker(other, "Sub")
    return one == other or bool(makers[0] and makers[1] and makers[0].inputs == makers[1].inputs)


def _spread(value: np.ndarray | None, shape: Sequence[int]) -> np.ndarray | None:
    """A constant over the axes that are normalised; None where it changes along others too."""
    dims = () if value is None else value.shape
    ours = dims[-len(shape):]
    fits = all(d in {1, size} for d, size in zip(reversed(ours), reversed(shape), strict=False))
    if value is None or not fits or set(dims[:-len(shape)]) - {1}:
        return None
    return np.broadcast_to(np.reshape(value, ours), tuple(shape)).astype(np.float32)


def mask(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """Softmax of scores with -1e9 where they are masked out: -65504 gives the same zeros, and FP16 holds it.

    For scores within ±30,000 exp(-65504 - …) is 0 in FP64 beside any score that is not masked. Where a whole row is
    masked, Where leaves equal numbers in it, and so equal shares, whatever the number is; a mask that is added would
    change the result there, so it is left unless it is a constant with an open place in every row.
    """
    if node.op != "Softmax" or not near.is_float(node.inputs[0]):
        return None
    chosen, added = near.maker(node.inputs[0], "Where"), near.maker(node.inputs[0], "Add")
    inputs = list(chosen.inputs if chosen else added.inputs if added else ())
    for i, name in enumerate(inputs):
        value = near.value(name)
        if value is None or value.dtype != np.float32 or not _is_mask(near, node, value, rows=chosen is None):
            continue
        inputs[i] = near.edit.weight(f"{name}/fp16", np.maximum(value, np.float32(_FP16_LEAST)))
        scores = near.edit.fresh(f"{node.inputs[0]}/masked")
        made = near.make("Where" if chosen else "Add", inputs, scores)
        result = near.make("Softmax", [scores], node.outputs[0])
        result.attribute.extend(node.proto.attribute)
        return [made, result]
    return None


def _is_mask(near: Neighbourhood, softmax: Node, value: np.ndarray, *, rows: bool) -> bool:
    """Whether a constant is finite, has numbers below FP16's range, none above it, and open places in every row."""
    closed = value < _FP16_LEAST
    if not np.isfinite(value).all() or not closed.any() or (value > -_FP16_LEAST).any():
        return False
    if not rows:
        return value.size == 1
    axis = attribute(softmax, "axis", -1 if near.opset >= _SOFTMAX_AXIS_OPSET else 1)
    shape = near.shape(softmax.inputs[0])
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)
    whole = value.ndim > 0 and value.shape[-1] > 1
    return last and whole and bool((value > _OPEN).any(axis=-1).all())
