"""How one weight differs from another: a factor, a shift, an order, zeros, or other values in a few of its elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import ml_dtypes
import numpy as np

from parity.analysis.causes.orders import order_of, told, told_order, transposed
from parity.graph.graph import Node

# Numbers of gates in a recurrent operator's weights, stacked along axis 1.
GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3}
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "com.microsoft::FusedConv"})
_SPACE: Mapping[int, Sequence[str]] = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
# A rounding of FP32 arithmetic, relative to the largest element: how far a product with a factor may be off.
_ROUNDING = 2.0**-21
# Two roundings to narrower types, relative to the element.
_ROUNDINGS: Mapping[str, float] = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
# How far the sums of the same numbers in another order may be apart, relative to the sum of magnitudes.
_SUM = 1e-12
# Elements that a number fitted to them needs to say anything.
_SAMPLES = 3


@dataclass(frozen=True)
class Account:
    """How one tensor differs from another.

    Attributes:
        words: what follows its name, e.g. "times 1.02".
        numbers: the figures by name.
        complete: whether they make one tensor of the other; False where they only say how much of it is another.
    """

    words: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True)
class Layout:
    """What the axes of a weight are.

    Attributes:
        axes: what each counts, in the plural.
        gates: how many are stacked along axis 1; 0 for none.
        halves: of a recurrent bias, 2: the input's and the recurrent one.
    """

    axes: Sequence[str]
    gates: int = 0
    halves: int = 1

    @staticmethod
    def of(node: Node, position: int, rank: int) -> Layout:
        """The layout of what a node reads at a position."""
        if node.op in GATES and position in (1, 2, 3):
            return Layout(("directions", "rows of gates", "columns"), GATES[node.op], 2 if position == 3 else 1)
        if node.op in _CONVOLUTIONS and position == 1 and rank - 2 in _SPACE:
            channels = ("output channels", "input channels")
            return Layout((*(channels[::-1] if node.op == "ConvTranspose" else channels), *_SPACE[rank - 2]))
        plain = {1: ("elements",), 2: ("rows", "columns")}
        return Layout(plain.get(rank, tuple(f"slices along axis {i}" for i in range(rank))))


def account(expected: np.ndarray, found: np.ndarray, layout: Layout, slack: np.ndarray | float = 0.0) -> Account:
    """Say how a tensor differs from what was expected, in the simplest words that are true.

    Args:
        expected: the reference's.
        found: the candidate's.
        layout: of the expected one.
        slack: how far an element may be off and count as the same, to broadcast against `found`.
    """
    if expected.size == found.size == 1:
        return _single(float(expected.reshape(())), float(found.reshape(())))
    if expected.shape != found.shape:
        return Account(f"of shape {list(found.shape)} instead of {list(expected.shape)}")
    pair = _Pair(expected.astype(np.float64), found.astype(np.float64), np.asarray(slack, np.float64), layout,
                 _ROUNDINGS.get(found.dtype.name, 0.0))
    if pair.most and not pair.off.any():
        return account(expected, found, layout)
    return next(said for said in (tried(pair) for tried in _ACCOUNTS) if said is not None)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two tensors of one shape in FP64."""

    expected: np.ndarray
    found: np.ndarray
    slack: np.ndarray
    layout: Layout
    rounding: float

    @cached_property
    def most(self) -> float:
        """How far any element may be off and count as the same."""
        return float(self.slack.max(initial=0.0))

    @cached_property
    def off(self) -> np.ndarray:
        """The elements that are not the same."""
        return ~_near(self.expected, self.found, self.slack)

    def same(self, value: np.ndarray) -> bool:
        """Whether the found tensor holds these very numbers."""
        return self._all_near(value, 0.0, 0.0)

    def close(self, value: np.ndarray) -> bool:
        """Whether it is this, computed in FP32 and rounded to its own type."""
        largest = float(np.abs(self.found).max(initial=0.0, where=np.isfinite(self.found)))
        return self._all_near(value, _ROUNDING * largest, self.rounding)

    def _all_near(self, value: np.ndarray, absolute: float, relative: float) -> bool:
        """Whether no element is farther off; of a large tensor that is plain from its first rows."""
        few = [slice(0, 2)] if self.slack.ndim == 0 and value.ndim > 1 else []
        for part in (*few, slice(None)):
            found = self.found[part] if value.ndim else self.found
            by = self.slack + absolute + (relative * np.abs(found) if relative else 0.0)
            if not _near(value[part] if value.ndim else value, found, by).all():
                return False
        return True

    @cached_property
    def rearranged(self) -> bool:
        """Whether it may be the same numbers in another order."""
        if self.most > 0 or not self.expected.ndim:
            return self.expected.ndim > 0
        with np.errstate(invalid="ignore"):
            apart = abs(float(self.expected.sum()) - float(self.found.sum()))
        if apart > _SUM * float(np.abs(self.found).sum()):
            return False  # which costs much less than to sort them
        return bool(np.array_equal(np.sort(self.expected, axis=None), np.sort(self.found, axis=None)))

    def apart(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Both as [slices along an axis, elements]."""
        one, other = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (self.expected, self.found))
        return one, other


def _near(value: np.ndarray, found: np.ndarray, by: np.ndarray | float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        close = (value == found) | (np.abs(value - found) <= by)
    near: np.ndarray = close | (np.isnan(value) & np.isnan(found))
    return near


def _nonfinite(pair: _Pair) -> Account | None:
    odd = ~np.isfinite(pair.found) & np.isfinite(pair.expected)
    more = np.isfinite(pair.expected).sum() > np.isfinite(pair.found).sum()
    count = int(odd.sum()) if more else 0
    return Account(f"with NaN or Inf in {count} of {odd.size} elements", {"nonfinite": float(count)}) if count else None


def _single(old: float, new: float) -> Account:
    return Account(f"of {new:.6g} instead of {old:.6g}", {"constant": old, "other_constant": new})


def _nothing(pair: _Pair) -> Account | None:
    return None if pair.found.any() else Account("all zero", {"factor": 0.0})


def _rounded(pair: _Pair) -> Account | None:
    for words, narrow in (("FP16", np.dtype(np.float16)), ("BF16", np.dtype(ml_dtypes.bfloat16))):
        with np.errstate(over="ignore"):
            head = pair.expected.ravel()[:64].astype(np.float32).astype(narrow) == pair.found.ravel()[:64]
            if not pair.most and head.all() and pair.same(
                    pair.expected.astype(np.float32).astype(narrow).astype(np.float64)):
                return Account(f"rounded to {words}")
    return None


def _factor(pair: _Pair) -> Account | None:
    e = pair.expected.ravel()
    with np.errstate(all="ignore"):
        factor = float(e @ pair.found.ravel() / (e @ e))
    if e.size < _SAMPLES or not np.isfinite(factor) or not pair.close(pair.expected * factor):
        return None
    told_as = f"{factor:.{3 if pair.most or pair.rounding else 6}g}"
    return Account("with the sign turned" if told_as == "-1" else f"times {told_as}", {"factor": factor})


def _shift(pair: _Pair) -> Account | None:
    with np.errstate(invalid="ignore"):
        shift = float((pair.found - pair.expected).mean())
    if pair.found.size < _SAMPLES or not np.isfinite(shift) or not pair.close(pair.expected + shift):
        return None
    return Account(f"shifted by {shift:.6g}", {"shift": shift})


def _gates(pair: _Pair) -> Account | None:
    """The gates of a recurrent operator in another order, as other libraries stack them."""
    blocks = pair.layout.gates * pair.layout.halves
    if not blocks or not pair.rearranged or pair.expected.shape[1] % blocks:
        return None
    one, other = (np.moveaxis(v.reshape(len(v), blocks, -1), 1, 0).reshape(blocks, -1)
                  for v in (pair.expected, pair.found))
    order = order_of(one, other, pair.most)
    if order is None:
        return None
    gates = order[:pair.layout.gates]
    if [*gates, *(g + pair.layout.gates for g in gates)][:blocks] == order:
        return Account(f"with gates in the order {gates}")
    return Account(f"with blocks of gates in the order {order}")


def _turned(pair: _Pair) -> Account | None:
    if not pair.rearranged:
        return None
    axes = transposed(pair.expected, pair.layout.axes)
    return next((Account(words) for words, value in axes if pair.same(value)), None)


def _ordered(pair: _Pair) -> Account | None:
    for axis in range(pair.found.ndim) if pair.rearranged else ():
        order = order_of(*pair.apart(axis), pair.most) if pair.found.shape[axis] > 1 else None
        if order is not None and order != list(range(len(order))):
            return Account(told_order(order, pair.layout.axes[axis]))
    return None


def _emptied(pair: _Pair) -> Account | None:
    """Zero where the other is not, and the same everywhere else."""
    if pair.found[pair.off].any():
        return None
    if pair.layout.halves == 2 and pair.found.shape[1] % 2 == 0:
        for i, words in enumerate(("input", "recurrent")):
            if not np.split(pair.found, 2, axis=1)[i].any() and not np.split(pair.off, 2, axis=1)[1 - i].any():
                return Account(f"zero in the {words} half")
    where = _slices(pair)
    if where is not None and not np.take(pair.found, where[1], axis=where[0]).any():
        return _in_slices(pair, "zero", *where)
    return Account(f"zero in {int(pair.off.sum())} of {pair.off.size} elements", {"elements": float(pair.off.sum())})


def _slices(pair: _Pair) -> tuple[int, list[int]] | None:
    """The axis along which all that is off lies in the smallest share of slices, and those; None where in most."""
    along = [(i, np.flatnonzero(pair.off.any(axis=tuple(a for a in range(pair.off.ndim) if a != i))))
             for i in range(pair.off.ndim) if pair.off.ndim > 1]
    few = [(len(s) / pair.off.shape[i], i, [int(n) for n in s]) for i, s in along if 2 * len(s) <= pair.off.shape[i]]
    return min(few)[1:] if few else None


def _in_slices(pair: _Pair, words: str, axis: int, which: Sequence[int]) -> Account:
    size, what = pair.found.shape[axis], pair.layout.axes[axis]
    where = f"all {size} {what}" if len(which) == size else f"{len(which)} of {size} {what} ({told(which)})"
    return Account(f"{words} in {where}", {"channels": float(len(which))})


def _by_axis(pair: _Pair, fitted: Callable[[np.ndarray, np.ndarray], np.ndarray],
             applied: Callable[[np.ndarray, np.ndarray], np.ndarray], words: str, name: str) -> Account | None:
    """A number of its own for each slice along an axis."""
    for axis in range(pair.found.ndim if pair.found.ndim > 1 else 0):
        one, other = pair.apart(axis)
        if one.shape[1] < _SAMPLES or one.shape[0] < 2:
            continue
        with np.errstate(all="ignore"):
            numbers = fitted(one, other)
            value = np.moveaxis(applied(one, numbers).reshape(np.moveaxis(pair.found, axis, 0).shape), 0, axis)
        if np.isfinite(numbers).all() and pair.close(value):
            off = pair.off.any(axis=tuple(a for a in range(pair.off.ndim) if a != axis))
            least, greatest = float(numbers[off].min()), float(numbers[off].max())
            many = f"{least:.4g} to {greatest:.4g}" if greatest - least > 1e-5 * abs(greatest) else f"{greatest:.6g}"
            said = _in_slices(pair, f"{words} {many}", axis, [int(i) for i in np.flatnonzero(off)])
            return Account(said.words, {**said.numbers, f"least_{name}": least, f"greatest_{name}": greatest})
    return None


def _factors(pair: _Pair) -> Account | None:
    return _by_axis(pair, lambda e, f: np.where((e != 0).any(1), (e * f).sum(1) / (e * e).sum(1), 1.0),
                    lambda e, k: e * k[:, None], "times", "factor")


def _shifts(pair: _Pair) -> Account | None:
    return _by_axis(pair, lambda e, f: (f - e).mean(1), lambda e, k: e + k[:, None], "shifted by", "shift")


def _others(pair: _Pair) -> Account:
    norm = float(np.linalg.norm(pair.expected)) or 1.0
    with np.errstate(invalid="ignore"):
        apart = float(np.linalg.norm(pair.found - pair.expected)) / norm
    where = _slices(pair)
    if where is not None and 2 * np.take(pair.off, where[1], axis=where[0]).mean() < 1:
        where = None
    first = [int(i) for i in np.argwhere(pair.off)[0]]
    said = _in_slices(pair, "with other values", *where) if where is not None else Account(
        f"with other values in {int(pair.off.sum())} of {pair.off.size} elements, the first at {first}")
    numbers = {**said.numbers, "elements": float(pair.off.sum()), "apart": apart}
    return Account(f"{said.words}, {apart:.2g} away (relative L2)", numbers, complete=False)


_ACCOUNTS: tuple[Callable[[_Pair], Account | None], ...] = (
    _nonfinite, _nothing, _rounded, _factor, _shift, _gates, _turned, _ordered, _emptied, _factors, _shifts,
    _others)
