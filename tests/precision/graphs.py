"""Random small graphs to make variants of: shared weights, Casts of their own, branches that read from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from parity.graph.model import Model
from parity.graph.ops.call import Value, to_numpy

SHAPE = [2, 3]
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
# Multiples of 1/64, so that FP16 and BF16 hold them exactly, but for the last, which FP16 cannot hold at all.
WEIGHTS = {"w0": 0.25, "w1": -1.5, "w2": 0.984375, "huge": 2.0**20}
_UNARY = ("Relu", "Neg", "Identity", "Softmax", "Abs", "LogSoftmax")
_BINARY = ("Add", "Mul", "Max", "Sub")


@dataclass
class Draft:
    """A graph being drawn: its nodes, and the element type of every tensor so far."""

    nodes: list[NodeProto] = field(default_factory=list)
    elements: dict[str, int] = field(default_factory=lambda: {"x": FLOAT, "z": FLOAT})

    def add(self, op: str, inputs: list[str], element: int, **attributes: object) -> str:
        """Append a node with one output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.elements[name] = element
        return name


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A model of 1 to 12 steps on [2, 3] tensors with inputs x, z and yes (a boolean)."""
    draft = Draft()
    steps = draw(st.lists(st.sampled_from(sorted(_STEPS)), min_size=1, max_size=12))
    for step in steps:
        _STEPS[step](draft, draw)
    made = [n for n in draft.elements if n not in {"x", "z"}]
    chosen = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    outputs = [_value(n, draft.elements[n]) for n in dict.fromkeys([*chosen, made[-1]])]
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    weights = [numpy_helper.from_array(np.full(SHAPE, v, np.float32), n) for n, v in WEIGHTS.items()]
    graph = helper.make_graph(draft.nodes, "drawn", [_value("x", FLOAT), _value("z", FLOAT), yes], outputs, weights)
    opset = draw(st.sampled_from([13, 18, 22]))
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def feed(seed: int) -> dict[str, np.ndarray]:
    """Values for the inputs of a drawn model."""
    rng = np.random.default_rng(seed)
    x, z = (rng.standard_normal(SHAPE).astype(np.float32) for _ in "xz")
    return {"x": x, "z": z, "yes": np.array(bool(seed % 2))}


def numpy_of(values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """What an executor returned, as FP64 arrays."""
    return {n: to_numpy(v).astype(np.float64) for n, v in values.items()}


def _value(name: str, element: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, SHAPE)


def _pick(draft: Draft, draw: st.DrawFn, element: int | None = None) -> str:
    names = [n for n, e in draft.elements.items() if element in {None, e}]
    return draw(st.sampled_from(names))


def _unary(draft: Draft, draw: st.DrawFn) -> None:
    source = _pick(draft, draw)
    draft.add(draw(st.sampled_from(_UNARY)), [source], draft.elements[source])


def _binary(draft: Draft, draw: st.DrawFn) -> None:
    a = _pick(draft, draw)
    b = _pick(draft, draw, draft.elements[a])
    draft.add(draw(st.sampled_from(_BINARY)), [a, b], draft.elements[a])


def _weighted(draft: Draft, draw: st.DrawFn) -> None:
    weight = draw(st.sampled_from(sorted(WEIGHTS)))
    draft.add(draw(st.sampled_from(_BINARY)), [_pick(draft, draw, FLOAT), weight], FLOAT)


def _cast(draft: Draft, draw: st.DrawFn) -> None:
    to = draw(st.sampled_from([FLOAT, FLOAT16]))
    draft.add("Cast", [draw(st.sampled_from([*draft.elements, "w0", "huge"]))], to, to=to)


def _constant(draft: Draft, draw: st.DrawFn) -> None:
    value = numpy_helper.from_array(np.full(SHAPE, draw(st.sampled_from([0.5, 2.0**18])), np.float32))
    draft.add("Constant", [], FLOAT, value=value)


def _filled(draft: Draft, draw: st.DrawFn) -> None:
    """The shape of a tensor, filled with a number: an operator that reads no values."""
    shape = f"shape{len(draft.nodes)}"
    draft.nodes.append(helper.make_node("Shape", [_pick(draft, draw)], [shape]))
    draft.add("ConstantOfShape", [shape], FLOAT, value=helper.make_tensor("", FLOAT, [1], [0.75]))


def _branch(draft: Draft, draw: st.DrawFn) -> None:
    """An If whose branches read tensors and weights from outside; one has a weight of its own."""
    a, b = _pick(draft, draw, FLOAT), _pick(draft, draw, FLOAT)
    weight, key = draw(st.sampled_from(sorted(WEIGHTS))), len(draft.nodes)
    then = helper.make_graph([helper.make_node("Add", [a, b], [f"then{key}"])], "then", [],
                             [_value(f"then{key}", FLOAT)])
    own = numpy_helper.from_array(np.full(SHAPE, 0.5, np.float32), f"own{key}")
    inner = [helper.make_node("Mul", [b, weight], [f"mid{key}"]),
             helper.make_node("Add", [f"mid{key}", f"own{key}"], [f"else{key}"])]
    other = helper.make_graph(inner, "else", [], [_value(f"else{key}", FLOAT)], [own])
    draft.add("If", ["yes"], FLOAT, then_branch=then, else_branch=other)


def _loop(draft: Draft, draw: st.DrawFn) -> None:
    """Two turns of a Loop that adds a tensor from outside to its state."""
    state, outside, key = _pick(draft, draw, FLOAT), _pick(draft, draw, FLOAT), len(draft.nodes)
    names = [f"{n}{key}" for n in ("i", "c", "s")]
    inputs = [helper.make_tensor_value_info(n, e, s)
              for n, e, s in zip(names, (TensorProto.INT64, TensorProto.BOOL, FLOAT), ([], [], SHAPE), strict=True)]
    nodes = [helper.make_node("Identity", [names[1]], [f"go{key}"]),
             helper.make_node("Add", [names[2], outside], [f"next{key}"])]
    outputs = [helper.make_tensor_value_info(f"go{key}", TensorProto.BOOL, []), _value(f"next{key}", FLOAT)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    trips = f"trips{key}"
    draft.nodes.append(helper.make_node("Constant", [], [trips], value_int=2))
    draft.add("Loop", [trips, "", state], FLOAT, body=body)


_STEPS = {"unary": _unary, "binary": _binary, "weighted": _weighted, "cast": _cast, "constant": _constant,
          "filled": _filled, "branch": _branch, "loop": _loop}
