"""Look inside a run that changes when it is watched: mark a few tensors at a time, by binary search over cuts.

A cut is a set of tensors through which everything passes that reaches the later nodes. The whole model is run with the
tensors of one cut as extra outputs, and otherwise as deployed. Where its own outputs then stay what they were, that is
still the run with the error in it, and its cut is right or wrong already.

    inputs ── cut ── cut ── cut ── cut ── outputs
    right     right  │      wrong         wrong
                     └ between the last right and the first wrong: the region to blame
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.analysis.measure import Comparison, measure
from parity.backends.base import Feed, Session
from parity.errors import BackendFailed, MatchError
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.store import TensorStore

Tensors = Mapping[str, np.ndarray]

_WIDEST = 16  # tensors that a cut may mark
_SPARE = 8  # runs beyond those of the binary search, for cuts whose marking changes the result
# Share of the outputs' error by which they may move when a cut is marked: more, and it is another run.
STILL = 0.1


@dataclass(frozen=True)
class Cut:
    """A place at which the graph falls in two.

    Attributes:
        index: of the last node before it.
        marked: tensors to make visible.
        ready: graph outputs made before it, which are visible anyhow.
    """

    index: int
    marked: tuple[str, ...]
    ready: tuple[str, ...]


@dataclass(frozen=True)
class Region:
    """Between two cuts, the first wrong and the last right before it.

    Attributes:
        right: tensors of the last right cut; none where that is the graph's inputs.
        wrong: the tensor of the first wrong cut that is farthest off.
        comparison: that tensor, as deployed, against the reference; None where the shapes differ.
        nodes: those that compute the wrong tensors from the right ones, in order.
    """

    right: tuple[str, ...]
    wrong: str
    comparison: Comparison | None
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Search:
    """What came of a search.

    Attributes:
        region: to blame; None where nothing was found.
        reason: why nothing was.
        runs: how often the model was run with tensors marked.
    """

    region: Region | None
    reason: str
    runs: int


def cuts_of(flat: Model, visible: Collection[str]) -> list[Cut]:
    """The cuts of a flat graph, in its order.

    Args:
        flat: the graph.
        visible: tensors that can be marked, and compared; a cut needs all of its own among them.
    """
    graph = flat.graph
    last_reader = {n: readers[-1].index for n, readers in graph.readers.items()}
    results = {o.name for o in graph.outputs}
    live: list[str] = []
    ready: list[str] = []
    found: list[Cut] = []
    for node in graph.nodes[:-1]:
        made = [o for o in node.outputs if o not in flat.constants]
        ready += [o for o in made if o in results]
        live = [n for n in (*live, *made) if last_reader.get(n, -1) > node.index and n not in results]
        usable = 0 < len(live) <= _WIDEST and all(n in visible for n in live)
        if made and usable and (not found or found[-1].marked != tuple(live)):
            found.append(Cut(node.index, tuple(live), tuple(ready)))
    return found


def budget(cuts: int) -> int:
    """The most runs that a search over so many cuts takes."""
    return math.ceil(math.log2(cuts + 1)) + _SPARE


def search_hidden(flat: Model, feed: Feed, reference: Session, deployed: Session, visible: Collection[str],
                  sizes: Mapping[str, int], unmarked: Tensors, limit: float, memory: int) -> Search:
    """Find the first cut that is wrong in a run that watching everything changes.

    Args:
        flat: the reference's graph.
        feed: the inputs.
        reference: says what is right.
        deployed: what is searched.
        visible: tensors that it may show.
        sizes: bytes of each tensor, where known.
        unmarked: the outputs of the deployed run.
        limit: relative L2 error up to which a tensor is right.
        memory: bytes of the reference's tensors that may be held; more go to files.

    Raises:
        BackendFailed: the reference breaks.
        OutputError: the disk is full.
    """
    cuts = cuts_of(flat, visible)
    wanted = {n for cut in cuts for n in cut.marked} | {o.name for o in flat.graph.outputs}
    expected = TensorStore(memory)
    for chunk in reference.watch(feed, wanted, sizes):
        for name, value in chunk.items():
            expected.put(name, value)
    return search(flat, cuts, lambda names: deployed.show(feed, names).outputs, expected, unmarked, limit)


def search(flat: Model, cuts: Sequence[Cut], show: Callable[[Collection[str]], Tensors], expected: Tensors,
           unmarked: Tensors, limit: float) -> Search:
    """Find the first cut that is wrong in the deployed run.

    Args:
        flat: the graph that the cuts are of.
        cuts: in its order.
        show: runs the whole model with these tensors marked, and returns them with its outputs.
        expected: the reference's value of every tensor that may be marked, and of the outputs.
        unmarked: the outputs of the deployed run.
        limit: relative L2 error up to which a tensor is right.
    """
    ends = _Cut(*_errors(unmarked, expected, limit))
    if not ends.wrong:
        return Search(None, "the outputs are within tolerance", 0)
    probe = _Probe(show, expected, unmarked, limit, STILL * min(1.0, ends.worst))
    low, high = -1, len(cuts)
    right: tuple[str, ...] = ()
    silent: set[int] = set()
    suspects: Counter[str] = Counter()  # tensors that were in cuts whose marking changed the result
    while probe.runs < budget(len(cuts)):
        untried = [k for k in range(low + 1, high) if k not in silent]
        if not untried:
            break
        middle = min(untried, key=lambda k: (sum(suspects[n] for n in cuts[k].marked), abs(2 * k - low - high)))
        found = probe(cuts[middle])
        if found is None:
            silent.add(middle)
            suspects.update(cuts[middle].marked)
        elif found.wrong:
            high, ends = middle, found
        else:
            low, right = middle, cuts[middle].marked
    if low == -1 and high == len(cuts):
        reason = ("every marking that was tried changes the result" if silent else
                  "nothing can be marked between the inputs and the outputs")
        return Search(None, reason, probe.runs)
    right = tuple(n for n in right if n not in ends.wrong)  # near the limit, one run may find it so, another not
    wrong = max(ends.wrong, key=ends.wrong.__getitem__)
    return Search(Region(right, wrong, ends.measured[wrong], _between(flat, right, ends.wrong)), "", probe.runs)


@dataclass(frozen=True)
class _Cut:
    """The tensors of a cut against the reference's: all that could be compared, and the error of those wrong."""

    measured: Mapping[str, Comparison | None]
    wrong: Mapping[str, float]

    @property
    def worst(self) -> float:
        return max(self.wrong.values())


class _Probe:
    """Marks cuts, and counts how often."""

    def __init__(self, show: Callable[[Collection[str]], Tensors], expected: Tensors, unmarked: Tensors, limit: float,
                 still: float) -> None:
        self.runs = 0
        self._show = show
        self._expected = expected
        self._unmarked = unmarked
        self._limit = limit
        self._still = still

    def __call__(self, cut: Cut) -> _Cut | None:
        """What a cut shows; None where that is another run than the deployed one, or not all of it is shown."""
        self.runs += 1
        try:
            shown = self._show(cut.marked)
        except BackendFailed:  # the runtime does not take the model with these tensors marked
            return None
        if any(n not in shown for n in cut.marked):
            return None
        if not all(_distance(value, shown.get(name)) <= self._still for name, value in self._unmarked.items()):
            return None
        return _Cut(*_errors({n: shown[n] for n in (*cut.marked, *cut.ready) if n in shown}, self._expected,
                             self._limit))


def _errors(shown: Tensors, expected: Tensors, limit: float) -> tuple[dict[str, Comparison | None], dict[str, float]]:
    measured = {n: _measured(expected[n], v) for n, v in shown.items() if n in expected}
    errors = {n: math.inf if c is None or math.isnan(c.rel_l2) else c.rel_l2 for n, c in measured.items()}
    return measured, {n: e for n, e in errors.items() if e > limit}


def _distance(one: np.ndarray, other: np.ndarray | None) -> float:
    found = None if other is None else _measured(one, other)
    return math.inf if found is None or math.isnan(found.rel_l2) else found.rel_l2


def _measured(expected: np.ndarray, value: np.ndarray) -> Comparison | None:
    try:
        return measure(expected, value) if expected.shape == value.shape else None
    except MatchError:  # text for numbers
        return None


def _between(flat: Model, right: Collection[str], wrong: Collection[str]) -> tuple[Node, ...]:
    """The nodes that compute the wrong tensors from the right ones."""
    found: dict[int, Node] = {}
    waiting = list(wrong)
    while waiting:
        name = waiting.pop()
        node = flat.graph.producer.get(name)
        if node is None or name in right or name in flat.constants or node.index in found:
            continue
        found[node.index] = node
        waiting.extend(node.reads)
    return tuple(found[i] for i in sorted(found))
