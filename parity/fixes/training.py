"""Quantisation-aware training of a few layers, as configuration for the tools that do it.

A layer is known here by its ONNX node, and to those tools by the path of its module (`model.get_submodule(path)`).
torch.onnx.export(dynamo=True) writes that path into each node's metadata; where it is missing, the names of nodes and
tensors are given instead, in comments, and it is for the reader to find the modules.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from glob import escape

from parity.graph.graph import Node
from parity.graph.model import Model
from parity.precision.plan import all_nodes

# torch.onnx writes ["", "block", "block.conv", "conv2d_1"] and ["Net", "Block", "torch…Conv2d", "aten.conv2d"].
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
# Modules with weights that have a quantised form for training, by tool.
_TORCH_TRAINS = frozenset({"Linear", "Conv1d", "Conv2d", "Conv3d"})
_TRAINED = _TORCH_TRAINS | {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}


@dataclass(frozen=True)
class Origin:
    """Where a node comes from in the PyTorch model.

    Attributes:
        path: of the innermost module around it; "" is the whole model, None where the node does not say.
        kind: that module's class, e.g. "torch.nn.modules.conv.Conv2d".
    """

    path: str | None
    kind: str = ""

    @property
    def layer(self) -> str:
        """The class's own name where it is one of torch's, else ""."""
        return self.kind.rpartition(".")[2] if self.kind.startswith("torch.nn.") else ""


def origin(node: Node) -> Origin:
    """The module that a node was exported from, read from its metadata."""
    metadata = {entry.key: entry.value for entry in node.proto.metadata_props}
    scopes, classes = _strings(metadata.get(_SCOPES)), _strings(metadata.get(_CLASSES))
    # The last of each is the operator, and the first scope the model, which has no path.
    if len(scopes) < 2 or len(scopes) != len(classes) or scopes[0]:
        return Origin(None)
    return Origin(scopes[-2], classes[-2])


def _strings(text: str | None) -> list[str]:
    try:
        found = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError):
        return []
    return [str(entry) for entry in found] if isinstance(found, list) else []


def training(model: Model, layers: Iterable[str]) -> dict[str, str]:
    """Configuration that trains some layers with INT8 rounding, and leaves all others alone.

    Args:
        model: as it was exported, with its metadata.
        layers: first outputs of the nodes that training should cover.

    Returns:
        By tool: Python, comments included; empty where there are no layers. It quantises as parity does: INT8,
        symmetric, weights by output channel. Where no node says which module it is from, the list of paths is empty
        and comments say what to put there.
    """
    wanted = set(layers)
    nodes = [n for n in all_nodes(model.graph) if n.outputs and n.outputs[0] in wanted]
    if not nodes:
        return {}
    return {"torch": _torch(*_sorted(nodes, _TORCH_TRAINS)),
            "Model Optimizer": _model_optimizer(*_sorted(nodes, _TRAINED))}


def _sorted(nodes: Sequence[Node], trained: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Paths of the modules that a tool trains, with their classes, and comments on the nodes of no such module."""
    modules: dict[str, str] = {}
    said: list[str] = []
    for node in nodes:
        found = origin(node)
        if found.path and found.layer in trained:
            modules[found.path] = found.layer
        else:
            said.append(_of_no_module(node))
    return modules, said


def _of_no_module(node: Node) -> str:
    """A comment on a node for which no module can be named."""
    found = origin(node)
    what = f"# ONNX node {node.proto.name!r} ({node.op}, makes tensor {node.outputs[0]!r})"
    if found.path is None:
        return f"{what}: the file does not say which module it is from; add that module's path."
    where = f"module {found.path!r}" if found.path else "the model's own forward"
    return f"{what} is computed in {where} ({found.kind}), which has no quantised form here."


def _quoted(text: str) -> str:
    """A Python literal, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _listed(modules: Iterable[str]) -> list[str]:
    lines = (f"    {_quoted(path)}," for path in modules)
    return ["MODULES = [  # paths of modules, not names of ONNX nodes", *lines, "]"]


def _torch(modules: dict[str, str], said: Sequence[str]) -> str:
    return "\n".join([
        "# torch announces that torch.ao.quantization moves to torchao; there, prepare_qat_pt2e takes a quantizer",
        "# (such as X86InductorQuantizer, by its set_module_name_qconfig) for the same paths.",
        _TORCH_IMPORTS, *said, *_listed(modules), _TORCH])


_TORCH_IMPORTS = """\
import torch
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torch.ao.quantization import QConfig, QConfigMapping
from torch.ao.quantization.backend_config import get_tensorrt_backend_config
from torch.ao.quantization.quantize_fx import prepare_qat_fx
"""
# torch's default backend ignores signed activations without a word; TensorRT's takes them.
_TORCH = """
activation = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, quant_min=-128, quant_max=127,
                                    dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
weight = FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, quant_min=-127, quant_max=127,
                                dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
mapping = QConfigMapping().set_global(None)
for path in MODULES:
    mapping.set_module_name(path, QConfig(activation=activation, weight=weight))
# network: yours, in training mode; example_inputs: a tuple. Train what this returns.
prepared = prepare_qat_fx(network, mapping, example_inputs, backend_config=get_tensorrt_backend_config())"""


def _model_optimizer(modules: dict[str, str], said: Sequence[str]) -> str:
    entries = []
    for path, kind in modules.items():
        weight, source = (_quoted(f"{escape(path)}.{of}_quantizer") for of in ("weight", "input"))
        axis = 1 if kind.startswith("ConvTranspose") else 0  # of the output channels
        entries += [
            f'        {{"quantizer_name": {weight}, "cfg": {{"num_bits": 8, "axis": {axis}}}}},',
            f'        {{"quantizer_name": {source}, "cfg": {{"num_bits": 8, "axis": None}}}},']
    return "\n".join([
        "# Model Optimizer from 0.44 on; before, quant_cfg was a dict from wildcard to cfg.",
        "import modelopt.torch.quantization as mtq", "", *said, "CONFIG = {", '    "quant_cfg": [',
        '        {"quantizer_name": "*", "enable": False},',
        "        # Wildcards on paths of modules, not names of ONNX nodes; later entries win.", *entries,
        "    ],", '    "algorithm": "max",', "}",
        "# forward_loop: yours, runs the network on some samples. Train what this returns.",
        "network = mtq.quantize(network, CONFIG, forward_loop)"])
