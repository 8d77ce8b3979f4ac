"""Take over into a model the Q/DQ nodes that a quantiser put into a part of it; all else stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto

from parity.graph.graph import Node, subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.precision.prepare import drop_unread, with_least_ir

QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")
# Ends the name of every tensor that the quantiser is shown. What it adds is called after these, with another ending,
# so that nothing it adds is taken for a tensor that was there: it would use a weight called x_scale as the scale of x.
MARK = "@"


def graft(model: Model, nodes: Sequence[Node], quantized: ModelProto, *, outputs: bool) -> ModelProto:
    """The model with the Q/DQ nodes of a quantised part of it.

    Args:
        model: the whole model.
        nodes: the nodes that the part consists of.
        quantized: the part after the quantiser, its nodes named by their first outputs, its tensors with MARK.
        outputs: whether every reader of what the nodes make takes the dequantised tensor.
    """
    ours = _names(model)
    def renamed(shown: str) -> str:
        stem, _, ending = shown.rpartition(MARK)
        return f"{stem}{ending}/int8" if ending and stem + ending in ours else stem + ending

    added = {renamed(n.output[0]): n for n in quantized.graph.node if n.op_type in QDQ_OPS}
    rewired = {n.name: [renamed(i) for i in n.input] for n in quantized.graph.node if n.op_type not in QDQ_OPS}
    dequantized = {renamed(q.input[0]): output for output, q in _pairs(added).items()} if outputs else {}
    made = {o for n in nodes for o in n.outputs}
    proto = shallow_copy(model.proto)
    del proto.graph.node[:]
    placed: set[str] = set()
    for node in model.graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        inputs = rewired.get(node.outputs[0], []) if node.outputs else []
        rest = [dequantized.get(n, n) if n in made else n for n in node.inputs[len(inputs):]]
        copy.input[:] = [*inputs, *rest]
        proto.graph.node.extend([*_needed(copy.input, added, placed, renamed), copy])
    scales = {renamed(t.name): t for t in quantized.graph.initializer if not t.name.endswith(MARK)}
    proto.graph.initializer.extend(_called(name, t) for name, t in scales.items())
    drop_unread(proto)
    with_least_ir(proto)
    return proto


def _pairs(added: Mapping[str, NodeProto]) -> dict[str, NodeProto]:
    """For each dequantised activation, the QuantizeLinear before it."""
    by_output = {n.output[0]: n for n in added.values()}
    return {output: by_output[n.input[0]] for output, n in added.items()
            if n.op_type == "DequantizeLinear" and n.input[0] in by_output}


def _names(model: Model) -> set[str]:
    """Every name that the model uses for a tensor."""
    made = {o for g in subgraph_protos(model.proto.graph) for n in g.node for o in n.output}
    return made | {t.name for t in model.weights()} | {i.name for i in model.proto.graph.input}


def _needed(names: Iterable[str], added: Mapping[str, NodeProto], placed: set[str],
            renamed: Callable[[str], str]) -> list[NodeProto]:
    """The Q/DQ nodes that make these tensors and are not in the graph yet, in order."""
    found: list[NodeProto] = []
    for name in names:
        if name not in added or name in placed:
            continue
        placed.add(name)
        copy = NodeProto()
        copy.CopyFrom(added[name])
        copy.input[:] = [renamed(i) for i in copy.input]
        copy.output[:] = [name]
        found.extend([*_needed(copy.input, added, placed, renamed), copy])
    return found


def _called(name: str, tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
