"""Layers grouped by module: figures roll up the tree, and every renderer shows them."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parity.report.html import render
from parity.report.modules import depth, rolled_up, with_modules
from parity.report.record import Layer, Report
from parity.report.text import print_report
from tests.report import samples

PATHS = st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(".".join), min_size=1, max_size=30)


def layers(paths: list[str]) -> tuple[Layer, ...]:
    """A layer in each of these modules, in order, with shares and errors of their own."""
    return tuple(replace(samples.layer(i, 1e-3 * (i + 1), 1e-2 * (i + 1)), module=path, share=1.0 / len(paths))
                 for i, path in enumerate(paths))


@given(PATHS)
def test_what_is_inside_adds_up(paths: list[str]) -> None:
    """Each module counts exactly the layers at or below its path; shares add up, the largest local error is theirs."""
    found = rolled_up(replace(samples.good(), tensors=layers(paths)))
    if not any(paths):
        assert found == ()
        return
    assert {row.module for row in found} == {""} | {".".join(p.split(".")[:n + 1])
                                                    for p in paths if p for n in range(p.count(".") + 1)}
    for row in found:
        inside = [i for i, p in enumerate(paths) if not row.module or p == row.module or p.startswith(f"{row.module}.")]
        assert row.layers == len(inside)
        assert row.share == pytest.approx(len(inside) / len(paths))
        assert row.local == pytest.approx(1e-3 * (inside[-1] + 1))
        assert row.accumulated == pytest.approx(1e-2 * (inside[-1] + 1))


@given(PATHS)
def test_outer_modules_come_before_inner_ones(paths: list[str]) -> None:
    """The rows are a walk of the tree: what a module is in stands above it, with nothing else between."""
    around: list[str] = []
    for row in rolled_up(replace(samples.good(), tensors=layers(paths))):
        assert depth(row) <= len(around)
        around = [*around[:depth(row)], row.module]
        assert all(row.module.startswith(f"{outer}.") for outer in around[1:-1])


def test_what_is_missing_stays_missing() -> None:
    """Layers that know no module belong to the model alone; without figures there are none; NaN is the largest."""
    tensors = (replace(samples.layer(0, None, None), module="a"), replace(samples.layer(1, 0.5, 0.5), module=None))
    whole, inner = rolled_up(replace(samples.good(), tensors=tensors))
    assert (whole.layers, inner.layers) == (2, 1)
    assert whole.local == pytest.approx(0.5)
    assert (inner.local, inner.worst, inner.share, inner.accumulated) == (None, None, None, None)
    wild = (replace(samples.layer(0, math.nan, 0.1), module="a"), replace(samples.layer(1, 0.5, 0.5), module="a"))
    assert rolled_up(replace(samples.good(), tensors=wild))[1].worst == wild[0].tensor
    assert with_modules(samples.EVERY["divergence"]).candidates[0].modules == ()


def test_modules_survive_their_json() -> None:
    """And stand in it as a list, for other programs."""
    report = samples.EVERY["pictured"]
    assert report.candidates[1].modules
    assert [c.modules for c in Report.from_json(report.to_json()).candidates] == [c.modules for c in report.candidates]


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_shows_them_when_asked(width: int) -> None:
    """With -v there is a line a module, set in; without there is none."""
    stream = io.StringIO()
    print_report(samples.EVERY["pictured"], Console(file=stream, width=width), verbose=True)
    assert "By module on onnxruntime:int8" in stream.getvalue()
    assert any(line.strip().startswith("blocks") for line in stream.getvalue().splitlines())
    plain = io.StringIO()
    print_report(samples.EVERY["pictured"], Console(file=plain, width=width))
    assert "By module" not in plain.getvalue()


def test_the_page_folds_them_away() -> None:
    """Each is a link to its layers in the table."""
    shown = samples.EVERY["pictured"]
    ran = [c for c in shown.candidates if c.status == "ok"]
    assert render(shown).count(" data-module='") == sum(len(c.modules) for c in ran)
