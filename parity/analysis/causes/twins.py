"""A node of what the candidate should run beside the same node in the candidate's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from parity.analysis.causes.evidence import Bench, Evidence
from parity.analysis.causes.unit import Unit
from parity.graph.graph import Node
from parity.graph.model import Model

_COMMUTATIVE = frozenset({"Add", "Mul"})


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


@dataclass(frozen=True)
class Pairs:
    """Which node of the candidate's file stands for which one of a unit.

    Attributes:
        nodes: of the file, by the first output of the unit's.
        names: what the file calls a tensor of the unit.
    """

    nodes: Mapping[str, Node]
    names: Mapping[str, str]

    def twin(self, node: Node) -> Node | None:
        """The node of the file that stands for one by the same operator; None where there is none."""
        found = self.nodes.get(node.outputs[0]) if node.outputs else None
        return found if found is not None and found.op == node.op else None


def paired(unit: Unit, file: Bench) -> Pairs:
    """Pair a unit with the candidate's file, from the tensor that both make up to what they read.

    Tensors that both have by name are the same; where the file calls one otherwise, or hands it on through an
    Identity, it is the one that the same operator reads in the same place.

    Args:
        unit: of what the candidate should run.
        file: of the candidate.
    """
    own, made = file.model, {o: node for node in unit.nodes for o in node.outputs}
    nodes: dict[str, Node] = {}
    names: dict[str, str] = {}
    stack = [(unit.tensor, unit.tensor)]
    while stack:
        ours, theirs = stack.pop()
        theirs = behind(own, ours if ours in own.graph.producer else theirs)
        node, other = made.get(ours), own.graph.producer.get(theirs)
        if node is None or other is None or ours in names:
            continue
        names[ours] = theirs
        nodes.setdefault(node.outputs[0], other)
        alike = zip(node.inputs, other.inputs, strict=False) if node.op == other.op else ((n, n) for n in node.inputs)
        stack.extend(alike)
    return Pairs(nodes, names)


def behind(model: Model, name: str) -> str:
    """The tensor that Identity hands on under a name."""
    node = model.graph.producer.get(name)
    while node is not None and node.op == "Identity":
        name = node.inputs[0]
        node = model.graph.producer.get(name)
    return name


@dataclass(frozen=True, eq=False)
class Twins:
    """Two nodes that make the same tensor."""

    evidence: Evidence
    unit: Unit
    file: Bench
    node: Node
    other: Node
    names: Mapping[str, str]

    @property
    def read_alike(self) -> bool:
        """Whether the two read the same tensors, constants aside."""
        ours = [self._theirs(n) for n in self.node.inputs if n and n not in self.unit.bench.constants]
        return ours == [behind(self.file.model, n) for n in self.other.inputs if n and n not in self.file.constants]

    def _theirs(self, ours: str) -> str:
        """What the file calls a tensor of ours."""
        return behind(self.file.model, self.names.get(ours, ours))

    def own_name(self, position: int) -> str:
        """What a tensor that only the file has is called when it is put in place."""
        return f"{self.node.outputs[0]}/own{position}"

    @property
    def operands(self) -> list[tuple[str, str]]:
        """The inputs of both, an omitted one as the empty string."""
        many = max(len(self.node.inputs), len(self.other.inputs))
        ours, theirs = ([*n.inputs, *[""] * (many - len(n.inputs))] for n in (self.node, self.other))
        crossed = self.node.op in _COMMUTATIVE and many == 2 and any(
            self.same(a, b) for a, b in zip(ours, theirs[::-1], strict=True))
        return list(zip(ours, theirs[::-1] if crossed else theirs, strict=True))

    def same(self, ours: str, theirs: str) -> bool:
        """Whether two inputs are the same tensor, or constants of the same value."""
        if ours not in self.unit.bench.constants or theirs not in self.file.constants:
            fixed = ours in self.unit.bench.constants or theirs in self.file.constants
            return not fixed and self._theirs(ours) == behind(self.file.model, theirs)
        one, other = self.unit.bench.constant(ours), self.file.constant(theirs)
        if one is None or other is None or one.dtype.kind not in "fiubV" or other.dtype.kind not in "fiubV":
            return one is other or (one is not None and other is not None and np.array_equal(one, other))
        return np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True)


def formal_name(node: Node, position: int) -> str:
    """What the operator calls an input."""
    try:
        inputs = onnx.defs.get_schema(node.proto.op_type, node.opset, node.domain).inputs
    except onnx.defs.SchemaError:
        return "input"
    return inputs[position].name if position < len(inputs) else "input"
