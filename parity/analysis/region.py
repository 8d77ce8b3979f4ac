"""Where a side hides tensors: the nodes among which a fault may be that only shows after them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from parity.graph.graph import Node
from parity.graph.model import Model


@dataclass(frozen=True)
class Region:
    """Nodes that show nothing but their last tensor.

    Attributes:
        nodes: of the reference, in order, the one that makes the visible tensor last.
        after: the visible tensors that they read.
    """

    nodes: tuple[Node, ...]
    after: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The first output of each node."""
        return tuple(node.outputs[0] for node in self.nodes)


def region_of(node: Node, variant: Model, reference: Model, hidden: Collection[str]) -> Region | None:
    """The nodes between the tensors that are visible and the output of one of them.

    Args:
        node: of the variant; its outputs are visible.
        variant: the graph that ran.
        reference: the user's graph; what only the variant has is its own small change, and not named.
        hidden: the tensors that are not visible.

    Returns:
        None where no other node of the reference is among them.
    """
    found, after = {node.index: node}, dict[str, None]()
    waiting = [node]
    while waiting:
        for name in waiting.pop().reads:
            maker = variant.graph.producer.get(name)
            if name not in hidden:
                after.update({} if name in variant.constants else {name: None})
            elif maker is not None and maker.index not in found:
                found[maker.index] = maker
                waiting.append(maker)
    known = [found[i] for i in sorted(found) if i == node.index or found[i].outputs[0] in reference.graph.producer]
    return Region(tuple(known), tuple(after)) if len(known) > 1 else None
