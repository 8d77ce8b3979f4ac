"""A browser, and reports opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.report.html import render
from parity.report.record import Report
from tests.report import samples
from tests.report.browser.chromium import Visit
from tests.report.browser.installed import executable


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, started once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable())
        yield started
        started.close()


Opening = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Opening]:
    """Opens a report, a sample's name or a document; in the end no page may have complained or asked for anything."""
    visits: list[Visit] = []

    def opened(report: str | Report | Path, *, width: int = 1280, dark: bool = False) -> Visit:
        path = report if isinstance(report, Path) else tmp_path / f"{len(visits)}.html"
        if not isinstance(report, Path):
            path.write_text(render(samples.EVERY[report] if isinstance(report, str) else report), encoding="utf-8")
        page = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True,
                                   color_scheme="dark" if dark else "light").new_page()
        visits.append(Visit(page))
        page.goto(path.as_uri())
        return visits[-1]

    yield opened
    for each in visits:
        assert each.said == []
        assert [url for url in each.asked if not url.startswith("file:")] == []
        assert len(each.asked) == 1
        each.page.context.close()
