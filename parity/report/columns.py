"""The columns of figures that the HTML report embeds for the page's script."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from parity.analysis.measure import Comparison
from parity.report import across, answer, closeup, ladder, named, repairs, shares, words
from parity.report.record import Candidate, Layer, Report

SHARES = 12  # layers with a bar of their own
_DIGITS = 5  # significant digits of a figure in the page; report.json has all of them

_Value = Callable[[Layer], object]


def _of(side: str, metric: str) -> _Value:
    def value(layer: Layer) -> object:
        comparison: Comparison | None = getattr(layer, side)
        return None if comparison is None else getattr(comparison, metric)

    return value


_TEXTS: Mapping[str, _Value] = {
    "tensor": lambda layer: layer.tensor, "node": lambda layer: layer.node, "op": lambda layer: layer.op,
    "source": lambda layer: layer.source, "module": lambda layer: layer.module, "dtype": lambda layer: layer.dtype,
    "shape": lambda layer: words.shape(layer.shape), "origin": lambda layer: layer.origin,
    "level": lambda layer: layer.level}

_FIGURES: Mapping[str, _Value] = {
    "index": lambda layer: layer.index, "passed": lambda layer: layer.passed,
    "local": _of("local", "rel_l2"), "floor": lambda layer: layer.floor, "local_max_abs": _of("local", "max_abs"),
    "accumulated": _of("accumulated", "rel_l2"), "max_abs": _of("accumulated", "max_abs"),
    "sqnr_db": _of("accumulated", "sqnr_db"), "cosine": _of("accumulated", "cosine"),
    "nonfinite": _of("accumulated", "mismatched_nonfinite"), "precision": lambda layer: layer.precision,
    "implementation": lambda layer: layer.implementation, "share": lambda layer: layer.share,
    "energy": lambda layer: layer.energy}


# Worst output error of each run, by target.
History = Sequence[tuple[str, Sequence[float | None]]]


def embedded(report: Report, history: History = (), runs: Sequence[str] = ()) -> str:
    """What the page's script draws from, as JSON that may stand in a script element.

    Layers are one list a column, since 40,000 rows of named fields would not fit the file size; texts are places in
    `strings`.

    Args:
        report: what is shown.
        history: of each target through several runs, as a multiple of its limit.
        runs: their names.
    """
    strings: dict[str, int] = {}
    candidates = [_columns(place, candidate, strings) for place, candidate in enumerate(report.candidates)
                  if candidate.status == "ok"]
    reads = [[_place(name, strings) for name in (tensor, *read)] for tensor, read in report.reads.items()]
    costs = [[c.place, c.label, int(c.fix), _figure(1e3 * c.latency.median), _figure(c.error)]
             for c in across.costs(report)]
    text = json.dumps({"focus": answer.focus(report), "model": words.visible(PurePath(report.model.path).stem),
                       "candidates": candidates, "reads": reads, "costs": costs,
                       "ladder": _ladder(report),
                       "runs": [words.visible(name) for name in runs],
                       "history": [[words.visible(name), *map(_figure, errors)] for name, errors in history],
                       "strings": list(strings)}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _ladder(report: Report) -> list[list[object]]:
    """Each rung: its name, the place of the one above, error, what it adds, how it did, and its target's place."""
    names = {rung.name: place for place, rung in enumerate(report.ladder)}
    ran = {c.target: place for place, c in enumerate(report.candidates) if c.status == "ok"}
    return [[words.visible(rung.name), names.get(rung.above or ""), _figure(rung.error), _figure(rung.added),
             ladder.mark(rung), ran.get(rung.name)] for rung in report.ladder]


def _place(text: object, strings: dict[str, int]) -> int | None:
    return None if text is None else strings.setdefault(words.visible(str(text)), len(strings))


def _columns(place: int, candidate: Candidate, strings: dict[str, int]) -> Mapping[str, object]:
    texts = {name: [_place(value(layer), strings) for layer in candidate.tensors] for name, value in _TEXTS.items()}
    figures = {name: [_figure(value(layer)) for layer in candidate.tensors] for name, value in _FIGURES.items()}
    first = words.blamed_layer(candidate)
    return {"place": place, "target": words.visible(candidate.target), "count": len(candidate.tensors),
            "first": None if first is None else candidate.tensors.index(first),
            "called": named.title(candidate).lower().removesuffix(" layer"), "texts": texts,
            "figures": {name: column for name, column in figures.items() if any(v is not None for v in column)},
            "portraits": closeup.portraits(candidate, _figure), **_pictures(candidate)}


def _pictures(candidate: Candidate) -> Mapping[str, object]:
    """What the pictures of the account and of the fix show, where there are any."""
    shown: dict[str, object] = {}
    entries = shares.account(candidate, SHARES)
    if entries:
        shown["shares"] = [[entry.label, entry.op, _figure(entry.share), entry.row] for entry in entries]
    fix = repairs.best(candidate)
    if fix is not None and fix.curve:
        points = sorted(fix.curve, key=lambda point: point.kept)
        shown["curve"] = [[p.kept, _figure(p.error), _figure(p.operations), _figure(p.bytes)] for p in points]
        shown["fix"] = [len(fix.kept), _figure(fix.after)]
    return shown


def _figure(value: object) -> object:
    if not isinstance(value, float):
        return int(value) if isinstance(value, bool) else value
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    short = f"{value:.{_DIGITS}g}"
    return float(short)
