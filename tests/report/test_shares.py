"""The account of the output error adds up and says what a reader must know."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.report import shares
from parity.report.record import Attribution, Candidate
from tests.report import samples


def candidate(values: list[float], **said: object) -> Candidate:
    """A candidate whose layers have these shares; `said` replaces fields of its attribution."""
    tensors = tuple(replace(layer, share=value)
                    for layer, value in zip(samples.layers(len(values)), values, strict=True))
    account = Attribution(sum(values), sum(map(abs, values)), 1 - sum(values), "secant", 1)
    return replace(samples.bad(), tensors=tensors, attribution=replace(account, **said))  # type: ignore[arg-type]


def plain(found: Candidate, most: int = 5) -> str:
    """All remarks on the account as one text."""
    return " ".join(text for _, text in shares.remarks(found, shares.account(found, most)))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.integers(1, 12))
def test_the_lines_add_up_to_one(values: list[float], most: int) -> None:
    """However many layers have a line of their own, the lines add up to 1, largest magnitude first."""
    entries = shares.account(candidate(values), most)
    assert math.isclose(sum(entry.share for entry in entries), 1, abs_tol=1e-3)
    sizes = [abs(entry.share) for entry in entries if entry.row is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == min(most, sum(value != 0 for value in values))
    assert entries[-1].label == "what the slopes miss"


def test_the_layers_that_have_no_line() -> None:
    """What is left is summed under its count, and there is no such line where nothing is left."""
    found = candidate([0.5, 0.2, 0.1, -0.05, 0.0])
    assert [e.label for e in shares.account(found, 2)][2:] == ["the other 2 layers", "what the slopes miss"]
    assert shares.account(found, 3)[3].label == "the other layer"
    assert shares.account(found, 2)[2].share == pytest.approx(0.05)
    assert len(shares.account(found, 4)) == 5


def test_shares_of_tensors_that_are_not_listed_are_not_lost() -> None:
    """Where the candidate lists fewer tensors than have shares, the difference has a line."""
    entries = shares.account(candidate([0.5], sum=0.9, residual=0.1), 5)
    assert [e.label for e in entries[1:]] == ["everything else", "what the slopes miss"]
    assert [e.share for e in entries[1:]] == pytest.approx([0.4, 0.1])


def test_cancelling_layers_are_warned_of() -> None:
    """Beyond a sum of magnitudes of 2 a warning stands first; below, none does."""
    (mark, said), *_ = shares.remarks(candidate([2.0, -1.2]), [])
    assert mark == "warn"
    assert "320.0%" in said
    assert "single shares mislead" in said
    assert all(mark != "warn" for mark, _ in shares.remarks(candidate([1.1, -0.2]), []))


def test_offsets_samples_and_flips_are_said() -> None:
    """Negative shares, pooled samples, flips and where the slopes miss are said only where they are."""
    assert "offsets" in plain(candidate([1.2, -0.2]))
    assert "offsets" not in plain(candidate([0.9, 0.1]))
    assert "8 samples; no layer changes" in plain(candidate([1.0], samples=8))
    assert "1 layer changes the sign" in plain(candidate([1.0], samples=8, flips=1))
    assert "sample" not in plain(candidate([1.0]))
    assert "miss most at x; over all layers and without signs, 3.0%" in plain(
        candidate([1.0], residual_at="x", residual_abs=0.03))


@pytest.mark.parametrize(("values", "most", "said"), [
    ([1.2, -0.2], 5, "Negative shares are"), ([0.9, 0.1, -1e-6], 5, ""), ([0.9, 0.3, -0.2], 2, "Negative shares are"),
    ([0.9, 0.3, 0.2, -0.1], 2, "Negative shares, of which the other layers have some,"),
    ([0.9, 0.3, 1e-6, -1e-6], 2, "")])
def test_offsets_are_explained_where_one_is_shown_or_counted(values: list[float], most: int, said: str) -> None:
    """A share that prints as 0.0% is none; one in the line of the other layers is, and the words say so."""
    words = plain(candidate(values), most)
    assert ("offsets" in words) == bool(said)
    assert said in words


def test_withheld_shares_say_why() -> None:
    """Without shares there is no line, the reason is said, and energies are ranked, NaN first."""
    found = samples.withheld()
    assert shares.account(found, 5) == []
    assert plain(found) == "Shares are not shown: the output is not finite (logits)."
    broken = replace(found, tensors=(*found.tensors, replace(found.tensors[0], energy=math.nan)))
    assert [row for row, _ in shares.energies(broken, 3)] == [40, 17, 3]


@pytest.mark.parametrize(("value", "said"), [
    (0.4123, "+41.2%"), (-0.03, "−3.0%"), (0.0004, "0.0%"), (-0.0004, "0.0%"), (12.5, "+1,250.0%"), (3e7, "+3.00e9%"),
    (math.nan, "NaN"), (-math.inf, "−∞")])
def test_percentages(value: float, said: str) -> None:
    """A share has a sign and one decimal."""
    assert shares.percent(value) == said
