"""The findings in the model itself: each node's figures in its metadata, where Netron shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnx import NodeProto

from parity.graph.graph import subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.report import named, shares, words
from parity.report.record import Candidate, Layer, Report

PREFIX = "parity "


def annotated(model: Model, report: Report) -> Model:
    """A copy of the model with local error, share, kind and cause in `metadata_props` of the nodes.

    The keys are "parity TARGET FIGURE", e.g. "parity onnxruntime:int8 local error". What an earlier run put there is
    replaced; nodes of sub-graphs are annotated by the names of their outputs, like the others.

    Args:
        model: as the user handed it in.
        report: of a run of it.
    """
    proto = shallow_copy(model.proto)
    makers: dict[str, NodeProto] = {}
    for graph in subgraph_protos(proto.graph):
        for node in graph.node:
            kept = [p for p in node.metadata_props if not p.key.startswith(PREFIX)]
            if len(kept) < len(node.metadata_props):
                del node.metadata_props[:]
                node.metadata_props.extend(kept)
            makers.update(dict.fromkeys(node.output, node))
    for candidate in report.candidates:
        for layer in candidate.tensors:
            node = makers.get(layer.tensor)
            if node is not None:
                for key, value in _figures(candidate, layer):
                    node.metadata_props.add(key=f"{PREFIX}{candidate.target} {_of(node, layer)}{key}", value=value)
    return replace(model, proto=proto, path=None)


def _of(node: NodeProto, layer: Layer) -> str:
    """Which output is meant, where a node has several."""
    return f"{layer.tensor} " if sum(map(bool, node.output)) > 1 else ""


def _figures(candidate: Candidate, layer: Layer) -> Iterator[tuple[str, str]]:
    found = candidate.first_bad
    if found is not None and found.tensor == layer.tensor:
        yield "beyond tolerance from here on" if named.gathered(candidate) else "first bad", named.kind(candidate)
        if found.region:
            yield "first bad region", words.region(found)
    if layer.local is not None:
        yield from named.local_error(layer, layer.local.rel_l2)
    figures: Mapping[str, float | None] = {
        "accumulated error": None if layer.accumulated is None else layer.accumulated.rel_l2, "energy": layer.energy}
    yield from ((name, words.number(value)) for name, value in figures.items() if value is not None)
    if layer.share is not None:
        yield "share of the output error", shares.percent(layer.share)
    if layer.origin is not None:
        yield "kind", layer.origin
    yield from ((f"cause {d.cause}", words.cause(d)) for d in candidate.diagnoses if d.tensor == layer.tensor)
