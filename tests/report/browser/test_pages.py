"""Every kind of report opens without a complaint, says what it must, and keeps to the rules of accessibility."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from parity.report.html import render, render_runs
from tests.report import samples
from tests.report.browser.conftest import Opening

pytestmark = pytest.mark.browser

ONE = samples.report(replace(samples.bad(1, 0), outputs=(samples.output("logits", 0.02),)))
ALL_BAD = samples.report(replace(samples.bad(30), tensors=tuple(
    samples.layer(i, 0.1, 0.1) for i in range(30)), first_bad=samples.blame(samples.layer(0, 0.1, 0.1))))
PAGES = {name: samples.EVERY[name] for name in (
    "parity", "pictured", "hostile findings", "nonfinite", "withheld", "repaired", "no layers", "no candidates",
    "unavailable")} | {"one layer": ONE, "all bad": ALL_BAD}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean(visit: Opening, name: str) -> None:
    """No console error and no request (see `visit`), a layer can be looked at, and a phone's window holds it all."""
    seen = visit(PAGES[name]).drawn()
    if seen.page.locator("#layers").is_visible():
        seen.page.locator("#table tbody tr:not(.gap)").first.click()
        assert len(seen.texts("#layer h3")) == 1
    assert seen.narrowed(390) <= 390


@pytest.mark.parametrize("name", ["pictured", "hostile findings", "withheld", "no candidates"])
def test_a_page_is_accessible(visit: Opening, name: str) -> None:
    """Rules of accessibility find nothing serious, light and wide as well as dark and narrow."""
    seen = visit(PAGES[name]).drawn()
    if seen.page.locator("#layers").is_visible():
        seen.page.locator("#table tbody tr:not(.gap)").nth(3).click()
    assert seen.faults() == []
    seen.page.emulate_media(color_scheme="dark")
    seen.narrowed(390)
    assert seen.faults() == []


def test_hostile_names_are_text_everywhere(visit: Opening) -> None:
    """Markup, quotes, emoji, 500 characters and right-to-left names show as they are, and make no element."""
    seen = visit("hostile findings").drawn()
    cells = seen.texts("#table .c-tensor bdi")
    for name in samples.HOSTILE[:4]:
        assert name in cells
    assert "משקל/שכבה" in cells
    assert "emoji 🧪👩‍🔬" in cells
    assert r"\u202egnp.exe" in cells
    assert seen.page.locator("main img, main iframe, main script").count() == 0
    seen.page.locator("#search").fill("<script>")
    assert seen.texts("#table tbody tr:not(.gap) .c-tensor") == ["<script>alert(1)</script>"]
    seen.page.locator("#table tbody tr:not(.gap)").click()
    assert seen.texts("#layer h3") == ["<script>alert(1)</script>"]


def test_what_is_not_finite_is_written_as_such(visit: Opening) -> None:
    """NaN, infinity and what is missing stand in the table as themselves, and sort to the end that they belong to."""
    seen = visit("nonfinite").drawn()
    assert seen.texts("#table tbody .c-local") == ["1.00e-7", "∞", "∞", "–"]
    seen.page.locator("#table th.c-local button").click()
    assert seen.texts("#table tbody .c-local") == ["∞", "∞", "1.00e-7", "–"]
    assert "Crosses at the head are Inf or NaN" in seen.texts("#plot-note")[0]


def test_the_first_figure_needs_no_plotly(visit: Opening, tmp_path: Path) -> None:
    """Where plotly's script cannot be unpacked, the error along the network is drawn all the same; a note says so."""
    broken = re.sub(r'(id="plotly">)[^<]+', r"\1AAAA", render(samples.EVERY["divergence"]))
    path = tmp_path / "broken.html"
    path.write_text(broken, encoding="utf-8")
    seen = visit(path)
    seen.page.get_by_text("cannot be explored").wait_for()
    assert seen.page.locator("#plot .sketch polyline").count() == 2
    assert seen.page.locator("#plot .sketch .first").count() == 1


def test_without_script_the_answer_stands(browser: object, tmp_path: Path) -> None:
    """Verdicts, causes, shares and fixes are there where no script may run."""
    path = tmp_path / "plain.html"
    path.write_text(render(samples.EVERY["explained"]), encoding="utf-8")
    page = browser.new_context(java_script_enabled=False).new_page()  # type: ignore[attr-defined]
    page.goto(path.as_uri())
    said = page.locator("main").inner_text()
    for text in ("divergence: 1 of 2 outputs beyond tolerance", "int8-outliers", "+56.1%", "3 of 54 layers kept"):
        assert text in said
    assert not page.locator("#layers").is_visible()


def test_paper_gets_everything(visit: Opening) -> None:
    """Printing unfolds what is folded away, draws the whole table, and leaves out what only a screen can use."""
    seen = visit("explained").drawn()
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert seen.page.locator("#table tbody tr:not(.gap)").count() == 40
    assert all(seen.page.locator("details.words").evaluate_all("all => all.map(each => each.open)"))
    assert not seen.page.locator("#search").is_visible()
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not any(seen.page.locator("details.words").evaluate_all("all => all.map(each => each.open)"))


def test_runs_stand_side_by_side(visit: Opening, tmp_path: Path) -> None:
    """Two runs open as one page: what changed, its figure, and the targets of both in the map and the table."""
    path = tmp_path / "runs.html"
    after = samples.report(samples.good(), replace(samples.good(), target="onnxruntime:int8"))
    path.write_text(render_runs({"before": PAGES["pictured"], "<after>": after}), encoding="utf-8")
    seen = visit(path).drawn()
    assert seen.texts("h1") == ["From before to <after>: 1 target mended, 1 target as before."]
    assert seen.page.locator("#history-plot .scatterlayer .trace").count() == 4
    assert seen.page.locator("#target option").count() == 5
    assert seen.faults() == []
    assert seen.narrowed(390) <= 390
