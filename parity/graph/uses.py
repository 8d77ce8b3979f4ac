"""Who reads the values of a graph input, however far they were moved, cast, scaled and shifted on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto

from parity.errors import ModelError
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.graph.weights import read_weight

Shape = tuple[int, ...]

# Operators that hand on the values of these operands unchanged.
_PASSES: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Expand",
                     "Split", "Tile", "Dropout", "Gather", "GatherElements", "GatherND"), frozenset({0})),
    "Concat": frozenset(range(64)),
    "Where": frozenset({1, 2}),
}
# From this size on, a weight is not copied for shape inference: only its own shape matters there.
_SMALL_ELEMENTS = 1024


@dataclass(frozen=True)
class Use:
    """A node that reads an input, perhaps after the values were moved, cast, scaled and shifted.

    Attributes:
        node: the reader.
        operand: which of its inputs.
        scale: it reads scale · x + offset for an input value x.
        offset: see scale.
        scopes: the graphs around the node, outermost first.
    """

    node: Node
    operand: int
    scale: float
    offset: float
    scopes: tuple[Graph, ...]

    @property
    def key(self) -> tuple[str, int]:
        """Operator and operand, as the tables of `domains` name them."""
        return self.node.op, self.operand


@dataclass(frozen=True, eq=False)
class Context:
    """What is known when values are chosen: the model, its local functions inlined, and the shapes of its inputs."""

    model: Model
    shapes: Mapping[str, Shape]

    @cached_property
    def inferred(self) -> Mapping[str, Shape]:
        """Shapes of main-graph tensors, as far as ONNX's shape inference finds them."""
        graph = self.model.graph
        proto = ModelProto(ir_version=max(self.model.proto.ir_version, 4))
        proto.opset_import.extend(self.model.proto.opset_import)
        proto.graph.node.extend(n.proto for n in graph.nodes)
        for spec in graph.inputs:
            declared = next(i for i in self.model.proto.graph.input if i.name == spec.name)
            elem_type = declared.type.tensor_type.elem_type
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(spec.name, elem_type, self.shapes.get(spec.name)))
        for name, tensor in graph.initializers.items():
            if math.prod(tensor.dims) < _SMALL_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
                proto.graph.initializer.append(tensor)
            else:
                proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        try:
            found = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return {}  # a shape that stays unknown only makes the choice of values narrower
        infos = (i for i in (*found.value_info, *found.output) if i.type.tensor_type.HasField("shape"))
        dims = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim if d.HasField("dim_value")] for i in infos}
        ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in (*found.value_info, *found.output)}
        return {n: tuple(d) for n, d in dims.items() if len(d) == ranks[n]}

    def shape(self, scopes: tuple[Graph, ...], name: str) -> Shape | None:
        """The shape of a tensor visible in these scopes, or None where it is not known."""
        for graph in reversed(scopes):
            if name in graph.initializers:
                return tuple(graph.initializers[name].dims)
            if name in graph.producer and graph is not self.model.graph:
                return None
        return self.shapes.get(name) or self.inferred.get(name)

    def constant(self, scopes: tuple[Graph, ...], name: str) -> np.ndarray | None:
        """The value of a tensor that no input can change, or None."""
        for graph in reversed(scopes):
            if name in graph.initializers:
                return read_weight(graph.initializers[name], self.model.folder)
            node = graph.producer.get(name)
            if node is not None and node.op == "Constant":
                return self._attribute(node.proto.attribute[0])
            if node is not None and name in self.model.constants and graph is self.model.graph:
                return self._computed(name)
        return None

    def scalar(self, scopes: tuple[Graph, ...], name: str) -> float | None:
        """The value of a constant of one element, or None."""
        value = self.constant(scopes, name)
        return float(value.item()) if value is not None and value.size == 1 and value.dtype.kind in "biuf" else None

    def _attribute(self, attribute: AttributeProto) -> np.ndarray | None:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto):
            return read_weight(value, self.model.folder)
        return None if attribute.type == AttributeProto.SPARSE_TENSOR else np.asarray(value)

    def _computed(self, name: str) -> np.ndarray | None:
        from parity.graph.executor import Executor
        from parity.graph.ops.call import to_numpy
        try:
            return to_numpy(Executor(self.model.between({}, [name])).run({})[name])
        except (ModelError, TypeError):
            return None  # it will be reported when the model runs


def uses_of(context: Context, name: str) -> list[Use]:
    """Every node that reads the values of an input, in graph order along each path."""
    return list(_trace(context, (context.model.graph,), name, 1.0, 0.0, set()))


def _trace(context: Context, scopes: tuple[Graph, ...], name: str, scale: float, offset: float,
           seen: set[tuple[int, str, float, float]]) -> Iterator[Use]:
    graph = scopes[-1]
    visit = (id(graph), name, scale, offset)
    if visit in seen:
        return
    seen.add(visit)
    for node in graph.readers.get(name, ()):
        for body in node.subgraphs.values():
            if name in body.captured:
                yield from _trace(context, (*scopes, body), name, scale, offset, seen)
        for operand in (i for i, given in enumerate(node.inputs) if given == name):
            use = Use(node, operand, scale, offset, scopes)
            yield use
            for where, result, a, b in _onward(context, use):
                yield from _trace(context, where, result, a, b, seen)


def _onward(context: Context, use: Use) -> Iterator[tuple[tuple[Graph, ...], str, float, float]]:
    """Tensors that hold the values which a node was given: their scopes, name, scale and offset."""
    node, operand = use.node, use.operand
    if node.op in {"Loop", "Scan"} and operand >= (2 if node.op == "Loop" else 0):
        body = node.subgraphs["body"]
        if operand < len(body.proto.input):
            yield (*use.scopes, body), body.proto.input[operand].name, use.scale, use.offset
    elif operand in _PASSES.get(node.op, ()):
        for output in node.outputs if node.op == "Split" else node.outputs[:1]:
            yield use.scopes, output, use.scale, use.offset
    elif node.op in {"Add", "Sub", "Mul"}:
        other = context.scalar(use.scopes, node.inputs[1 - operand])
        if other is not None:
            a, b = {"Add": (1.0, other), "Mul": (other, 0.0),
                    "Sub": (1.0, -other) if operand == 0 else (-1.0, other)}[node.op]
            yield use.scopes, node.outputs[0], a * use.scale, a * use.offset + b
