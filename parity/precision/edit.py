"""The Cast edit itself: nodes rewritten, weights converted, Casts placed where a type changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from parity.graph.graph import Node
from parity.graph.model import Model
from parity.precision.choose import Note, Scope, constant_of
from parity.precision.elements import HALVES, LIKES, REALS, Slot, declared_element, slots
from parity.precision.narrow import Losses, WeightFile, moved, rounded
from parity.precision.plan import PRECISION_OF


@dataclass(eq=False)
class _Added:
    """What one graph gets: the names under which a tensor is found in other types, and the Casts after its maker."""

    copies: dict[tuple[str, int], str] = field(default_factory=dict)
    casts: dict[str, list[NodeProto]] = field(default_factory=dict)


@dataclass(eq=False)
class Edit:
    """One model being written: the names that are taken, where weights go, and what is to be said."""

    model: Model
    taken: set[str]
    out: WeightFile | None
    notes: list[Note] = field(default_factory=list)
    added: dict[Scope, _Added] = field(default_factory=dict)

    def write(self, scope: Scope, into: GraphProto) -> None:
        """Write a graph and the graphs inside it in their new types."""
        graph = scope.typed.graph
        added = self.added[scope] = _Added()
        for node in graph.nodes:
            self._set_aside(scope, node)
        # A Cast of the model's own comes last: it may find that what it makes is there already.
        written = {n.index: self._node(scope, n) for n in sorted(graph.nodes, key=lambda n: n.op == "Cast")}
        _declare(scope, into)
        for value in into.output if scope.outer else ():
            value.name = self._read(scope, value.name, scope.forced.get(value.name, 0))
        for name in added.casts.keys() - graph.producer.keys():
            into.node.extend(added.casts[name])
        for node in graph.nodes:
            into.node.append(written[node.index])
            for name in node.outputs:
                into.node.extend(added.casts.get(name, ()))
        self._write_weights(scope, into)

    def _set_aside(self, scope: Scope, node: Node) -> None:
        """Where a name must have another type than its maker makes, that goes beside it and is cast to it."""
        for name, element in zip(node.proto.output, scope.choices[node.index].outputs, strict=True):
            if name and name not in scope.given and scope.home[name] != element:
                beside = self._fresh(name, element)
                self.added[scope].copies[name, element] = beside
                self.added[scope].casts[name] = [_cast(beside, name, scope.home[name])]

    def _node(self, scope: Scope, node: Node) -> NodeProto:
        proto, choice = NodeProto(), scope.choices[node.index]
        proto.CopyFrom(node.proto)
        added = self.added[scope].copies
        formal = slots(node)[0]
        if node.op == "Cast" and choice.outputs[0] in REALS:
            self._retarget(scope, node, proto)
        else:
            for i, (name, element) in enumerate(zip(node.inputs, choice.inputs, strict=True)):
                if name:
                    proto.input[i] = self._read(scope, name, element or _as_it_comes(scope, name, formal[i]))
        for i, (name, element) in enumerate(zip(node.proto.output, choice.outputs, strict=True)):
            if name and name not in scope.given:
                proto.output[i] = added.get((name, element), name) if scope.home[name] != element else name
        if node.op in {"Constant", "ConstantOfShape"} and node.outputs[0] in scope.home:
            self._fill(scope, node, proto)
        if node.op in LIKES and not any(a.name == "dtype" for a in proto.attribute):
            proto.attribute.append(helper.make_attribute("dtype", scope.typed.of(node.outputs[0])))
        for attribute in proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                attribute.g.Clear()
                self.write(scope.bodies[node.index, attribute.name], attribute.g)
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_location == TensorProto.EXTERNAL:
                self._move(attribute.t)
        return proto

    def _retarget(self, scope: Scope, node: Node, proto: NodeProto) -> None:
        """A Cast to a floating-point type; an Identity where its input has that type already, or did before a Cast."""
        name, choice = node.inputs[0], scope.choices[node.index]
        (source,), (to,) = choice.inputs, choice.outputs
        now, home = scope.typed.of(name), _home(scope, name)
        found = self._found(scope, name, to) if now in REALS else None
        if found == name and (home, to) == (now, scope.typed.of(node.outputs[0])):
            return  # the model's own idle Cast
        if found is None and source == to:
            found = self._read(scope, name, to)
        if found is None:
            proto.input[0] = self._read(scope, name, source)
            next(a for a in proto.attribute if a.name == "to").i = to
            return
        proto.op_type = "Identity"
        proto.input[0] = found
        del proto.attribute[:]

    def _fill(self, scope: Scope, node: Node, proto: NodeProto) -> None:
        """The value of a Constant or ConstantOfShape in its new type."""
        name = node.outputs[0]
        element = scope.home[name] if node.op == "Constant" else scope.choices[node.index].outputs[0]
        constant = constant_of(node)
        if constant is None or element == scope.typed.of(name):
            return
        del proto.attribute[:]
        proto.attribute.append(helper.make_attribute("value", self._rounded(constant, name, element)))

    def _write_weights(self, scope: Scope, into: GraphProto) -> None:
        graph = scope.typed.graph
        for name, tensor in graph.initializers.items():
            if scope.home[name] != tensor.data_type:
                into.initializer.append(self._rounded(tensor, name, scope.home[name]))
                continue
            kept = into.initializer.add()
            kept.CopyFrom(tensor)
            if kept.data_location == TensorProto.EXTERNAL:
                self._move(kept)
        into.sparse_initializer.extend(graph.proto.sparse_initializer)
        for (name, element), copy in self.added[scope].copies.items():
            if name in scope.given and name in graph.initializers:
                into.initializer.append(self._rounded(graph.initializers[name], copy, element))
            elif name in scope.given and name in graph.producer:
                constant = constant_of(graph.producer[name])
                assert constant is not None  # noqa: S101 - it was taken for a weight because it holds one
                into.initializer.append(self._rounded(constant, copy, element))

    def _rounded(self, tensor: TensorProto, name: str, element: int) -> TensorProto:
        out = self.out if tensor.data_location == TensorProto.EXTERNAL else None
        made, losses = rounded(tensor, name, element, self.model.folder, out)
        if losses.zeroed:
            self.notes.append(_underflow(tensor, name, element, losses))
        return made

    def _move(self, tensor: TensorProto) -> None:
        assert self.out is not None  # noqa: S101 - refused before
        moved(tensor, self.model.folder, self.out)

    def _read(self, scope: Scope, name: str, element: int) -> str:
        """The name under which a scope finds a tensor in an element type; makes it where there is none."""
        owner = scope.owner(name)
        if owner is None or owner.home[name] == element or not element:
            return name
        found = self._found(scope, name, element)
        if found is not None:
            return found
        beside = self.added[owner].copies[name, element] = self._fresh(name, element)
        if not _weight(scope, name):
            self.added[owner].casts.setdefault(name, []).append(_cast(name, beside, element))
        return beside

    def _found(self, scope: Scope, name: str, element: int) -> str | None:
        """Where the values of a tensor are in an element type already: itself, a copy, what it was widened from."""
        owner = scope.owner(name)
        if owner is None or owner.home[name] == element:
            return name
        beside = self.added[owner].copies.get((name, element))
        maker = owner.typed.graph.producer.get(name)
        if beside or maker is None or maker.op != "Cast" or _home(owner, name) != TensorProto.FLOAT:
            return beside
        widened = maker.inputs[0]
        exact = element in HALVES and _home(owner, widened) == element and scope.owner(widened) is owner
        return widened if exact and owner.choices[maker.index].outputs[0] == TensorProto.FLOAT else None

    def _fresh(self, name: str, element: int) -> str:
        base = fresh = f"{name}/{PRECISION_OF[element]}"
        count = 1
        while fresh in self.taken:
            count += 1
            fresh = f"{base}_{count}"
        self.taken.add(fresh)
        return fresh


def _home(scope: Scope, name: str) -> int:
    owner = scope.owner(name)
    return owner.home[name] if owner else 0


def _weight(scope: Scope, name: str) -> bool:
    """Whether a tensor is a constant that can be stored in two types, not an input that may change its type."""
    owner = scope.owner(name)
    return owner is not None and name in owner.given and (
        name in owner.typed.graph.initializers or name in owner.typed.graph.producer)


def _as_it_comes(scope: Scope, name: str, slot: Slot) -> int:
    """The type in which to read a tensor that a node would take in any: as it is, where the standard allows it."""
    home = _home(scope, name)
    return scope.typed.of(name) if home in REALS and home not in slot.allowed else home


def _declare(scope: Scope, into: GraphProto) -> None:
    """The graph's declarations, in the types that its tensors have now."""
    proto = scope.typed.graph.proto
    into.name, into.doc_string = proto.name, proto.doc_string
    for values, declared in ((proto.input, into.input), (proto.output, into.output),
                             (proto.value_info, into.value_info)):
        declared.extend(values)
        for value in declared:
            element = scope.forced.get(value.name, _home(scope, value.name))
            if element in REALS and declared_element(value) in REALS:
                value.type.tensor_type.elem_type = element
    into.quantization_annotation.extend(proto.quantization_annotation)
    into.metadata_props.extend(proto.metadata_props)


def _cast(source: str, target: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=element)


def _underflow(tensor: TensorProto, name: str, element: int, losses: Losses) -> Note:
    count = 1
    for size in tensor.dims:
        count *= size
    text = (f"{losses.zeroed:,} of the {count:,} numbers of weight {name!r} become 0 in "
            f"{PRECISION_OF[element].upper()}, and {losses.subnormal:,} more lose digits")
    return Note("underflow", name, text)
