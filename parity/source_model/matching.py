"""Make the map: walk the ONNX graph in FP64 on the module's own values, and look for what each node makes.

Because every node is evaluated on the module's values of its inputs, a difference does not spread, and a node that the
export got wrong is the only one that disagrees. Where several activations have the values of a tensor, a second run on
other inputs, then the graph around them and the user's line decide; where nothing does, the tensor stays unmatched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
import torch

from parity.errors import ModelError
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Value
from parity.source_model.evidence import MOVES, Evidence, Stage
from parity.source_model.fits import TOLERANCE, Fit, Fits
from parity.source_model.layout import Layout, distance, nearest_layout
from parity.source_model.mapping import Fault, How, Match, TensorMap
from parity.source_model.naming import Located, locate
from parity.source_model.origin import strayed, traced_back
from parity.source_model.place import Place, place_of
from parity.source_model.sides import Side
from parity.source_model.trace import Trace

Arrays = Mapping[str, np.ndarray]
# What a constant rounded to FP32 moves; beyond it an agreement may be what is left of a fault upstream.
_ROUNDED = 1e-7
# Their outputs are sums of so many products that none is equal to another by chance.
_HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Einsum", "Attention",
                    "MultiHeadAttention", "FusedConv"})


def map_tensors(flat: Model, feed: Arrays, trace: Trace, control_feed: Arrays | None = None,
                control: Trace | Callable[[], Trace | None] | None = None,
                located: Mapping[str, Located] | None = None, *, strict: bool = True) -> TensorMap:
    """The map of an ONNX graph onto one run of the module that it was exported from.

    Args:
        flat: functions and branches inlined.
        feed: of the graph.
        trace: of the module in FP64 on the same feed.
        control_feed: another feed.
        control: the module on it; or what runs it, where that is not to be done unless several activations are equal.
        located: what tensors should be by their names; None for what the exporter's metadata say.
        strict: look at the other feed for every tensor, and not only for those that several activations may be.

    Raises:
        ModelError: the graph does not run.
    """
    matches: dict[str, Match] = {}
    main = Side(flat, feed, trace, matches)

    def second() -> Side | None:
        made = control() if callable(control) else control
        return None if made is None or control_feed is None else Side(flat, control_feed, made, matches, main)

    return _Matcher(main, second, matches, locate(flat, trace) if located is None else located, strict=strict).run()


class _Matcher:
    """One walk along the graph."""

    def __init__(self, main: Side, second: Callable[[], Side | None], matches: dict[str, Match],
                 located: Mapping[str, Located], *, strict: bool) -> None:
        self.flat, self.trace = main.flat, main.trace
        self.main, self.matches, self.located, self.strict = main, matches, located, strict
        self._second = second
        self.evidence = Evidence(self.flat, self.trace, matches)
        self.fits = Fits(self.trace)
        self.places: dict[str, Place] = {}

    @cached_property
    def control(self) -> Side | None:
        """The graph on the other feed, once something asks for it; None where there is none."""
        return self._second()

    def run(self) -> TensorMap:
        """Match what can be matched, then what was ambiguous, with the rest of the graph known."""
        self._match_inputs()
        wanted = _wanted(self.flat)
        waiting: list[tuple[Node, str]] = []
        for node in self.flat.graph.nodes:
            for name, value in self.main.evaluate(node).items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and name in wanted and value.numel():
                    self.places[name] = place_of(node)
                    self.evidence.note(node, name, value.numel())
                    if not self._match(node, name, value, Stage.WALK):
                        waiting.append((node, name))
        for stage in (Stage.AGREE, Stage.LAST):
            before = len(waiting) + 1
            while len(waiting) < before:  # one that is told apart tells others apart
                before = len(waiting)
                waiting = [(node, name) for node, name in reversed(waiting)  # what is below first
                           if not self._match(node, name, cast("torch.Tensor", self.main.own[name]), stage)][::-1]
        for node, name in waiting:
            if (lost := self._lost(node, name)) is not None:
                self.matches[name] = lost
        if self.strict and self.control is not None:
            self.matches.update((m.tensor, m) for m in strayed(self.control, self.matches, TOLERANCE))
        ordered = {name: self.matches[name] for name in self.places if name in self.matches}
        places = {n: ordered[n].place if n in ordered else p for n, p in self.places.items()}
        asked = self.control if "control" in vars(self) else None
        spent = 1 + (asked.evaluated / max(self.main.evaluated, 1) if asked else 0)
        return TensorMap(ordered, places, spent, 1 if asked is None else 2, self._fault(ordered))

    def _fault(self, ordered: Mapping[str, Match]) -> Fault | None:
        """The first disagreement, and where it begins."""
        first = next((m for m in ordered.values() if not m.agrees), None)
        if first is None:
            return None
        telling = {n for n, m in self.matches.items() if m.error <= _ROUNDED and self._depends(m.activation)}
        return traced_back(self.main, self.matches, frozenset(self.places), telling, first, self._is_right)

    def _is_right(self, name: str, value: Value) -> bool:
        """Whether a value is what the module has for a tensor; where none is known for it, whether it has it at all."""
        match = self.matches[name]
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return False
        roots = (self.fits.roots(value) if match.how is How.POSITION
                 else [self.trace.activations[match.activation].root])
        return any(self.fits.one(m, value) for root in roots for m in self.trace.members[root])

    def _depends(self, activation: str) -> bool:
        """Whether an activation is another one on other inputs; what is clipped to zero is not, and tells nothing."""
        if self.control is None:
            return True
        held, other = (trace.values.get(activation) for trace in (self.trace, self.control.trace))
        return held is None or other is None or held.shape != other.shape or distance(held, other) > TOLERANCE

    def _match(self, node: Node, name: str, value: torch.Tensor, stage: Stage) -> bool:
        """Find the activation of a tensor."""
        found = self._by_place(node, name, value)
        if found is None:
            equal = self._equal(node, name, value)
            found = self._chosen(node, name, equal, stage) if equal else self._disagreeing(node, name, value)
        if found is not None and found.how is How.PERMUTED and name in self.located:  # its axes are not the module's
            found = self._disagreeing(node, name, value) or found
        if found is not None:
            self.matches[name] = found
            self.evidence.claim(found)
        return found is not None

    def _match_inputs(self) -> None:
        for spec in self.flat.graph.inputs:
            value = self.main.own[spec.name]
            if isinstance(value, torch.Tensor) and spec.name in self.trace.activations:
                match = Match(spec.name, spec.name, How.NAME, Layout.plain(tuple(value.shape)), 0.0, 0.0, agrees=True,
                              place=Place())
                self.matches[spec.name] = match
                self.evidence.claim(match)

    def _by_place(self, node: Node, name: str, value: torch.Tensor) -> Match | None:
        """The activation that the exporter's names point to, if it has the values."""
        located = self.located.get(name)
        fit = None if located is None else self.fits.one(located.activation, value)
        if located is None or fit is None:
            return None
        if node.op in _HEAVY or not self.strict:  # a product of other operands is another on these inputs, too
            return self._made(name, located.how, fit)
        fit = replace(fit, control=self._control(name, fit.activation, fit.layout))
        return None if fit.control is not None and fit.control > TOLERANCE else self._made(name, located.how, fit)

    def _equal(self, node: Node, name: str, value: torch.Tensor) -> dict[str, Fit]:
        """The roots that have the values, on both inputs where that was asked."""
        found = self.fits.roots(value)
        fits = {root: fit for root in found if (fit := self.fits.any(root, value)) is not None}
        best = min((fit.error for fit in fits.values()), default=0.0)
        fits = {root: fit for root, fit in fits.items() if fit.error <= 30 * best + 1e-13}
        taken = any(self.evidence.claimed.get(root, set()) - {self.evidence.root(name)} for root in fits)
        if len(fits) == 1 and not taken and (node.op in _HEAVY or not self.strict):
            return fits
        fits = {r: replace(f, control=self._control(name, f.activation, f.layout)) for r, f in fits.items()}
        return {root: fit for root, fit in fits.items() if fit.control is None or fit.control <= TOLERANCE}

    def _chosen(self, node: Node, name: str, equal: Mapping[str, Fit], stage: Stage) -> Match | None:
        """The one of several equal ones that the tensor is, where it can be told."""
        if self.evidence.early(name, equal, stage):
            return None
        chosen = self.evidence.decide(node, name, list(equal), stage)
        if chosen is None:
            return None
        fit, place, how = equal[chosen], place_of(node), How.VALUE
        if tuple(self.trace.values[fit.activation].shape) != fit.layout.shape and fit.layout.moves:
            how = How.PERMUTED
        elif place.module and not place.file and place.module == self.evidence.owner(fit.activation):
            how = How.SCOPE
        return self._made(name, how, fit)

    def _disagreeing(self, node: Node, name: str, value: torch.Tensor) -> Match | None:
        """The activation that the tensor should be, though it has other values: the export is wrong here."""
        located = self.located.get(name)
        if located is not None:
            activation, how = located.activation, located.how
        else:
            there = [r for r in self.evidence.open_below(name, value.numel())
                     if r in self.trace.values and self._mends(name, value, _laid(self.trace.values[r], value))]
            root = self.evidence.decide(node, name, there, Stage.WALK)
            if root is None and there and all(self.fits.one(r, self.trace.values[there[-1]]) for r in there):
                root = there[-1]  # they are equal, as a normalisation's steps are where its weights are ones
            if root is None:
                return None
            activation, how = root, How.POSITION
        held = self.trace.values.get(activation)
        if held is None or held.numel() != value.numel():
            return None
        if how is How.POSITION:  # its neighbours say which it is, and not in what order of elements
            layout, apart = nearest_layout(held, value)
        else:
            shape = tuple(held.shape) if sorted(held.shape) == sorted(value.shape) else tuple(value.shape)
            layout, apart = Layout.plain(shape), distance(held, value)
        return replace(self._made(name, how, Fit(activation, layout, apart, None)), agrees=False)

    def _lost(self, node: Node, name: str) -> Match | None:
        """The one activation that no tensor is, of the same module and by the same kind of product, though it differs.

        What makes up for the difference further on, as a normalisation does for a bias, hides it from all that follows.
        """
        floats = [n for n in node.reads if n in self.places]
        if node.op not in _HEAVY or not place_of(node).module or any(n not in self.matches for n in floats):
            return None
        value = cast("torch.Tensor", self.main.own[name])
        there = [r for r in self.evidence.unclaimed(place_of(node).module, node.op)
                 if r in self.trace.values and self.trace.values[r].shape == value.shape]
        if len(there) != 1:
            return None
        fit = Fit(there[0], Layout.plain(tuple(value.shape)), distance(self.trace.values[there[0]], value), None)
        return replace(self._made(name, How.POSITION, fit), agrees=False)

    def _mends(self, name: str, value: torch.Tensor, held: torch.Tensor) -> bool:
        """Whether what is computed from the tensor is right with what is held in its place, and is not as it is.

        What only moves elements is looked through: it makes something of the module's of all that is the module's.
        """
        for reader in (r for r in self.flat.graph.readers.get(name, ()) if not r.subgraphs):
            ours, theirs = (self._evaluated(reader, name, v) for v in (value, held))
            moved = [n for n in ours if reader.op in MOVES and self.flat.graph.readers.get(n)]
            if any(self._mends(n, ours[n], theirs[n]) for n in moved):
                return True
            if not moved and self._right(theirs) and not self._right(ours):
                return True
        return False

    def _evaluated(self, reader: Node, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a node makes of this value of one tensor: its floating-point outputs."""
        inputs = [value if n == name else self.main.value(n) if n else None for n in reader.inputs]
        made = zip(reader.proto.output, self.main.executor.evaluate(reader, inputs), strict=False)
        return {n: v for n, v in made if isinstance(v, torch.Tensor) and v.is_floating_point() and v.numel()}

    def _right(self, made: Mapping[str, torch.Tensor]) -> bool:
        """Whether one of a node's outputs is something that the module makes too."""
        for output, value in made.items():
            located = self.located.get(output)
            if located is not None and self.fits.one(located.activation, value) is not None:
                return True
            if any(self.fits.any(root, value) for root in self.fits.roots(value)):
                return True
        return False

    def _made(self, name: str, how: How, fit: Fit) -> Match:
        place, told = self.trace.activations[fit.activation].place, self.places.get(name, Place())
        return Match(name, fit.activation, how, fit.layout, fit.error, fit.control, agrees=True,
                     place=told if told.file else place)

    def _control(self, name: str, activation: str, layout: Layout) -> float | None:
        """How far apart the two are on other inputs; None where that cannot be told."""
        if self.control is None:
            return None
        held = self.control.trace.values.get(activation)
        try:
            value = self.control.value(name)
        except (ModelError, KeyError):
            return None
        if held is None or not isinstance(value, torch.Tensor):
            return None
        if held.numel() != value.numel():
            return float("inf")
        if tuple(value.shape) == layout.shape:
            return distance(value, layout.apply(held))
        return None


def _laid(held: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """An activation in the order of elements in which it would be a tensor's value."""
    return nearest_layout(held, value)[0].apply(held)


def _wanted(model: Model) -> frozenset[str]:
    """What depends on the inputs and is read by somebody; not the masks that Dropout returns."""
    used = model.graph.readers.keys() | {o.name for o in model.graph.outputs}
    made = (n for node in model.graph.nodes for n in node.outputs[:1 if node.op == "Dropout" else None])
    return frozenset(made) & used - model.constants
