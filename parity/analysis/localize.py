"""Walk the graph once with both sides in lock step: how far each tensor is off, and which one starts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from parity.analysis.judge import Judgement, Ruler, judge
from parity.analysis.match import moves_only
from parity.analysis.measure import Comparison, measure
from parity.errors import MatchError, ModelError
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy, to_numpy

# Why a tensor is named: its own arithmetic, its number format, or a NaN or Inf born there.
Kind: TypeAlias = Literal["implementation", "precision", "nonfinite"]


@dataclass(frozen=True)
class Divergence:
    """One tensor on both sides.

    Attributes:
        tensor: ONNX name.
        node: the reference's node that makes it.
        dtype: element type on the candidate's side.
        shape: on the candidate's side.
        accumulated: candidate against reference; None where the shapes differ or the value is no tensor.
        judgement: what the local rule says; None where it cannot be applied.
        shape_differs: the candidate's shape is not the operator's.
        level: how the reference evaluated the node.
        error: |candidate - operator| of every element, kept of a tensor to blame that may not be read whole.
    """

    tensor: str
    node: Node
    dtype: str
    shape: tuple[int, ...]
    accumulated: Comparison | None
    judgement: Judgement | None
    shape_differs: bool = False
    level: str = ""
    error: np.ndarray | None = None

    @property
    def to_blame(self) -> bool:
        """Whether this very node is at fault: wrong by more than its own noise, or of the wrong shape."""
        return self.shape_differs or (self.judgement is not None and not self.judgement.passed)


@dataclass
class Stream:
    """One side's tensors, in the order it shows them, held until the walk has passed their last reader.

    Attributes:
        chunks: the tensors as they become known.
        shown: the names that `chunks` will bring.
        values: what is held now.
    """

    chunks: Iterator[Mapping[str, np.ndarray]]
    shown: frozenset[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def pull(self, name: str) -> np.ndarray | None:
        """The value of a tensor, reading on until it arrives; None where this side hides it."""
        while name in self.shown and name not in self.values:
            chunk = next(self.chunks, None)
            if chunk is None:
                return None
            self.values.update(chunk)
        return self.values.get(name)


@dataclass
class _Inputs:
    """What the candidate's operators saw: its own values, or FP64 and FP32 estimates of those that it hides."""

    weights: Mapping[str, Value]
    wide: dict[str, Value] = field(default_factory=dict)
    narrow: dict[str, Value] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def show(self, name: str, value: np.ndarray, like: np.ndarray | None) -> None:
        """Take a value that the candidate shows, in the type that the reference gives this tensor."""
        if like is not None and like.dtype != value.dtype and like.dtype.kind == "f":
            value = value.astype(like.dtype)
        self.wide[name] = self.narrow[name] = from_numpy(value)

    def estimate(self, name: str, gold: Value, declared: Value) -> None:
        """Stand in for a hidden tensor, so that the sub-graph up to the next shown one is judged as a whole."""
        self.hidden.add(name)
        self.wide[name], self.narrow[name] = gold, declared

    def drop(self, name: str) -> None:
        """Free a tensor that nobody needs any more."""
        self.wide.pop(name, None)
        self.narrow.pop(name, None)


def divergences(model: Model, feed: Mapping[str, np.ndarray], reference: Stream, candidate: Stream,
                wanted: Sequence[str]) -> Iterator[Divergence]:
    """Compare every tensor that the candidate shows, in the reference's order.

    Args:
        model: the reference, flat.
        feed: the inputs, the same on both sides.
        reference: the reference's tensors.
        candidate: the candidate's tensors.
        wanted: names to report on.
    """
    declared, gold = Executor(model), Executor(model, Arithmetic.DOUBLE)
    inputs = _Inputs(_constants(model))
    for name, value in feed.items():
        inputs.show(name, value, None)
    remaining = Counter(n for node in model.graph.nodes for n in node.reads)
    targets = frozenset(wanted)
    for node in model.graph.nodes:
        if all(o in model.constants for o in node.outputs):
            continue
        ruler = _ruler(node, model, inputs, (gold, declared))
        for position, name in enumerate(node.proto.output):
            if not name:
                continue
            shown, expected = candidate.pull(name), reference.pull(name)
            if shown is None:
                if remaining[name]:
                    inputs.estimate(name, ruler.gold[position], ruler.declared[position])
                continue
            inputs.show(name, shown, expected)
            if name in targets:
                found = _divergence(ruler, position, name, shown, expected)
                yield _with_error(found, ruler, position, shown) if moves_only(model, name) else found
        remaining.subtract(node.reads)
        for name in (*node.reads, *node.outputs):
            if remaining[name] == 0:
                inputs.drop(name)
                reference.values.pop(name, None)
                candidate.values.pop(name, None)


def _constants(model: Model) -> dict[str, Value]:
    """Every tensor that no input can change, in its declared type, by running what computes them."""
    executor = Executor(model)
    values = executor.weights(model.graph)
    for node in model.graph.nodes:
        if node.outputs and all(o in model.constants for o in node.outputs):
            results = executor.evaluate(node, [values[n] if n else None for n in node.inputs], values)
            values.update({n: v for n, v in zip(node.proto.output, results, strict=False) if n})
    return values


def _ruler(node: Node, model: Model, inputs: _Inputs, executors: tuple[Executor, Executor]) -> Ruler:
    wide = {n: inputs.weights[n] if n in inputs.weights else inputs.wide[n] for n in node.reads}
    narrow = {n: inputs.weights[n] if n in inputs.weights else inputs.narrow[n] for n in node.reads}
    return Ruler(node, [wide[n] if n else None for n in node.inputs], [narrow[n] if n else None for n in node.inputs],
                 (wide, narrow), not inputs.hidden.isdisjoint(node.reads),
                 [not n or n in model.constants for n in node.inputs], *executors)


def _divergence(ruler: Ruler, position: int, name: str, value: np.ndarray, expected: np.ndarray | None) -> Divergence:
    accumulated = measure(expected, value) if expected is not None and expected.shape == value.shape else None
    judgement, shape_differs = None, False
    try:
        judgement = judge(ruler, position, value)
    except MatchError:
        shape_differs = True
    except ModelError:
        pass  # inputs that a fault upstream made unusable; it was blamed there
    level = ruler.gold_executor.levels.get(ruler.node.outputs[0])
    return Divergence(name, ruler.node, value.dtype.name, value.shape, accumulated, judgement, shape_differs,
                      level.value if level else "")


def _with_error(found: Divergence, ruler: Ruler, position: int, value: np.ndarray) -> Divergence:
    """Keep the error of a tensor to blame of which perhaps not every element is read."""
    if found.judgement is None or found.judgement.passed or value.dtype.kind == "O":
        return found
    return replace(found, error=np.abs(np.subtract(to_numpy(ruler.gold[position]), value, dtype=np.float64)))


def first_to_blame(found: Sequence[Divergence], *, outputs_fail: bool, limit: float) -> tuple[Divergence, Kind] | None:
    """The tensor to name, and why.

    Args:
        found: in the reference's order.
        outputs_fail: whether the verdict is divergence.
        limit: relative L2 tolerance of the outputs.

    Returns:
        The earliest tensor whose implementation error is beyond its floor ("implementation", or "nonfinite" where
        that error is a NaN or Inf); else the earliest non-finite one ("nonfinite"); else, where the outputs fail, the
        earliest beyond tolerance ("precision"); else None.
    """
    for d in found:
        if d.to_blame:
            return d, "nonfinite" if d.judgement is not None and d.judgement.nonfinite else "implementation"
    for d in found:
        if d.accumulated is not None and d.accumulated.mismatched_nonfinite:
            return d, "nonfinite"
    if outputs_fail:
        for d in found:
            if d.accumulated is None or not d.accumulated.rel_l2 <= limit:
                return d, "precision"
    return None

