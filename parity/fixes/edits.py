"""Exchange nodes of a model for others, and leave out what nobody reads any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from parity.graph.graph import Graph, Node, graph_of, subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.precision.prepare import drop_unread

# From this IR version on an initializer need not be a graph input, too.
_FREE_INITIALIZERS_IR = 4


class GraphEdit:
    """An edit of a model's main graph in the making; the model itself is not touched.

    What an exchanged node alone had read goes when the edit is done; a tensor that others read stays as it was.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._taken = _names(model.proto.graph)
        self._replaced: dict[int, Sequence[NodeProto]] = {}
        self._appended: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._floats: dict[tuple[str, float], str] = {}

    @property
    def changed(self) -> bool:
        """Whether anything was exchanged or added."""
        return bool(self._replaced or self._appended)

    def fresh(self, name: str) -> str:
        """A tensor name that is not taken yet, this one or one like it; it is taken from now on."""
        made, count = name, 1
        while made in self._taken:
            count += 1
            made = f"{name}_{count}"
        self._taken.add(made)
        return made

    def weight(self, name: str, value: np.ndarray) -> str:
        """Add an initializer under a name like the one given."""
        made = self.fresh(name)
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), made))
        return made

    def number(self, name: str, value: float) -> str:
        """An FP32 scalar, added once however often it is asked for."""
        key = name, value
        if key not in self._floats:
            self._floats[key] = self.weight(name, np.asarray(value, np.float32))
        return self._floats[key]

    def replace(self, node: Node, protos: Sequence[NodeProto]) -> None:
        """Put these nodes, in order, in the place of one."""
        self._replaced[node.index] = protos

    def append(self, protos: Iterable[NodeProto]) -> None:
        """Add nodes at the end."""
        self._appended.extend(protos)

    def done(self) -> Model:
        """The edited model, flat if the model was."""
        old = self.model.graph
        nodes = [p for n in old.nodes for p in self._replaced.get(n.index, (n.proto,))] + self._appended
        proto = shallow_copy(self.model.proto)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(self._weights)
        proto.ir_version = max(proto.ir_version, _FREE_INITIALIZERS_IR)
        _drop_dead(proto.graph, old, self.model.opsets)
        drop_unread(proto)
        return Model.from_proto(proto, self.model.folder)


def _drop_dead(proto: GraphProto, old: Graph, opsets: Mapping[str, int]) -> None:
    """Take out, in place, the nodes that lost their last reader, and what is declared of tensors that are gone."""
    graph = graph_of(proto, opsets, frozenset())
    idle = {o for n in old.nodes for o in n.outputs if not old.readers.get(o)}
    wanted = {o.name for o in proto.output} | idle
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not node.outputs or not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(node.reads)
    del proto.node[:]
    proto.node.extend(n.proto for n in reversed(kept))
    known = {o for n in kept for o in n.outputs} | {i.name for i in proto.input} | {o.name for o in proto.output}
    declared = [v for v in proto.value_info if v.name in known]
    del proto.value_info[:]
    proto.value_info.extend(declared)


def _names(graph: GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in subgraph_protos(graph):
        names.update(v.name for v in (*inner.input, *inner.output, *inner.value_info, *inner.initializer))
        names.update(t.values.name for t in inner.sparse_initializer)
        names.update(name for node in inner.node for name in (*node.input, *node.output))
    return names
