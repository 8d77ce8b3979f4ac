"""Rewrite unstable formulas: what overflows, underflows or cancels in a narrow format, though its result would not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnx import NodeProto

from parity.fixes import identities, spectra
from parity.fixes.edits import GraphEdit
from parity.fixes.match import Neighbourhood
from parity.fixes.patch import Patch
from parity.graph.graph import Graph, Node
from parity.graph.model import Model

Identity: TypeAlias = Callable[[Neighbourhood, Node], "list[NodeProto] | None"]


@dataclass(frozen=True)
class Pattern:
    """A formula and what takes its place.

    Attributes:
        before: as it is found.
        after: as it is computed then.
        identity: finds it, and gives the nodes that take its place.
    """

    before: str
    after: str
    identity: Identity


PATTERNS: tuple[Pattern, ...] = (
    Pattern("Log(Softmax(x))", "LogSoftmax(x)", identities.log_softmax),
    Pattern("Log(ReduceSum(Exp(x)))", "ReduceLogSumExp(x)", identities.log_sum_exp),
    Pattern("Log(1 + Exp(x))", "Softplus(x)", identities.softplus),
    Pattern("Log(Sigmoid(x))", "-Softplus(-x)", identities.log_sigmoid),
    Pattern("Exp(x)/ReduceSum(Exp(x))", "Softmax(x)", identities.softmax),
    Pattern("1/(1 + Exp(-x))", "Sigmoid(x)", identities.sigmoid),
    Pattern("(Exp(x) - Exp(-x))/(Exp(x) + Exp(-x))", "Tanh(x)", identities.tanh),
    Pattern("(x - mean)/Sqrt(variance + epsilon)", "LayerNormalization(x)", identities.layer_norm),
    Pattern("mean(x²) - mean(x)²", "mean((x - mean)²)", identities.variance),
    Pattern("Sqrt(ReduceSum(x²))", "ReduceL2(x)", identities.norm),
    Pattern("Sqrt(a² + b² + ε)", "the same of terms divided by the largest", spectra.magnitude),
    Pattern("Log(a² + b² + ε)", "twice the logarithm of the root", spectra.log_power),
    Pattern("Softmax with a mask that FP16 cannot hold", "the same with -65504", identities.mask),
)


def rewrites(model: Model) -> list[Patch]:
    """Models in which unstable formulas are written as operators, or otherwise, equal in real arithmetic.

    Args:
        model: flat.

    Returns:
        Where several kinds of formula are found, first a patch for all of them, then one for each kind; empty where
        there is none. No formula is matched across tensors that are not FP32.
    """
    together, found = _rewritten(model, PATTERNS)
    if not found:
        return []
    kinds = [p for p in PATTERNS if p in found.values()]
    patches = [_patch(together, found, kinds)]
    if len(kinds) > 1:
        patches.extend(_patch(*_rewritten(model, [kind]), [kind]) for kind in kinds)
    return patches


def _patch(model: Model, found: dict[str, Pattern], kinds: Sequence[Pattern]) -> Patch:
    counts = Counter(found.values())
    parts = [f"{p.before} becomes {p.after}" + (f" ({counts[p]} times)" if counts[p] > 1 else "") for p in kinds]
    return Patch("rewrite", "; ".join(parts) + ".", tuple(found), model, tuple(p.before for p in kinds))


def rewritten(model: Model, formulas: Collection[str]) -> Model:
    """The model with some kinds of formula rewritten, as a patch of `rewrites` that names them has it.

    Args:
        model: flat.
        formulas: named as in PATTERNS.
    """
    return _rewritten(model, [p for p in PATTERNS if p.before in formulas])[0]


def _rewritten(model: Model, patterns: Sequence[Pattern]) -> tuple[Model, dict[str, Pattern]]:
    """The model with every formula exchanged, the larger before those inside it; and the tensors that they make."""
    edit = GraphEdit(model)
    near, alive = Neighbourhood(model, edit), _Alive(model.graph)
    found: dict[str, Pattern] = {}
    for node in reversed(model.graph.nodes):
        if not node.outputs or model.constants.issuperset(node.outputs) or node not in alive:
            continue
        if not near.is_float(node.outputs[0]):
            continue
        for pattern in patterns:
            made = pattern.identity(near, node)
            if made:
                edit.replace(node, made)
                alive.exchange(node, made)
                found[node.outputs[0]] = pattern
                break
    return (edit.done() if found else model), dict(reversed(found.items()))


class _Alive:
    """Which nodes of a graph are still needed while some are exchanged."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._reads = Counter(n for node in graph.nodes for n in node.reads)
        self._reads.update(o.name for o in graph.outputs)
        self._idle = {o for node in graph.nodes for o in node.outputs if not self._reads[o]}

    def __contains__(self, node: Node) -> bool:
        return any(self._reads[o] > 0 or o in self._idle for o in node.outputs)

    def exchange(self, node: Node, made: Sequence[NodeProto]) -> None:
        """Note that other nodes stand in the place of one."""
        self._reads.update({n for proto in made for n in proto.input if n})
        waiting = [node]
        while waiting:
            for name in waiting.pop().reads:
                self._reads[name] -= 1
                maker = self._graph.producer.get(name)
                if maker is not None and maker not in self:
                    waiting.append(maker)
