"""Where the exporter's names point: from a tensor to the activation of the module that its line and owner say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from parity.graph.model import Model
from parity.source_model.kinds import last_of
from parity.source_model.mapping import How
from parity.source_model.place import fx_name, fx_op, place_of
from parity.source_model.trace import Trace

_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Located:
    """An activation that a tensor should be.

    Attributes:
        activation: its name.
        how: what points there.
    """

    activation: str
    how: How


def locate(flat: Model, trace: Trace) -> Mapping[str, Located]:
    """The activations that tensors should be, by the names that the exporter left.

    Nodes of the exporter's program and operators of the run are brought together by module, line and operator, and
    among several there by their order.

    Args:
        flat: the graph.
        trace: of the module.
    """
    found = {output.name: Located(name, How.OUTPUT)
             for output, name in zip(flat.graph.outputs, trace.outputs, strict=False) if name}
    tensors: dict[tuple[_Key, str], list[str]] = defaultdict(list)
    for node in flat.graph.nodes:
        name = fx_name(node)
        # An operator with several results has a name that no tensor bears; the exporter calls those getitem.
        tensor = name if name in node.outputs else next((o for o in node.outputs[:1] if o.startswith("getitem")), "")
        if name and tensor:
            tensors[place_of(node).key, fx_op(node)].append(tensor)
    activations: dict[tuple[_Key, str], list[str]] = defaultdict(list)
    for activation in trace.activations.values():
        activations[activation.place.key, activation.op].append(activation.name)
    for (key, op), names in tensors.items():
        there = next((a for last in last_of(op) if (a := activations.get((key, last)))), [])
        there = [a for a in there if not a.endswith(tuple(f".{i}" for i in range(1, 10)))]
        times = 2 if "scaled_dot" in op else 1  # two products, of which the second is its result
        if len(there) == times * len(names):
            for position, name in enumerate(names):
                found[name] = Located(there[position * times + times - 1], How.NAME)
    return found
