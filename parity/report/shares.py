"""The account of the output error: which layers it comes from, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.report import words
from parity.report.record import Attribution, Candidate, Layer

MISLEADING = 2.0  # sum of magnitudes from which layers cancel each other so far that single shares mislead
_WORTH_SAYING = 0.01  # of the error, missed by the slopes


@dataclass(frozen=True)
class Entry:
    """One line of the account.

    Attributes:
        label: the tensor's name, or what else the share is of.
        op: the tensor's operator; empty for what is no tensor.
        share: of the output error; 1 is all of it.
        row: place among the candidate's tensors; None for what is no tensor.
    """

    label: str
    op: str
    share: float
    row: int | None = None


def shown(candidate: Candidate) -> Attribution | None:
    """The candidate's attribution where its shares are shown."""
    found = candidate.attribution
    return None if found is None or found.withheld else found


def account(candidate: Candidate, most: int) -> list[Entry]:
    """The layers of the largest shares, the other layers together, and what the slopes miss; it adds up to 1.

    Args:
        candidate: whose output error.
        most: how many layers get a line of their own.
    """
    found = shown(candidate)
    if found is None:
        return []
    ranked = sorted((row for row, layer in enumerate(candidate.tensors) if layer.share),
                    key=lambda row: (-abs(candidate.tensors[row].share or 0), row))
    top = [_entry(candidate.tensors[row], row) for row in ranked[:most]]
    left, rest = len(ranked) - len(top), found.sum - sum(entry.share for entry in top)
    if left > 0 or abs(rest) >= 5e-4:
        others = "the other layer" if left == 1 else f"the other {left:,} layers"
        top.append(Entry(others if left > 0 else "everything else", "", rest))
    return [*top, Entry("what the slopes miss", "", found.residual)]


def _entry(layer: Layer, row: int) -> Entry:
    return Entry(words.visible(layer.tensor), words.visible(layer.op), layer.share or 0.0, row)


def total(found: Attribution) -> float:
    """What the account adds up to."""
    return found.sum + found.residual


def energies(candidate: Candidate, most: int) -> list[tuple[int, Layer]]:
    """The layers that would do most to the output alone, with their places, largest first; NaN counts as largest."""
    found = [(row, layer) for row, layer in enumerate(candidate.tensors) if layer.energy is not None]
    found.sort(key=lambda pair: -_size(pair[1].energy))
    return [pair for pair in found[:most] if _size(pair[1].energy) > 0]


def _size(energy: float | None) -> float:
    return 0.0 if energy is None else math.inf if math.isnan(energy) else energy


def percent(value: float) -> str:
    """A share as a signed percentage, +41.2% or −3.0%."""
    if not math.isfinite(value):
        return words.number(value)
    size = abs(100 * value)
    sign = "" if size < 0.05 else "−" if value < 0 else "+"
    return sign + (f"{size:,.1f}%" if size < 1e6 else f"{words.number(size)}%")


def remarks(candidate: Candidate, entries: Sequence[Entry]) -> list[tuple[words.Mark, str]]:
    """What a reader of the account must know, warnings first; `entries` are the lines that are shown."""
    found = candidate.attribution
    if found is None:
        return []
    if found.withheld:
        return [("none", f"Shares are not shown: {words.line(found.withheld).rstrip('.')}.")]
    sizes = percent(found.sum_abs).lstrip("+")
    said: list[tuple[words.Mark, str]] = [
        ("warn", f"Without their signs the shares add up to {sizes}: layers cancel each other, single shares mislead.")
        if found.sum_abs > MISLEADING else ("none", f"Without their signs the shares add up to {sizes}.")]
    said += [("none", text) for text in _offsets(candidate, entries)]
    if found.residual_at is not None and found.residual_abs >= _WORTH_SAYING:
        missed = percent(found.residual_abs).lstrip("+")
        said.append(("none", (f"The slopes miss most at {words.visible(found.residual_at)}; over all layers and "
                              f"without signs, {missed}.")))
    if found.samples > 1:
        flips = (f"{words.plural(found.flips, 'layer')} {'changes' if found.flips == 1 else 'change'} the sign"
                 if found.flips else "no layer changes its sign")
        said.append(("none", f"Pooled over {found.samples:,} samples; {flips} from sample to sample."))
    return said


def _offsets(candidate: Candidate, entries: Sequence[Entry]) -> list[str]:
    """What negative shares are, where one is shown, or counted in the line of the other layers."""
    undo = "they undo error that comes from elsewhere."
    if any(_negative(entry.share) for entry in entries[:-1]):
        return [f"Negative shares are offsets: {undo}"]
    lines = {entry.row for entry in entries}
    counted = any(_negative(layer.share or 0.0) and row not in lines for row, layer in enumerate(candidate.tensors))
    return [f"Negative shares, of which the other layers have some, are offsets: {undo}"] if counted else []


def _negative(share: float) -> bool:
    """Whether it is printed as a negative one."""
    return percent(share).startswith("−")
