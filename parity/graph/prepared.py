"""What is worked out once for a graph, however often it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from parity.graph.graph import Graph, Node
from parity.graph.ops.call import KERNELS, Arithmetic, Call, Value, from_numpy
from parity.graph.weights import read_sparse_weight, read_weight


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph ready to run.

    Attributes:
        weights: initializers and the values of Constant nodes by name, in their declared types.
        unread: for each node, the tensors that nobody reads once it has run; graph outputs are never among them.
    """

    weights: Mapping[str, Value]
    unread: Sequence[tuple[str, ...]]


def prepare(graph: Graph, folder: Path | None) -> Prepared:
    """Read a graph's weights and find each tensor's last reader; what was found is kept with the graph.

    Args:
        graph: a main graph, a body, or a function.
        folder: where external weights are looked up.

    Raises:
        ModelError: a weight cannot be read.
    """
    found = graph.__dict__.get("prepared")
    if found is None:
        found = graph.__dict__["prepared"] = Prepared(_weights(graph, folder), _unread(graph))
    return cast("Prepared", found)


def _weights(graph: Graph, folder: Path | None) -> dict[str, Value]:
    weights = {n: from_numpy(read_weight(t, folder)) for n, t in graph.initializers.items()}
    weights.update((n, from_numpy(read_sparse_weight(t, folder))) for n, t in graph.sparse_initializers.items())
    for node in graph.nodes:
        if node.op == "Constant" and node.outputs:
            weights[node.outputs[0]] = _constant(node, folder)
    return weights


def _constant(node: Node, folder: Path | None) -> Value:
    value = KERNELS["", "Constant"](Call(node, Arithmetic.DECLARED, _no_bodies, folder))
    return cast("Value", value)


def _no_bodies(body: Graph, arguments: Sequence[Value]) -> list[Value]:
    raise NotImplementedError("a Constant has no bodies")


def _unread(graph: Graph) -> list[tuple[str, ...]]:
    last = {name: node.index for node in graph.nodes for name in (*node.outputs, *node.reads)}
    for output in graph.outputs:
        last.pop(output.name, None)
    unread: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        if name in graph.producer:
            unread[index].append(name)
    return [tuple(names) for names in unread]
