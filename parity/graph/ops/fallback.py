"""The two levels below a torch kernel: an operator's own function body, and the numpy reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper

from parity.graph.graph import Graph, Node, graph_of
from parity.graph.ops.call import Arithmetic, Value, from_numpy, in_arithmetic, to_numpy


@lru_cache(maxsize=4096)
def schema_of(op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    """The ONNX schema of an operator at a version, or None for one that ONNX does not define."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def function_body(node: Node, inputs: Sequence[Value]) -> Graph | None:
    """The operator's definition in terms of other operators, or None where it has none.

    Args:
        node: the node.
        inputs: its inputs; some definitions depend on their types.
    """
    schema = schema_of(node.proto.op_type, node.domain, node.opset)
    if schema is None:
        return None
    if schema.has_context_dependent_function:
        types = [_type_of(v).SerializeToString() for v in inputs]
        version = _highest(schema.context_dependent_function_opset_versions, node.opset)
        return _cached(node, tuple(types), lambda: schema.get_context_dependent_function_with_opset_version(
            version, node.proto.SerializeToString(), types))
    if schema.has_function:
        version = _highest(schema.function_opset_versions, node.opset)
        return _cached(node, (), lambda: schema.get_function_with_opset_version(version))
    return None


def local_function_body(node: Node, function: onnx.FunctionProto) -> Graph:
    """The graph that a call of one of the model's own functions stands for.

    Args:
        node: the call.
        function: its definition.
    """
    body = _cached(node, (), function.SerializeToString)
    assert body is not None  # noqa: S101 - the definition is there
    return body


def _cached(node: Node, types: tuple[bytes, ...], definition: Callable[[], bytes]) -> Graph | None:
    """The body of one call, made once for each combination of input types."""
    bodies: dict[tuple[bytes, ...], Graph | None] = node.__dict__.setdefault("bodies", {})
    if types not in bodies:
        serialized = definition()
        bodies[types] = graph_of_function(onnx.FunctionProto.FromString(serialized), node.proto) if serialized else None
    return bodies[types]


def _highest(versions: Sequence[int], limit: int) -> int:
    return max((v for v in versions if v <= limit), default=max(versions))


def graph_of_function(function: onnx.FunctionProto, call: NodeProto) -> Graph:
    """A function as a graph for one call of it: its attribute references filled in from the call.

    Args:
        function: the definition.
        call: the node that calls it.
    """
    given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
    graph = onnx.GraphProto(name=function.name)
    graph.node.extend(function.node)
    _bind_attributes(graph, given)
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in function.input)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
    return graph_of(graph, {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import},
                    frozenset())


def _bind_attributes(graph: onnx.GraphProto, given: Mapping[str, onnx.AttributeProto]) -> None:
    for node in graph.node:
        bound = []
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name not in given:
                    continue  # an optional attribute that the caller leaves out
                value = onnx.AttributeProto()
                value.CopyFrom(given[attribute.ref_attr_name])
                value.name = attribute.name
                bound.append(value)
            else:
                if attribute.HasField("g"):
                    _bind_attributes(attribute.g, given)
                bound.append(attribute)
        kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in bound]
        del node.attribute[:]
        node.attribute.extend(kept)


def run_reference(node: Node, inputs: Sequence[Value], opsets: Mapping[str, int], ir_version: int,
                  arithmetic: Arithmetic) -> list[Value]:
    """Evaluate one node with ONNX's numpy reference implementation.

    Args:
        node: a node without sub-graphs that read outer scopes.
        inputs: its inputs, None for an omitted one.
        opsets: domain → version of the model it comes from.
        ir_version: of the same model.
        arithmetic: the arithmetic that the outputs are to be in.

    Raises:
        NotImplementedError: the reference does not know the operator either.
    """
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import RuntimeContextError, RuntimeImplementationError

    names = {n: v for n, v in zip(node.inputs, inputs, strict=False) if n}
    graph = helper.make_graph(
        [node.proto], "node",
        [helper.make_value_info(n, _type_of(v)) for n, v in names.items()],
        [onnx.ValueInfoProto(name=o) for o in node.outputs])
    model = ModelProto(graph=graph, ir_version=max(ir_version, 3),
                       opset_import=[helper.make_opsetid(d, v) for d, v in opsets.items()])
    try:
        outputs = ReferenceEvaluator(model).run(list(node.outputs), {n: _plain(v) for n, v in names.items()})
    except (RuntimeContextError, RuntimeImplementationError, FileNotFoundError, KeyError) as error:
        raise NotImplementedError(f"no level of the executor knows {node.op}") from error
    return [in_arithmetic(_value(o), arithmetic) for o in outputs]


def _plain(value: Value) -> object:
    return [_plain(v) for v in value] if isinstance(value, list) else None if value is None else to_numpy(value)


def _value(result: object) -> Value:
    if isinstance(result, list | tuple):
        return [_value(r) for r in result]
    return None if result is None else from_numpy(np.asarray(result))


def _type_of(value: Value) -> TypeProto:
    if value is None:
        return TypeProto()
    if isinstance(value, list):
        element = _type_of(value[0]) if value else helper.make_tensor_type_proto(TensorProto.FLOAT, None)
        return helper.make_sequence_type_proto(element)
    dtype = to_numpy(value[:0].reshape(-1) if isinstance(value, torch.Tensor) and value.ndim else value).dtype
    return helper.make_tensor_type_proto(_element_type(dtype), list(value.shape))


def _element_type(dtype: np.dtype) -> int:
    return int(TensorProto.STRING if dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(dtype))
