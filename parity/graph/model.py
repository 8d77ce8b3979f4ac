"""An ONNX model: loading, order, who produces and reads what, and the edits that let one look inside."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from parity.errors import ModelError
from parity.graph.weights import dtype_of, read_weight

MIN_IR = 3
MIN_OPSET = 7
# Small tensors steer shape inference and constant folding, so they stay inside the model file.
_EMBED_BELOW_BYTES = 1024


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


@dataclass(frozen=True, eq=False)
class Model:
    """A model as the user handed it in; edits return new ones and never rename a tensor.

    Attributes:
        proto: the protobuf; weights in external files are not loaded into it.
        folder: where external weights are looked up; None when there are none.
        path: the file it came from, if any.
    """

    proto: ModelProto
    folder: Path | None = None
    path: Path | None = None

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read a model from disk, leaving external weights where they are.

        Raises:
            ModelError: the file is missing, truncated, not ONNX, too old, cyclic, or points outside its folder.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"there is no model file at {path}", "Check the path.")
        try:
            proto = onnx.load(str(path), load_external_data=False)
        except (DecodeError, ValueError) as error:
            raise ModelError(f"{path} is not an ONNX model, or it is truncated ({error})",
                             "Export it again, or check the copy with `sha256sum`.") from error
        return Model.from_proto(proto, folder=path.parent, path=path)

    @staticmethod
    def from_proto(proto: ModelProto, folder: Path | None = None, path: Path | None = None) -> Model:
        """Wrap a protobuf after checking that it can be run at all.

        Raises:
            ModelError: as for `load`.
        """
        model = Model(proto, folder, path)
        _check_versions(model)
        for tensor in model.weights():
            read_weight(tensor, folder, check_only=True)
        graph = model.graph  # orders the nodes, and refuses cycles and unknown names
        known = {i.name for i in proto.graph.input} | graph.initializers.keys() | graph.producer.keys()
        for output in graph.outputs:
            if output.name not in known | graph.sparse_initializers.keys():
                raise ModelError(f"graph output {output.name!r} is never produced", "Export the model again.")
        return model

    @property
    def name(self) -> str:
        """What to call the model when talking to people."""
        return str(self.path) if self.path else self.proto.graph.name or "model"

    @cached_property
    def opsets(self) -> Mapping[str, int]:
        """Imported operator sets: domain → version."""
        return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in self.proto.opset_import}

    @cached_property
    def functions(self) -> Mapping[tuple[str, str], onnx.FunctionProto]:
        """Model-local functions by (domain, name)."""
        return {(f.domain, f.name): f for f in self.proto.functions}

    @cached_property
    def graph(self) -> Graph:
        """The main graph, sorted."""
        return graph_of(self.proto.graph, self.opsets, frozenset())

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file (of the protobuf where there is no file)."""
        digest = hashlib.sha256()
        digest.update(self.path.read_bytes() if self.path else self.proto.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def weights(self) -> Iterator[TensorProto]:
        """Every initializer, those of sub-graphs included."""
        for graph in subgraph_protos(self.proto.graph):
            yield from graph.initializer

    def weight(self, name: str) -> np.ndarray:
        """The value of a main-graph initializer, memory-mapped when it lies in an external file."""
        return read_weight(self.graph.initializers[name], self.folder)

    @cached_property
    def constants(self) -> frozenset[str]:
        """Tensors that no input can change: initializers, and what is computed from them alone."""
        graph = self.graph
        known = set(graph.initializers) | set(graph.sparse_initializers)
        for node in graph.nodes:
            if all(n in known for n in node.reads) and not node.proto.op_type.startswith(_RANDOM_OPS):
                known.update(node.outputs)
        return frozenset(known)

    def watching(self, names: Iterable[str]) -> Model:
        """The same model with more tensors marked as outputs.

        Args:
            names: tensors of the main graph; those that are outputs already are skipped.
        """
        proto = shallow_copy(self.proto)
        present = {o.name for o in proto.graph.output}
        proto.graph.output.extend(ValueInfoProto(name=n) for n in names if n not in present)
        return replace(self, proto=proto)

    def between(self, inputs: Mapping[str, np.ndarray], outputs: Collection[str]) -> Model:
        """The part of the main graph that computes `outputs` from `inputs`, the rest cut away.

        Args:
            inputs: tensors at which to cut, with a value each whose dtype and shape are declared. Constants
                need not be given: what computes them comes along.
            outputs: tensors that the new model returns, in this order.

        Raises:
            ModelError: an output needs a tensor that is neither given nor constant.
        """
        graph = self.graph
        needed: set[str] = set()
        nodes: dict[int, Node] = {}
        stack = [n for n in outputs if n not in inputs]
        while stack:
            name = stack.pop()
            if name in inputs or name in needed:
                continue
            needed.add(name)
            node = graph.producer.get(name)
            if node is not None and node.index not in nodes:
                nodes[node.index] = node
                stack.extend(node.reads)
            elif node is None and name not in graph.initializers and name not in graph.sparse_initializers:
                raise ModelError(f"tensor {name!r} is neither given nor computed between the cuts",
                                 "Name it among the inputs.")
        used = {name for i in nodes for name in nodes[i].reads} & set(inputs)
        proto = ModelProto()
        proto.CopyFrom(_without_graph(self.proto))
        cut = proto.graph
        cut.name = self.proto.graph.name
        cut.node.extend(_without_outputs(nodes[i].proto, inputs) for i in sorted(nodes))
        cut.initializer.extend(t for n, t in graph.initializers.items() if n in needed)
        cut.sparse_initializer.extend(t for n, t in graph.sparse_initializers.items() if n in needed)
        cut.input.extend(_value_info(n, inputs[n]) for n in inputs if n in used)
        cut.output.extend(ValueInfoProto(name=n) for n in outputs)
        return Model(proto, self.folder)

    def externalised(self, folder: Path) -> Model:
        """The same model with its large weights in one file, so that many edits of it can share them.

        Args:
            folder: where `weights.bin` is written (weights already external are copied in too).
        """
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        offset = 0
        with (folder / "weights.bin").open("wb") as out:
            for tensor in (t for g in subgraph_protos(proto.graph) for t in g.initializer):
                external = tensor.data_location == TensorProto.EXTERNAL
                if tensor.data_type == TensorProto.STRING or (not external and _nbytes(tensor) < _EMBED_BELOW_BYTES):
                    continue
                offset = _pad_to_page(out, offset)
                data = onnx.numpy_helper.from_array(np.asarray(read_weight(tensor, self.folder))).raw_data
                out.write(data)
                _point_outside(tensor, "weights.bin", offset, len(data))
                offset += len(data)
        return Model(proto, folder)

    def save(self, path: Path) -> None:
        """Write the protobuf; external weights are not touched.

        Raises:
            ModelError: the model is over protobuf's 2 GB limit.
        """
        try:
            path.write_bytes(self.proto.SerializeToString())
        except (EncodeError, ValueError) as error:
            raise ModelError(f"{self.name} is too large for one protobuf file ({error})",
                             "Store its weights as external data.") from error


_RANDOM_OPS = ("Random", "Bernoulli", "Multinomial", "Dropout")


def shallow_copy(proto: ModelProto) -> ModelProto:
    """A copy that can be edited; protobuf has only deep copies, so weights should be external first."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def _without_graph(proto: ModelProto) -> ModelProto:
    header = ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name)
    header.opset_import.extend(proto.opset_import)
    header.functions.extend(proto.functions)
    return header


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


def _check_versions(model: Model) -> None:
    proto = model.proto
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{model.name} is not an ONNX model: it holds no graph", "Give the path of a .onnx file.")
    if proto.ir_version < MIN_IR:
        raise ModelError(f"{model.name} has IR version {proto.ir_version}; parity reads {MIN_IR} and up",
                         "Export it again with a current exporter.")
    if not model.opsets:
        raise ModelError(f"{model.name} imports no opset (operator set); it is truncated or not a model",
                         "Export it again, or check the copy with `sha256sum`.")
    opset = model.opsets.get("")
    if opset is not None and opset < MIN_OPSET:
        raise ModelError(f"{model.name} uses opset {opset}; parity reads {MIN_OPSET} and up",
                         "Convert it with onnx.version_converter.")


def _without_outputs(node: NodeProto, given: Collection[str]) -> NodeProto:
    """The node, its outputs that are given from outside under another name, so that none is made twice."""
    if not any(o in given for o in node.output):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [f"{o}/recomputed" if o in given else o for o in node.output]
    return copy


def _value_info(name: str, value: np.ndarray) -> ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _nbytes(tensor: TensorProto) -> int:
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return int(np.prod(tensor.dims, dtype=np.int64)) * 4


def _pad_to_page(out: object, offset: int) -> int:
    """Align to 4096 bytes, so that runtimes can map the weight instead of copying it."""
    padding = -offset % 4096
    out.write(b"\0" * padding)  # type: ignore[attr-defined]
    return offset + padding


def _point_outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for externalised weights and cut models, removed when its owner lets go."""
    return tempfile.TemporaryDirectory(prefix="parity-")
