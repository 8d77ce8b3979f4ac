"""Element types: the one that every tensor of a model has, and those that an operator's standard lets it take."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto, TensorProto, ValueInfoProto

from parity.graph.graph import Graph, Node
from parity.graph.model import Model

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
# What a Cast edit may turn into one another. FP64 is left alone.
REALS = HALVES | {TensorProto.FLOAT}
CONTROL = frozenset({"If", "Loop", "Scan"})
# Scales belong to the quantisation that was calibrated with them: rounding one would shift all that it scales.
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})
# Their output type is the input's where they give no `dtype`.
LIKES = frozenset({"EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})

# The attribute that names an operator's output type, and its default.
_TYPE_ATTRIBUTES: Mapping[str, tuple[str, int]] = {
    "Cast": ("to", 0), "BitCast": ("to", 0), "RandomNormal": ("dtype", 1), "RandomUniform": ("dtype", 1),
    "Multinomial": ("dtype", 6), "HannWindow": ("output_datatype", 1), "HammingWindow": ("output_datatype", 1),
    "BlackmanWindow": ("output_datatype", 1), "MelWeightMatrix": ("output_datatype", 1),
}
# The schema would allow FP16, but it is read as FP32 by ONNX Runtime.
_FP32_INPUTS = frozenset({("Resize", 1)})
# ONNX has no schemas for these. All their floating-point tensors are of one type, but for the statistics that the
# normalisations give as outputs 1 and 2, which stay FP32.
_MICROSOFT_FP16 = frozenset({"FusedConv", "FusedGemm", "BiasSoftmax", "BiasAdd", "BiasSplitGelu", "Inverse",
                             "EmbedLayerNormalization", "ConvTransposeWithDynamicPads"})
_MICROSOFT = _MICROSOFT_FP16 | {"Gelu", "BiasGelu", "FastGelu", "QuickGelu", "FusedMatMul", "TransposeMatMul",
                                "FusedMatMulActivation", "Attention", "RotaryEmbedding", "SkipLayerNormalization",
                                "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"}


@dataclass(frozen=True)
class Slot:
    """One input or output of a node, as its operator's schema has it.

    Attributes:
        variable: the type variable; slots of one variable have one element type.
        allowed: the element types that it may have; empty where nothing is known.
    """

    variable: str
    allowed: frozenset[int]


_UNKNOWN = Slot("", frozenset())


@dataclass(frozen=True, eq=False)
class TypedGraph:
    """A graph with the element type of every tensor that is visible in it.

    Attributes:
        graph: the graph.
        elements: ONNX element types by tensor name, those of outer scopes included; 0 for a sequence, a map, an
            optional, and where the type cannot be told.
        bodies: the sub-graphs, by the index of their node and the attribute's name.
    """

    graph: Graph
    elements: Mapping[str, int]
    bodies: Mapping[tuple[int, str], TypedGraph]

    def of(self, name: str) -> int:
        """The element type of a tensor, 0 where it is unknown."""
        return self.elements.get(name, 0)

    def body(self, node: Node, name: str) -> TypedGraph:
        """The sub-graph that an attribute of a node holds."""
        return self.bodies[node.index, name]


def read_types(model: Model) -> TypedGraph:
    """The element type of every tensor of a model, passed on from inputs, weights and type attributes.

    Operators that ONNX has no schema for pass their type on where they are known here; for the others the
    model's own declarations stand in.

    Args:
        model: one without local functions.
    """
    return _typed(model.graph, ChainMap(), ())


def slots(node: Node) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """What its standard allows for each input and each output that a node lists."""
    return _slots(node.proto.op_type, node.domain, node.opset, len(node.inputs), len(node.proto.output))


def has_form(node: Node, element: int) -> bool:
    """Whether a node can compute in an element type, as far as its operator's schema goes."""
    if node.op in QUANTIZERS:
        return False
    inputs, outputs = slots(node)
    own = outputs if node.op in {"Cast", "Constant", "ConstantOfShape"} else ()
    return any(element in slot.allowed for slot in (*inputs, *own))


@lru_cache(maxsize=4096)
def _slots(op: str, domain: str, opset: int, inputs: int,
           outputs: int) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return _microsoft_slots(op, domain, inputs, outputs)
    allowed = {c.type_param_str: frozenset(map(_element, c.allowed_type_strs)) for c in schema.type_constraints}
    taken = [_slot(schema.inputs, i, allowed) for i in range(inputs)]
    for i in (i for i in range(inputs) if (op, i) in _FP32_INPUTS):
        taken[i] = Slot(f"input {i}", frozenset({int(TensorProto.FLOAT)}))
    return tuple(taken), tuple(_slot(schema.outputs, i, allowed) for i in range(outputs))


def _slot(formal: Sequence[onnx.defs.OpSchema.FormalParameter], i: int, allowed: Mapping[str, frozenset[int]]) -> Slot:
    if not formal:
        return _UNKNOWN
    parameter = formal[min(i, len(formal) - 1)]
    variable = parameter.type_str if parameter.is_homogeneous else f"{parameter.type_str} {i}"
    return Slot(variable, allowed.get(parameter.type_str) or frozenset({_element(parameter.type_str)}))


def _microsoft_slots(op: str, domain: str, inputs: int, outputs: int) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    if op not in _MICROSOFT or domain not in {"", "com.microsoft"}:
        return (_UNKNOWN,) * inputs, (_UNKNOWN,) * outputs
    slot = Slot("T", frozenset(map(int, REALS - {TensorProto.BFLOAT16} if op in _MICROSOFT_FP16 else REALS)))
    statistic = Slot("U", frozenset({int(TensorProto.FLOAT)}))
    normalizes = op.endswith("LayerNormalization") and op != "EmbedLayerNormalization"
    return (slot,) * inputs, tuple(statistic if normalizes and i in {1, 2} else slot for i in range(outputs))


@lru_cache(maxsize=256)
def _element(text: str) -> int:
    """The element type that a schema writes "tensor(float16)"; 0 for a sequence, map or optional."""
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    return int(TensorProto.DataType.Value(name)) if name in TensorProto.DataType.keys() else 0  # noqa: SIM118


def _typed(graph: Graph, outer: ChainMap[str, int], given: Sequence[int]) -> TypedGraph:
    proto = graph.proto
    declared = {v.name: declared_element(v) for v in (*proto.value_info, *proto.output, *proto.input)}
    elements = outer.new_child()
    for i, value in enumerate(proto.input):
        elements[value.name] = declared[value.name] or (given[i] if i < len(given) else 0)
    elements.update((name, tensor.data_type) for name, tensor in graph.initializers.items())
    elements.update((name, tensor.values.data_type) for name, tensor in graph.sparse_initializers.items())
    bodies: dict[tuple[int, str], TypedGraph] = {}
    for node in graph.nodes:
        read = [elements.get(name, 0) if name else 0 for name in node.inputs]
        inner = {name: _typed(body, elements, _body_inputs(node, read)) for name, body in node.subgraphs.items()}
        bodies.update(((node.index, name), body) for name, body in inner.items())
        for name, element in zip(node.proto.output, _made(node, read, inner), strict=True):
            if name:
                elements[name] = element or declared.get(name, 0)
    return TypedGraph(graph, elements, bodies)


def declared_element(value: ValueInfoProto) -> int:
    """The element type that a declaration gives, 0 where it gives none or is not of a tensor."""
    return int(value.type.tensor_type.elem_type) if value.type.WhichOneof("value") == "tensor_type" else 0


def _body_inputs(node: Node, read: Sequence[int]) -> list[int]:
    if node.op == "Loop":
        return [TensorProto.INT64, TensorProto.BOOL, *read[2:]]
    if node.op == "Scan":
        return list(read[1:] if node.opset < 9 else read)
    return []


def _made(node: Node, read: Sequence[int], bodies: Mapping[str, TypedGraph]) -> list[int]:
    """The element types of a node's outputs from those of its inputs; 0 where they do not tell."""
    count = len(node.proto.output)
    if node.op in CONTROL:
        body = next(iter(bodies.values()))
        made = [body.of(value.name) for value in body.graph.proto.output]
        return (made[1:] if node.op == "Loop" else made)[:count]
    named = _named(node, read)
    if named:
        return [named] * count
    inputs, outputs = slots(node)
    bound = {s.variable: e for s, e in zip(inputs, read, strict=True) if e in s.allowed}
    lone = {s.variable: next(iter(s.allowed)) for s in outputs if len(s.allowed) == 1}
    return [bound.get(s.variable) or lone.get(s.variable) or _statistic(s) for s in outputs]


def _statistic(slot: Slot) -> int:
    """LayerNormalization's mean and deviation are of a type of their own, FP32 unless it says otherwise."""
    return int(TensorProto.FLOAT) if slot.variable == "U" and TensorProto.FLOAT in slot.allowed else 0


def _named(node: Node, read: Sequence[int]) -> int:
    """The output type that a node's attributes name, 0 where they name none."""
    attributes: Mapping[str, AttributeProto] = {a.name: a for a in node.proto.attribute}
    op = node.op
    if op in {"Constant", "ConstantOfShape"}:
        return _constant(attributes) or (int(TensorProto.FLOAT) if op == "ConstantOfShape" else 0)
    if op in LIKES:
        return int(attributes["dtype"].i) if "dtype" in attributes else read[0]
    if op in {"QuantizeLinear", "DequantizeLinear"}:
        scale = read[1] if op == "DequantizeLinear" and len(read) > 1 else 0
        return int(attributes["output_dtype"].i) if "output_dtype" in attributes else scale
    name, default = _TYPE_ATTRIBUTES.get(op, ("", 0))
    return int(attributes[name].i) if name in attributes else default


def _constant(attributes: Mapping[str, AttributeProto]) -> int:
    of_kind = {"value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT, "value_int": TensorProto.INT64,
               "value_ints": TensorProto.INT64, "value_string": TensorProto.STRING, "value_strings": TensorProto.STRING}
    for name, attribute in attributes.items():
        if name in of_kind:
            return int(of_kind[name])
        if attribute.type == AttributeProto.TENSOR:
            return int(attribute.t.data_type)
        if attribute.type == AttributeProto.SPARSE_TENSOR:
            return int(attribute.sparse_tensor.values.data_type)
    return 0
