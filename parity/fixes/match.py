"""Look at the nodes around one: who makes its inputs, which of them are numbers, over which axes it reduces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from parity.fixes.edits import GraphEdit
from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.precision.elements import read_types

# A size is a number, or the symbol of one.
Shape: TypeAlias = "tuple[int | str, ...]"
# From these opsets on a reduction takes its axes as an input.
_AXES_INPUT: Mapping[str, int] = {"ReduceSum": 13}
_AXES_INPUT_OPSET = 18
# Larger weights are described to shape inference, not copied.
_SMALL_ELEMENTS = 1024


class Neighbourhood:
    """A model's main graph as patterns see it, and the edit that they write to.

    Attributes:
        edit: where new constants and names come from.
    """

    def __init__(self, model: Model, edit: GraphEdit) -> None:
        self.model = model
        self.edit = edit
        self._values = {n: to_numpy(v) for n, v in constant_values(model).items() if is_tensor(v)}
        self._types = read_types(model)

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.model.opsets.get("", 1)

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a tensor, if it is one of these operators."""
        node = self.model.graph.producer.get(name)
        return node if node is not None and node.op in ops else None

    def is_float(self, name: str) -> bool:
        """Whether a tensor is FP32."""
        return bool(self._types.of(name) == TensorProto.FLOAT)

    def value(self, name: str) -> np.ndarray | None:
        """The value of a tensor that no input can change."""
        return self._values.get(name)

    def number(self, name: str, beside: str) -> float | None:
        """The value of a constant of one element that leaves the shape of the tensor `beside` it as it is."""
        value = self._values.get(name)
        if value is None or value.size != 1:
            return None
        shape = self.shape(beside) if value.ndim else ()
        return float(value.reshape(())) if shape is not None and value.ndim <= len(shape) else None

    def either(self, node: Node | None) -> Iterator[tuple[str, str]]:
        """The two inputs of a commutative node in either order; nothing for no node."""
        if node is not None and len(node.inputs) == 2:
            yield node.inputs[0], node.inputs[1]
            yield node.inputs[1], node.inputs[0]

    def beside(self, node: Node | None, number: float) -> str | None:
        """The other operand of a commutative node that has this number for one."""
        return next((x for x, c in self.either(node) if self.number(c, x) == number), None)

    def square(self, name: str) -> str | None:
        """The tensor x of which this is x²."""
        node = self.maker(name, "Mul", "Pow")
        if node is None:
            return None
        if node.op == "Mul":
            return node.inputs[0] if node.inputs[0] == node.inputs[1] else None
        return node.inputs[0] if self.number(node.inputs[1], node.inputs[0]) == 2 else None

    def root(self, node: Node) -> str | None:
        """The tensor x of which a node makes √x."""
        if node.op == "Sqrt":
            return node.inputs[0]
        return node.inputs[0] if node.op == "Pow" and self.number(node.inputs[1], node.inputs[0]) == 0.5 else None

    def negative(self, name: str) -> str | None:
        """The tensor x of which this is -x."""
        node = self.maker(name, "Neg")
        return node.inputs[0] if node else self.beside(self.maker(name, "Mul"), -1.0)

    def quotients(self, node: Node) -> Iterator[tuple[str, str]]:
        """Ways to read a node as numerator over denominator; the numerator is "" where it is the number 1."""
        if node.op == "Div":
            top, bottom = node.inputs
            yield ("" if self.number(top, bottom) == 1 else top), bottom
        elif node.op == "Reciprocal":
            yield "", node.inputs[0]
        elif node.op == "Mul":
            for top, factor in self.either(node):
                inverse = self.maker(factor, "Reciprocal")
                if inverse is not None:
                    yield top, inverse.inputs[0]

    def axes(self, node: Node | None) -> tuple[int, ...] | None:
        """Over which axes a reduction goes, counted from the end where the rank is known; None where that is open."""
        if node is None:
            return None
        attributes = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
        listed: Sequence[int] | None = attributes.get("axes")
        if len(node.inputs) > 1 and node.inputs[1]:
            given = self.value(node.inputs[1])
            if given is None:
                return None
            listed = given.reshape(-1).tolist()
        shape = self.shape(node.inputs[0])
        if not listed:
            return None if attributes.get("noop_with_empty_axes") or shape is None else tuple(range(-len(shape), 0))
        return tuple(sorted(a - len(shape) if shape is not None and a >= 0 else a for a in listed))

    def reduce(self, op: str, x: str, axes: Sequence[int], output: str, *, keep: bool) -> NodeProto:
        """A reduction over these axes."""
        if self.opset < _AXES_INPUT.get(op, _AXES_INPUT_OPSET):
            return self.make(op, [x], output, axes=list(axes), keepdims=int(keep))
        listed = self.edit.weight(f"{output}/axes", np.asarray(axes, np.int64))
        return self.make(op, [x, listed], output, keepdims=int(keep))

    def make(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> NodeProto:
        """A node with one output."""
        return helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes)

    def shape(self, name: str) -> Shape | None:
        """A tensor's shape as far as ONNX's shape inference finds it; None where an axis is left open."""
        value = self._values.get(name)
        return self._shapes.get(name) if value is None else value.shape

    @cached_property
    def _shapes(self) -> Mapping[str, Shape]:
        try:
            proto = onnx.shape_inference.infer_shapes(_skeleton(self.model))
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return {}
        known = ((v.name, _dims(v)) for v in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output))
        return {name: dims for name, dims in known if dims is not None}


def keeps(node: Node) -> bool:
    """Whether a reduction leaves axes of length 1."""
    return next((bool(a.i) for a in node.proto.attribute if a.name == "keepdims"), True)


def attribute(node: Node, name: str, default: int) -> int:
    """An integer attribute."""
    return next((int(a.i) for a in node.proto.attribute if a.name == name), default)


def _skeleton(model: Model) -> ModelProto:
    """The model for shape inference: of large weights the declaration only."""
    graph = model.proto.graph
    proto = ModelProto(ir_version=max(model.proto.ir_version, 4))
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "shapes"
    proto.graph.node.extend(n.proto for n in model.graph.nodes)
    proto.graph.input.extend(graph.input)
    proto.graph.output.extend(graph.output)
    declared = {i.name for i in graph.input}
    for tensor in graph.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) <= _SMALL_ELEMENTS and not tensor.external_data:
            proto.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def _dims(value: onnx.ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not kind.HasField("shape"):
        return None
    dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
    # An unnamed size gets a name of its own: it equals no other.
    return tuple(f"{value.name}[{i}]" if d == "" else d for i, d in enumerate(dims))
