"""The graph inside a model: nodes in topological order, and who makes and reads which tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from parity.errors import ModelError
from parity.graph.weights import dtype_of


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output as the model declares it.

    Attributes:
        name: ONNX tensor name.
        dtype: element type, or None for a sequence, map or optional.
        shape: one entry an axis, an int or a symbol; None where the rank is unknown.
    """

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str, ...] | None

    @staticmethod
    def of(info: ValueInfoProto) -> TensorSpec:
        """Read a declaration from its protobuf."""
        if info.type.WhichOneof("value") != "tensor_type":
            return TensorSpec(info.name, None, None)
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            return TensorSpec(info.name, dtype_of(tensor.elem_type), None)
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
        return TensorSpec(info.name, dtype_of(tensor.elem_type), shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a graph, with what it reads from outer scopes made visible.

    Attributes:
        proto: the protobuf.
        index: position in its graph's topological order.
        opset: version of the operator set that its domain is imported at.
        subgraphs: bodies of If, Loop, Scan and the like, by attribute name.
    """

    proto: NodeProto
    index: int
    opset: int
    subgraphs: Mapping[str, Graph] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """Operator name, with its domain when it is not ONNX's own."""
        return f"{self.domain}::{self.proto.op_type}" if self.domain else self.proto.op_type

    @cached_property
    def domain(self) -> str:
        """Operator domain; ONNX's own is the empty string."""
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the formal inputs; an omitted optional one is the empty string."""
        return tuple(self.proto.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are produced (omitted optional ones are left out)."""
        return tuple(o for o in self.proto.output if o)

    @property
    def label(self) -> str:
        """What to call the node when talking to people: its name, else its first output."""
        return self.proto.name or (self.outputs[0] if self.outputs else f"node {self.index}")

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Every tensor the node needs: its inputs, and what its bodies take from outer scopes."""
        outer = (name for body in self.subgraphs.values() for name in body.captured)
        return tuple(dict.fromkeys(n for n in (*self.inputs, *outer) if n))


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph or sub-graph with its nodes in topological order."""

    proto: GraphProto
    nodes: tuple[Node, ...]

    @cached_property
    def initializers(self) -> Mapping[str, TensorProto]:
        """Dense weights by name."""
        return {t.name: t for t in self.proto.initializer}

    @cached_property
    def sparse_initializers(self) -> Mapping[str, onnx.SparseTensorProto]:
        """Sparse weights by name."""
        return {t.values.name: t for t in self.proto.sparse_initializer}

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a caller must feed: the declared inputs that no initializer gives a value."""
        return tuple(TensorSpec.of(i) for i in self.proto.input if i.name not in self.initializers)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The declared outputs."""
        return tuple(TensorSpec.of(o) for o in self.proto.output)

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """Names read here (bodies of bodies included) that an outer scope must define."""
        defined = {i.name for i in self.proto.input} | set(self.initializers) | set(self.sparse_initializers)
        defined.update(o for node in self.nodes for o in node.outputs)
        reads = (n for node in self.nodes for n in node.reads)
        results = (o.name for o in self.proto.output)
        return tuple(dict.fromkeys(n for n in (*reads, *results) if n not in defined))

    @cached_property
    def producer(self) -> Mapping[str, Node]:
        """The node that makes each tensor."""
        return {o: node for node in self.nodes for o in node.outputs}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each tensor, in order."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.reads:
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}


def subgraph_protos(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph inside it, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from subgraph_protos(attribute.g)
            for body in attribute.graphs:
                yield from subgraph_protos(body)


def graph_of(proto: GraphProto, opsets: Mapping[str, int], outer: frozenset[str]) -> Graph:
    """Read a graph and its sub-graphs, nodes sorted so that each comes after what it reads.

    Args:
        proto: the graph.
        opsets: domain → version.
        outer: names that enclosing scopes define.

    Raises:
        ModelError: a tensor is made twice or never, or the graph has a cycle.
    """
    given = {i.name for i in proto.input} | {t.name for t in proto.initializer}
    given |= {t.values.name for t in proto.sparse_initializer}
    made: dict[str, NodeProto] = {}
    for node in proto.node:
        for name in filter(None, node.output):
            if name in made or name in given:
                raise ModelError(f"tensor {name!r} is produced twice", "The graph is not in SSA form; export it again.")
            made[name] = node
    visible = outer | given | made.keys()
    nodes = [_node_of(n, opsets, visible) for n in proto.node]
    ordered = _sorted(nodes, given | outer, visible)
    return Graph(proto, tuple(replace(n, index=i) for i, n in enumerate(ordered)))


def _node_of(proto: NodeProto, opsets: Mapping[str, int], visible: frozenset[str] | set[str]) -> Node:
    bodies = {a.name: graph_of(a.g, opsets, frozenset(visible))
              for a in proto.attribute if a.type == AttributeProto.GRAPH}
    return Node(proto, -1, opsets.get("" if proto.domain == "ai.onnx" else proto.domain, 1), bodies)


def _sorted(nodes: list[Node], known: Collection[str], visible: Collection[str]) -> list[Node]:
    """Stable topological order: a graph that is sorted already keeps its order."""
    known, ordered, waiting = set(known), [], nodes
    while waiting:
        held = []
        for node in waiting:
            if all(name in known for name in node.reads):
                ordered.append(node)
                known.update(node.outputs)
            else:
                held.append(node)
        if len(held) == len(waiting):
            node = held[0]
            missing = next(n for n in node.reads if n not in known)
            if missing not in visible:
                raise ModelError(f"node {node.label!r} ({node.op}) reads tensor {missing!r}, which nothing produces",
                                 "Export the model again.")
            raise ModelError(f"the graph has a cycle through node {node.label!r} ({node.op}) and tensor {missing!r}",
                             "A model must be acyclic; export it again.")
        waiting = held
    return ordered
