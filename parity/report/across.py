"""What the HTML report says across targets: error against latency, and how each fared layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from parity.backends.latency import Latency
from parity.report import markup, named, runs, words
from parity.report.record import Candidate, Layer, Report


@dataclass(frozen=True)
class Cost:
    """One point of error against latency.

    Attributes:
        place: of the candidate.
        label: what ran.
        fix: whether it ran with a fix.
        latency: of plain runs.
        error: the worst output error as a multiple of its limit.
        passed: whether that is all within tolerance.
    """

    place: int
    label: str
    fix: bool
    latency: Latency
    error: float
    passed: bool


def costs(report: Report) -> tuple[Cost, ...]:
    """Every target that was timed, and every fix that was tried on it; none where there is nothing to weigh."""
    found = tuple(cost for place, candidate in enumerate(report.candidates) for cost in _costs(place, candidate))
    return found if len(found) > 1 else ()


def _costs(place: int, candidate: Candidate) -> Iterator[Cost]:
    name, worst = words.visible(candidate.target), runs.worst(candidate)
    fixes = [fix for fix in candidate.fixes if fix.latency_after is not None]
    timed = candidate.latency or next((fix.latency_before for fix in fixes if fix.latency_before is not None), None)
    if timed is not None and worst is not None:
        yield Cost(place, name, False, timed, worst, candidate.verdict == "parity")
    for fix in fixes:
        if fix.latency_after is not None:
            label = f"{name}, {words.line(fix.strategy)}"
            yield Cost(place, f"{label} ({len(fix.kept)} kept)" if fix.kept else label, True, fix.latency_after,
                       fix.after, fix.passed)


def _badness(value: float) -> float:
    return math.inf if math.isnan(value) else value


def section(report: Report) -> str:
    """Error against latency and the map of targets by layers, each with its table; empty where there is one target."""
    parts = (_cost_part(costs(report)), _map_part(report))
    if not any(parts):
        return ""
    return ("<section aria-labelledby='across-title'><h2 id='across-title'>Across targets</h2>"
            f"{''.join(parts)}</section>")


def _cost_part(found: tuple[Cost, ...]) -> str:
    if not found:
        return ""
    rows = [(markup.name(c.label), words.latency(c.latency), words.number(c.error),
             markup.badge("good", "within") if c.passed else markup.badge("bad", "beyond"))
            for c in sorted(found, key=lambda c: c.latency.median)]
    return "<h3>Error against latency</h3>" + markup.beside(
        "", "Worst output error against latency. The table beside it holds the same figures.",
        "Down is closer to the reference, left is faster. Below the dashed line all outputs are within tolerance.",
        markup.table("Worst output error and latency", ("What ran", ">Latency", ">Error / limit", "Verdict"), rows),
        place="cost-plot")


def _map_part(report: Report) -> str:
    ran = [(place, c) for place, c in enumerate(report.candidates) if c.status == "ok" and c.tensors]
    if len(ran) < 2:
        return ""
    rows = [_summary(place, candidate) for place, candidate in ran]
    table = markup.table("Layers of each target",
                         ("Target", ">Layers", ">Bad", "First bad layer", ">Largest accumulated", "At"), rows)
    choices = {"accumulated": "accumulated error", "local": "local error", "ratio": "local error over its floor"}
    options = "".join(f"<option value='{key}'>{said}</option>" for key, said in choices.items())
    chooser = (f"<p class='tools'><label>Colour <select id='map-figure'>{options}</select></label> <span class='scale'>"
               "<span id='map-low'></span><i></i><span id='map-high'></span></span></p>")
    return (f"<h3>Targets by layers</h3>{table}<figure hidden>{chooser}<div id='map-plot' role='img' aria-label='Error "
            "of each layer on each target. The table above sums it up, the layer table holds every figure.'></div>"
            "<figcaption>A row a target, a column a layer; the brighter, the larger the error. Click leads to the "
            "layer.</figcaption></figure>")


def _summary(place: int, candidate: Candidate) -> tuple[str, ...]:
    bad = sum(not layer.passed and layer.origin != "inherited" for layer in candidate.tensors)
    at = max((layer for layer in candidate.tensors if layer.accumulated), key=_accumulated, default=None)
    found = candidate.first_bad
    link = f"<a href='#target-{place}' data-candidate='{place}'>{markup.name(candidate.target)}</a>"
    before, after = named.around(candidate)
    first = "–" if found is None else f"{before}{markup.name(found.tensor)}{after}"
    return (link, f"{len(candidate.tensors):,}", f"{bad:,}", first,
            words.number(None if at is None or at.accumulated is None else at.accumulated.rel_l2),
            "–" if at is None else markup.name(at.tensor))


def _accumulated(layer: Layer) -> float:
    return -1.0 if layer.accumulated is None else _badness(layer.accumulated.rel_l2)
