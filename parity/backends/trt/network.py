"""ONNX into TensorRT's network: every node under a name that leads back, and refusals in the parser's words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import GraphProto

from parity.backends.trt.library import Library
from parity.errors import BackendFailed
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.scratch import told
from parity.precision.plan import all_nodes

_WEIGHTS = "weights.bin"


@dataclass(frozen=True)
class Source:
    """A model as TensorRT reads it.

    Attributes:
        path: of the ONNX file; its large weights lie beside it.
        model: what it was written from.
        digest: SHA-256, in hex, of the file and its weights.
    """

    path: Path
    model: Model
    digest: str


@dataclass(frozen=True)
class Network:
    """A parsed model.

    Attributes:
        builder: TensorRT's, which outlives what it makes.
        definition: TensorRT's network.
        parser: which owns the weights.
        source: what was parsed.
        unfused: whether what no fusion hides is to be shown while the engine runs.
    """

    builder: Any
    definition: Any
    parser: Any
    source: Source
    unfused: bool = False

    def tensors(self) -> Mapping[str, Any]:
        """TensorRT's tensors by ONNX name, in the graph's order; those that the parser folded away are left out.

        Two names may lead to one tensor: Identity and its like are no layers. The tensors live as long as this network.
        """
        found: dict[str, Any] = {}
        for node in self.source.model.graph.nodes:
            for position, name in enumerate(node.proto.output):
                tensor = self.parser.get_layer_output_tensor(node.outputs[0], position) if name else None
                if tensor is not None:
                    found[name] = tensor
        return found


def written(model: Model, folder: Path, name: str) -> Source:
    """Write a model with each node named by its first output, so that whatever TensorRT says leads back to a tensor.

    Raises:
        ModelError: the model is too large for one file.
        OutputError: the folder of temporary files is full.
    """
    with told():
        home = folder / name
        home.mkdir()
        copy = model.externalised(home, _WEIGHTS)
        _name_nodes(copy.proto.graph)
        path = home / "model.onnx"
        copy.save(path)
        digest = hashlib.sha256()
        for part in (path, home / _WEIGHTS):
            with part.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return Source(path, model, digest.hexdigest())


def _name_nodes(graph: GraphProto) -> None:
    for node in graph.node:
        node.name = next((o for o in node.output if o), node.name)
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _name_nodes(body)


def parsed(library: Library, source: Source, *, unfused: bool = False) -> Network:
    """Parse a model into a strongly typed network: its precision is the graph's own.

    Raises:
        BackendFailed: the parser refuses it; the message names the operator, the node and the parser's words.
    """
    trt = library.trt
    with library.listening():
        builder = trt.Builder(library.logger)
        if builder is None:
            raise BackendFailed(f"{library.title} does not start: {library.last_words()}", "Check `parity backends`.")
        definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        if unfused:
            definition.mark_unfused_tensors_as_debug_tensors()
        trt.init_libnvinfer_plugins(library.logger, "")
        parser = trt.OnnxParser(definition, library.logger)
        if not parser.parse_from_file(str(source.path)):
            raise _refusal(library, parser, source.model)
    return Network(builder, definition, parser, source, unfused)


def _refusal(library: Library, parser: Any, model: Model) -> BackendFailed:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return BackendFailed(f"{library.title} refuses the model: {library.last_words()}",
                             "Try `parity inspect MODEL`.")
    error = errors[0]
    node = next((n for n in all_nodes(model.graph) if n.outputs and n.outputs[0] == error.node_name()), None)
    words = " ".join(error.desc().split())
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return BackendFailed(f"{library.title} refuses {_called(node, error)}: {words}{more}", _ADVICE)


_ADVICE = ("Export without that operator, or see NVIDIA's list of what its ONNX parser takes; "
           "other targets still run.")


def _called(node: Node | None, error: Any) -> str:
    if node is None:
        return f"operator {error.node_operator()}" if error.node_operator() else "the model"
    return f"operator {node.op} ({node.label}, which makes {node.outputs[0]!r})"
