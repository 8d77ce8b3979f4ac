"""The pieces that the terminal's report is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
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


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Attributes:
        title: over it.
        kind: names are shortened in the middle, words are wrapped; figures and marks are whole.
        needs: it is left out where the names would have less room than this, in characters; 0 for never.
    """

    title: str
    kind: Literal["name", "words", "figure"] = "name"
    needs: int = 0


def figures(*titles: str, needs: int = 0) -> tuple[Column, ...]:
    """Columns of figures that matter alike."""
    return tuple(Column(title, "figure", needs) for title in titles)


MARK = Column("", "figure")  # of a row's sign


@dataclass(frozen=True)
class Sheet:
    """A table that fits the terminal: names give way first, then whole columns, and a figure never."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the console lets it be."""
        yield self._drawn(options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """How wide it is then."""
        return Measurement.get(console, options, self._drawn(options.max_width))

    def _drawn(self, width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
        rooms = self._rooms(width)
        for place, room in rooms.items():
            column = self.columns[place]
            table.add_column(Text(column.title), width=room, no_wrap=column.kind != "words", overflow="fold",
                             justify="right" if column.kind == "figure" else "left")
        for row in self.rows:
            table.add_row(*(self._cell(row[place], place, room) for place, room in rooms.items()))
        return table

    def _cell(self, cell: str | Text, place: int, room: int) -> Text:
        text = Text(cell) if isinstance(cell, str) else cell
        return Text(elided(text.plain, room), text.style) if self.columns[place].kind == "name" else text

    def _rooms(self, width: int) -> Mapping[int, int]:
        """The characters that each column gets, by its place; the columns that are not there are left out."""
        wanted = {place: self._natural(place) for place in range(len(self.columns))}
        while True:
            name, rooms = _shared(wanted, {p for p in wanted if self.columns[p].kind != "figure"}, width)
            missed = [place for place in wanted if self.columns[place].needs > name]
            if not missed:
                return rooms
            del wanted[max(missed, key=lambda place: (self.columns[place].needs, place))]

    def _natural(self, place: int) -> int:
        cells = [row[place] for row in self.rows]
        lengths = [cell_len(cell if isinstance(cell, str) else cell.plain) for cell in cells]
        return max([cell_len(self.columns[place].title), *lengths])


def _shared(wanted: Mapping[int, int], yielding: Set[int], width: int) -> tuple[int, Mapping[int, int]]:
    """Room for each column where some yield, the longest first; and what the shortest of those that do is left with."""
    left = width - (2 * len(wanted) - 1) - sum(room for place, room in wanted.items() if place not in yielding)
    rooms, least = dict(wanted), width
    waiting = sorted(yielding, key=lambda place: wanted[place])
    for done, place in enumerate(waiting):
        fair = left // (len(waiting) - done)
        if wanted[place] > fair:
            rooms[place] = max(1, fair)
            least = min(least, fair)
        left -= rooms[place]
    return least, rooms


def pairs(rows: Iterable[tuple[str, str]], emphasised: str) -> Table:
    """Label and value; the one that is `emphasised` stands out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, Text(value, "bold red" if label == emphasised else ""))
    return grid
