"""Make the inside of functions and of If visible, so that every tensor has a name in the main graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx.inliner
from onnx import GraphProto, NodeProto, helper

from parity.graph.graph import Node, subgraph_protos
from parity.graph.model import Model, shallow_copy


def inline_functions(model: Model) -> Model:
    """The model with its local functions expanded; tensors of the main graph keep their names."""
    if not model.proto.functions:
        return model
    return replace(model, proto=onnx.inliner.inline_local_functions(model.proto))


def inline_branches(model: Model, branches: Mapping[str, bool]) -> Model:
    """The model with each If replaced by the branch that a run took.

    Args:
        model: any model; main-graph tensors and those of the branches keep their names.
        branches: which branch, by the first output of the If. One that is missing stays, as does one whose
            branch would clash with a name that is already there.
    """
    taken = [n for n in model.graph.nodes if n.op == "If" and n.outputs[0] in branches]
    if not taken:
        return model
    proto = shallow_copy(model.proto)
    names = {o for n in model.graph.nodes for o in n.outputs} | set(model.graph.initializers)
    names.update(i.name for i in model.proto.graph.input)
    nodes: list[NodeProto] = []
    inlined = False
    for node in model.graph.nodes:
        body = _branch(node, branches) if node in taken else None
        if body is None or _defined(body) & names:
            nodes.append(node.proto)
            continue
        names |= _defined(body)
        proto.graph.initializer.extend(body.initializer)
        proto.graph.sparse_initializer.extend(body.sparse_initializer)
        nodes.extend(body.node)
        nodes.extend(helper.make_node("Identity", [inner.name], [outer], name=f"{node.label}/{outer}")
                     for inner, outer in zip(body.output, node.proto.output, strict=True) if outer)
        inlined = True
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    flat = replace(model, proto=proto)
    return inline_branches(flat, branches) if inlined else flat


def _branch(node: Node, branches: Mapping[str, bool]) -> GraphProto:
    return node.subgraphs["then_branch" if branches[node.outputs[0]] else "else_branch"].proto


def _defined(body: GraphProto) -> set[str]:
    inner = {o for g in subgraph_protos(body) for n in g.node for o in n.output if o}
    return inner | {t.name for g in subgraph_protos(body) for t in g.initializer}

