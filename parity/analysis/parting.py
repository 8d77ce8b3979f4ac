"""Two runs of one model that ought to agree: how far each tensor is apart, and which is the first that parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from parity.analysis.measure import measure
from parity.analysis.streams import Stream
from parity.analysis.tolerance import NOISE_FACTOR, SURELY_CLEAN
from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, is_tensor, to_numpy

Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
# What ought to agree in one tensor's two sides: a pair of arrays, or several readings of which one holds, or none.
LineUp: TypeAlias = Callable[[np.ndarray, np.ndarray], Sequence[Pair]]


def whole(left: np.ndarray, right: np.ndarray) -> Sequence[Pair]:
    """Line up two sides as they are."""
    return [(left, right)]


@dataclass(frozen=True)
class Gap:
    """How far two sides of a tensor are apart.

    Attributes:
        rel_l2: ‖right − left‖ / ‖left‖; inf where shapes or finiteness differ.
        max_abs: largest |right − left|.
        same: not a bit differs.
    """

    rel_l2: float
    max_abs: float
    same: bool

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Greater for a wider gap."""
        return not self.same, self.rel_l2, self.max_abs

    def beyond(self, limit: float | None) -> bool:
        """Whether this is more than a relative L2 limit, or than nothing at all where that is None."""
        return not self.same and (limit is None or not self.rel_l2 <= limit)


@dataclass(frozen=True)
class Parting:
    """The first tensor, in graph order, whose two sides part.

    Attributes:
        tensor: ONNX name.
        node: label of the node that makes it.
        op: that node's operator.
        gap: how far it is off.
        limit: relative L2 that would have passed; None where the bits had to agree.
    """

    tensor: str
    node: str
    op: str
    gap: Gap
    limit: float | None


SAME = Gap(0.0, 0.0, same=True)


def gap_of(left: np.ndarray, right: np.ndarray) -> Gap:
    """The gap between two arrays."""
    if left.shape != right.shape:
        return Gap(math.inf, math.inf, same=False)
    found = measure(left, right)
    text = left.dtype.kind in "OSU"
    same = found.identical if text else left.dtype == right.dtype and left.tobytes() == right.tobytes()
    return Gap(found.rel_l2, found.max_abs, same)


def gaps_of(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], line_up: LineUp = whole) -> dict[str, Gap]:
    """The gap of every tensor that both sides show and that can be lined up; of several readings the smallest."""
    found = {}
    for name in (n for n in left if n in right):
        gaps = [gap_of(*pair) for pair in line_up(left[name], right[name])]
        if gaps:
            found[name] = min(gaps, key=lambda gap: gap.rank)
    return found


def noise_of(flat: Model, feed: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, float]:
    """Of each tensor, the distance (relative L2) between FP32 and FP64 on the executor; 0 where that is not finite.

    Tensors behind a node that the executor cannot run are left out.
    """
    found: dict[str, float] = {}
    golden, declared = (Executor(flat, arithmetic, seed=seed).steps(feed)
                        for arithmetic in (Arithmetic.DOUBLE, Arithmetic.DECLARED))
    try:
        for gold, step in zip(golden, declared, strict=True):
            for name, value in step.values.items():
                if is_tensor(value) and is_tensor(gold.values[name]):
                    distance = gap_of(to_numpy(gold.values[name]), to_numpy(value)).rel_l2
                    found[name] = distance if math.isfinite(distance) else 0.0
    except ModelError:
        pass  # what it cannot run gets no slack
    return found


def first_parting(flat: Model, names: Iterable[str], left: Stream, right: Stream, line_up: LineUp = whole,
                  noise: Mapping[str, float] | None = None) -> Parting | None:
    """The first tensor whose two sides differ in any bit or, where its noise is given, by more than that allows.

    Args:
        flat: the model.
        names: its tensors to look at, in graph order.
        left: one side.
        right: the other.
        line_up: what in a tensor's two sides ought to agree.
        noise: distance of each tensor (relative L2) between correct runs: NOISE_FACTOR times that is allowed, and
            never less than SURELY_CLEAN.
    """
    for name in names:
        a, b = left.pull(name), right.pull(name)
        left.drop(name)
        right.drop(name)
        gaps = {} if a is None or b is None else gaps_of({name: np.asarray(a)}, {name: np.asarray(b)}, line_up)
        limit = None if noise is None else max(SURELY_CLEAN, NOISE_FACTOR * noise.get(name, 0.0))
        if name in gaps and gaps[name].beyond(limit):
            node = flat.graph.producer[name]
            return Parting(name, node.label, node.op, gaps[name], limit)
    return None
