"""A part of a model, cut out with the values that its inputs had: what may become the repro."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from parity.analysis.outputs import drawing_nodes
from parity.analysis.tolerance import HALF_FORMATS, model_precision
from parity.backends.base import Feed
from parity.errors import ModelError
from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import is_tensor, to_numpy

# A runtime that reads these on constants may fuse them with what follows, so they are not computed beforehand.
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, eq=False)
class Part:
    """A few nodes on both sides, and what they are fed.

    Attributes:
        candidate: what the target runs.
        reference: what that is judged by: the same inputs and outputs.
        feed: a value for every input of either.
    """

    candidate: Model
    reference: Model
    feed: Feed

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(o.name for o in self.candidate.graph.outputs)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that the target runs."""
        return self.candidate.graph.nodes

    @property
    def reference_feed(self) -> Feed:
        """The feed in the types that the reference declares; the feed itself where these are the candidate's."""
        declared = {spec.name: spec.dtype for spec in self.reference.graph.inputs if spec.dtype is not None}
        other = {n: v.astype(declared[n]) for n, v in self.feed.items()
                 if v.dtype.name in HALF_FORMATS and declared.get(n, v.dtype) != v.dtype}
        return {**self.feed, **other} if other else self.feed

    def fed(self, feed: Feed) -> Part:
        """The same part on other values, whose shapes may differ."""
        return Part(_declared(self.candidate, feed), _declared(self.reference, feed), feed)


@dataclass(frozen=True, eq=False)
class Whole:
    """What parts are cut out of.

    Attributes:
        candidate: the flat graph that the target runs.
        reference: the flat graph that it is judged by; parts are named by its nodes.
        values: what each tensor was, the inputs among them: where one is missing, no cut can be made.
        drawing: take in nodes that draw random numbers, too, of which no two runs are alike.
    """

    candidate: Model
    reference: Model
    values: Mapping[str, np.ndarray]
    drawing: bool = False

    def part(self, indices: Collection[int], outputs: Collection[str] = (), *, folded: bool = True) -> Part:
        """Cut out some nodes of the reference and what stands for them on the candidate's side.

        Args:
            indices: of the nodes; more are taken in where no value is known to cut at.
            outputs: what the part returns; none for all that it makes and does not read.
            folded: compute constants beforehand, so that the nodes which make them are not counted.

        Raises:
            ModelError: the candidate computes these tensors from others, or no value is known to cut at.
        """
        region, inputs = self._closed(indices)
        wanted = list(outputs) or self._sinks(region)
        if not wanted:
            raise ModelError("no tensor that both sides have leaves these nodes", "Take in more of them.")
        feed = {n: np.asarray(self.values[n]) for n in inputs}
        candidate = self.candidate.between(feed, wanted)
        reference = self.reference.between({n: self._as_reference(v) for n, v in feed.items()}, wanted)
        if folded:
            candidate, reference = with_constants_folded(candidate), with_constants_folded(reference)
        used = {i.name for m in (candidate, reference) for i in m.graph.inputs}
        return Part(candidate, reference, {n: v for n, v in feed.items() if n in used})

    @cached_property
    def _kept_out(self) -> frozenset[int]:
        """Indices of the nodes whose results are always cut at."""
        return frozenset() if self.drawing else frozenset(n.index for n in drawing_nodes(self.reference))

    @cached_property
    def _in_full(self) -> bool:
        """Whether no tensor of the reference is in half precision."""
        return model_precision(self.reference) == "fp32"

    def _as_reference(self, value: np.ndarray) -> np.ndarray:
        """A value of the candidate's in the type that it has in the reference."""
        return value.astype(np.float32) if self._in_full and value.dtype.name in HALF_FORMATS else value

    def _closed(self, indices: Collection[int]) -> tuple[list[Node], list[str]]:
        """The nodes in order, with those that nothing is known to stand in for; and what they read from outside."""
        graph, constants = self.reference.graph, self.reference.constants
        region = {i: graph.nodes[i] for i in indices
                  if i not in self._kept_out and not constants.issuperset(graph.nodes[i].outputs)}
        while True:
            made = {o for node in region.values() for o in node.outputs}
            inputs = dict.fromkeys(n for node in region.values() for n in node.reads if n not in made | constants)
            unknown = [n for n in inputs if n not in self.values or self._belongs(n, region.values())]
            if not unknown:
                return [region[i] for i in sorted(region)], list(inputs)
            for name in unknown:
                if name not in graph.producer or graph.producer[name].index in self._kept_out:
                    raise ModelError(f"tensor {name!r} has no value to cut at", "Take in what makes it.")
                region[graph.producer[name].index] = graph.producer[name]

    def _belongs(self, name: str, region: Collection[Node]) -> bool:
        """Whether a dequantised tensor is multiplied by dequantised weights: apart, these are another operator."""
        graph, constants = self.reference.graph, self.reference.constants
        if not _dequantised(graph.producer.get(name)):
            return False
        return any(name in node.reads and any(n in constants and _dequantised(graph.producer.get(n))
                                              for n in node.reads) for node in region)

    def _sinks(self, region: list[Node]) -> list[str]:
        """What a region makes and does not read, of what both sides have and somebody looks at."""
        graph, known = self.reference.graph, self.candidate.graph
        results = {o.name for o in graph.outputs}
        read = {n for node in region for n in node.reads}
        return [o for node in region for o in node.outputs
                if o not in read and o not in self.reference.constants and (o in graph.readers or o in results)
                and o in known.producer and (o in self.values or o in results)]


def _dequantised(maker: Node | None) -> bool:
    return maker is not None and maker.op == "DequantizeLinear"


def around(model: Model, tensor: str, back: int, forward: int) -> frozenset[int]:
    """Indices of the node that makes a tensor, and of its neighbours.

    Args:
        model: flat.
        tensor: made by a node.
        back: how many generations of producers.
        forward: how many generations of readers.
    """
    graph = model.graph
    found = {graph.producer[tensor].index}
    for _ in range(forward):
        found.update(r.index for i in list(found) for o in graph.nodes[i].outputs for r in graph.readers.get(o, ()))
    for _ in range(back):
        found.update(graph.producer[n].index for i in list(found) for n in graph.nodes[i].reads
                     if n in graph.producer and n not in model.constants)
    return frozenset(found)


def ancestors(model: Model, names: Collection[str]) -> list[int]:
    """Indices of the nodes that some tensors are computed by, in order, constants left out."""
    graph, found, waiting = model.graph, set[int](), list(names)
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and node.index not in found and not model.constants.issuperset(node.outputs):
            found.add(node.index)
            waiting.extend(node.reads)
    return sorted(found)


def with_constants_folded(model: Model) -> Model:
    """The model with initializers in place of the nodes that no input can change, those on Q/DQ left as they are."""
    graph = model.graph
    kept: set[str] = set()
    gone = []
    for node in graph.nodes:
        if not model.constants.issuperset(node.outputs):
            continue
        if node.op in _QUANTIZED or not kept.isdisjoint(node.reads):
            kept.update(node.outputs)
        else:
            gone.append(node)
    if not gone:
        return model
    values = constant_values(model)
    read = {n for node in graph.nodes if node not in gone for n in node.reads} | {o.name for o in graph.outputs}
    if not all(is_tensor(values[n]) for node in gone for n in node.outputs if n in read):
        return model  # a sequence cannot be an initializer
    proto = shallow_copy(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(node.proto for node in graph.nodes if node not in gone)
    weights = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(to_numpy(values[n]), n)
                                   for node in gone for n in node.outputs if n in read)
    return replace(model, proto=proto)


def _declared(model: Model, feed: Feed) -> Model:
    """The model with its inputs declared as they are fed."""
    proto = shallow_copy(model.proto)
    for info in proto.graph.input:
        if info.name in feed:
            kind, shape = info.type.tensor_type.elem_type, feed[info.name].shape
            info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, kind, shape))
    return replace(model, proto=proto)
