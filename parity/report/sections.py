"""Sections of the terminal's report beside the layers: the ladder, and layers by module."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from parity.report import ladder as ways
from parity.report import shares, words
from parity.report.modules import depth
from parity.report.record import Candidate, Report
from parity.report.terminal import STYLES, columns, elided_text, titled
from parity.report.words import elided


def ladder(report: Report, chosen: int | None, width: int, *, verbose: bool) -> Iterable[RenderableType]:
    """All rungs, where an error enters on the way to the candidate in focus, or a module was compared."""
    rungs = report.ladder
    entered = "" if chosen is None else ways.sentence(ways.way_to(report, report.candidates[chosen]))
    if not (entered or (rungs and verbose) or any(rung.stage == "export" for rung in rungs)):
        return
    blamed = any(rung.first_bad for rung in rungs)
    with_what = width >= 100 or not blamed
    table = columns("", "rung", *["changes"] * with_what, numbers=("error", "adds", "accepted"))
    if blamed:
        table.add_column("first bad layer", no_wrap=True)
    room = max(12, (width - 36 - 22 * with_what) // (1 + blamed))
    for rung in rungs:
        mark = ways.mark(rung)
        bad = [elided_text(words.blamed(rung.first_bad) if rung.first_bad else "", room)] * blamed
        table.add_row(Text(words.SIGNS[mark], STYLES[mark]), elided_text(words.visible(rung.name), room),
                      *[Text(ways.WHAT[rung.stage], "dim")] * with_what, words.number(rung.error),
                      Text(words.number(rung.added), STYLES[mark]), words.number(rung.limit), *bad)
    said = [Text(line, "dim") for line in (entered, *ways.notes(rungs)) if line]
    yield from titled("Where the error enters", table, *said)


def modules(candidate: Candidate, width: int) -> Iterable[RenderableType]:
    """Errors and shares by module, inner ones set in below those that they are in."""
    rows = candidate.modules
    with_shares = any(row.share is not None for row in rows)
    with_worst = width >= 72
    table = columns("module", numbers=("layers", *["share"] * with_shares, "local", "at its end"))
    if with_worst:
        table.add_column("largest local error", no_wrap=True)
    room = max(12, (width - 34 - 9 * with_shares) // (1 + with_worst))
    for row in rows:
        name = "  " * depth(row) + (words.visible(row.module.rpartition(".")[2]) or "(the model)")
        share = "–" if row.share is None else shares.percent(row.share)
        table.add_row(Text(elided(name, room), STYLES["bad"] if row.bad else ""), f"{row.layers:,}",
                      *[share] * with_shares, words.number(row.local), words.number(row.accumulated),
                      *[elided_text(words.visible(row.worst or ""), room)] * with_worst)
    yield from titled(f"By module on {words.target(candidate)}", table)
