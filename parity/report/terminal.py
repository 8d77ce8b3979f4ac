"""The pieces that the terminal's report is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from parity.report import words
from parity.report.words import elided

STYLES: dict[words.Mark, str] = {"good": "bold green", "bad": "bold red", "warn": "bold yellow", "none": "dim"}


def titled(title: str, *body: RenderableType) -> Iterable[RenderableType]:
    """A block under its title, set in."""
    yield Text(f"\n{title}", "bold")
    yield Padding(Group(*body), (0, 0, 0, 2), expand=False)


def columns(*names: str, numbers: Sequence[str]) -> Table:
    """An empty table; `numbers` are columns of figures."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def elided_text(name: str, room: int) -> Text:
    """The name, elided, as text that no markup is read in."""
    return Text(elided(name, room))


def pairs(rows: Iterable[tuple[str, str]], emphasised: str) -> Table:
    """Label and value; the one that is `emphasised` stands out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, Text(value, "bold red" if label == emphasised else ""))
    return grid
