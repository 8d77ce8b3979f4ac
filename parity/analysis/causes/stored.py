"""What is wrong with a weight that a file holds as integers: its scales, its zero point, or the integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.analysis.causes.differences import Account, Layout, account
from parity.analysis.causes.evidence import Bench

# Share of the integers that must be roundings, half a step and a little; the others are clipped.
_MOST, _HALF = 0.999, 0.51


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as integers, channels first.

    Attributes:
        weight: what the integers should stand for, [channels, elements].
        integers: [channels, elements].
        scale: [channels, 1].
        zero: [channels, 1].
        limits: smallest and largest integer.
        scale_name: of the scale in the file.
        zero_name: likewise; empty where there is none.
        integers_name: likewise.
    """

    weight: np.ndarray
    integers: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    limits: tuple[int, int]
    scale_name: str
    zero_name: str
    integers_name: str

    @cached_property
    def inside(self) -> np.ndarray:
        """The integers that no clipping can have made."""
        within: np.ndarray = (self.integers > self.limits[0]) & (self.integers < self.limits[1])
        return within

    @cached_property
    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """The scales that the integers were made with, [channels, 1], and how far each may be off."""
        counts = self.integers - self.zero
        size = (counts**2).sum(1, keepdims=True)
        with np.errstate(all="ignore"):
            scale = np.where(size > 0, (counts * self.weight).sum(1, keepdims=True) / size, self.scale)
            return scale, np.where(size > 0, np.abs(scale) / np.sqrt(size), 0.0)

    def rounds(self, levels: np.ndarray, unsure: np.ndarray | float = 0.0) -> bool:
        """Whether the integers are roundings of these numbers, where so many steps of them are unsure."""
        near = np.abs(levels - self.integers) <= _HALF + unsure
        return bool(near[self.inside].mean() >= _MOST) if self.inside.any() else False


def stored(bench: Bench, name: str, weight: np.ndarray) -> Stored | None:
    """A weight of a file that dequantises it; None where it does not, or has scales for blocks.

    Args:
        bench: of the file.
        name: of the dequantised weight.
        weight: what it should be.
    """
    node = bench.model.graph.producer.get(name)
    if node is None or node.proto.op_type != "DequantizeLinear":
        return None
    integers, scale = (bench.constant(n) for n in node.inputs[:2])
    zero_name = node.inputs[2] if len(node.inputs) > 2 else ""
    zero = bench.constant(zero_name) if zero_name else None
    if integers is None or scale is None or scale.ndim > 1 or integers.dtype.kind not in "iu" or (
            integers.shape != weight.shape):
        return None
    axis = next((a.i for a in node.proto.attribute if a.name == "axis"), 1) if scale.size > 1 else None

    def rows(value: np.ndarray) -> np.ndarray:
        wide = value.astype(np.float64)
        return wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)

    ends = np.iinfo(integers.dtype)
    zeros = np.zeros(scale.size) if zero is None else zero
    return Stored(rows(weight), rows(integers), scale.astype(np.float64).reshape(-1, 1),
                  zeros.astype(np.float64).reshape(-1, 1), (int(ends.min), int(ends.max)), node.inputs[1], zero_name,
                  node.inputs[0])


def account_of_stored(held: Stored, weight: np.ndarray, found: np.ndarray, layout: Layout) -> tuple[str, Account]:
    """Say what is wrong with a weight that is held as integers.

    Args:
        held: as the file holds it.
        weight: what it should be.
        found: what it is.
        layout: of the weight.

    Returns:
        The cause, and what follows the weight's name.
    """
    said = _scales(held)
    if said is not None:
        alive = bool((np.isfinite(held.scale) & (held.scale > 0)).all())
        return "wrong-scale" if alive else "dead-scale", said
    said = _zero_point(held)
    if said is not None:
        return "wrong-zero-point", said
    step = 1.01 * float(held.scale.max(initial=0.0))
    whole = account(weight, found, layout, step)
    if not whole.complete and held.scale.size > 1:  # integers in another order than their scales
        with np.errstate(all="ignore"):
            levels = np.clip(np.rint(held.weight / held.scale) + held.zero, *held.limits)
        rows = account(levels, held.integers, Layout(("channels", "elements")), 1.01)
        whole = rows if rows.complete else whole
    return "weights-differ", whole


def _scales(held: Stored) -> Account | None:
    """Integers that are right, with scales that are not those they were made with."""
    made, unsure = held.fitted
    wrong = (np.abs(held.scale - made) > unsure).ravel()
    with np.errstate(all="ignore"):
        right = held.rounds(held.weight / made + held.zero, np.abs(held.integers - held.zero) * (unsure / made))
        ratios = (held.scale / made).ravel()
    if not wrong.any() or not right:
        return None
    least, greatest = float(ratios[wrong].min()), float(ratios[wrong].max())
    numbers = {"channels": float(wrong.sum()), "least_factor": least, "greatest_factor": greatest}
    where, name = f"with scale {held.scale_name!r}", f"with scales {held.scale_name!r}"
    common = float(np.median(ratios[wrong]))
    if (np.abs(held.scale - common * made).ravel() <= common * unsure.ravel())[wrong].all():
        few = "" if wrong.all() else f" in {wrong.sum()} of {wrong.size} channels"
        return Account(f"{where} {common:.3g} times the one that its integers were made with{few}", numbers)
    order = account(made.ravel(), held.scale.ravel(), Layout(("channels",)), unsure.ravel())
    if order.complete:
        return Account(f"{name}, {order.words}", numbers)
    return Account(f"{name} {least:.3g} to {greatest:.3g} times those that its integers were made with in "
                   f"{wrong.sum()} of {wrong.size} channels", numbers)


def _zero_point(held: Stored) -> Account | None:
    """Integers that are right, with a zero point that is not theirs."""
    with np.errstate(all="ignore"):
        levels = held.weight / held.scale + held.zero
        by = np.array([[np.rint(np.median(row[kept])) if kept.any() else 0.0]
                       for row, kept in zip(held.integers - levels, held.inside, strict=True)])
    if not np.isfinite(by).all() or not by.any() or not held.rounds(levels + by):
        return None
    wrong = by.ravel()[by.ravel() != 0]
    far = f"{-wrong[0]:+.0f}" if (wrong == wrong[0]).all() else f"{-wrong.max():+.0f} to {-wrong.min():+.0f}"
    few = "" if wrong.size == by.size else f" in {wrong.size} of {by.size} channels"
    return Account(f"with zero point {held.zero_name!r} off by {far}{few}",
                   {"least_off": float(-wrong.max()), "greatest_off": float(-wrong.min())})
