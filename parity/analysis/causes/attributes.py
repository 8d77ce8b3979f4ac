"""What else an operator could have been taken to mean: other attributes, other operators, other roundings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from parity.analysis.causes.functions import other_roundings, quick_of_erf, tanh_of_erf
from parity.analysis.causes.unit import Stand, Unit
from parity.graph.graph import Node


@dataclass(frozen=True)
class Alternative:
    """One thing that a node may have been taken for.

    Attributes:
        cause: the name of the misunderstanding.
        words: what it is, e.g. "axis 1".
        stand: what then stands for the node.
        instead: of what the graph has, e.g. "-1"; empty where `words` say that it is another.
        inputs: tensors that it reads and the graph does not have.
        numbers: figures for the evidence.
    """

    cause: str
    words: str
    stand: Stand
    instead: str = ""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


_CAUSES: Mapping[str, str] = {
    "axis": "wrong-axis", "axes": "wrong-axis", "perm": "wrong-permutation", "epsilon": "wrong-epsilon",
    **dict.fromkeys(("pads", "auto_pad", "ceil_mode", "count_include_pad"), "wrong-padding"),
    **dict.fromkeys(("coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "align_corners"),
                    "wrong-resize-mode"),
    **dict.fromkeys(("transA", "transB"), "transposed-operand"),
}
_FLAGS = frozenset({"transA", "transB", "ceil_mode", "count_include_pad", "linear_before_reset", "select_last_index",
                    "exclusive", "reverse", "align_corners", "antialias", "largest", "keepdims", "center_point_box",
                    "exclude_outside", "input_forget"})
_RESIZES = frozenset({"Resize", "Upsample"})
_WORDS: Mapping[str, Sequence[str]] = {
    "auto_pad": ("SAME_UPPER", "SAME_LOWER", "VALID"), "approximate": ("none", "tanh"),
    "direction": ("forward", "reverse"), "padding_mode": ("zeros", "border", "reflection"),
    "interpolation": ("linear", "nearest", "cubic"),
}
_MODES: Mapping[str, Sequence[str]] = {
    "Pad": ("constant", "reflect", "edge", "wrap"), "DepthToSpace": ("DCR", "CRD"),
    "GridSample": ("linear", "nearest", "cubic", "bilinear", "bicubic"),
}
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
# Taken for each other, with attributes; the nearest relatives first.
_SWAPS: Mapping[str, Sequence[tuple[str, Mapping[str, float]]]] = {
    "Relu": (("Identity", {}), ("LeakyRelu", {"alpha": 0.01}), ("LeakyRelu", {"alpha": 0.1}), ("Elu", {}),
             ("Softplus", {}), ("HardSwish", {}), ("Gelu", {})),
    "LeakyRelu": (("Relu", {}), ("Identity", {})), "PRelu": (("Relu", {}),), "Elu": (("Relu", {}),),
    "Clip": (("Relu", {}),), "Add": (("Sub", {}), ("Mul", {})), "Sub": (("Add", {}),),
    "Mul": (("Add", {}), ("Div", {})), "Div": (("Mul", {}),), "Max": (("Min", {}),), "Min": (("Max", {}),),
    "Sigmoid": (("HardSigmoid", {}), ("Tanh", {}), ("Identity", {})),
    "HardSigmoid": (("Sigmoid", {}),),
    "HardSwish": (("Relu", {}),), "Tanh": (("Softsign", {}), ("Sigmoid", {}), ("Identity", {})), "Erf": (("Tanh", {}),),
    "Sqrt": (("Abs", {}), ("Identity", {})), "Exp": (("Softplus", {}),), "Neg": (("Identity", {}),),
    "Abs": (("Identity", {}),), "Softmax": (("LogSoftmax", {}), ("Identity", {})), "LogSoftmax": (("Softmax", {}),),
    "GlobalAveragePool": (("GlobalMaxPool", {}),), "GlobalMaxPool": (("GlobalAveragePool", {}),),
    "MaxPool": (("AveragePool", {}),), "AveragePool": (("MaxPool", {}),),
    "ReduceMean": (("ReduceSum", {}), ("ReduceMax", {})), "ReduceSum": (("ReduceMean", {}),),
    "ReduceMax": (("ReduceMean", {}), ("ReduceMin", {})), "ReduceMin": (("ReduceMax", {}),),
    "ArgMax": (("ArgMin", {}),), "ArgMin": (("ArgMax", {}),), "Floor": (("Round", {}), ("Ceil", {})),
    "Ceil": (("Floor", {}),), "Round": (("Floor", {}), ("Ceil", {})),
    "Log": (("Identity", {}),), "Reciprocal": (("Identity", {}),), "Transpose": (("Identity", {}),),
}


def alternatives(unit: Unit, node: Node) -> Iterator[Alternative]:
    """What a node of a unit may have been taken for, the likeliest first."""
    yield from _attribute_changes(unit, node)
    yield from _operand_changes(unit, node)
    yield from _axes_input(unit, node)
    if node.op in ("Softmax", "LogSoftmax", "Hardmax"):
        for opset, meaning in ((11, "flattened from its axis on, as before opset 13"), (13, "along one axis only")):
            other = Node(node.proto, node.index, opset)
            yield Alternative("wrong-axis", f"{meaning}", other)
    if node.op in _RESIZES:
        yield from _resizes(node)
    for words, stand in other_roundings(node):
        yield Alternative("wrong-rounding", words, stand)
    if node.op == "Erf":
        for words, function in (("GELU by tanh", tanh_of_erf), ("GELU as x·σ(1.702 x)", quick_of_erf)):
            yield Alternative("wrong-operator", words, function, "erf")
    for op, attributes in _SWAPS.get(node.op, ()):
        kept = dict(attributes) if attributes or node.op not in _KEEPS else _plain(node)
        arguments = [n for n in node.inputs if n][:1] if op == "Identity" else list(node.proto.input)
        proto = helper.make_node(op, arguments, list(node.proto.output), node.proto.name, **kept)
        given = "".join(f" of {k} {v:g}" for k, v in attributes.items())
        yield Alternative("wrong-operator", f"{op}{given}", twin_of(node, proto), node.op)


# Taken for one another, they keep their attributes.
_KEEPS = frozenset({"MaxPool", "AveragePool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "Softmax",
                    "LogSoftmax", "ArgMax", "ArgMin"})
_DROPPED = frozenset({"count_include_pad", "storage_order"})


def _plain(node: Node) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.proto.attribute if a.name not in _DROPPED}


def cause_of(name: str) -> str:
    """What a wrong attribute, or an input that says what an attribute could, is called among the causes."""
    return _CAUSES.get(name, "wrong-attribute")


def attributes_of(node: Node) -> dict[str, AttributeProto]:
    """The attributes of a node, those that are left out at their defaults."""
    found = {}
    try:
        schema = onnx.defs.get_schema(node.proto.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        schema = None
    if schema is not None:
        found = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    return {**found, **{a.name: a for a in node.proto.attribute}}


def with_attribute(node: Node, name: str, value: object) -> Node:
    """The node with one attribute changed."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    kept = [a for a in proto.attribute if a.name != name]
    del proto.attribute[:]
    proto.attribute.extend([*kept, helper.make_attribute(name, value)])
    return twin_of(node, proto)


def with_input(node: Node, position: int, name: str) -> Node:
    """The node with one input exchanged, or given where it was left out."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.input.extend([""] * (position + 1 - len(proto.input)))
    proto.input[position] = name
    return twin_of(node, proto)


def twin_of(node: Node, proto: NodeProto) -> Node:
    """The node with another protobuf."""
    return Node(proto, node.index, node.opset, node.subgraphs)


def _attribute_changes(unit: Unit, node: Node) -> Iterator[Alternative]:
    read = unit.input(node.inputs[0]) if node.inputs and node.inputs[0] else None
    rank = 0 if read is None else read.ndim
    for name, attribute in attributes_of(node).items():
        now = helper.get_attribute_value(attribute)
        for value in _others(node, name, now, rank):
            told = value.decode() if isinstance(value, bytes) else value
            was = now.decode() if isinstance(now, bytes) else now
            yield Alternative(cause_of(name), f"{name} {told}",
                              with_attribute(node, name, value), str(was))
    if node.op == "Transpose" and "perm" not in attributes_of(node) and rank > 1:
        for perm in _permuted(list(range(rank))[::-1]):
            yield Alternative("wrong-permutation", f"perm {perm}", with_attribute(node, "perm", perm),
                              "all axes reversed")


def _others(node: Node, name: str, now: object, rank: int) -> Iterator[object]:
    """Values that an attribute may have been given instead."""
    if name in _FLAGS:
        yield 1 - int(bool(now))
    elif name == "axis" and isinstance(now, int) and rank:
        yield from (a for a in range(rank) if a != now % rank)
    elif name == "axes" and isinstance(now, list) and rank:
        yield from _other_axes([a % rank for a in now], rank)
    elif name == "perm" and isinstance(now, list):
        yield from _permuted(now)
    elif name == "pads" and isinstance(now, list):
        yield from _other_pads(now)
    elif name == "group" and isinstance(now, int) and now > 1:
        yield 1
    elif name == "mode":
        yield from (m for m in _MODES.get(node.op, ()) if m.encode() != now)
    elif name in _WORDS:
        yield from (w for w in _WORDS[name] if w.encode() != now)


def _other_axes(now: Sequence[int], rank: int) -> Iterator[list[int]]:
    seen = {tuple(sorted(now))}
    moved = (sorted((a + shift) % rank for a in now) for shift in range(1, rank))
    fewer = ([a] for a in now) if len(now) > 1 else ()
    for axes in (*moved, *fewer):
        if tuple(axes) not in seen:
            seen.add(tuple(axes))
            yield list(axes)


def _permuted(now: Sequence[int]) -> Iterator[list[int]]:
    if len(now) <= 4:
        yield from (list(p) for p in permutations(range(len(now))) if list(p) != list(now))
        return
    for i in range(len(now)):
        for j in range(i):
            swapped = list(now)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield swapped


def _other_pads(now: Sequence[int]) -> Iterator[list[int]]:
    half = len(now) // 2
    begin, end = list(now[:half]), list(now[half:])
    seen = {tuple(now)}
    moved = ([b + d for b in begin] + [e - d for e in end] for d in (1, -1, 2, -2))
    every = ([x + d for x in now] for d in (1, -1))
    for pads in ([*end, *begin], *moved, *every, [0] * len(now)):
        if tuple(pads) not in seen and min(pads) >= 0:
            seen.add(tuple(pads))
            yield pads


def _operand_changes(unit: Unit, node: Node) -> Iterator[Alternative]:
    """Operands in another order, or a square one transposed."""
    if node.op in ("Sub", "Div", "MatMul", "Pow", "Mod", "Less", "Greater") and len(node.inputs) == 2:
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        proto.input[0], proto.input[1] = node.inputs[1], node.inputs[0]
        yield Alternative("swapped-operands", "the operands of the other order", twin_of(node, proto))
    if node.op == "Concat" and len(node.inputs) > 1:
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        proto.input[:] = list(reversed(node.inputs))
        yield Alternative("swapped-operands", "the inputs in reverse order", twin_of(node, proto))
    if node.op == "Where":
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        proto.input[1], proto.input[2] = node.inputs[2], node.inputs[1]
        yield Alternative("swapped-operands", "its two choices swapped", twin_of(node, proto))


def _axes_input(unit: Unit, node: Node) -> Iterator[Alternative]:
    """Other axes, where they are an input."""
    if not node.op.startswith("Reduce") or len(node.inputs) < 2 or not node.inputs[1]:
        return
    axes, read = unit.input(node.inputs[1]), unit.input(node.inputs[0])
    if axes is None or read is None or axes.ndim != 1:
        return
    now = [int(a) % read.ndim for a in axes]
    for other in _other_axes(now, read.ndim):
        name = f"{node.inputs[1]}/other"
        yield Alternative("wrong-axis", f"axes {other}", with_input(node, 1, name), str(now),
                          {name: np.array(other)})


def _resizes(node: Node) -> Iterator[Alternative]:
    now = {n: helper.get_attribute_value(a) for n, a in attributes_of(node).items()}
    texts = {n: v.decode() for n, v in now.items() if isinstance(v, bytes)}
    if node.op == "Upsample" or node.opset < 11:  # these have no attribute but the mode
        for mode in ("nearest", "linear"):
            if mode != texts.get("mode"):
                yield Alternative("wrong-resize-mode", f"mode {mode}", with_attribute(node, "mode", mode),
                                  texts.get("mode", ""))
        return
    choices = [("nearest", c, n, 0.0) for c, n in product(_COORDINATES, _NEAREST)]
    choices += [("linear", c, "", 0.0) for c in _COORDINATES]
    choices += [("cubic", c, "", a) for c, a in product(_COORDINATES, (-0.75, -0.5))]
    choices.sort(key=lambda c: c[0] != texts.get("mode"))
    was = ", ".join(texts.get(name, "") for name in _named_modes(texts))
    for mode, coordinates, nearest, cubic in choices:
        changed: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if nearest:
            changed["nearest_mode"] = nearest
        if cubic:
            changed["cubic_coeff_a"] = cubic
        other = node
        for name, value in changed.items():
            other = with_attribute(other, name, value)
        yield Alternative("wrong-resize-mode", ", ".join(map(str, changed.values())), other, was)


def _named_modes(texts: Mapping[str, str]) -> tuple[str, ...]:
    names = ("mode", "coordinate_transformation_mode")
    return (*names, "nearest_mode") if texts.get("mode") == "nearest" else names
