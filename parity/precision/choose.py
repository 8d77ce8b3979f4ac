"""Which element type every tensor of a variant has: what a plan asks for, as far as standard and weights allow."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onnx import AttributeProto, TensorProto, helper

from parity.graph.graph import Node
from parity.graph.weights import read_weight
from parity.precision.elements import CONTROL, HALVES, LIKES, QUANTIZERS, REALS, Slot, TypedGraph, slots
from parity.precision.narrow import LARGEST, largest_magnitude
from parity.precision.plan import ELEMENT_OF, PrecisionPlan

# Operators that hand the values of an input on, so that a number beyond FP16's range reaches their readers.
_HANDS_ON = frozenset({"Identity", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Tile", "Slice", "Flatten",
                       "Gather", "Concat", "Cast", "CastLike"})
# They read a shape, not values.
_VALUELESS = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Note:
    """Something about a variant that its plan does not say.

    Attributes:
        kind: "range" where a node stays FP32 for a weight that a narrower type cannot hold, "form" where the
            standard has no such form of an operator, "underflow" where numbers of a weight became 0.
        tensor: first output of the node, or the weight.
        text: a sentence.
    """

    kind: Literal["range", "form", "underflow"]
    tensor: str
    text: str


@dataclass(frozen=True)
class Choice:
    """The element types that a node is to read and to make.

    Attributes:
        inputs: one for each input; 0 takes the tensor as it comes.
        outputs: one for each output.
        inner: of the floating-point inputs and outputs of its bodies; 0 leaves them as they are.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    inner: int = 0


@dataclass(eq=False)
class Scope:
    """A graph of the model while its variant is being made.

    Attributes:
        typed: the graph, with the element types that it has now.
        outer: the scope around it.
        home: the element type that each name of this scope has in the variant.
        forced: those that are not for their producers to decide: outputs of the model or of a body.
        given: the constants and, where they may change, the inputs, with the element types that readers want.
        huge: largest magnitudes of tensors known to hold numbers beyond FP16's range.
        choices: by node index.
        bodies: by node index and attribute.
    """

    typed: TypedGraph
    outer: Scope | None
    home: dict[str, int] = field(default_factory=dict)
    forced: dict[str, int] = field(default_factory=dict)
    given: dict[str, list[int]] = field(default_factory=dict)
    huge: dict[str, float] = field(default_factory=dict)
    choices: dict[int, Choice] = field(default_factory=dict)
    bodies: dict[tuple[int, str], Scope] = field(default_factory=dict)

    def owner(self, name: str) -> Scope | None:
        """The scope that defines a name, this or one around it."""
        scope: Scope | None = self
        while scope is not None and name not in scope.home:
            scope = scope.outer
        return scope

    def magnitude(self, name: str) -> float:
        """The largest magnitude of a tensor that is known to be huge, else 0."""
        owner = self.owner(name)
        return owner.huge.get(name, 0.0) if owner else 0.0


def constant_of(node: Node) -> TensorProto | None:
    """The floating-point tensor that a Constant holds, or that fills a ConstantOfShape."""
    attribute = next(iter(node.proto.attribute), AttributeProto())
    if node.op == "ConstantOfShape" and not node.proto.attribute:
        return helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])
    if attribute.name == "value" and attribute.t.data_type in REALS:
        return attribute.t
    if node.op == "Constant" and attribute.type == AttributeProto.FLOAT:
        return helper.make_tensor("", TensorProto.FLOAT, [], [attribute.f])
    if node.op == "Constant" and attribute.type == AttributeProto.FLOATS:
        return helper.make_tensor("", TensorProto.FLOAT, [len(attribute.floats)], attribute.floats)
    return None


def scope_of(typed: TypedGraph, outer: Scope | None, folder: Path | None, *, measure: bool) -> Scope:
    """A graph and the graphs in it before anything is chosen.

    Args:
        typed: the graph.
        outer: the scope around it.
        folder: where external weights are looked up.
        measure: look for numbers beyond FP16's range; needed where anything is to become narrower.
    """
    scope = Scope(typed, outer)
    graph = typed.graph
    weights = {name: t for name, t in graph.initializers.items() if t.data_type in REALS}
    inputs = (value.name for value in graph.proto.input)
    scope.home.update((name, typed.of(name)) for name in (*inputs, *graph.initializers, *graph.sparse_initializers))
    scope.given.update((name, []) for name in weights)
    if measure:
        scope.huge.update((n, m) for n, t in weights.items() if (m := _magnitude(t, folder)) > _NOTABLE)
    for node in graph.nodes:
        for name in node.subgraphs:
            scope.bodies[node.index, name] = scope_of(typed.body(node, name), scope, folder, measure=measure)
        scope.home.update((name, typed.of(name)) for name in node.outputs)
        if node.op == "Constant" and constant_of(node) is not None:
            scope.given[node.outputs[0]] = []
        if measure:
            scope.huge.update((n, m) for n, m in _handed_on(scope, node, folder) if m > _NOTABLE)
    return scope


_NOTABLE = LARGEST[TensorProto.FLOAT16]


def _magnitude(tensor: TensorProto, folder: Path | None) -> float:
    return largest_magnitude(read_weight(tensor, folder))


def _handed_on(scope: Scope, node: Node, folder: Path | None) -> list[tuple[str, float]]:
    """How large the numbers are that a node makes, as far as that is plain from weights."""
    if node.op in CONTROL:
        first = 1 if node.op == "Loop" else 0
        inner = [scope.bodies[node.index, name] for name in node.subgraphs]
        results = [[o.name for o in body.typed.graph.proto.output][first:] for body in inner]
        return [(name, max(body.magnitude(r[i]) for body, r in zip(inner, results, strict=True)))
                for i, name in enumerate(node.proto.output) if name]
    if node.op in _HANDS_ON:
        largest = max((scope.magnitude(name) for name in node.inputs), default=0.0)
        return [(name, largest) for name in node.outputs]
    constant = constant_of(node) if node.op in {"Constant", "ConstantOfShape"} else None
    return [] if constant is None else [(node.outputs[0], _magnitude(constant, folder))]


def choose(scope: Scope, plan: PrecisionPlan) -> list[Note]:
    """Choose what every node of a scope and of its bodies reads and makes; says where that is not what was planned."""
    notes: list[Note] = []
    for node in scope.typed.graph.nodes:
        choice, said = _choice(scope, node, plan)
        notes.extend(said)
        scope.choices[node.index] = choice
        for name, element in zip(node.proto.output, choice.outputs, strict=True):
            if name and name not in scope.given:
                scope.home[name] = scope.forced.get(name, element)
        for name, element in zip(node.inputs, choice.inputs, strict=True):
            _want(scope, name, element)
        for name in node.subgraphs:
            body = scope.bodies[node.index, name]
            _bound(body, choice.inner)
            notes.extend(choose(body, plan))
    return notes


def settle(scope: Scope) -> None:
    """Give each constant the type that its readers want, or leave it as it is where one of them wants that."""
    for name, wanted in scope.given.items():
        now = scope.typed.of(name)
        fed = name not in scope.typed.graph.initializers and name not in scope.typed.graph.producer
        if name in scope.forced:
            scope.home[name] = scope.forced[name]
        elif wanted and now not in wanted and (len(wanted) == 1 or not fed):
            scope.home[name] = wanted[0]
    for body in scope.bodies.values():
        settle(body)


def _want(scope: Scope, name: str, element: int) -> None:
    owner = scope.owner(name) if name and element else None
    wanted = owner.given.get(name) if owner else None
    if wanted is not None and element not in wanted:
        wanted.append(element)


def _bound(body: Scope, inner: int) -> None:
    """Fix the types at a body's border: its inputs and outputs are those of the node around it."""
    proto = body.typed.graph.proto
    for value in proto.input:
        if body.typed.of(value.name) in REALS:
            body.home[value.name] = inner or body.typed.of(value.name)
    for value in proto.output:
        now = body.typed.of(value.name)
        if now in REALS:
            body.forced[value.name] = inner or now
            _want(body, value.name, inner or now)


def _choice(scope: Scope, node: Node, plan: PrecisionPlan) -> tuple[Choice, list[Note]]:
    precision = plan.of(node)
    element = 0 if precision == "int8" else ELEMENT_OF[precision]
    choice = _fitted(scope, node, element)
    if element not in HALVES:
        return choice, []
    names = (*(n for n, e in zip(node.inputs, choice.inputs, strict=True) if n and e == element),
             *(n for n, e in zip(node.proto.output, choice.outputs, strict=True) if n and e == element))
    largest = max(names, key=scope.magnitude, default="")
    if scope.magnitude(largest) > LARGEST[element]:
        text = (f"{node.label!r} ({node.op}) stays FP32: {largest!r} holds {scope.magnitude(largest):.6g}, beyond the "
                f"range of {precision.upper()} (±{LARGEST[element]:.6g})")
        return _fitted(scope, node, int(TensorProto.FLOAT)), [Note("range", node.outputs[0], text)]
    if not names and any(e in REALS for e in choice.inputs) and node.op not in QUANTIZERS | CONTROL:
        text = f"{node.label!r} stays FP32: opset {node.opset} has no {precision.upper()} form of {node.op}"
        return choice, [Note("form", node.outputs[0], text)]
    return choice, []


def _fitted(scope: Scope, node: Node, element: int) -> Choice:
    """The types of a node that is to compute in an element type (0: in those it has now)."""
    of = scope.typed.of
    read = [of(name) if name else 0 for name in node.inputs]
    made = [of(name) if name else 0 for name in node.proto.output]
    now = Choice(tuple(e if e in REALS else 0 for e in read), tuple(made))
    taken, given = slots(node)
    if not element or node.op in QUANTIZERS or node.op == "Constant":
        return now
    if node.op in LIKES:
        return Choice((0,) * len(read), tuple(made))
    if node.op in {"Cast", "ConstantOfShape"}:
        to = element if made[0] in REALS and element in given[0].allowed else made[0]
        if node.op == "Cast":  # straight to what the border asks for, without a stop on the way
            to = scope.forced.get(node.outputs[0], to)
        return Choice((_source(scope, node.inputs[0], to),), (to,))
    if node.op in CONTROL:
        return _control(scope, node, element, now)
    free = {slot.variable for slot, e in zip(taken, read, strict=True) if e in REALS and element in slot.allowed}
    if sum(e in REALS for e in read) == 1 and not REALS.intersection(made):
        return Choice(tuple(_as_it_comes(scope, node, name) for name in node.inputs), tuple(made))
    return Choice(_converted(taken, now.inputs, free, element), _converted(given, made, free, element))


def _converted(formal: Collection[Slot], now: Collection[int], free: Collection[str], element: int) -> tuple[int, ...]:
    return tuple(element if e in REALS and slot.variable in free else e for slot, e in zip(formal, now, strict=True))


def _as_it_comes(scope: Scope, node: Node, name: str) -> int:
    """What a node wants that makes nothing in floating-point: any type, but of a weight the one it has now."""
    owner = scope.owner(name) if name else None
    weight = owner is not None and name in owner.given and node.op not in _VALUELESS
    return scope.typed.of(name) if weight and scope.typed.of(name) in REALS else 0


def _source(scope: Scope, name: str, to: int) -> int:
    """What a Cast reads: anything, but a weight in the type that it is cast to, where that can hold it."""
    owner = scope.owner(name)
    now = scope.typed.of(name)
    if owner is None or name not in owner.given or now not in REALS:
        return 0
    return to if to in REALS and scope.magnitude(name) <= LARGEST[to] else now


def _control(scope: Scope, node: Node, element: int, now: Choice) -> Choice:
    """If, Loop and Scan hand tensors in and out of their bodies: all of one type, or all as they are."""
    bodies = [scope.typed.body(node, name) for name in node.subgraphs]
    ends = [[body.of(o.name) for o in body.graph.proto.output] for body in bodies]
    if any(e != ends[0] for e in ends) or element not in slots(node)[1][0].allowed:
        return now  # what one branch makes is not known
    return Choice(tuple(element if e in REALS else e for e in now.inputs),
                  tuple(element if e in REALS else e for e in now.outputs), element)
