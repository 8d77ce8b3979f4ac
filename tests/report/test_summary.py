"""The Markdown summary: the answer, in words that no renderer takes for markup."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from parity.report import answer
from parity.report.summary import code, escaped, summary
from tests.report.samples import bad, explained, hidden, unavailable
from tests.report.samples import report as report_of

NASTY = "a|b`c``<script>*x*\n_é_\u202e[l](u)"


def test_the_summary_answers_first_and_has_a_row_a_target() -> None:
    """The headline comes before the table, whose rows all have as many cells as its head."""
    report = report_of(bad(), explained(), hidden(), unavailable())
    lines = summary(report).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(report.candidates)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert lines[0].startswith("### ❌ parity")
    assert escaped(answer.headline(report)) in lines[2]
    assert "**Next:**" in summary(report)


def test_names_cannot_break_out_of_the_table() -> None:
    """A target's name that holds markup stays one cell, and its pipe and back-ticks are text."""
    report = report_of(bad(), explained(), hidden(), unavailable())
    odd = replace(report, candidates=(replace(report.candidates[0], target=NASTY),))
    row = [line for line in summary(odd).splitlines() if line.startswith("|")][2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert "<script>" not in re.sub(r"(`+).*?\1(?!`)", "", row)


@given(st.text())
def test_code_is_one_span_whatever_it_holds(text: str) -> None:
    """Its fence is longer than any run of back-ticks inside, and no line ends in it."""
    shown = code(text)
    fence = re.match("`+", shown)
    assert fence is not None
    inside = shown[fence.end():-fence.end()]
    assert shown.endswith(fence.group())
    assert fence.group() not in re.findall("`+", inside)
    assert len(shown.splitlines()) == 1


@given(st.text(alphabet="ab*_[]<>#`|\n "))
def test_escaped_text_holds_no_bare_markup(text: str) -> None:
    """Outside of code spans every sign that Markdown reads has a backslash before it."""
    bare = re.sub(r"(`+).*?\1(?!`)", "", escaped(text.replace("`", "")))
    assert re.findall(r"(?<!\\)[*_\[\]<>#|]", bare) == []
