"""Where a disagreement begins: the way back from the first tensor that is known to be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import torch
from onnx import helper

from parity.errors import ModelError
from parity.graph.graph import Node
from parity.graph.ops.call import Value
from parity.source_model.evidence import MOVES
from parity.source_model.layout import distance
from parity.source_model.mapping import Fault, How, Match
from parity.source_model.sides import Side

# Nodes through which another order of axes is followed, and how many orders are tried.
_FAR, _ORDERS = 40, 24


def traced_back(side: Side, matches: Mapping[str, Match], wanted: frozenset[str], telling: Collection[str],
                first: Match, right: Callable[[str, Value], bool]) -> Fault:
    """Where the export went wrong, from the first tensor that disagrees.

    That is a transposition with which, in another order of axes, everything is right as far as the disagreement; else
    one of the tensors on the way there of which nothing is known, and with which nothing agrees; else itself.

    Args:
        side: the graph on the module's values.
        matches: all there are.
        wanted: the tensors that could be matched.
        telling: the matched tensors that depend on the inputs.
        first: that disagrees.
        right: whether a value is what the module has for a tensor.
    """
    producer, region = side.flat.graph.producer, _region(side, matches, wanted, first.tensor)
    for name in region:
        node = producer[name]
        if node.op == "Transpose" and any(right(first.tensor, v) for v in _reordered(side, node, name, first.tensor)):
            return Fault(first, reordered=name)
    given = {spec.name for spec in side.flat.graph.inputs}
    hidden = [name for name in _doubtful(side, region, matches, telling)
              if not (wanted | given).isdisjoint(producer[name].reads)]
    read = dict.fromkeys(n for name in (*hidden, first.tensor) for n in producer[name].reads if n not in hidden)
    after = tuple(n for n in read if n in given or n in wanted) if hidden else ()
    return Fault(first, tuple(hidden), after)


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


def _doubtful(side: Side, region: Sequence[str], matches: Mapping[str, Match], telling: Collection[str]) -> list[str]:
    """What of a region may be wrong: values that are nowhere in the module, and elements put together as nowhere there.

    Elements that agree in whatever order show that what they were computed from is right. That they were moved rightly
    shows only where something that was computed of them agrees. Transpositions have been tried in other orders.
    """
    computed = _agreeing(side, matches, telling, moved=False)
    moved = _agreeing(side, matches, telling, moved=True)
    found = []
    for name in region:
        match, node = matches.get(name), side.flat.graph.producer[name]
        if (match is None and name not in (moved if node.op in MOVES else computed)) or (
                match is not None and match.how is How.PERMUTED and node.op == "Concat" and name not in moved):
            found.append(name)
    return found


def _agreeing(side: Side, matches: Mapping[str, Match], telling: Collection[str], *, moved: bool) -> frozenset[str]:
    """The tensors with which something agrees that is computed from them, and that tells something.

    Args:
        side: the graph on the module's values.
        matches: all there are.
        telling: the matched tensors that depend on the inputs.
        moved: they were moved rightly, too.
    """
    found: set[str] = set()
    for node in reversed(side.flat.graph.nodes):
        for name in node.outputs:
            match = matches.get(name)
            agrees = match is not None and match.agrees and name in telling and (
                not moved or node.op not in MOVES or match.how in (How.NAME, How.OUTPUT))
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
