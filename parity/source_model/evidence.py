"""What tells activations of equal values apart: the graph around them, and the user's modules and lines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property

from parity.graph.graph import Node
from parity.graph.model import Model
from parity.source_model.kinds import becomes
from parity.source_model.mapping import Match
from parity.source_model.place import place_of
from parity.source_model.trace import Trace

# They pass all elements on where what they make has as many as what they read.
MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Expand", "Slice",
                   "Split", "Concat", "Tile"})

# Activations that are looked at before the search for one in a tensor's place ends.
_FAR = 400


class Stage(Enum):
    """How much is known: WALK, what is above a tensor; AGREE, what is below it too; LAST, nothing more will come."""

    WALK = "walk"
    AGREE = "agree"
    LAST = "last"


class Evidence:
    """What is known of both graphs so far.

    Args:
        flat: the ONNX graph.
        trace: of the module.
        matches: those found so far; the walk adds to them.

    Attributes:
        claimed: roots of activations that are matched, and the roots of the tensors that they are.
    """

    def __init__(self, flat: Model, trace: Trace, matches: Mapping[str, Match]) -> None:
        self.flat, self.trace, self.matches = flat, trace, matches
        self.claimed: dict[str, set[str]] = {}
        self._roots: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def decide(self, node: Node, name: str, candidates: Sequence[str], stage: Stage) -> str | None:
        """One of several activations that are equal on every input tried; None where nothing tells them apart."""
        if len(candidates) <= 1:
            return next(iter(candidates), None)
        place, mine = place_of(node), self.root(name)
        above, below = self.above(name), self._below(name) if stage is not Stage.WALK else frozenset()
        inputs = self.roots_of(node.reads)
        read = self.roots_of(self._read_from(name)) if stage is not Stage.WALK else frozenset()
        tests: list[Callable[[str], bool]] = [
            lambda r: mine in self.claimed.get(r, ()),
            lambda r: bool(place.module) and self.owner(r) == place.module,
            lambda r: not read.isdisjoint(self._readers_of(r)),
            lambda r: self.above_activation(r) == above,
            lambda r: not inputs.isdisjoint(self._read_by(r)),
            lambda r: any(becomes(self.trace.activations[m].op, node.op) for m in self.trace.members[r]),
            lambda r: bool(place.file) and self.trace.activations[r].place.key == place.key,
            lambda r: not self.claimed.get(r),
        ]
        if stage is not Stage.WALK:
            tests.append(lambda r: self._below_activation(r) == below)
        votes = [passed for test in tests if (passed := [r for r in candidates if test(r)])]
        agreed = [r for r in candidates if all(r in passed for passed in votes)]
        if len(agreed) == 1 or stage is not Stage.LAST:
            return agreed[0] if len(agreed) == 1 else None
        for passed in votes:  # they contradict each other: the first to be heard are the surest
            candidates = [r for r in candidates if r in passed] or candidates
        return candidates[0] if len(candidates) == 1 else None

    def early(self, name: str, candidates: Collection[str], stage: Stage) -> bool:
        """Whether to wait: one of several equal activations is made from another, as a normalisation's steps are.

        What reads the tensor tells them apart, once that is known. Not where the tensor's elements were found to be one
        of them before.
        """
        if stage is Stage.LAST or any(self.root(name) in self.claimed.get(r, ()) for r in candidates):
            return False
        chained = any(not self._readers_of(r).isdisjoint(candidates) for r in candidates)
        return chained and (stage is Stage.WALK or not self.roots_of(self._read_from(name)))

    def roots_of(self, tensors: Iterable[str]) -> frozenset[str]:
        """The roots of the activations that tensors are matched to."""
        return frozenset(self.trace.activations[self.matches[t].activation].root for t in tensors if t in self.matches)

    def open_below(self, name: str, numel: int) -> list[str]:
        """Unclaimed roots of some size that are computed from the same matched tensors as one tensor."""
        above, found = self.above(name), []
        seen = {m for root in above for m in self.trace.members[root]}
        waiting, far = list(seen), len(seen) + _FAR
        while waiting and len(seen) < far:
            for user in self.users.get(waiting.pop(0), ()):
                root = self.trace.activations[user].root
                if user in seen or root in self.claimed:
                    continue
                seen.add(user)
                waiting.append(user)
                same = self.trace.values[root].numel() == numel if root in self.trace.values else False
                if same and root not in found and self.above_activation(root) == above:
                    found.append(root)
        return found

    def unclaimed(self, module: str, op: str) -> list[str]:
        """The roots that no tensor is matched to, of what a module makes by what becomes an ONNX operator."""
        made = (a for a in self.trace.activations.values() if a.place.module == module and becomes(a.op, op))
        return list(dict.fromkeys(a.root for a in made if a.root not in self.claimed))

    def _read_from(self, tensor: str) -> Iterable[str]:
        """What is computed directly from a tensor, in whatever shape it is read."""
        for reader in self.flat.graph.readers.get(tensor, ()):
            for made in reader.outputs:
                same = self.root(made) == self.root(tensor)
                yield from self._read_from(made) if same else (made,)

    def _read_by(self, root: str) -> frozenset[str]:
        activations = self.trace.activations
        return frozenset(activations[n].root for m in self.trace.members[root] for n in activations[m].inputs) - {root}

    def _readers_of(self, root: str) -> frozenset[str]:
        activations, users = self.trace.activations, self.users
        return frozenset(activations[u].root for m in self.trace.members[root] for u in users.get(m, ())) - {root}

    def owner(self, activation: str) -> str:
        """Path of the module that made an activation."""
        return self.trace.activations[activation].place.module

    def note(self, node: Node, name: str, numel: int) -> None:
        """Take in a tensor that has been evaluated, before anything is asked of it."""
        self._sizes[name] = numel
        source = node.inputs[0] if node.inputs and node.op in MOVES else ""
        passes = bool(source) and self._sizes.get(source) == numel
        self._roots[name] = self._roots.get(source, source) if passes else name

    def root(self, name: str) -> str:
        """The tensor whose elements this one has, where its node only passes all of them on."""
        return self._roots.get(name, name)

    def claim(self, match: Match) -> None:
        """Take in a match."""
        self.claimed.setdefault(self.trace.activations[match.activation].root, set()).add(self.root(match.tensor))

    def above(self, tensor: str) -> frozenset[str]:
        """The nearest matched tensors that one is computed from, by the roots of their activations."""
        return _nearest(tensor, self._inputs, self._known)

    def above_activation(self, root: str) -> frozenset[str]:
        """The nearest matched activations that a root is computed from, and the weights known by name."""
        activations = self.trace.activations

        def stop(name: str) -> str | None:
            source = activations[name].root
            return source if source in self.claimed or source in self._parameters else None

        return _nearest(root, lambda n: activations[n].inputs, stop)

    def _below(self, tensor: str) -> frozenset[str]:
        readers = self.flat.graph.readers
        return _nearest(tensor, lambda n: [o for r in readers.get(n, ()) for o in r.outputs], self._known)

    def _below_activation(self, root: str) -> frozenset[str]:
        activations, users = self.trace.activations, self.users

        def stop(name: str) -> str | None:
            source = activations[name].root
            return source if source in self.claimed and source != root else None

        return _nearest(root, lambda n: [u for m in self.trace.members[activations[n].root] for u in users.get(m, ())],
                        stop)

    def _inputs(self, tensor: str) -> Iterable[str]:
        producer = self.flat.graph.producer.get(tensor)
        return () if producer is None else producer.reads

    def _known(self, tensor: str) -> str | None:
        if tensor in self.matches:
            return self.trace.activations[self.matches[tensor].activation].root
        return tensor if tensor in self._parameters else None

    @cached_property
    def _parameters(self) -> frozenset[str]:
        """The weights that have one name on both sides."""
        names = {n for n, a in self.trace.activations.items() if a.op == "parameter"}
        return frozenset(names & self.flat.graph.initializers.keys())

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """The activations that are made from each."""
        found: dict[str, list[str]] = {}
        for activation in self.trace.activations.values():
            for name in activation.inputs:
                found.setdefault(name, []).append(activation.name)
        return {name: tuple(names) for name, names in found.items()}


def _nearest(start: str, step: Callable[[str], Iterable[str]], stop: Callable[[str], str | None]) -> frozenset[str]:
    """What is met first on every way from `start`."""
    found, seen, waiting = set(), {start}, list(step(start))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        met = stop(name)
        if met is not None:
            found.add(met)
        else:
            waiting.extend(step(name))
    return frozenset(found)
