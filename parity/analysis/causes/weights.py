"""Other weights than the reference's: a gain, a shift, channels, an order that explains the candidate's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from parity.analysis.causes.differences import GATES
from parity.analysis.causes.evidence import Diagnosis, Evidence, relative
from parity.analysis.causes.files import settled
from parity.analysis.causes.unit import Unit, unit_of
from parity.figures import number
from parity.graph.graph import Node

_MOST_TRIED = 12
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "com.microsoft::FusedConv"})
# Elements a channel needs for two numbers fitted to it to say anything.
_SAMPLES = 8


@dataclass(frozen=True)
class _Change:
    """What a weight may be instead of the reference's."""

    words: str
    value: np.ndarray | None
    numbers: Mapping[str, float]


def other_weights(evidence: Evidence) -> Sequence[Diagnosis]:
    """A changed weight or bias that would give what the candidate shows."""
    blamed = evidence.blamed_for("implementation", "nonfinite")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if blamed is None or unit is None or unit.candidate.dtype.kind not in "fV" or not unit.candidate.size:
        return ()
    known = settled(evidence, blamed)
    for node in (n for n in unit.nodes[-_MOST_TRIED:][::-1] if n not in known.nodes):
        for position, name in enumerate(node.inputs):
            weight = unit.bench.constant(name) if name and name not in known.constants else None
            if weight is None or weight.dtype.kind not in "fV" or not weight.size:
                continue
            for change in _changes(unit, node, position, name, weight.astype(np.float64)):
                value = unit.tried({}, {name: change.value}) if change.value is not None else None
                if unit.explains(value) and value is not None:
                    return (_told(evidence, unit, node, position, change, value),)
    fitted = None if unit.last in known.nodes else _by_channel(unit)
    return () if fitted is None else (fitted,)


def _told(evidence: Evidence, unit: Unit, node: Node, position: int, change: _Change, value: np.ndarray) -> Diagnosis:
    left, words = relative(value, unit.candidate), f"weight {evidence.called(node, position)!r} {change.words}"
    message = evidence.computed(f"{node.op} {node.label!r}", words, "", left, unit.error)
    return Diagnosis("weights-differ", unit.tensor, message,
                     {"error": unit.error, "left": left, "floor": unit.floor, **change.numbers})


def _changes(unit: Unit, node: Node, position: int, name: str, weight: np.ndarray) -> Iterator[_Change]:
    for words, value in _rearranged(node, position, weight):
        yield _Change(words, value, {})
    if unit.candidate.shape != unit.gold.shape:
        return
    yield _Change("all zero", np.zeros_like(weight), {"factor": 0.0})
    gain = _fitted(unit, name, weight, np.zeros_like(weight), scale=True)
    if gain is not None:
        yield _Change(f"times {gain:.6g}", weight * gain, {"factor": gain})
    shift = _fitted(unit, name, weight, np.ones_like(weight), scale=False)
    if shift is not None:
        yield _Change(f"shifted by {shift:.6g}", weight + shift, {"shift": shift})
    if weight.ndim > 1:
        yield from _emptied(unit, node, name, weight)


def _rearranged(node: Node, position: int, weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same numbers in another order."""
    if node.op in GATES and position in (1, 2, 3):
        gates = GATES[node.op]
        parts = np.split(weight, gates * (2 if position == 3 else 1), axis=1)
        for order in permutations(range(gates)):
            if list(order) != list(range(gates)):
                both = [*order, *(gates + o for o in order)] if position == 3 else order
                yield f"with its gates in the order {list(order)}", np.concatenate([parts[o] for o in both], axis=1)
        return
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
        yield "transposed", np.ascontiguousarray(weight.T)
    elif weight.ndim == 2:
        yield "read in the other memory order", weight.T.reshape(weight.shape)
    if node.op in _CONVOLUTIONS and weight.ndim > 2 and max(weight.shape[2:]) > 1:
        yield "flipped, as a convolution in the strict sense", np.flip(weight, tuple(range(2, weight.ndim))).copy()
        if weight.ndim == 4 and weight.shape[2] == weight.shape[3]:
            yield "with height and width swapped", np.ascontiguousarray(weight.swapaxes(2, 3))
    for axis in range(min(weight.ndim, 2)):
        if weight.shape[axis] > 1 and weight.ndim > 1:
            yield f"reversed along axis {axis}", np.flip(weight, axis).copy()


def _fitted(unit: Unit, name: str, weight: np.ndarray, direction: np.ndarray, *, scale: bool) -> float | None:
    """The factor (or the shift) of a weight that fits the candidate best, by Gauss-Newton."""
    at = 1.0 if scale else 0.0
    value = unit.gold.astype(np.float64)
    candidate = unit.candidate.astype(np.float64)
    for _ in range(4):
        step = 1e-3 * (1.0 if scale else max(float(np.abs(weight).mean()), 1e-6))
        changed = weight * (at + step) if scale else weight + direction * (at + step)
        moved = unit.tried({}, {name: changed})
        if moved is None or moved.shape != candidate.shape:
            return None
        with np.errstate(all="ignore"):
            slope = (moved.astype(np.float64) - value).ravel() / step
            change = float(slope @ (candidate - value).ravel() / (slope @ slope))
        if not np.isfinite(change):
            return None
        at += change
        tried = unit.tried({}, {name: weight * at if scale else weight + direction * at})
        if tried is None or unit.explains(tried):
            return at
        value = tried.astype(np.float64)
        if not np.isfinite(value).all():
            return None
    return None


def _emptied(unit: Unit, node: Node, name: str, weight: np.ndarray) -> Iterator[_Change]:
    """Some channels of the weight zero: those that the candidate's error is in."""
    if node.op in GATES:
        for direction in range(weight.shape[0]):
            empty = weight.copy()
            empty[direction] = 0
            yield _Change(f"zero for direction {direction}", empty, {})
        return
    off = _channels_off(unit, _channel_axis(node, unit.candidate.ndim))
    axis = {"MatMul": weight.ndim - 1, "ConvTranspose": 1}.get(node.op, 0)
    if node.op == "Gemm" and not any(a.name == "transB" and a.i for a in node.proto.attribute):
        axis = 1
    if node is unit.last and off.size == weight.shape[axis] and 0 < off.sum() <= off.size / 2:
        empty = weight.copy()
        np.moveaxis(empty, axis, 0)[off] = 0
        yield _Change(f"zero in {off.sum()} of {off.size} channels", empty, {"channels": float(off.sum())})


def _channel_axis(node: Node, rank: int) -> int:
    normal = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
    return 1 if rank > 1 and (node.op in _CONVOLUTIONS or node.op in normal) else max(rank - 1, 0)


def _rows(value: np.ndarray, axis: int) -> np.ndarray:
    """A tensor as [channels, elements] in FP64."""
    wide = value.astype(np.float64)
    return np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1) if wide.ndim else wide.reshape(1, 1)


def _channels_off(unit: Unit, axis: int) -> np.ndarray:
    if unit.candidate.shape != unit.gold.shape:
        return np.zeros(0, bool)
    gold, candidate = _rows(unit.gold, axis), _rows(unit.candidate, axis)
    off: np.ndarray = np.linalg.norm(candidate - gold, axis=1) > unit.floor * np.linalg.norm(gold) / np.sqrt(len(gold))
    return off


def _by_channel(unit: Unit) -> Diagnosis | None:
    """A factor and a shift for each channel that is off."""
    if unit.candidate.shape != unit.gold.shape or not any(n in unit.bench.constants for n in unit.last.inputs):
        return None
    axis = _channel_axis(unit.last, unit.candidate.ndim)
    gold, candidate = _rows(unit.gold, axis), _rows(unit.candidate, axis)
    if gold.shape[1] < _SAMPLES or not np.isfinite(candidate).all():
        return None
    off = _channels_off(unit, axis)
    mean, middle = gold.mean(axis=1, keepdims=True), candidate.mean(axis=1, keepdims=True)
    spread = ((gold - mean)**2).sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        factor = np.where(spread > 0, ((gold - mean) * (candidate - middle)).sum(axis=1, keepdims=True) / spread, 1.0)
    shifts_only = gold + (middle - mean)
    for words, fitted in (("shifts", shifts_only), ("factors and shifts", middle + factor * (gold - mean))):
        value = np.where(off[:, None], fitted, gold)
        left = float(np.linalg.norm(value - candidate) / (np.linalg.norm(gold) or 1.0))
        if left <= unit.floor and left * 10 < unit.error:
            gains = factor[off].ravel()
            numbers = {"error": unit.error, "left": left, "floor": unit.floor, "channels": float(off.sum()),
                       "least_factor": float(gains.min()), "greatest_factor": float(gains.max())}
            message = (f"{unit.last.op} {unit.last.label!r} is as if it had other weights in {off.sum()} of {off.size} "
                       f"channels: {words} by channel (factors {gains.min():.4g} to {gains.max():.4g}) explain the "
                       f"candidate's values to {number(left)} (relative L2), where the reference's leave "
                       f"{number(unit.error)}.")
            return Diagnosis("weights-differ", unit.tensor, message, numbers)
    return None
