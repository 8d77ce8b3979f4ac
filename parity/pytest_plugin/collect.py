"""Tests that are written as a marker, or listed in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from parity.errors import ParityError, UsageError
from parity.pytest_plugin.asserting import Parity
from parity.pytest_plugin.case import Case, located
from parity.pytest_plugin.listed import Pair, pairs_in

PARITY = pytest.StashKey[Parity]()


class ListFile(pytest.File):
    """A parity.toml, or a pyproject.toml with [tool.parity]."""

    def collect(self) -> Iterator[PairItem]:
        """A test for each model on each of its targets; no model is read yet."""
        try:
            pairs = pairs_in(self.path)
        except ParityError as error:
            raise self.CollectError(told(error)) from None
        for pair in pairs:
            yield PairItem.from_parent(self, name=pair.name, pair=pair)


class PairItem(pytest.Item):
    """A listed model on one of its targets."""

    def __init__(self, *, name: str, parent: ListFile, pair: Pair) -> None:
        # Spelt out: `--lf` of pytest 9.2 compares ids by their parts, of which one in brackets is not found in a name.
        super().__init__(name, parent, nodeid=f"{parent.nodeid}::{name}")
        self.pair = pair
        self.add_marker("parity")

    def runtest(self) -> None:
        """Compare."""
        run(self, lambda: self.pair.case)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is listed."""
        return self.path, None, self.name


def run(item: pytest.Item, asked: Callable[[], Case | None]) -> None:
    """Compare what is asked for, if anything is, for a test that has no line of its own to point at."""
    try:
        case = asked()
        failure = "" if case is None else item.stash[PARITY].run(case).failure
    except ParityError as error:
        failure = told(error)
    if failure:
        pytest.fail(failure, pytrace=False)


def case_of_marker(item: pytest.Item) -> Case | None:
    """What the marker of a test asks for, paths taken from the test's folder; None where it has none.

    The marker of a function goes over that of its class, and that over its module's.

    Raises:
        UsageError: the marker's arguments make no sense, or there are two, of which either might hold.
    """
    found = [(node, marker) for node, marker in item.iter_markers_with_node("parity")]
    if not found or isinstance(item, PairItem):
        return None
    closest, marker = found[0]
    if sum(node is closest for node, _ in found) > 1:
        raise UsageError("two markers `parity` stand on one test, and either might hold",
                         "Write one that lists all candidates, or make two tests of it.")
    try:
        return located(Case(*marker.args, **marker.kwargs), item.path.parent)
    except TypeError as error:
        said = str(error).replace("Case.__init__()", "the marker `parity`")
        raise UsageError(said, f"Known: {', '.join(f.name for f in fields(Case))}.") from error


def told(error: ParityError) -> str:
    """An error of parity's as a test's message."""
    return "\n        ".join(filter(None, (f"parity: {error.message}", *error.frames, error.hint)))
