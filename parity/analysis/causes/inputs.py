"""Other inputs than the reference's: layout, order of channels, normalisation; and NaN or Inf in what was given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, distance, outputs_of, relative
from parity.analysis.causes.meanings import other_meaning
from parity.analysis.causes.unit import Unit, unit_of
from parity.figures import number

# Means and deviations of red, green and blue over ImageNet, images in [0, 1]: what torchvision's models are fed with.
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_FACTORS = (("divided by 255", 1 / 255), ("times 255", 255.0), ("divided by 256", 1 / 256), ("divided by 128", 1 / 128),
            ("divided by 127.5", 1 / 127.5), ("times 127.5", 127.5), ("negated", -1.0),
            ("divided by 32768", 1 / 32768), ("times 32768", 32768.0))


@dataclass(frozen=True)
class _Taken:
    """What the candidate may have been fed with."""

    cause: str
    words: str
    value: np.ndarray


def nonfinite_inputs(evidence: Evidence) -> Sequence[Diagnosis]:
    """NaN or Inf that was in the inputs already: with 0 in its place both sides would be finite alike."""
    odd = {n: ~np.isfinite(v) for n, v in evidence.feed.items() if v.dtype.kind == "f" and not np.isfinite(v).all()}
    spread = evidence.blamed_for("nonfinite") is not None or (evidence.blamed is None and math.isinf(evidence.error))
    if not odd or not spread:
        return ()
    mended = {n: np.where(odd[n], 0, v).astype(v.dtype) if n in odd else v for n, v in evidence.feed.items()}
    if math.isinf(distance(outputs_of(evidence.reference, mended), outputs_of(evidence.variant, mended))):
        return ()
    return tuple(_held(evidence, name, where) for name, where in odd.items())


def _held(evidence: Evidence, name: str, where: np.ndarray) -> Diagnosis:
    value = evidence.feed[name]
    nans, infs = int(np.isnan(value).sum()), int(np.isinf(value).sum())
    held = " and ".join(f"{count} {word}" for count, word in ((nans, "NaN"), (infs, "Inf")) if count)
    place = [int(i) for i in np.argwhere(where)[0]]
    message = (f"Input {name!r} itself holds {held} among {value.size} elements, the first at {place}: the two sides "
               "hand that on differently, and with 0 in its place neither has any. Give clean inputs.")
    tensor = name if evidence.blamed is None else evidence.blamed[0].tensor
    return Diagnosis("nonfinite-input", tensor, message,
                     {"nan": float(nans), "inf": float(infs), "elements": float(value.size)})


def other_inputs(evidence: Evidence) -> Sequence[Diagnosis]:
    """A graph input in another layout or normalisation, which gives what the candidate's first tensors show.

    Where another meaning of the operator that reads it does so as well, nobody can tell, and both are said.
    """
    for unit, name in _suspects(evidence):
        for taken in _takes(evidence.feed[name]):
            value = unit.tried({}, {name: taken.value})
            if unit.explains(value) and value is not None:
                return (_told(unit, name, taken, relative(value, unit.candidate)), *other_meaning(evidence))
    return ()


def other_mixture(evidence: Evidence) -> Sequence[Diagnosis]:
    """The channels of an image in an order and normalisation of their own, found by least squares."""
    found = (_mixed(unit, name, evidence.feed[name]) for unit, name in _suspects(evidence))
    return tuple(d for d in found if d is not None)


def _suspects(evidence: Evidence) -> Iterator[tuple[Unit, str]]:
    """The graph inputs that the named tensor is made from, unless what else reads one shows that it was right."""
    blamed = evidence.blamed_for("implementation", "nonfinite")
    unit = None if blamed is None else unit_of(evidence, blamed, most=math.inf)  # an input is one, however far it is
    if unit is not None and _varies(unit.candidate):
        for name in unit.inputs:
            if name in evidence.feed and not any(_agrees(evidence, d.tensor, name) for d in evidence.found):
                yield unit, name


def _varies(value: np.ndarray) -> bool:
    """Whether a tensor is not the same everywhere: of one that is, nothing can be told."""
    return value.dtype.kind in "fiu" and value.size > 0 and bool((value != value.ravel()[0]).any())


def _agrees(evidence: Evidence, tensor: str, name: str) -> bool:
    """Whether a tensor is made from this input and constants alone, and is right."""
    node = evidence.variant.graph.producer.get(tensor)
    found = evidence.of[tensor]
    if node is None or name not in node.reads or found.to_blame or found.judgement is None:
        return False
    shown = [n for n in node.reads if n not in evidence.variant.constants]
    return shown == [name] and found.judgement.local.reference_l2 > 0 and node.op not in ("Shape", "Size")


def _told(unit: Unit, name: str, taken: _Taken, left: float) -> Diagnosis:
    message = (f"The candidate took input {name!r} {taken.words}: that explains {unit.tensor!r} to {number(left)} "
               f"(relative L2), where the input as the reference has it leaves {number(unit.error)}.")
    return Diagnosis(taken.cause, unit.tensor, message, {"error": unit.error, "left": left, "floor": unit.floor})


def _takes(x: np.ndarray) -> Iterator[_Taken]:
    """The same input as others lay it out or scale it."""
    for words, value in _layouts(x):
        if value.shape == x.shape and not np.array_equal(value, x):
            yield _Taken("input-layout", words, np.ascontiguousarray(value))
    for axis in (1, x.ndim - 1):
        if x.ndim > 2 and 1 < x.shape[axis] <= 4:
            value = x.copy()
            np.moveaxis(value, axis, 0)[:3] = np.moveaxis(x, axis, 0)[:3][::-1]
            if not np.array_equal(value, x):
                yield _Taken("input-channels", "with its channels reversed (BGR for RGB)", value)
    if x.dtype.kind == "f":
        for words, value in _scalings(x.astype(np.float64)):
            yield _Taken("input-normalisation", words, value.astype(x.dtype))


def _layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if x.ndim == 4:
        n, one, two, three = x.shape
        if one > 1 and two * three > 1:
            yield "in NHWC order for NCHW", x.transpose(0, 2, 3, 1).reshape(x.shape)
            yield "read as NHWC where it is NCHW", x.reshape(n, two, three, one).transpose(0, 3, 1, 2)
        if three > 1 and one * two > 1:
            yield "in NCHW order for NHWC", x.transpose(0, 3, 1, 2).reshape(x.shape)
            yield "read as NCHW where it is NHWC", x.reshape(n, three, one, two).transpose(0, 2, 3, 1)
        yield "flipped left to right", x[..., ::-1]
        yield "flipped top to bottom", x[..., ::-1, :]
    for first in range(x.ndim):
        for second in range(first):
            if x.shape[first] == x.shape[second] > 1:
                yield f"with axes {second} and {first} swapped", x.swapaxes(first, second)
            elif 1 < x.shape[first] != x.shape[second] > 1:
                yield (f"with axes {second} and {first} swapped in memory",
                       np.ascontiguousarray(x.swapaxes(first, second)).reshape(x.shape))
    if x.ndim in (2, 3) and x.shape[-1] > 1:
        yield "with its last axis reversed", x[..., ::-1]


def _scalings(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for words, factor in _FACTORS:
        yield words, x * factor
    yield "as 2x - 1", 2 * x - 1
    yield "as (x + 1)/2", (x + 1) / 2
    yield "as x/127.5 - 1", x / 127.5 - 1
    yield "as 127.5 (x + 1)", 127.5 * (x + 1)
    yield "less 0.5", x - 0.5
    yield "plus 0.5", x + 0.5
    yield "less 127.5", x - 127.5
    yield "without its mean", x - x.mean()
    if x.std() > 0:
        yield "with its own mean and deviation normalised", (x - x.mean()) / x.std()
    for axis in (1, x.ndim - 1):
        if x.ndim == 4 and x.shape[axis] == 3:
            along = [3 if i == axis else 1 for i in range(4)]
            mean, deviation = _MEAN.reshape(along), _DEVIATION.reshape(along)
            yield "less ImageNet's mean, by its deviation", (x - mean) / deviation
            yield "without ImageNet's mean and deviation", x * deviation + mean
            yield "less ImageNet's mean, by its deviation, from 0 to 255", (x / 255 - mean) / deviation
            yield "less ImageNet's mean", x - mean
            yield "by ImageNet's deviation", x / deviation


_MOST_CHANNELS = 4


def _mixed(unit: Unit, name: str, x: np.ndarray) -> Diagnosis | None:
    """Which mixture and shift of an image's channels explains a tensor that depends on it linearly."""
    axis = next((a for a in (1, x.ndim - 1) if x.ndim == 4 and 1 < x.shape[a] <= _MOST_CHANNELS), None)
    if axis is None or x.dtype.kind != "f" or unit.candidate.dtype.kind != "f":
        return None
    channels, moved = x.shape[axis], np.moveaxis(x.astype(np.float64), axis, 0)
    base = _output(unit, name, np.zeros_like(x, np.float64))
    if base is None or base.shape != unit.candidate.shape:
        return None
    columns = []
    for into in range(channels):
        for source in (*moved, np.ones_like(moved[0])):
            one = np.zeros_like(moved)
            one[into] = source
            made = _output(unit, name, np.moveaxis(one, 0, axis))
            if made is None:
                return None
            columns.append((made - base).ravel())
    matrix, wanted = np.stack(columns, 1), (unit.candidate.astype(np.float64) - base).ravel()
    if not np.isfinite(matrix).all() or len(matrix) < 4 * matrix.shape[1]:
        return None
    found, _, rank, _ = np.linalg.lstsq(matrix, wanted, rcond=1e-10)
    left = float(np.linalg.norm(matrix @ found - wanted) / (np.linalg.norm(wanted + base.ravel()) or 1))
    if rank < matrix.shape[1] or left > unit.floor or left * 10 > unit.error:
        return None
    return _mixture(unit, name, found.reshape(channels, channels + 1), left)


def _output(unit: Unit, name: str, value: np.ndarray) -> np.ndarray | None:
    made = unit.tried({}, {name: value})
    return None if made is None or made.dtype.kind != "f" else made.astype(np.float64)


def _mixture(unit: Unit, name: str, found: np.ndarray, left: float) -> Diagnosis | None:
    """What a mixture of channels is: an order of theirs, or a factor and a shift for each."""
    mixing, shift = found[:, :-1], found[:, -1]
    largest = np.abs(mixing).max()
    order = np.abs(mixing).argmax(axis=1)
    factors = mixing[np.arange(len(order)), order]
    rest = mixing.copy()
    rest[np.arange(len(order)), order] = 0
    if np.abs(rest).max() > 1e-3 * largest or sorted(order) != list(range(len(order))):
        return None
    ordered = list(order) == list(range(len(order)))
    shifted = bool(np.abs(shift).max() > 1e-3 * largest)
    if ordered and not shifted:  # which a gain of the first weight explains as well
        return None
    words = ("" if ordered else f"with its channels in the order {[int(o) for o in order]}") or "otherwise normalised"
    if shifted or np.ptp(factors) > 1e-3:
        words += f", times {np.array2string(factors, precision=4)} plus {np.array2string(shift, precision=4)}"
    cause = "input-normalisation" if ordered else "input-channels"
    numbers = {f"factor_{i}": float(f) for i, f in enumerate(factors)} | {f"shift_{i}": float(s)
                                                                          for i, s in enumerate(shift)}
    told = _told(unit, name, _Taken(cause, words, np.zeros(0)), left)
    return Diagnosis(cause, told.tensor, told.message, {**told.evidence, **numbers})
