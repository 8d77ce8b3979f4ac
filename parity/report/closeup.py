"""The close-ups of tensors as the HTML report embeds them for layer.js."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from parity.analysis.portrait import Format, Portrait
from parity.report import words
from parity.report.record import Candidate

_Figure = Callable[[object], object]


def portraits(candidate: Candidate, figure: _Figure) -> Mapping[str, object]:
    """Both distributions, the worst elements, the format and the operands of each tensor that has them, by its row.

    Args:
        candidate: whose tensors.
        figure: shortens a figure for strict JSON.
    """
    own = {layer.tensor: layer.portrait for layer in (*candidate.outputs, *candidate.tensors) if layer.portrait}
    rows = ((row, own.get(layer.tensor)) for row, layer in enumerate(candidate.tensors))
    return {str(row): _portrait(found, figure) for row, found in rows if found is not None}


def _portrait(found: Portrait, figure: _Figure) -> Mapping[str, object]:
    right, other, error = found.values.reference, found.values.candidate, found.values.error
    return {
        "values": [right.low, right.high, right.counts, other.counts],
        "error": [error.low, error.high, error.counts],
        "worst": [[", ".join(map(str, e.index)), figure(e.reference), figure(e.candidate)] for e in found.values.worst],
        "format": _format(found.format, figure),
        "operands": [[words.visible(o.name), figure(o.low), figure(o.high), _format(o.format, figure)]
                     for o in found.operands]}


def _format(found: Format | None, figure: _Figure) -> object:
    return None if found is None else [words.visible(found.name), figure(found.low), figure(found.high),
                                       figure(found.step), found.scales, found.zero, figure(found.clipped)]
