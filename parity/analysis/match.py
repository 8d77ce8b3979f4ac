"""Which tensor of one side corresponds to which of the other."""

from __future__ import annotations

from collections.abc import Iterable

from parity.errors import MatchError
from parity.graph.model import Model


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
