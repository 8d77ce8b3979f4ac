"""An ONNX model: loading, order, who produces and reads what, and the edits that let one look inside."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from parity.errors import ModelError
from parity.graph.graph import Graph, Node, graph_of, subgraph_protos
from parity.graph.weights import read_weight

MIN_IR = 3
MIN_OPSET = 7
# Small tensors steer shape inference and constant folding, so they stay inside the model file.
_EMBED_BELOW_BYTES = 1024


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

    def externalised(self, folder: Path, location: str = "weights.bin") -> Model:
        """The same model with its large weights in one file, so that many edits of it can share them.

        Args:
            folder: where the file is written (weights already external are copied in too).
            location: its name.

        Raises:
            OSError: it cannot be written.
        """
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        offset = 0
        with (folder / location).open("wb") as out:
            for tensor in (t for g in subgraph_protos(proto.graph) for t in g.initializer):
                external = tensor.data_location == TensorProto.EXTERNAL
                if tensor.data_type == TensorProto.STRING or (not external and _nbytes(tensor) < _EMBED_BELOW_BYTES):
                    continue
                offset = _pad_to_page(out, offset)
                offset += _move_outside(tensor, self.folder, out, offset)
        return Model(proto, folder)

    def save(self, path: Path) -> None:
        """Write the protobuf; external weights are not touched.

        Raises:
            ModelError: the model is over protobuf's 2 GB limit.
            OSError: it cannot be written.
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


def _pad_to_page(out: BinaryIO, offset: int) -> int:
    """Align to 4096 bytes, so that runtimes can map the weight instead of copying it."""
    padding = -offset % 4096
    out.write(b"\0" * padding)
    return offset + padding


def _move_outside(tensor: TensorProto, folder: Path | None, out: BinaryIO, offset: int) -> int:
    """Write a weight's bytes to `out` and have the protobuf point there; returns how many they were."""
    data = tensor.raw_data
    if not data:
        data = onnx.numpy_helper.from_array(np.asarray(read_weight(tensor, folder))).raw_data
    out.write(data)
    _point_outside(tensor, Path(out.name).name, offset, len(data))
    return len(data)


def _point_outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
