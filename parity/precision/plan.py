"""Which node computes in which precision: the one value that every variant and every fix is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from onnx import TensorProto

from parity.errors import UsageError
from parity.graph.flatten import inline_functions
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.precision.elements import HALVES, TypedGraph, has_form, read_types

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Of the JSON form; a file of another version is refused.
_VERSION = 1
# int8 is made by Q/DQ around a node, which itself computes in FP32.
ELEMENT_OF: Mapping[Precision, int] = MappingProxyType({
    "fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.FLOAT})
PRECISION_OF: Mapping[int, Precision] = MappingProxyType({
    TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp32"})
# What only moves data leaves a dequantised tensor on its quantisation grid.
_MOVES = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
_INTEGER_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger"})
_INTEGER_PREFIXES = ("QLinear", "DynamicQuantize", "QAttention", "QGemm", "QEmbed", "MatMulIntegerToFloat")


@dataclass(frozen=True)
class Rule:
    """An exception to a plan's default precision.

    Attributes:
        match: "op:Softmax" for an operator type ("op:com.microsoft::FusedConv" where it has a domain), or a glob,
            "tensor:" before it or not, on a node's name and on the names of its outputs. A glob that is such a
            name itself, letter by letter, means that one alone.
        precision: what the nodes that match are to compute in.
    """

    match: str
    precision: Precision


@dataclass(frozen=True)
class PrecisionPlan:
    """The precision of every node of a model, those of sub-graphs and inlined functions included.

    Attributes:
        default: of a node that is not listed, such as one that an edit has added.
        nodes: first output tensor of a node → its precision. Node names may be empty or repeated; tensor names
            are neither. (Two branches of an If may use one name: they then share its precision.)
    """

    default: Precision
    nodes: Mapping[str, Precision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the plan's canonical JSON: equal plans have equal digests, whatever their order."""
        text = json.dumps({"default": self.default, "nodes": dict(self.nodes)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def of(self, node: Node) -> Precision:
        """The precision of a node."""
        return self.nodes.get(node.outputs[0], self.default) if node.outputs else self.default

    def keep(self, outputs: Iterable[str], precision: Precision = "fp32") -> PrecisionPlan:
        """The same plan with some nodes in another precision.

        Args:
            outputs: first outputs of the nodes, which the plan lists.
            precision: what they are to compute in.

        Raises:
            UsageError: a name that the plan does not list.
        """
        changed = dict.fromkeys(outputs, precision)
        unknown = changed.keys() - self.nodes.keys()
        if unknown:
            raise UsageError(f"the plan has no node that makes {min(unknown)!r}", "Name the first output of a node.")
        return PrecisionPlan(self.default, {**self.nodes, **changed})

    def to_json(self) -> str:
        """The plan as JSON, to be read back with `from_json`.

        {"version": 1, "precision": P, "exceptions": [{"match": M, "precision": P}, ...]}: the default, and a
        rule (see `Rule`) for every node that differs; of several that match a node the last decides.
        """
        exceptions = [{"match": f"tensor:{name}", "precision": precision}
                      for name, precision in self.nodes.items() if precision != self.default]
        return json.dumps({"version": _VERSION, "precision": self.default, "exceptions": exceptions}, indent=1)

    @staticmethod
    def from_json(text: str, model: Model) -> PrecisionPlan:
        """Read a plan, written by `to_json` or by hand, for a model.

        Args:
            text: JSON as `to_json` describes it; "exceptions" may be left out.
            model: whose nodes the exceptions match.

        Raises:
            UsageError: not such JSON, a field or precision that is unknown, or an exception that matches no node.
        """
        try:
            read = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"the plan is not JSON ({error})", _SHAPE) from error
        _only(read, {"version", "precision", "exceptions"})
        if read.get("version", _VERSION) != _VERSION:
            raise UsageError(f"the plan has version {read['version']!r}", f"This parity reads version {_VERSION}.")
        exceptions = read.get("exceptions", [])
        if not isinstance(exceptions, list):
            raise UsageError("the plan's exceptions are not a list", _SHAPE)
        rules = []
        for entry in exceptions:
            _only(entry, {"match", "precision"})
            if not isinstance(entry.get("match"), str):
                raise UsageError(f"an exception of the plan matches {entry.get('match')!r}, which is no text", _SHAPE)
            rules.append(Rule(entry["match"], _precision(entry.get("precision"))))
        return plan_for(model, _precision(read.get("precision")), rules)


_SHAPE = 'Write {"version": 1, "precision": "fp16", "exceptions": [{"match": "op:Softmax", "precision": "fp32"}]}.'


def plan_for(model: Model, precision: Precision, rules: Sequence[Rule] = ()) -> PrecisionPlan:
    """A plan that gives every node of a model one precision, with exceptions.

    A node that cannot have it (no FP16 form, nothing to quantise) keeps FP32 when the variant is made.

    Args:
        model: its local functions are inlined first, as they are when the variant is made.
        precision: of all nodes that no rule matches.
        rules: exceptions; of several that match a node the last decides.

    Raises:
        UsageError: a precision that does not exist, a rule that matches no node, or one that asks for FP16 or BF16
            and matches only nodes that the standard gives no such form.
    """
    graph = inline_functions(model).graph
    nodes = {n.outputs[0]: _precision(precision) for n in all_nodes(graph) if n.outputs}
    by_name = _by_name(graph) if rules else {}
    for rule in rules:
        matched = _matched(graph, by_name, rule.match)
        if not matched:
            raise UsageError(f"the plan names {rule.match!r}, which no node of {model.name} matches",
                             "Give op:TYPE, or the name (or a glob) of a node or of a tensor that it makes; "
                             "`parity inspect MODEL` lists them.")
        _refuse_formless(model, rule, matched)
        nodes.update((n.outputs[0], _precision(rule.precision)) for n in matched)
    return PrecisionPlan(precision, nodes)


def read_plan(model: Model) -> PrecisionPlan:
    """The plan that a model already follows, read from its Q/DQ, its Casts and its element types.

    A node is int8 where one of its inputs comes through DequantizeLinear (directly, or by way of operators that
    only move data), and where it is an integer operator itself; else it is what the first of its outputs is that
    is floating-point, or the first such input of a node that makes none. All else, FP64 included, is fp32.

    Args:
        model: its local functions are inlined first.
    """
    return PrecisionPlan("fp32", dict(_read(read_types(inline_functions(model)), frozenset())))


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Every node of a graph and of the graphs inside it, each before those of its bodies."""
    for node in graph.nodes:
        yield node
        for body in node.subgraphs.values():
            yield from all_nodes(body)


def _read(typed: TypedGraph, dequantized: frozenset[str]) -> Iterator[tuple[str, Precision]]:
    on_grid = set(dequantized)
    for node in typed.graph.nodes:
        op = node.proto.op_type
        if op == "DequantizeLinear" or (op in _MOVES and node.inputs[0] in on_grid):
            on_grid.update(node.outputs)
        integer = op in _INTEGER_OPS or op.startswith(_INTEGER_PREFIXES) or not on_grid.isdisjoint(node.inputs)
        if node.outputs:
            yield node.outputs[0], "int8" if integer else _declared(typed, node)
        for name in node.subgraphs:
            yield from _read(typed.body(node, name), frozenset(on_grid))


def _declared(typed: TypedGraph, node: Node) -> Precision:
    elements = (typed.of(name) for name in (*node.outputs, *node.inputs))
    return next((PRECISION_OF[e] for e in elements if e in PRECISION_OF), "fp32")


def _by_name(graph: Graph) -> dict[str, list[Node]]:
    named: dict[str, list[Node]] = {}
    for node in all_nodes(graph):
        for name in {node.proto.name, *node.outputs} - {""} if node.outputs else ():
            named.setdefault(name, []).append(node)
    return named


def _matched(graph: Graph, by_name: Mapping[str, list[Node]], pattern: str) -> list[Node]:
    if pattern in by_name:
        return by_name[pattern]
    if pattern.startswith("op:"):
        kind = pattern.removeprefix("op:")
        return [n for n in all_nodes(graph)
                if n.outputs and (fnmatchcase(n.op, kind) or fnmatchcase(n.proto.op_type, kind))]
    pattern = pattern.removeprefix("tensor:")
    if pattern in by_name:
        return by_name[pattern]
    found = (n for name, nodes in by_name.items() if fnmatchcase(name, pattern) for n in nodes)
    return list({id(n): n for n in found}.values())


def _refuse_formless(model: Model, rule: Rule, matched: Sequence[Node]) -> None:
    """A rule that asks for what none of its nodes can have is a mistake; a default that some cannot have is not."""
    element = ELEMENT_OF[rule.precision]
    if element in HALVES and not any(n.subgraphs or has_form(n, element) for n in matched):
        node = matched[0]
        raise UsageError(f"{rule.match!r} cannot be {rule.precision}: {node.op} has no such form at opset {node.opset} "
                         f"of {model.name}", "Leave the rule out, or convert the model with onnx.version_converter.")


def _precision(value: object) -> Precision:
    if value not in PRECISIONS:
        raise UsageError(f"{value!r} is no precision", f"Choose one of {', '.join(PRECISIONS)}.")
    return value


def _only(entry: object, fields: set[str]) -> None:
    if not isinstance(entry, dict):
        raise UsageError(f"the plan holds {entry!r} where an object belongs", _SHAPE)
    unknown = entry.keys() - fields
    if unknown:
        raise UsageError(f"the plan has an unknown field {min(unknown)!r}", _SHAPE)
