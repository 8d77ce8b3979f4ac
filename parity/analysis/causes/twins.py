"""What differs between one node of what the candidate should run and the same node in the candidate's own file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from parity.analysis.causes.attributes import attributes_of, cause_of, twin_of, with_input
from parity.analysis.causes.differences import Account, Layout, account
from parity.analysis.causes.evidence import Bench, Evidence
from parity.analysis.causes.orders import told
from parity.analysis.causes.solve import guards
from parity.analysis.causes.stored import account_of_stored, stored
from parity.analysis.causes.unit import Unit
from parity.graph.graph import Node

# Whole numbers in a list that is told as it is.
_SHORT = 8
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Change:
    """One thing that the candidate's file has otherwise.

    Attributes:
        node: where, as it should be.
        cause: the name of the mistake.
        role: of a constant, e.g. "weight"; empty for something else.
        name: of a constant.
        words: what is otherwise; of a constant, what follows its name.
        applied: the node with it.
        inputs: tensors that this node reads and the graph does not have.
        numbers: figures for the evidence.
    """

    node: Node
    cause: str
    role: str
    name: str
    words: str
    applied: Callable[[Node], Node]
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


def twin(evidence: Evidence, node: Node) -> Node | None:
    """The node of the candidate's file that makes the same tensor by the same operator; None where there is none."""
    found = None if evidence.own is None or not node.outputs else evidence.own.graph.producer.get(node.outputs[0])
    return found if found is not None and found.op == node.op else None


def changes(evidence: Evidence, unit: Unit, node: Node) -> Iterator[Change]:
    """Everything that the candidate's file has otherwise at one node of a unit."""
    if evidence.own is None or evidence.file is None or node.subgraphs or not node.outputs:
        return
    other = evidence.own.graph.producer.get(node.outputs[0])
    if other is None or other.subgraphs:
        return
    pair = _Twins(evidence, unit, evidence.file, node, other)
    if node.op == other.op:
        yield from _attributes(pair)
        yield from _inputs(pair)
    elif pair.moving(unit.bench, node) == pair.moving(pair.file, other):
        yield _operator(pair)


@dataclass(frozen=True, eq=False)
class _Twins:
    """Two nodes that make the same tensor."""

    evidence: Evidence
    unit: Unit
    file: Bench
    node: Node
    other: Node

    def moving(self, bench: Bench, node: Node) -> list[str]:
        """What a node reads of tensors that inputs change."""
        return [n for n in node.inputs if n and n not in bench.constants]

    def own_name(self, position: int) -> str:
        """What a tensor that only the file has is called when it is put in place."""
        return f"{self.node.outputs[0]}/own{position}"

    @property
    def operands(self) -> list[tuple[str, str]]:
        """The inputs of both, an omitted one as the empty string."""
        many = max(len(self.node.inputs), len(self.other.inputs))
        ours, theirs = ([*n.inputs, *[""] * (many - len(n.inputs))] for n in (self.node, self.other))
        return list(zip(ours, theirs, strict=True))

    def same(self, ours: str, theirs: str) -> bool:
        """Whether two inputs are the same tensor, or constants of the same value."""
        if ours not in self.unit.bench.constants or theirs not in self.file.constants:
            return ours == theirs and ours not in self.unit.bench.constants and theirs not in self.file.constants
        one, other = self.unit.bench.constant(ours), self.file.constant(theirs)
        if one is None or other is None or one.dtype.kind not in "fiubV" or other.dtype.kind not in "fiubV":
            return one is other or (one is not None and other is not None and np.array_equal(one, other))
        return np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True)


def _attributes(pair: _Twins) -> Iterator[Change]:
    ours, theirs = (attributes_of(n) for n in (pair.node, pair.other))
    for name in {**ours, **theirs}:
        now, own = ours.get(name), theirs.get(name)
        if _plain(now) != _plain(own) and not any(a is not None and a.type in _LARGE for a in (now, own)):
            words = f"{name} {_shown(own)} instead of {_shown(now)}"
            numbers = {f"{key}{name}": float(a.f if a.type == AttributeProto.FLOAT else a.i)
                       for key, a in (("", now), ("other_", own))
                       if a is not None and a.type in (AttributeProto.FLOAT, AttributeProto.INT)}
            yield Change(pair.node, cause_of(name), "", "", words, _given(name, own), {}, numbers)


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


def _operator(pair: _Twins) -> Change:
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


def _inputs(pair: _Twins) -> Iterator[Change]:
    differing = [i for i, (ours, theirs) in enumerate(pair.operands) if not pair.same(ours, theirs)]
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
            yield from _constant(pair, position, ours, theirs)
        elif (ours in pair.unit.bench.constants and not theirs) or (theirs in pair.file.constants and not ours):
            yield _one_sided(pair, position, ours, theirs)
        elif ours and theirs:
            yield from _rewired(pair, position, ours, theirs)


def _reordered(pair: _Twins) -> list[int] | None:
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


def _rewired(pair: _Twins, position: int, ours: str, theirs: str) -> Iterator[Change]:
    """Another tensor read, which the reference has as well."""
    value = pair.file.constant(theirs) if theirs in pair.file.constants else pair.evidence.seen(theirs)
    known = theirs in pair.evidence.reference.graph.producer or theirs in pair.evidence.feed
    if value is not None and known:
        name = pair.own_name(position)
        yield Change(pair.node, "swapped-operands", "", "", f"{theirs!r} read instead of {ours!r}",
                     _with_input(position, name), {name: np.asarray(value)})


def _one_sided(pair: _Twins, position: int, ours: str, theirs: str) -> Change:
    """A bias or the like that only one of the two has."""
    what = _formal(pair.node, position)
    if not theirs:
        return Change(pair.node, "weights-differ", "", "", f"no {what} {_root(pair.unit.bench, ours)!r}",
                      _with_input(position, ""))
    value, name = pair.file.constant(theirs), pair.own_name(position)
    return Change(pair.node, "weights-differ", "", "", f"{what} {_root(pair.file, theirs)!r} instead of none",
                  _with_input(position, name), {} if value is None else {name: value})


def _constant(pair: _Twins, position: int, ours: str, theirs: str) -> Iterator[Change]:
    expected, found = pair.unit.bench.constant(ours), pair.file.constant(theirs)
    if expected is None or found is None or any(v.dtype.kind not in "fiubV" for v in (expected, found)):
        return
    name = pair.own_name(position)
    change = Change(pair.node, "weights-differ", "", "", "", _with_input(position, name), {name: found})
    if expected.dtype.kind in "iu" and expected.size <= _SHORT and pair.node.op not in _QUANTIZERS:
        formal = _formal(pair.node, position)
        yield replace(change, cause=cause_of(formal),
                      words=f"{formal} {_listed(found)} instead of {_listed(expected)}")
        return
    cause, said = _accounted(pair, position, expected, found)
    guarded = cause == "weights-differ" and expected.size == 1 and guards(pair.unit, pair.node, float(expected.max()))
    if guarded:
        said = replace(said, numbers={k.replace("constant", "epsilon"): v for k, v in said.numbers.items()})
    yield replace(change, cause="wrong-epsilon" if guarded else cause, name=_named(pair, position, theirs),
                  role="epsilon" if guarded else _role(pair.node, position, expected), words=said.words,
                  numbers=said.numbers)


def _role(node: Node, position: int, value: np.ndarray) -> str:
    """What to call a constant."""
    if node.op in _QUANTIZERS and position in (1, 2):
        return ("scale", "zero point")[position - 1]
    formal = _formal(node, position)
    return "weight" if value.size != 1 else formal if len(formal) > 1 else "constant"


def _accounted(pair: _Twins, position: int, expected: np.ndarray, found: np.ndarray) -> tuple[str, Account]:
    """The cause, and how the file's constant differs from what it should be."""
    node, layout = pair.node, Layout.of(pair.node, position, expected.ndim)
    if node.op in _QUANTIZERS and position in (1, 2):
        return _of_quantizer(node, position, expected, found, layout)
    right = _in_full(pair, position, expected)
    held = stored(pair.file, pair.operands[position][1], right)
    if held is not None:
        return account_of_stored(held, right, found, layout)
    return "wrong-attribute" if node.op == "Clip" else "weights-differ", account(expected, found, layout)


def _of_quantizer(node: Node, position: int, expected: np.ndarray, found: np.ndarray,
                  layout: Layout) -> tuple[str, Account]:
    """A scale or a zero point of an activation; what is dequantised was quantised with the expected one."""
    said = account(expected, found, layout)
    cause = "wrong-scale" if position == 1 else "wrong-zero-point"
    if expected.size > 1 or found.size > 1:
        return cause, said
    by, old = float(found.max()) - float(expected.max()), float(expected.max())
    far = f"off by {by:+g}, one shift of the whole tensor" if position == 2 else f"{float(found.max()) / old:.4g} times"
    before = ", which it was quantised with" if node.op == "DequantizeLinear" else ""
    return cause, Account(f"{said.words}{before} ({far})", {**said.numbers, "off": by})


def _in_full(pair: _Twins, position: int, expected: np.ndarray) -> np.ndarray:
    """The reference's own weight, of which what is expected may be a rounding."""
    value = pair.evidence.original.constant(pair.evidence.called(pair.node, position))
    return value if value is not None and value.shape == expected.shape else expected


def _named(pair: _Twins, position: int, theirs: str) -> str:
    """What the constant is called in the reference's file, and in the candidate's where that is another name."""
    own, name = _root(pair.file, theirs), pair.evidence.called(pair.node, position)
    if name not in pair.evidence.original.constants:
        return repr(own)
    name = _root(pair.evidence.original, name)
    return repr(name) if name == own else f"{name!r} ({own!r} there)"


def _root(bench: Bench, name: str) -> str:
    """The constant of a file that another one is computed from."""
    while name in bench.model.graph.producer:
        before = [n for n in bench.model.graph.producer[name].inputs if n]
        if not before:
            return name
        name = before[0]
    return name


def _formal(node: Node, position: int) -> str:
    """What the operator calls an input."""
    try:
        inputs = onnx.defs.get_schema(node.proto.op_type, node.opset, node.domain).inputs
    except onnx.defs.SchemaError:
        return "input"
    return inputs[position].name if position < len(inputs) else "input"


def _listed(value: np.ndarray) -> str:
    return str(value.tolist())
