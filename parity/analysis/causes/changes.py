"""Everything that the candidate's own file has otherwise at one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from parity.analysis.causes.attributes import attributes_of, cause_of, twin_of, with_input
from parity.analysis.causes.constants import other_constant, root_of
from parity.analysis.causes.evidence import Bench, Evidence
from parity.analysis.causes.orders import told
from parity.analysis.causes.twins import Change, Twins, formal_name, paired
from parity.analysis.causes.unit import Unit
from parity.graph.graph import Node


def changes(evidence: Evidence, unit: Unit, file: Bench) -> Iterator[Change]:
    """Everything that the candidate's file has otherwise in a unit, in the order of its nodes."""
    pairs = paired(unit, file)
    for node in unit.nodes:
        other = pairs.nodes.get(node.outputs[0]) if node.outputs else None
        if other is not None and not node.subgraphs and not other.subgraphs:
            yield from _changes(Twins(evidence, unit, file, node, other, pairs.names))


def _changes(pair: Twins) -> Iterator[Change]:
    if pair.node.op == pair.other.op:
        moved = _moved(pair)
        yield from _attributes(pair, moved)
        yield from _of_opset(pair, moved)
        yield from _inputs(pair, moved)
    elif pair.read_alike:
        yield _operator(pair)


def _attributes(pair: Twins, moved: Collection[str]) -> Iterator[Change]:
    ours, theirs = (attributes_of(n) for n in (pair.node, pair.other))
    for name in {**ours, **theirs}:
        now, own = ours.get(name), theirs.get(name)
        if name not in moved and _plain(now) != _plain(own) and not any(
                a is not None and a.type in _LARGE for a in (now, own)):
            words = f"{name} {_shown(own)} instead of {_shown(now)}"
            numbers = {f"{key}{name}": float(a.f if a.type == AttributeProto.FLOAT else a.i)
                       for key, a in (("", now), ("other_", own))
                       if a is not None and a.type in (AttributeProto.FLOAT, AttributeProto.INT)}
            yield Change(pair.node, cause_of(name), "", "", words, _given(name, own), {}, numbers)


def _moved(pair: Twins) -> dict[str, int]:
    """What one side has as an attribute and the other as an input, by name, and the input's place: another opset."""
    sides = (pair.node, pair.other), (pair.other, pair.node)
    return {formal: position for one, other in sides for position, name in enumerate(other.inputs)
            if name and (formal := formal_name(other, position)) in attributes_of(one)}


def _of_opset(pair: Twins, moved: Mapping[str, int]) -> Iterator[Change]:
    """What the two have in two forms, and another meaning of the operator in another opset."""
    for name, position in moved.items():
        now, own = (_said(pair, node, name, position) for node in (pair.node, pair.other))
        if own is None or (now is not None and now.tolist() == own.tolist()):
            continue
        words = f"{name} {own.tolist()} instead of {'none' if now is None else now.tolist()}"
        given = _given(name, helper.make_attribute(name, own.tolist()))
        change, place = Change(pair.node, cause_of(name), "", "", words, given), pair.own_name(position)
        yield change if name in attributes_of(pair.node) else replace(
            change, applied=_with_input(position, place), inputs={place: own})
    versions = [_version(n) for n in (pair.node, pair.other)]
    if not moved and versions[0] != versions[1]:
        words = f"{pair.node.op} of opset {pair.other.opset} instead of {pair.node.opset}"
        yield Change(pair.node, "other-opset", "", "", words, lambda n: Node(n.proto, n.index, pair.other.opset))


def _said(pair: Twins, node: Node, name: str, position: int) -> np.ndarray | None:
    """A value that is an attribute or an input."""
    attribute = attributes_of(node).get(name)
    if attribute is not None:
        return np.asarray(_plain(attribute))
    bench = pair.unit.bench if node is pair.node else pair.file
    return bench.constant(node.inputs[position]) if position < len(node.inputs) and node.inputs[position] else None


def _version(node: Node) -> int:
    """The opset since which the operator has the meaning that it has."""
    try:
        return int(onnx.defs.get_schema(node.proto.op_type, node.opset, node.domain).since_version)
    except onnx.defs.SchemaError:
        return 0


_LARGE = frozenset({AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.SPARSE_TENSOR})


def _plain(attribute: AttributeProto | None) -> object:
    return None if attribute is None else helper.get_attribute_value(attribute)


def _shown(attribute: AttributeProto | None) -> str:
    value = _plain(attribute)
    if value is None:
        return "none"
    return value.decode() if isinstance(value, bytes) else f"{value:g}" if isinstance(value, float) else str(value)


def _given(name: str, attribute: AttributeProto | None) -> Callable[[Node], Node]:
    """An edit that gives a node an attribute, or takes it away."""
    def applied(node: Node) -> Node:
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        kept = [a for a in proto.attribute if a.name != name]
        del proto.attribute[:]
        proto.attribute.extend(kept if attribute is None else [*kept, attribute])
        return twin_of(node, proto)

    return applied


def _operator(pair: Twins) -> Change:
    """Another operator on the same tensors."""
    proto, inputs = NodeProto(), {}
    proto.CopyFrom(pair.other.proto)
    for position, name in enumerate(proto.input):
        value = pair.file.constant(name) if name else None
        if value is not None:
            proto.input[position] = pair.own_name(position)
            inputs[pair.own_name(position)] = value
    del proto.output[:]
    proto.output.extend(pair.node.proto.output)
    given = ", ".join(f"{a.name} {_shown(a)}" for a in pair.other.proto.attribute if a.type not in _LARGE)
    words = f"{pair.other.op}{f' ({given})' if given else ''} instead of {pair.node.op}"
    stand = Node(proto, pair.node.index, pair.other.opset)
    return Change(pair.node, "wrong-operator", "", "", words, lambda _: stand, inputs)


def _inputs(pair: Twins, moved: Mapping[str, int]) -> Iterator[Change]:
    differing = [i for i, (ours, theirs) in enumerate(pair.operands)
                 if i not in moved.values() and not pair.same(ours, theirs)]
    if not differing:
        return
    order = _reordered(pair)
    if order is not None:
        words = "its operands the other way round" if len(order) == 2 else f"its inputs in the order {told(order)}"
        yield Change(pair.node, "swapped-operands", "", "", words, _with_order(order))
        return
    for position in differing:
        ours, theirs = pair.operands[position]
        if ours in pair.unit.bench.constants and theirs in pair.file.constants:
            yield from other_constant(pair, position, ours, theirs)
        elif (ours in pair.unit.bench.constants and not theirs) or (theirs in pair.file.constants and not ours):
            yield _one_sided(pair, position, ours, theirs)
        elif ours and theirs:
            yield from _rewired(pair, position, ours, theirs)


def _reordered(pair: Twins) -> list[int] | None:
    """Which of our inputs each of theirs is, where they are the same ones."""
    free = list(range(len(pair.operands)))
    order = []
    for _, theirs in pair.operands:
        place = next((i for i in free if pair.same(pair.operands[i][0], theirs)), None)
        if place is None:
            return None
        free.remove(place)
        order.append(place)
    return order


def _with_order(order: Sequence[int]) -> Callable[[Node], Node]:
    def applied(node: Node) -> Node:
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        proto.input[:] = [node.inputs[i] if i < len(node.inputs) else "" for i in order]
        return twin_of(node, proto)

    return applied


def _with_input(position: int, name: str) -> Callable[[Node], Node]:
    return lambda node: with_input(node, position, name)


def _rewired(pair: Twins, position: int, ours: str, theirs: str) -> Iterator[Change]:
    """Another tensor read, which the reference has as well."""
    value = pair.file.constant(theirs) if theirs in pair.file.constants else pair.evidence.seen(theirs)
    known = theirs in pair.evidence.reference.graph.producer or theirs in pair.evidence.feed
    if value is not None and known:
        name = pair.own_name(position)
        yield Change(pair.node, "swapped-operands", "", "", f"{theirs!r} read instead of {ours!r}",
                     _with_input(position, name), {name: np.asarray(value)})


def _one_sided(pair: Twins, position: int, ours: str, theirs: str) -> Change:
    """A bias or the like that only one of the two has."""
    what = formal_name(pair.node, position)
    if not theirs:
        return Change(pair.node, "weights-differ", "", "", f"no {what} {root_of(pair.unit.bench, ours)!r}",
                      _with_input(position, ""))
    value, name = pair.file.constant(theirs), pair.own_name(position)
    return Change(pair.node, "weights-differ", "", "", f"{what} {root_of(pair.file, theirs)!r} instead of none",
                  _with_input(position, name), {} if value is None else {name: value})
