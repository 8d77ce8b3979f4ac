"""Tests of the trials on disk: what was written is found again, whatever else befell the file."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.fixes.journal import Journal

NAMES = st.text(min_size=1, max_size=8)
ERRORS = st.floats(min_value=0, allow_nan=False)


@settings(deadline=None)
@given(st.dictionaries(st.frozensets(NAMES, max_size=4), ERRORS, max_size=6), st.dictionaries(NAMES, ERRORS))
def test_what_was_noted_is_read(trials: dict[frozenset[str], float], prices: dict[str, float]) -> None:
    """Every trial and every price comes back as it was, infinite ones and odd names too; another key sees nothing."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trials.jsonl"
        journal = Journal(path, "mine")
        assert (journal.trials(), journal.prices()) == ({}, None)
        for kept, error in trials.items():
            journal.add_trial(kept, error)
        journal.add_prices(prices)
        again, other = Journal(path, "mine"), Journal(path, "other")
        assert (again.trials(), again.prices()) == (trials, prices)
        assert (other.trials(), other.prices()) == ({}, None)


@settings(deadline=None)
@given(st.data())
def test_a_line_cut_short_costs_that_line(data: st.DataObject) -> None:
    """Wherever a kill or a full disk cuts the file, all whole lines are read, and what is added later too."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trials.jsonl"
        journal = Journal(path, "k")
        ends = []
        for i in range(4):
            journal.add_trial(frozenset({f"größe{i}"}), i / 2)
            ends.append(len(path.read_bytes().rstrip()))
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        lines = sum(end <= cut for end in ends)
        assert journal.trials() == {frozenset({f"größe{i}"}): i / 2 for i in range(lines)}
        journal.add_trial(frozenset({"late"}), 9.0)
        assert journal.trials()[frozenset({"late"})] == 9.0
        assert len(journal.trials()) == lines + 1


def test_nan_is_kept() -> None:
    """An error that is no number is one when it is read again."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "t", "k")
        journal.add_trial(frozenset("a"), math.nan)
        assert math.isnan(journal.trials()[frozenset("a")])


@pytest.mark.parametrize("line", ["[]", "7", "null", '{"kept": ["a"], "error": 1}', "", '{"key": "k"}', "\x00\xff"])
def test_what_is_no_trial_is_passed_over(tmp_path: Path, line: str) -> None:
    """Lines that others wrote, or that are damaged, do not hide the trials around them."""
    path = tmp_path / "trials.jsonl"
    journal = Journal(path, "k")
    journal.add_trial(frozenset("b"), 0.5)
    with path.open("a", encoding="latin-1") as file:
        file.write("\n" + line)
    journal.add_trial(frozenset("c"), 0.25)
    assert journal.trials() == {frozenset("b"): 0.5, frozenset("c"): 0.25}
    assert journal.prices() is None


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    """Where the file cannot be written or read, findings are lost and nothing is raised."""
    for path in (Path("/dev/full"), tmp_path, tmp_path / "absent" / "trials.jsonl"):
        journal = Journal(path, "k")
        journal.add_trial(frozenset("a"), 1.0)
        journal.add_prices({"a": 1.0})
    assert (Journal(tmp_path, "k").trials(), Journal(tmp_path, "k").prices()) == ({}, None)
