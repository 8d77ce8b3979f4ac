"""`layers.csv`: the layers as a flat table, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from parity.analysis.measure import Comparison
from parity.report.record import Candidate, Layer, Report
from parity.report.words import layer_ratio

if TYPE_CHECKING:
    import pandas as pd

_NAMES: Final = ("target", "emulated", "index", "tensor", "node", "op", "source", "module", "dtype", "shape",
                 "level")
_JUDGED: Final = ("passed", "origin", "first_bad", "floor", "local_over_floor", "precision", "implementation", "share",
                  "energy")
_METRICS: Final = tuple(field.name for field in fields(Comparison))

COLUMNS: Final = (*_NAMES, *_JUDGED, *(f"local_{name}" for name in _METRICS),
                  *(f"accumulated_{name}" for name in _METRICS))


def write_csv(report: Report) -> str:
    """The layers of every candidate that ran, one row a candidate and tensor, under the header COLUMNS.

    Numbers are written in full (they read back as the same float64), non-finite ones as nan, inf and -inf; truths as
    true and false; what is missing as nothing; shapes and indices as 1x3x224x224. Lines end in a line feed.

    A spreadsheet runs a cell that starts with = + - @, a tab or a carriage return as a formula, so a name that does
    gets one apostrophe in front, and so does one that starts with an apostrophe: taking a leading apostrophe off
    gives every name back as it was.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for candidate in report.candidates:
        for layer in candidate.tensors:
            writer.writerow([*_names(candidate, layer), *_judged(candidate, layer),
                             *_figures(layer.local), *_figures(layer.accumulated)])
    return text.getvalue()


def layers_frame(report: Report) -> pd.DataFrame:
    """The same as a data frame: numbers as numbers, names as they are, shapes as tuples; None or NaN where missing."""
    import pandas as pd

    rows = []
    for candidate in report.candidates:
        for layer in candidate.tensors:
            first = candidate.first_bad is not None and candidate.first_bad.tensor == layer.tensor
            values: list[object] = [
                candidate.target, candidate.emulated, layer.index, layer.tensor, layer.node, layer.op, layer.source,
                layer.module, layer.dtype, layer.shape, layer.level, layer.passed, layer.origin, first, layer.floor,
                layer_ratio(layer), layer.precision, layer.implementation, layer.share, layer.energy]
            for comparison in (layer.local, layer.accumulated):
                values += [None if comparison is None else getattr(comparison, name) for name in _METRICS]
            rows.append(values)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def guarded(name: str | None) -> str:
    """A name as a cell that no spreadsheet runs: one that starts with = + - @ ' tab or return gets an apostrophe."""
    return f"'{name}" if name and name[0] in "=+-@'\t\r\n" else name or ""


def _names(candidate: Candidate, layer: Layer) -> list[str]:
    return [guarded(candidate.target), _cell(candidate.emulated), str(layer.index), guarded(layer.tensor),
            guarded(layer.node), guarded(layer.op), guarded(layer.source), guarded(layer.module), layer.dtype,
            _cell(layer.shape), layer.level or ""]


def _judged(candidate: Candidate, layer: Layer) -> list[str]:
    first = candidate.first_bad is not None and candidate.first_bad.tensor == layer.tensor
    return [_cell(value) for value in (layer.passed, layer.origin, first, layer.floor, layer_ratio(layer),
                                       layer.precision, layer.implementation, layer.share, layer.energy)]


def _figures(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return [""] * len(_METRICS)
    return [_cell(getattr(comparison, name)) for name in _METRICS]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return repr(float(value)) if isinstance(value, float) else str(value)
