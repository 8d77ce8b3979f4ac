"""How figures are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import parity
from parity.figures import digits, number
from parity.report import words

FILES = sorted(Path(parity.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(("value", "said"), [
    (0.99993, "0.99993"), (0.9999, "0.9999"), (1.0, "1"), (1.0000001, "1.0000001"), (0.914, "0.914"), (2.0, "2"),
    (0.0186, "0.0186"), (float("nan"), "nan")])
def test_figures_close_to_one_are_told_from_it(value: float, said: str) -> None:
    """Three digits, but a cosine that is not 1 does not read as 1."""
    assert digits(value).rstrip("0") == said or digits(value) == said


def test_a_figure_is_rounded_in_one_way() -> None:
    """The report's words and the causes' sentences write a figure alike."""
    assert words.number is number
    assert [number(value) for value in (0.465, 62985.0, 7.79e-8)] == ["0.465", "63,000", "7.79e-8"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FILES[0].parent)))
def test_no_sentence_rounds_by_itself(path: Path) -> None:
    """No file writes a figure with an exponent in a format of its own."""
    found = re.findall(r":[.]1e[}]", path.read_text(encoding="utf-8"))
    assert not found
