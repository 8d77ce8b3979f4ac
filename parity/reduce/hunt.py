"""The hunt for the smallest part that shows a symptom on the target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from parity.errors import ModelError
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.reduce.expect import by_floor, by_limit
from parity.reduce.locate import Symptom
from parity.reduce.part import Part, Whole, ancestors, around
from parity.reduce.search import shortened, without_single_ones
from parity.reduce.sides import Sides
from parity.reduce.trials import Shown, Trials

# Given a part: what it shows, if it shows the fault.
Look = Callable[[Part], Shown | None]


class Hunt:
    """One whole, looked at in parts.

    Attributes:
        best: the last part that showed the fault.
    """

    def __init__(self, whole: Whole, look: Look) -> None:
        """Nothing has been looked at yet."""
        self.best: Shown | None = None
        self._whole = whole
        self._look = look
        self._seen: dict[object, bool] = {}

    def shows(self, indices: Collection[int], outputs: Collection[str] = (), *, folded: bool = True) -> bool:
        """Whether some nodes show the fault; asked again, nothing runs."""
        asked = frozenset(indices), tuple(outputs), folded
        if asked not in self._seen:
            try:
                shown = self._look(self._whole.part(indices, outputs, folded=folded))
            except ModelError:  # it cannot be cut there
                shown = None
            self.best = shown or self.best
            self._seen[asked] = shown is not None
        return self._seen[asked]

    def trim(self, indices: Collection[int], outputs: Collection[str] = ()) -> None:
        """Leave away what can go of nodes that show it: both ends, what only makes right outputs, single ones."""
        nodes = shortened(sorted(indices), lambda some: self._still(some, outputs))
        if self.best is not None and len(self.best.part.outputs) > 1:
            broken = tuple(e.tensor for e in self.best.broken[:1])
            needed = [i for i in ancestors(self._whole.reference, broken) if i in nodes]
            if self.shows(needed, broken):
                nodes, outputs = shortened(needed, lambda some: self._still(some, broken)), broken
        without_single_ones(nodes, lambda some: self._still(some, outputs))

    def _still(self, indices: Collection[int], outputs: Collection[str]) -> bool:
        """Whether fewer nodes show it: at these outputs while they are made, else at whatever leaves the nodes."""
        made = {self._whole.reference.graph.producer[o].index for o in outputs}
        return self.shows(indices, outputs if made <= set(indices) else ())


@dataclass(frozen=True, eq=False)
class Found:
    """The smallest part that was found.

    Attributes:
        shown: the part.
        look: how other parts are told to show the same.
        limited: it is off by more than the outputs' tolerance; else by more than rounding explains, or it fails.
    """

    shown: Shown
    look: Look
    limited: bool = False


def smallest(sides: Sides, model: Model, symptom: Symptom, trials: Trials) -> Found | None:
    """The smallest part found that shows a symptom; None where none does.

    Args:
        sides: the graphs.
        model: the reference, as the user handed it in.
        symptom: what to look for.
        trials: runs parts, as many as there may be.
    """
    judged = Whole(sides.candidate, sides.judge, symptom.values, drawing=symptom.failure is not None)
    limited = Whole(sides.candidate, sides.reference, symptom.values)
    floor: Look = partial(trials.breaks, rule=by_floor)
    limit: Look = partial(trials.breaks, rule=partial(by_limit, limit=symptom.limit))
    if symptom.kind == "floor":
        return _found(_from_tensor(judged, symptom.tensors[0], floor, forward=True), floor)
    if symptom.kind == "limit":
        return _found(_from_tensor(limited, symptom.tensors[0], limit, forward=False), limit, limited=True)
    wholes = list(_wholes(judged, sides, model))
    if symptom.failure is not None:
        fails: Look = partial(trials.fails, rule=by_floor, like=symptom.failure)
        return _found(_first(_failing(whole, symptom.failure.message, fails) for whole in wholes), fails)
    output = symptom.tensors[:1]
    found = _found(_first(_from_end(whole, output, floor) for whole in wholes), floor)
    return found or _found(_from_end(limited, output, limit), limit, limited=True)


def _found(shown: Shown | None, look: Look, *, limited: bool = False) -> Found | None:
    return None if shown is None else Found(shown, look, limited)


def _first(found: Iterator[Shown | None]) -> Shown | None:
    return next((shown for shown in found if shown is not None), None)


def _wholes(flat: Whole, sides: Sides, model: Model) -> Iterator[Whole]:
    """The graph as it is watched, then as it is deployed where that has branches."""
    yield flat
    if sides.judge is sides.reference and any(n.op == "If" for n in sides.deployed.graph.nodes):
        yield Whole(inline_functions(sides.deployed), inline_functions(model), flat.values, flat.drawing)


def _from_tensor(whole: Whole, tensor: str, look: Look, *, forward: bool) -> Shown | None:
    """The node of a tensor alone, else with more and more of the neighbours that a runtime may fuse it with."""
    hunt, reference = Hunt(whole, look), whole.reference
    alone = around(reference, tensor, 0, 0)
    if hunt.shows(alone, [tensor]) or hunt.shows(alone, [tensor], folded=False):
        return hunt.best
    everything, seen = frozenset(ancestors(reference, [tensor])), alone
    for back, ahead in _generations(len(reference.graph.nodes), forward=forward):
        nodes = around(reference, tensor, back, ahead)
        outputs = () if ahead else (tensor,)
        if nodes != seen and hunt.shows(nodes, outputs):
            hunt.trim(nodes, outputs)
            break
        if not forward and nodes >= everything:
            break
        seen = nodes
    return hunt.best


def _generations(nodes: int, *, forward: bool) -> Iterator[tuple[int, int]]:
    """How far to look each time: producers first, then readers too, ever further."""
    yield 1, 0
    reach = 1
    while reach <= nodes:
        if forward:
            yield reach, reach
        elif reach > 1:
            yield reach, 0
        reach *= 2
    yield nodes, nodes if forward else 0


def _from_end(whole: Whole, outputs: Sequence[str], look: Look) -> Shown | None:
    """All that an output is computed by, then less and less of it."""
    hunt, nodes = Hunt(whole, look), ancestors(whole.reference, outputs)
    if nodes and hunt.shows(nodes, outputs):
        hunt.trim(nodes, outputs)
    return hunt.best


def _failing(whole: Whole, message: str, look: Look) -> Shown | None:
    """The nodes that a failure's message names, else all, then less and less of them."""
    hunt, graph = Hunt(whole, look), whole.reference.graph
    named = [n for n in graph.nodes if any(len(w) > 2 and w in message for w in (n.proto.name, *n.outputs))]
    if any(hunt.shows([n.index]) for n in named[:3]):
        return hunt.best
    nodes = ancestors(whole.reference, [o.name for o in graph.outputs])
    if nodes and hunt.shows(nodes):
        hunt.trim(nodes)
    return hunt.best
