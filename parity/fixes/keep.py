"""Keep layers in higher precision: which belong together, which come first, and the plan that says so."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from parity.analysis.tolerance import EXACT
from parity.graph.model import Model
from parity.graph.ops.call import FLOATS, HALVES
from parity.precision.mixture import Mixture, Unit
from parity.precision.plan import Precision, PrecisionPlan, all_nodes


@dataclass(frozen=True)
class Group:
    """Layers that are kept together, or not at all.

    Attributes:
        layers: their first outputs: a layer that computes, and those behind it that only hand its values on.
    """

    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The layer that computes."""
        return self.layers[0]


def groups_of(mixture: Mixture) -> tuple[Group, ...]:
    """Every layer of a mixture, the exact operators glued to what makes the one tensor that they read.

    Keeping a layer in FP32 whose result is rounded by the Reshape behind it would change nothing.
    """
    home: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    layers = set(mixture.layers)
    for unit in mixture.units:
        if unit.name not in layers:
            continue
        source = unit.node.inputs[0] if unit.node.inputs else ""
        glued = unit.node.op in EXACT and source in home and len(_computed(mixture, unit)) == 1
        head = home[source] if glued else unit.name
        members.setdefault(head, []).append(unit.name)
        home.update(dict.fromkeys(unit.node.outputs, head))
    return tuple(Group(tuple(found)) for found in members.values())


def _computed(mixture: Mixture, unit: Unit) -> list[str]:
    return [n for n in unit.node.reads if n not in mixture.reference.constants]


def largest(mixture: Mixture) -> dict[str, float]:
    """The greatest finite magnitude of every floating-point tensor that the model makes, over all feeds."""
    found: dict[str, float] = {}
    for place in range(len(mixture.feeds)):
        for made in mixture.steps(place, mixture.layers):
            for name, value in made.items():
                if isinstance(value, torch.Tensor) and value.dtype in FLOATS and value.numel():
                    magnitude = float(value.abs().nan_to_num(0, 0, 0).max())
                    found[name] = max(magnitude, found.get(name, 0.0))
    return found


def overflowing(mixture: Mixture) -> dict[str, float]:
    """Tensors beyond the range of the 16-bit type that the variant has them in, with their largest magnitude."""
    if not any(mixture.low_dtype(unit.name) in HALVES for unit in mixture.units):
        return {}
    return {name: magnitude for name, magnitude in largest(mixture).items()
            if (dtype := mixture.low_dtype(name)) in HALVES and magnitude > torch.finfo(dtype).max}


def touching(mixture: Mixture, tensors: Collection[str]) -> set[str]:
    """The layers that make or read one of these tensors."""
    found = set(tensors)
    return {u.name for u in mixture.units
            if u.low and not (found.isdisjoint(u.node.outputs) and found.isdisjoint(u.reads))}


def ranked(groups: Sequence[Group], prices: Mapping[str, float]) -> list[Group]:
    """Groups by what their layers do to the outputs together, the largest first; of equals the earlier."""
    def price(group: Group) -> float:
        return math.sqrt(sum(min(prices.get(layer, 0.0), 1e150) ** 2 for layer in group.layers))

    return sorted(groups, key=price, reverse=True)


def plan_with(plan: PrecisionPlan, model: Model, flat: Model, layers: Collection[str],
              precision: Precision) -> PrecisionPlan:
    """The plan with some layers, the nodes inside of them, and what computes their constants, in higher precision.

    Args:
        plan: of the variant.
        model: functions inlined, of the same nodes; layers may lie inside its bodies.
        flat: the same with branches inlined, where the nodes inside an If are layers of their own.
        layers: first outputs of the flat model's nodes.
        precision: what to keep them in.
    """
    makers = {name: node for node in all_nodes(model.graph) for name in node.outputs}
    inlined = {name for name in layers if makers[name].op == "If" and flat.graph.producer[name].op != "If"}
    kept = {makers[layer].outputs[0] for layer in layers}
    stack = [makers[layer] for layer in layers if layer not in inlined]
    while stack:
        node = stack.pop()
        kept.update(n.outputs[0] for body in node.subgraphs.values() for n in all_nodes(body) if n.outputs)
        for name in node.reads:
            maker = model.graph.producer.get(name)
            if maker is not None and name in model.constants and maker.outputs[0] not in kept:
                kept.add(maker.outputs[0])
                stack.append(maker)
    return plan.keep(sorted(kept), precision)
