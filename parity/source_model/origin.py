"""Where a disagreement begins: the way back from the first tensor that is known to be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import permutations

import torch
from onnx import helper

from parity.errors import ModelError
from parity.graph.graph import Node
from parity.graph.ops.call import Value
from parity.source_model.evidence import MOVES
from parity.source_model.layout import distance
from parity.source_model.mapping import How, Match
from parity.source_model.sides import Side

# Nodes through which another order of axes is followed, and how many orders are tried.
_FAR, _ORDERS = 24, 24


def origin(side: Side, matches: Mapping[str, Match], wanted: frozenset[str], telling: Collection[str], fault: Match,
           right: Callable[[str, Value], bool]) -> str | None:
    """The tensor at which the export went wrong, where that is before the first one that disagrees.

    A transposition with which, in another order of axes, everything is right as far as the disagreement; else the first
    tensor on the way there of which nothing is known, and from which on nothing agrees.

    Args:
        side: the graph on the module's values.
        matches: all there are.
        wanted: the tensors that could be matched.
        telling: the matched tensors that depend on the inputs.
        fault: the first that disagrees.
        right: whether a value is what the module has for a tensor.

    Returns:
        Its name; None where it is the disagreeing one itself.
    """
    region = _region(side, matches, wanted, fault.tensor)
    for name in region:
        node = side.flat.graph.producer[name]
        if node.op == "Transpose" and any(right(fault.tensor, v) for v in _reordered(side, node, name, fault.tensor)):
            return name
    agreeing = _agreeing(side, matches, telling)
    fed = wanted | {spec.name for spec in side.flat.graph.inputs}
    return next((name for name in region if name not in matches and name not in agreeing
                 and not fed.isdisjoint(side.flat.graph.producer[name].reads)), None)


def strayed(control: Side, matches: Mapping[str, Match], tolerance: float) -> Iterator[Match]:
    """The outputs that on other inputs are other activations: the export took one branch for good.

    Args:
        control: the graph on the other inputs.
        matches: all there are.
        tolerance: relative L2 up to which two activations are the same.
    """
    values = control.trace.values
    for output, name in zip(control.flat.graph.outputs, control.trace.outputs, strict=False):
        match = matches.get(output.name)
        if match is None or not match.agrees or not {name, match.activation} <= values.keys():
            continue
        held, other = values[name], values[match.activation]
        apart = distance(held, other) if held.numel() == other.numel() else math.inf
        if apart > tolerance:
            yield replace(match, control=apart, agrees=False)


def _region(side: Side, matches: Mapping[str, Match], wanted: frozenset[str], tensor: str) -> list[str]:
    """What a tensor is computed from, back to what is surely right, in the graph's order."""
    producer, found, waiting = side.flat.graph.producer, set[str](), [tensor]
    while waiting:
        for name in producer[waiting.pop()].reads:
            if name in wanted and name in producer and name not in found and not _sure(producer[name], name, matches):
                found.add(name)
                waiting.append(name)
    return sorted(found, key=lambda name: producer[name].index)


def _sure(node: Node, name: str, matches: Mapping[str, Match]) -> bool:
    """Whether a tensor is what it should be; one that only passes elements on may do so in the wrong order."""
    match = matches.get(name)
    if match is None or match.how is How.PERMUTED:
        return False
    return node.op not in MOVES or match.how in (How.NAME, How.OUTPUT)


def _agreeing(side: Side, matches: Mapping[str, Match], telling: Collection[str]) -> frozenset[str]:
    """The tensors with which something agrees that is computed from them, and that tells something."""
    found: set[str] = set()
    for node in reversed(side.flat.graph.nodes):
        for name in node.outputs:
            match = matches.get(name)
            agrees = match is not None and match.agrees and name in telling and _sure(node, name, matches)
            if agrees or (match is None and name in found):
                found.update(node.reads)
    return frozenset(found)


def _reordered(side: Side, node: Node, name: str, end: str) -> Iterator[Value]:
    """What a tensor would be if a transposition before it had another order of axes."""
    way = _between(side, name, end)
    given = side.value(node.inputs[0])
    order = next((list(helper.get_attribute_value(a)) for a in node.proto.attribute if a.name == "perm"), None)
    if way is None or not isinstance(given, torch.Tensor):
        return
    now = order or list(range(given.dim()))[::-1]
    others = sorted(permutations(range(len(now))), key=lambda p: sum(a != b for a, b in zip(p, now, strict=True)))
    for other in others[1:_ORDERS]:
        values: dict[str, Value] = {name: given.permute(other)}
        try:
            for each in way:
                inputs = [values[n] if n in values else side.value(n) if n else None for n in each.inputs]
                values.update(zip(each.proto.output, side.executor.evaluate(each, inputs), strict=False))
        except (ModelError, RuntimeError):  # shapes that do not fit
            continue
        yield values[end]


def _between(side: Side, start: str, end: str) -> list[Node] | None:
    """The nodes from one tensor to another, in order; None where they are many, or hold graphs of their own."""
    graph = side.flat.graph
    reached, nodes = {start}, []
    for node in graph.nodes[graph.producer[start].index + 1:graph.producer[end].index + 1]:
        if not reached.isdisjoint(node.reads):
            reached.update(node.outputs)
            nodes.append(node)
    needed, way = {end}, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.reads)
            way.append(node)
    return way[::-1] if len(way) <= _FAR and not any(node.subgraphs for node in way) else None
