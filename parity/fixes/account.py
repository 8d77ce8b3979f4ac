"""What a fix is told as: the layers it keeps and why, what they cost, and the same decision in other tools' words."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from parity.fixes.attempt import Emulation
from parity.fixes.fix import CurvePoint, KeptLayer
from parity.fixes.keep import Group
from parity.graph.costs import Cost, costs, shapes_of, shares
from parity.precision.plan import Precision


@dataclass(frozen=True)
class Account:
    """What is known of the layers of one attempt.

    Attributes:
        emulation: the attempt.
        prices: relative L2 error of the outputs with one layer alone in low precision, by layer.
        beyond: the largest magnitude of tensors that the low precision cannot hold.
        costs: multiply-adds and weight bytes, by first output of every node.
    """

    emulation: Emulation
    prices: Mapping[str, float]
    beyond: Mapping[str, float]
    costs: Mapping[str, Cost]

    @staticmethod
    def of(emulation: Emulation, prices: Mapping[str, float], beyond: Mapping[str, float]) -> Account:
        """Count what the nodes of an attempt's model cost on its first feed."""
        model, feed = emulation.mixture.reference, emulation.mixture.feeds[0]
        known = emulation.mixture.shapes or shapes_of(model, feed)
        return Account(emulation, prices, beyond, costs(model, known))

    @property
    def operations(self) -> int:
        """Multiply-adds of one trial."""
        return sum(cost.operations for cost in self.costs.values()) * len(self.emulation.mixture.feeds)

    def shares(self, layers: Collection[str]) -> tuple[float, float]:
        """The share of multiply-adds, and of weight bytes, that some layers have of all."""
        return shares(self.costs, layers)

    def kept(self, groups: Sequence[Group], precision: Precision) -> tuple[KeptLayer, ...]:
        """Every layer of some groups, in the model's order, with why it is kept."""
        producer = self.emulation.mixture.reference.graph.producer
        heads = {layer: group.name for group in groups for layer in group.layers}
        found = [producer[layer] for layer in heads]
        return tuple(KeptLayer(node.outputs[0], node.proto.name, node.op, precision, self._why(node.outputs[0], heads))
                     for node in sorted(found, key=lambda n: n.index))

    def hardest(self, layers: Sequence[str]) -> list[str]:
        """The layers to train: those that were kept, or where none was, the dearest tenth."""
        dearest = sorted(self.prices, key=lambda layer: self.prices[layer], reverse=True)
        return list(layers) or dearest[:max(1, len(dearest) // 10)]

    def _why(self, layer: str, heads: Mapping[str, str]) -> str:
        node = self.emulation.mixture.reference.graph.producer[layer]
        touched = [n for n in (*node.outputs, *node.reads) if n in self.beyond]
        low = self.emulation.problem.target.precision.upper()
        if touched:
            name = max(touched, key=lambda n: self.beyond[n])
            return f"{name!r} reaches {self.beyond[name]:.3g}, which {low} cannot hold"
        if heads[layer] != layer:
            return f"it hands on what {heads[layer]!r} makes"
        price = self.prices.get(layer, 0.0)
        if not math.isfinite(price):
            return f"alone in {low} it makes the outputs non-finite"
        return f"alone in {low} it moves the outputs by {price:.2g} (relative L2)"

    def curve(self, tried: Mapping[frozenset[str], float]) -> tuple[CurvePoint, ...]:
        """Layers kept against error, as far as it was tried: of every number the best.

        Args:
            tried: the error of every set of groups, named by their first layers.
        """
        members = {group.name: group.layers for group in self.emulation.groups}
        best: dict[int, tuple[float, frozenset[str]]] = {}
        for names, error in tried.items():
            layers = frozenset(layer for name in names for layer in members[name])
            if len(layers) not in best or error < best[len(layers)][0]:
                best[len(layers)] = error, layers
        return tuple(CurvePoint(count, error, *self.shares(layers)) for count, (error, layers) in sorted(best.items()))
