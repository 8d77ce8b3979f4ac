"""A node of what the candidate should run beside the same node in the candidate's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from parity.analysis.causes.evidence import Bench, Evidence
from parity.analysis.causes.unit import Unit
from parity.graph.graph import Node

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


def twin(evidence: Evidence, node: Node) -> Node | None:
    """The node of the candidate's file that makes the same tensor by the same operator; None where there is none."""
    found = None if evidence.own is None or not node.outputs else evidence.own.graph.producer.get(node.outputs[0])
    return found if found is not None and found.op == node.op else None


@dataclass(frozen=True, eq=False)
class Twins:
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
        crossed = self.node.op in _COMMUTATIVE and many == 2 and any(
            self.same(a, b) for a, b in zip(ours, theirs[::-1], strict=True))
        return list(zip(ours, theirs[::-1] if crossed else theirs, strict=True))

    def same(self, ours: str, theirs: str) -> bool:
        """Whether two inputs are the same tensor, or constants of the same value."""
        if ours not in self.unit.bench.constants or theirs not in self.file.constants:
            return ours == theirs and ours not in self.unit.bench.constants and theirs not in self.file.constants
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
