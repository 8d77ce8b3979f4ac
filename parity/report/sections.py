"""Sections of the terminal's report beside the layers: the ladder, and layers by module."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from parity.report import ladder as ways
from parity.report import shares, words
from parity.report.modules import depth
from parity.report.record import Candidate, Report, Rung
from parity.report.terminal import MARK, STYLES, Column, Sheet, figures, titled


def ladder(report: Report, chosen: int | None, *, verbose: bool) -> Iterable[RenderableType]:
    """All rungs, where an error enters on the way to the candidate in focus, or a module was compared."""
    rungs = report.ladder
    entered = "" if chosen is None else ways.sentence(ways.way_to(report, report.candidates[chosen]))
    if not (entered or (rungs and verbose) or any(rung.stage == "export" for rung in rungs)):
        return
    columns = (MARK, Column("rung"), Column("changes", needs=20), *figures("error", needs=9),
               *figures("adds", "accepted"), Column("first bad layer", needs=16))
    rows = [_rung(rung) for rung in rungs]
    shown = len(columns) if any(rung.first_bad for rung in rungs) else len(columns) - 1
    said = [Text(line, "dim") for line in (entered, *ways.notes(rungs)) if line]
    yield from titled("Where the error enters", Sheet(columns[:shown], rows), *said)


def _rung(rung: Rung) -> tuple[str | Text, ...]:
    mark = ways.mark(rung)
    return (Text(words.SIGNS[mark], STYLES[mark]), words.visible(rung.name), Text(ways.WHAT[rung.stage], "dim"),
            words.number(rung.error), Text(words.number(rung.added), STYLES[mark]), words.number(rung.limit),
            words.blamed(rung.first_bad) if rung.first_bad else "")


def modules(candidate: Candidate) -> Iterable[RenderableType]:
    """Errors and shares by module, inner ones set in below those that they are in."""
    rows = candidate.modules
    shared = any(row.share is not None for row in rows)
    columns = (Column("module"), *figures("layers", needs=10), *figures(*["share"] * shared, "local"),
               *figures("at its end", needs=9), Column("largest local error", needs=16))
    table: list[tuple[str | Text, ...]] = []
    for row in rows:
        name = "  " * depth(row) + (words.visible(row.module.rpartition(".")[2]) or "(the model)")
        share = "–" if row.share is None else shares.percent(row.share)
        table.append((Text(name, STYLES["bad"] if row.bad else ""), f"{row.layers:,}", *[share] * shared,
                      words.number(row.local), words.number(row.accumulated), words.visible(row.worst or "")))
    yield from titled(f"By module on {words.target(candidate)}", Sheet(columns, table))
