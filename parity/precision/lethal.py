"""What brings ONNX Runtime's own process down, so that it is run in another one, or not at all.

Found by running operators on operands at the edge of what they take, 42 cases, each in a process of its own (1.31.1,
CPU): it died of the two below, and refused or computed all else. To run it in a process of its own every time would
cover what nobody has found yet, but costs 0.3 to 1.3 s of a comparison of 3 to 3.5 s, and as much again for each
session that a search for fixes opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import torch
from onnx import AttributeProto, NodeProto, TensorProto

from parity.errors import BackendFailed
from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.flatten import inline_functions
from parity.graph.graph import Graph, Node, subgraph_protos
from parity.graph.model import Model
from parity.graph.ops.call import Value
from parity.graph.weights import read_weight
from parity.precision.elements import TypedGraph, read_types

# Types whose division the processor does by itself, and traps where the quotient does not fit; 0 is an unknown type.
_TRAPPING = frozenset({int(TensorProto.INT32), int(TensorProto.INT64), 0})


def may_crash(model: Model) -> bool:
    """Whether ONNX Runtime may bring the process down with this model on some inputs.

    It does where a node leaves out an output that the operator's schema does not call optional: one of Split's, say
    (such a model passes onnx.checker); and where it divides the least integer by -1.
    """
    lacks = any(_lacks_output(node, model.opsets.get("" if node.domain == "ai.onnx" else node.domain, 1))
                for graph in subgraph_protos(model.proto.graph) for node in graph.node)
    return lacks or any(True for _ in _trapping(model))


def refuse_traps(model: Model, feeds: Iterable[Feed]) -> None:
    """Look whether a node would trap on these feeds, for runs of ONNX Runtime inside this process.

    Args:
        model: without local functions.
        feeds: not read where no node may trap.

    Raises:
        BackendFailed: a node divides the least integer by -1.
    """
    nodes = list(_trapping(model))
    wanted = {name for node in nodes for name in node.inputs}
    for feed in feeds if nodes else ():
        values = Executor(model).run(feed, wanted)
        for node in nodes:
            if _traps(*(values.get(name) for name in node.inputs)):
                raise BackendFailed(
                    f"node {node.label!r} ({node.op}) divides the least integer by -1, which ONNX Runtime dies of",
                    "Give samples with which it does not: --calibration FILE.")


def _traps(x: Value, y: Value) -> bool:
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)) or x.dtype not in (torch.int32, torch.int64):
        return False
    return bool(((x == torch.iinfo(x.dtype).min) & (y == -1)).any())


def _trapping(model: Model) -> Iterator[Node]:
    """The integer divisions whose divisor may be -1."""
    if any(node.op_type in ("Div", "Mod") for node in _all_nodes(model)):
        flat = inline_functions(model)
        yield from _trapping_in(flat, read_types(flat))


def _all_nodes(model: Model) -> Iterator[NodeProto]:
    for graph in subgraph_protos(model.proto.graph):
        yield from graph.node
    for function in model.proto.functions:
        yield from function.node


def _trapping_in(model: Model, typed: TypedGraph) -> Iterator[Node]:
    for node in typed.graph.nodes:
        as_reals = any(a.name == "fmod" and a.i for a in node.proto.attribute)
        if node.op not in ("Div", "Mod") or as_reals or typed.of(node.inputs[0]) not in _TRAPPING:
            continue
        if _may_be_minus_one(model, typed.graph, node.inputs[1]):
            yield node
    for body in typed.bodies.values():
        yield from _trapping_in(model, body)


def _may_be_minus_one(model: Model, graph: Graph, divisor: str) -> bool:
    """Whether a divisor may hold a -1: one that is not a weight or Constant of the same graph may."""
    maker = graph.producer.get(divisor)
    if divisor in graph.initializers:
        return bool(np.any(read_weight(graph.initializers[divisor], model.folder) == -1))
    if maker is None or maker.op != "Constant":
        return True
    attribute = maker.proto.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return bool(np.any(read_weight(attribute.t, model.folder) == -1))
    return -1 in (attribute.i, *attribute.ints) or attribute.type == AttributeProto.SPARSE_TENSOR


def _lacks_output(node: NodeProto, opset: int) -> bool:
    if "" not in node.output or not onnx.defs.has(node.op_type, opset, node.domain):
        return False
    declared = onnx.defs.get_schema(node.op_type, opset, node.domain).outputs
    kinds = [declared[min(i, len(declared) - 1)].option for i in range(len(node.output))]
    return any(not name and kind != onnx.defs.OpSchema.FormalParameterOption.Optional
               for name, kind in zip(node.output, kinds, strict=True))
