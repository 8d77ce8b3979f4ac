"""A model and a variant of it run as one: every layer in the one or in the other, as a changed plan would have it.

Making a variant anew for every plan that a search tries would cost more than running it. What a plan decides of a layer
is which of two pieces of graph computes it: the model's node, or what stands for it in the variant, its Casts and Q/DQ
included. Both read and make tensors of the same names, so they can be exchanged one by one, and only what lies behind
an exchanged one is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import TensorProto

from parity.graph.constants import constant_values
from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import FLOATS, Value, from_numpy, is_tensor, to_numpy
from parity.precision.elements import read_types

_SMALL = 1024
_ROUNDS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


@dataclass(frozen=True, eq=False)
class Unit:
    """What makes some tensors of the model, in it and in its variant.

    Attributes:
        node: the model's node.
        low: the variant's nodes that make the same tensors from tensors of the model; empty where they are the same.
        reads: tensors of the model that either reads.
    """

    node: Node
    low: tuple[Node, ...]
    reads: frozenset[str]

    @property
    def name(self) -> str:
        """First output of the model's node."""
        return self.node.outputs[0]


@dataclass
class _Base:
    """A run that others start from: who was kept in it, and all its tensors (none where they would not fit)."""

    kept: frozenset[str]
    values: dict[str, Value] = field(default_factory=dict)


class Mixture:
    """A model and its variant on some feeds.

    Attributes:
        units: every node whose results depend on an input, with what stands for it in the variant.
        layers: first outputs of the nodes that the variant computes otherwise, in the model's order.
        shapes: of every tensor of the model, on the first feed.
    """

    def __init__(self, reference: Model, variant: Model, feeds: Sequence[Feed], memory: int = 2 * 2**30) -> None:
        """Make ready, and run the model once on each feed.

        Args:
            reference: the model, flat.
            variant: an edit of it that keeps its tensor names; of an INT8 one only the inputs of nodes are quantised.
            feeds: one or more.
            memory: bytes of tensors that may be held; with less, every run starts at the inputs.

        Raises:
            ModelError: it does not run on a feed.
        """
        self.reference, self.variant, self.feeds = reference, variant, tuple(feeds)
        self._high, self._low = Executor(reference), Executor(variant)
        self._weights = {"high": constant_values(reference), "low": constant_values(variant)}
        self._aliases = _aliases(reference, variant)
        types = read_types(variant)
        self._dtypes: dict[str, dict[str, torch.dtype]] = {
            "high": {}, "low": {n: _TORCH[types.of(n)] for n in self._aliases if types.of(n) in _TORCH}}
        units = list(_units(reference, variant, self._aliases))
        self._outputs = [o.name for o in reference.graph.outputs]
        self.shapes = {n: tuple(v.shape) for n, v in (*feeds[0].items(), *self._weights["high"].items())
                       if isinstance(v, torch.Tensor | np.ndarray)}
        self._last = {n: place for place, unit in enumerate(units) for n in (*unit.node.outputs, *unit.reads)}
        self._differing: set[str] = set()
        first = self._learned(units, memory // len(self.feeds))
        self.units = tuple(Unit(u.node, u.low if u.name in self._differing else (), u.reads) for u in units)
        self.layers = tuple(u.name for u in self.units if u.low)
        self._holds = first is not None
        self._bases = [_Base(frozenset(self.layers), first or {})]
        for feed in self.feeds[1:]:
            values, _ = self._run(feed, frozenset(self.layers), _Base(frozenset()), hold=self._holds)
            self._bases.append(_Base(frozenset(self.layers), values if self._holds else {}))

    def rebase(self, kept: Collection[str],
               when: Callable[[Sequence[Mapping[str, np.ndarray]]], bool] = lambda outputs: True,
               ) -> list[dict[str, np.ndarray]]:
        """Start further runs from this one, which spares what they share; returns the outputs for each feed.

        Args:
            kept: names of layers.
            when: looks at the outputs; where it says no, further runs start where this one did.
        """
        ran = [self._run(feed, frozenset(kept), base, hold=self._holds)
               for feed, base in zip(self.feeds, self._bases, strict=True)]
        if when([outputs for _, outputs in ran]):
            self._bases = [_Base(frozenset(kept), values if self._holds else {}) for values, _ in ran]
        return [outputs for _, outputs in ran]

    def run(self, kept: Collection[str]) -> list[dict[str, np.ndarray]]:
        """The outputs for each feed, with some layers as in the model and all others as in the variant.

        Args:
            kept: names of layers.
        """
        return [self._run(feed, frozenset(kept), base, hold=False)[1]
                for feed, base in zip(self.feeds, self._bases, strict=True)]

    def steps(self, place: int, kept: Collection[str]) -> Iterator[Mapping[str, Value]]:
        """Run once from the inputs of one feed, and hand on what every unit makes, holding no more than is read."""
        values: dict[str, Value] = {n: from_numpy(v) for n, v in self.feeds[place].items()}
        for index, unit in enumerate(self.units):
            made = self.low(unit, values) if unit.low and unit.name not in kept else self.high(unit, values)
            values.update(made)
            yield made
            self._forget(unit, index, values)

    def low_dtype(self, name: str) -> torch.dtype | None:
        """The type in which the variant has a tensor of the model; None for what is no torch tensor."""
        return self._dtypes["low"].get(name)

    def base(self, place: int) -> Mapping[str, Value]:
        """Every tensor of the last `rebase` on one feed; none where they do not fit the memory."""
        return self._bases[place].values

    def low(self, unit: Unit, values: Mapping[str, Value]) -> dict[str, Value]:
        """What the variant makes of one unit's inputs."""
        return self._evaluate(self._low, "low", unit.low, unit.node.outputs, values)

    def high(self, unit: Unit, values: Mapping[str, Value]) -> dict[str, Value]:
        """What the model makes of one unit's inputs."""
        return self._evaluate(self._high, "high", (unit.node,), unit.node.outputs, values)

    def _run(self, feed: Feed, kept: frozenset[str], base: _Base, *, hold: bool,
             ) -> tuple[dict[str, Value], dict[str, np.ndarray]]:
        known, exchanged = base.values, base.kept ^ kept
        values: dict[str, Value] = {} if known else {n: from_numpy(v) for n, v in feed.items()}
        scope = _Over(values, known)
        moved: set[str] = set()
        for place, unit in enumerate(self.units):
            if not known or unit.name in exchanged or not moved.isdisjoint(unit.reads):
                made = self.low(unit, scope) if unit.low and unit.name not in kept else self.high(unit, scope)
                values.update(made)
                moved.update(n for n, v in made.items() if not (n in known and _small(v) and _same(v, known[n])))
            if not hold:
                self._forget(unit, place, values)
        outputs = {n: to_numpy(scope[n] if n in scope else self._weights["high"][n]) for n in self._outputs
                   if is_tensor(scope[n] if n in scope else self._weights["high"][n])}
        return ({**known, **values} if hold else values), outputs

    def _forget(self, unit: Unit, place: int, values: dict[str, Value]) -> None:
        """Drop what nobody reads once a unit has run."""
        for name in (*unit.node.outputs, *unit.reads):
            if self._last[name] == place and name not in self._outputs:
                values.pop(name, None)

    def _evaluate(self, executor: Executor, side: str, nodes: Sequence[Node], makes: Sequence[str],
                  values: Mapping[str, Value]) -> dict[str, Value]:
        weights, dtypes = self._weights[side], self._dtypes[side]
        local: dict[str, Value] = {}
        for node in nodes:
            read = {n: weights[n] for n in node.reads if n in weights} | local
            for name in node.reads:
                if name not in read:
                    value = values[self._aliases.get(name, name)]
                    # A Cast takes what there is: between two kept nodes nothing is rounded.
                    read[name] = value if node.op == "Cast" else _as(value, dtypes.get(name))
            made = executor.evaluate(node, [read[n] if n else None for n in node.inputs], read)
            local.update({n: v for n, v in zip(node.proto.output, made, strict=False) if n})
        return {n: local[n] for n in makes if n in local}

    def _learned(self, units: Sequence[Unit], memory: int) -> dict[str, Value] | None:
        """Run every piece on the first feed, to note types; returns the model's tensors where they fit the memory."""
        values: dict[str, Value] = {n: from_numpy(v) for n, v in self.feeds[0].items()}
        for side in ("high", "low"):
            self._dtypes[side].update({n: v.dtype for n, v in values.items() if isinstance(v, torch.Tensor)})
        size = 0
        for place, unit in enumerate(units):
            low, made = self.low(unit, values), self.high(unit, values)
            for side, found in (("low", low), ("high", made)):
                self._dtypes[side].update({n: v.dtype for n, v in found.items() if isinstance(v, torch.Tensor)})
            if self._differs(unit, same_values=all(_same(low.get(n), v) for n, v in made.items())):
                self._differing.add(unit.name)
            values.update(made)
            self.shapes.update({n: tuple(v.shape) for n, v in made.items() if isinstance(v, torch.Tensor | np.ndarray)})
            size += sum(v.nbytes for v in made.values() if isinstance(v, torch.Tensor))
            if size > memory:
                self._forget(unit, place, values)
        return values if size <= memory else None

    def _differs(self, unit: Unit, same_values: bool) -> bool:
        """Whether the variant computes this otherwise, and not only in a newer opset's form of the same operator."""
        names = (*unit.node.reads, *unit.node.outputs)
        if not unit.low or any(self._dtypes["high"].get(n) != self._dtypes["low"].get(n) for n in names):
            return bool(unit.low)
        added = {piece.proto.op_type for piece in unit.low} - {unit.node.proto.op_type}
        return not same_values or not added.isdisjoint(_ROUNDS)


class _Over(Mapping[str, Value]):
    """Some values over others."""

    def __init__(self, top: Mapping[str, Value], bottom: Mapping[str, Value]) -> None:
        self._top, self._bottom = top, bottom

    def __getitem__(self, name: str) -> Value:
        return self._top[name] if name in self._top else self._bottom[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._bottom, **self._top})

    def __len__(self) -> int:
        return len({**self._bottom, **self._top})


_TORCH = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}


def _aliases(reference: Model, variant: Model) -> dict[str, str]:
    """Tensors that the variant alone has and casts to one of the model's, such as a graph output, by that one's name.

    Other nodes read them in its stead.
    """
    known = {i.name for i in reference.graph.inputs} | reference.graph.producer.keys() | variant.constants
    return {n.inputs[0]: n.outputs[0] for n in variant.graph.nodes
            if n.op == "Cast" and n.outputs[0] in known and n.inputs[0] not in known}


def _units(reference: Model, variant: Model, aliases: Mapping[str, str]) -> Iterator[Unit]:
    """Every node whose results depend on an input, with what stands for it in the variant."""
    known = {i.name for i in reference.graph.inputs} | (reference.graph.producer.keys() - reference.constants)
    producer = variant.graph.producer
    for node in reference.graph.nodes:
        if not node.outputs or reference.constants.issuperset(node.outputs):
            continue
        found: dict[int, Node] = {}
        stack = [producer[o] for o in node.outputs if o in producer]
        while stack:
            low = stack.pop()
            if low.index not in found:
                found[low.index] = low
                stack.extend(producer[n] for n in low.reads
                             if n not in known and n in producer and n not in variant.constants
                             and aliases.get(n, node.outputs[0]) in node.outputs)
        pieces = tuple(found[i] for i in sorted(found))
        names = {aliases.get(n, n) for piece in (node, *pieces) for n in piece.reads}
        read = names.intersection(known).difference(node.outputs)
        yield Unit(node, pieces, frozenset(read))


def _as(value: Value, dtype: torch.dtype | None) -> Value:
    """A floating-point tensor in the type in which a side has it."""
    if dtype is None or not isinstance(value, torch.Tensor) or value.dtype == dtype or value.dtype not in FLOATS:
        return value
    return value.to(dtype)


def _small(value: Value) -> bool:
    """Whether it may be a size or an index, which often stays as it was: finding that out of more is not worth it."""
    return isinstance(value, torch.Tensor | np.ndarray) and value.nbytes <= _SMALL


def _same(one: Value, other: Value) -> bool:
    """Whether two values are equal, NaN being equal to NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool(
            torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num()))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other
