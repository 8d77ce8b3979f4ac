"""The answer as Markdown, for a pull request or a CI job's summary page."""

from __future__ import annotations

import re

from parity.report import answer, ladder, named, repairs, words
from parity.report.message import worst_output
from parity.report.record import Candidate, Report

_SIGNS: dict[words.Mark, str] = {"good": "✅", "bad": "❌", "warn": "⚠️", "none": "⬜"}
_CAUSE = 400  # characters


def summary(report: Report) -> str:
    """A headline, a row a target, causes, the fix, and what to do next; ends in a line feed.

    Names stand between back-ticks whatever they hold, so that none of them is read as Markdown or HTML.
    """
    blocks = [f"### {_SIGNS[answer.mark(report)]} parity: {code(report.model.path)}", escaped(answer.headline(report)),
              _table(report)]
    chosen = answer.focus(report)
    if chosen is not None and (entered := ladder.sentence(ladder.way_to(report, report.candidates[chosen]))):
        blocks.append(escaped(entered))
    for candidate in report.candidates:
        blocks += [f"**{escaped(each.cause)}** on {code(candidate.target)}: {escaped(_short(words.cause(each)))}"
                   for each in candidate.diagnoses[:2]]
        fix = repairs.best(candidate)
        if fix is not None and not answer.is_repair(report):
            blocks.append(escaped(repairs.sentence(candidate, fix)))
    blocks.append(f"**Next:** {escaped(answer.next_step(report))}")
    if report.command:
        blocks.append(f"Again: {code(report.command)}")
    return "\n\n".join(blocks) + "\n"


def _table(report: Report) -> str:
    rows = [" | ".join(_row(candidate)) for candidate in report.candidates]
    return "\n".join(["| target | verdict | worst output | error | limit | first bad layer | latency |",
                      "| --- | --- | --- | ---: | ---: | --- | ---: |", *(f"| {row} |" for row in rows)])


def _row(candidate: Candidate) -> tuple[str, ...]:
    output, found = worst_output(candidate), candidate.first_bad
    error = None if output is None or output.accumulated is None else output.accumulated.rel_l2
    before, after = named.around(candidate)
    return (code(candidate.target) + " (emulated)" * candidate.emulated,
            f"{_SIGNS[words.mark(candidate)]} {escaped(words.verdict(candidate))}",
            code(output.tensor) if output is not None else "–", words.number(error),
            escaped("–" if output is None else words.limit(output)),
            "–" if found is None else (
                f"{before}{code(words.short(found.tensor))} ({escaped(found.op)}){after}"),
            words.timing(candidate))


def code(text: str) -> str:
    """The text between as many back-ticks as it takes, as one line, with no pipe that would end a table's cell."""
    shown = words.line(text).replace("|", "\\|") or " "
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def escaped(text: str) -> str:
    """The text as one line in which Markdown and HTML see nothing but text; spans between back-ticks stay."""
    parts = re.split(r"(`[^`]*`)", words.line(text))
    return "".join(code(part[1:-1]) if i % 2 else re.sub(r"([\\*_\[\]<>|#~$&@])", r"\\\1", part)
                   for i, part in enumerate(parts))


def _short(text: str) -> str:
    return text if len(text) <= _CAUSE else f"{text[:_CAUSE - 1]}…"
