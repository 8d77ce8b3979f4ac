"""Which tensor of one side corresponds to which of the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from parity.errors import MatchError
from parity.graph.graph import Node
from parity.graph.model import Model

# Operators that only pass elements on, with the inputs that they take them from (None: all).
MOVES: Mapping[str, tuple[int, ...] | None] = {
    "Slice": (0,), "Gather": (0,), "GatherND": (0,), "GatherElements": (0,), "Compress": (0,), "Split": (0,),
    "Reshape": (0,), "Transpose": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Flatten": (0,), "Identity": (0,),
    "Expand": (0,), "Tile": (0,), "Where": (1, 2), "Concat": None,
}


def comparable_tensors(model: Model) -> tuple[str, ...]:
    """The tensors worth comparing, in order: computed from the inputs, and read by somebody.

    Masks that Dropout returns are left out: in inference they say nothing.
    """
    graph = model.graph
    results = {o.name for o in graph.outputs}
    return tuple(
        name for node in graph.nodes for position, name in enumerate(node.outputs)
        if name not in model.constants and (name in graph.readers or name in results)
        and not (node.proto.op_type == "Dropout" and position > 0))


def common_names(reference: Iterable[str], candidate: Iterable[str], where: str) -> frozenset[str]:
    """The names that both sides show.

    Raises:
        MatchError: there is none; `where` says which candidate that is.
    """
    reference, candidate = list(reference), frozenset(candidate)
    common = candidate.intersection(reference)
    if not common:
        raise MatchError(f"{where} has no tensor name in common with the reference "
                         f"(reference: {', '.join(reference[:3])}…; candidate: {', '.join(sorted(candidate)[:3])}…)",
                         "Export both from one source, or keep the original's tensor names.")
    return common


def moves_only(model: Model, tensor: str) -> bool:
    """Whether everything that reads a tensor passes elements on, so that some may be left behind."""
    readers = model.graph.readers.get(tensor, ())
    results = {o.name for o in model.graph.outputs}
    return bool(readers) and tensor not in results and all(takes(node, tensor) for node in readers)


def takes(node: Node, tensor: str) -> bool:
    """Whether a node only passes on the elements that it takes from a tensor."""
    if node.op not in MOVES:
        return False
    positions = MOVES[node.op]
    used = [i for i, n in enumerate(node.inputs) if n == tensor]
    return positions is None or all(i in positions for i in used)


def draws_randomly(op_type: str, *, training: bool) -> bool:
    """Whether an operator draws random numbers, which no two runtimes draw alike; Dropout does in training."""
    return op_type.startswith(("Random", "Bernoulli", "Multinomial")) or (op_type == "Dropout" and training)
