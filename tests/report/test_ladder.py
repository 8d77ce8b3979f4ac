"""The ladder as it is told: the way to a target, where the error enters, the same in every renderer."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from parity.report import ladder
from parity.report.columns import embedded
from parity.report.html import render
from parity.report.record import Report
from parity.report.summary import summary
from parity.report.text import print_report
from tests.report import samples


def shown(report: Report, width: int = 100, *, verbose: bool = False) -> str:
    """What the terminal shows."""
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width), verbose=verbose)
    return stream.getvalue()


def test_the_module_stands_for_its_export() -> None:
    """The way to the candidate `module` ends at the export; that of a runtime goes through it."""
    report = samples.EVERY["ladder"]
    module, runtime = report.candidates
    assert [r.name for r in ladder.way_to(report, module)] == ["module:fp64", "module", "pytorch"]
    assert [r.name for r in ladder.way_to(report, runtime)] == ["module:fp64", "module", "pytorch", "onnxruntime"]
    assert ladder.way_to(replace(report, ladder=()), module) == ()


def test_the_first_rung_that_adds_too_much_is_the_entrance() -> None:
    """A rung beyond its limit comes before one that merely hides a bad layer, and nothing is said where all is well."""
    way = samples.EVERY["ladder"].ladder
    found = ladder.entrance(way)
    assert found is not None
    assert found.name == "pytorch"
    hiding = tuple(replace(rung, passed=True) for rung in way)
    assert [ladder.mark(r) for r in hiding] == ["none", "good", "warn", "good"]
    assert "the outputs hide it" in ladder.sentence(hiding)
    assert ladder.sentence(tuple(replace(rung, first_bad=None) for rung in hiding)) == ""
    assert "changes a shape" in ladder.sentence((way[0], replace(way[2], added=None)))


def test_a_runtime_that_goes_wrong_in_a_format_is_told_from_the_format() -> None:
    """A kernel that is wrong in INT8 is not the number format's doing; an error that the format explains is."""
    way = samples.EVERY["ladder"].ladder
    bad = samples.bad().first_bad
    assert bad is not None
    by_kernel = replace(way[2], stage="precision", first_bad=bad)
    assert ladder.sentence((way[0], by_kernel)).startswith(
        "The error enters with what the runtime does in that number format, at pytorch")
    by_format = replace(by_kernel, first_bad=replace(bad, kind="precision"))
    assert ladder.sentence((way[0], by_format)).startswith("The error enters with the number format, at pytorch")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_renderer_says_where_it_enters(width: int) -> None:
    """Terminal, HTML and Markdown have the same sentence, and a line a rung."""
    report = samples.EVERY["ladder"]
    said = ladder.sentence(ladder.way_to(report, report.candidates[0]))
    assert said.startswith("The error enters with the export, at pytorch, which adds 0.12")
    text = shown(report, width)
    assert "Where the error enters" in text
    assert said in " ".join(text.split())
    assert said in summary(report)
    assert render(report).count("<small>after ") == 3


def test_the_terminal_has_the_rungs_of_the_page() -> None:
    """Every rung has its line, those beyond the entrance too, with and without -v; without a ladder there is none."""
    report = samples.EVERY["ladder"]
    for verbose in (False, True):
        told = shown(report, verbose=verbose).split("Where the error enters")[1].split("The error enters")[0]
        assert [rung for rung in report.ladder if f" {rung.name} " in told] == list(report.ladder)
    assert "Where the error enters" not in shown(samples.EVERY["divergence"])


def test_a_ladder_survives_its_json() -> None:
    """Figures that are not finite and missing ones are read back as they were."""
    report = samples.EVERY["hostile ladder"]
    again = Report.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert [r.stage for r in again.ladder] == [r.stage for r in report.ladder]
    assert '"ladder":[["module:fp64",null,' in embedded(report)
