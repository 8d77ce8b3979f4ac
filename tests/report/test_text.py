"""The terminal's report fits, says the answer, and lets no name act."""

from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from parity.report import answer, words
from parity.report.record import Report
from parity.report.text import print_report
from tests.report import samples

PATHS = {"report": Path("out/report.html"), "layers": Path("out/layers.csv")}


def printed(report: Report, width: int = 100, *, verbose: bool = False, encoding: str = "utf-8",
            colour: bool = False) -> str:
    """What a console of this width and encoding receives."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    print_report(report, console, verbose=verbose, paths=PATHS)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding)


def test_the_answer_and_its_figures_are_there() -> None:
    """A divergence prints the verdict, the first bad layer with its figures, accuracy, files and the next step."""
    text = printed(samples.EVERY["divergence"])
    for said in ("divergence: 1 of 2 outputs beyond tolerance", "/layer2/BatchNormalization_17_output_0", "17 of 40",
                 "implementation:", "0.02, accepted up to 2.00e-6", "model.py:27", "94.0%", "out/report.html",
                 "3.00e-5"):
        assert said in text
    last = text.rstrip().rpartition("\n\n")[2]
    assert last.startswith("Next: Compare how onnxruntime:fp16 computes")
    assert "`parity fix fixtures/cnn.onnx --for onnxruntime:fp16`" in last


def test_the_surroundings_of_the_first_bad_layer() -> None:
    """Three tensors before the first bad one and five after it are listed, and no others."""
    around = printed(samples.EVERY["divergence"]).split("Around it")[1].split("Accuracy")[0]
    assert [i for i in range(40) if f"_{i}_output_0" in around] == list(range(14, 23))


def test_parity_lists_the_closest_calls() -> None:
    """At parity the five tensors nearest to their floor are listed, nearest first."""
    report = samples.EVERY["parity"]
    text = printed(report, 140).split("Closest")[1]
    order = sorted(report.candidates[0].tensors, key=lambda layer: words.layer_ratio(layer) or 0, reverse=True)
    places = [text.find(layer.tensor) for layer in order[:5]]
    assert -1 not in places
    assert places == sorted(places)
    assert order[5].tensor not in text


def test_verbose_lists_every_tensor() -> None:
    """With verbose, each tensor of each candidate that ran has its line."""
    text = printed(samples.EVERY["mixed"], 140, verbose=True)
    assert text.count("/layer0/Conv_0_output_0") == 3
    assert "Around it" not in text


def test_what_could_not_run_says_why() -> None:
    """An unavailable target shows its reason as one line of text."""
    text = printed(samples.EVERY["unavailable"], 140)
    assert "could not run: no NVIDIA driver: libcuda.so.1 is not there install the driver" in text
    assert "emulated" in printed(samples.EVERY["mixed"])


def test_an_interrupted_run_says_so() -> None:
    """A partial report is marked, and the next step is to run it again."""
    text = printed(samples.EVERY["interrupted"])
    assert "Interrupted" in text
    assert "run the same command again" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("name", samples.EVERY)
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    """Every sample fits every width."""
    assert max(cell_len(line) for line in printed(samples.EVERY[name], width).splitlines()) <= width


@pytest.mark.parametrize("name", ["divergence", "parity", "mixed"])
def test_figures_are_whole_at_80_columns(name: str) -> None:
    """At 80 columns only names are shortened: no figure loses its exponent."""
    for line in printed(samples.EVERY[name], 80).splitlines():
        assert not line.rstrip().endswith("…")
        assert "e…" not in line


def rows_of(text: str, title: str) -> list[list[str]]:
    """The lines of a block's table, by words."""
    block = text.split(f"\n{title}")[1].split("\n\n", maxsplit=1)[0].splitlines()
    return [line.split() for line in block[3:]]


@pytest.mark.parametrize("width", [40, 50, 64, 80, 120])
def test_figures_and_marks_are_whole_at_any_width(width: int) -> None:
    """Names are shortened and columns left out; errors, limits and the signs of how it went stand in full."""
    long = replace(samples.bad(), target="a/very/long/path/of/another_model.onnx on onnxruntime")
    report = samples.climbed(samples.report(samples.good(), long, samples.emulated()), (
        ("module:fp64", "truth", None), ("module", "types", 7.12e-8), ("onnxruntime, unoptimised", "runtime", 2.34e-7),
        (long.target, "other", 0.0312), ("pytorch:fp16", "precision", 1.02e-5)))
    text = printed(report, width)
    for row, (error, sign) in zip(rows_of(text, "Outputs"), [("0.0312", "✗")] * 2 + [("3.00e-7", "✓")], strict=False):
        assert {error, "1.00e-4", sign} <= set(row)
    around = rows_of(text, "Around it")
    assert [row[0] for row in around[:6]] == ["✓"] * 3 + ["✗", "!", "!"]
    assert {"0.02", "2.00e-6"} <= set(around[3])
    rungs = rows_of(text, "Where the error enters")[:5]
    assert [row[0] for row in rungs] == ["–", "✓", "✓", "✗", "✓"]
    assert all({adds, "1.00e-4"} <= set(row) for adds, row in zip(
        ("7.12e-8", "2.34e-7", "0.0312", "1.02e-5"), rungs[1:], strict=True))
    heads = [line for line in text.splitlines() if line.split()[:1] in (["rung"], ["target"], ["tensor"])]
    assert not any("…" in head for head in heads)


@pytest.mark.parametrize("name", samples.EVERY)
def test_a_pipe_gets_no_control_characters(name: str) -> None:
    """Without colour the text holds no escape, carriage return or direction override, whatever the names are."""
    assert not {c for c in printed(samples.EVERY[name]) if c != "\n" and words.visible(c) != c}


def test_names_are_not_markup() -> None:
    """A name in rich's markup shows as it is, and what it would hide is visible."""
    text = printed(samples.EVERY["hostile"], 140, verbose=True)
    assert "[bold red]markup[/] [link=http://example.org]here[/link]" in text
    assert r"esc\x1b[31mape\x0d\x0aline\u2028two" in text
    assert r"\u202egnp.exe" in text


def test_colour_only_adds_escapes() -> None:
    """On a colour terminal the verdict is styled, and no name brings an escape of its own."""
    text = printed(samples.EVERY["hostile"], 140, colour=True)
    assert "\x1b[1;31m" in text
    assert "\x1b[31mape" not in text


@pytest.mark.parametrize("name", samples.EVERY)
def test_a_terminal_without_unicode(name: str) -> None:
    """A console that knows only ASCII gets the whole report."""
    text = printed(samples.EVERY[name], encoding="ascii")
    assert text.isascii()
    assert "Next: " in text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_figure_keeps_three_digits(value: float) -> None:
    """A figure as printed is within half a unit of the third digit of the value."""
    shown, exact = Decimal(words.number(value).replace(",", "")), Decimal(value)
    assert abs(shown - exact) <= abs(exact) * Decimal("0.00500001")


def test_figures_that_are_none() -> None:
    """Missing and non-finite figures have signs of their own."""
    values = (None, float("nan"), float("inf"), float("-inf"), 0.0)
    assert [words.number(value) for value in values] == ["–", "NaN", "∞", "−∞", "0"]


def test_hidden_faults_are_named_in_the_headline() -> None:
    """A fault that the outputs hide is in the headline, and the next step says how to fail on it."""
    report = samples.EVERY["hidden"]
    assert "/layer2/BatchNormalization_17_output_0" in answer.headline(report)
    assert "--strict" in answer.next_step(report)


def test_a_forecast_does_not_take_the_headline() -> None:
    """The headline of a divergence is about a target that ran, not about a forecast."""
    report = samples.report(samples.emulated(), samples.bad())
    assert answer.headline(report).startswith("Divergence on onnxruntime:fp16.")
    assert answer.focus(report) == 1


def test_why_where_from_and_fix_follow_the_first_bad_layer() -> None:
    """Causes, shares that add up, and the fix with its figures and kept layers stand in this order."""
    text = " ".join(printed(samples.EVERY["explained"], 120).split())
    said = ("First bad layer on", "Why", "int8-outliers The largest value of 81.2",
            "Where the error comes from", "+56.1%", "+41.2%", "−18.3%", "the other 3 layers +5.1%", "together 100.0%",
            "offsets", "/layer0/MaxPool_6_output_0", "8 samples; 2 layers change", "Fix on onnxruntime:int8",
            "4.2 → 0.8 of its limit (rel_l2 of logits 0.0421 → 0.008)", "3 of 54 layers kept in FP32", "4 Casts more",
            "12.1 ms", "energy 0.100, rank 1 of 54", "ONNX Runtime, trtexec", "Next: `parity fix")
    places = [text.find(part) for part in said]
    assert -1 not in places
    assert places == sorted(places)


def test_findings_fit_a_screen() -> None:
    """With causes, shares and a fix of many layers, a report is at most 70 lines of 100 columns."""
    candidate = samples.explained()
    many = samples.fix(candidate, kept=tuple(range(40)))
    text = printed(samples.report(replace(candidate, fixes=(many,))))
    assert len(text.splitlines()) <= 70
    assert "and 36 layers more" in text


def test_withheld_shares_give_the_reason_and_energies() -> None:
    """Instead of shares there is one line that says why, and the layers of most energy."""
    text = printed(samples.EVERY["withheld"], 140)
    assert "Shares are not shown: the output is not finite (logits)." in text
    assert "Most energy (each layer alone): /layer2/BatchNormalization_17_output_0 5.61e-4" in text
    assert "together" not in text


def test_where_no_fix_passes() -> None:
    """It is said plainly, with the best found and what training should cover."""
    text = printed(samples.EVERY["no fix"], 140)
    assert "✗ no fix passes; the best found: Keep 3 layers" in text
    assert "1.7 of its limit" in text
    assert "What quantisation-aware training should cover: PyTorch (-v prints it)" in text


def test_verbose_prints_other_tools_words_as_they_are() -> None:
    """With verbose, snippets keep their lines and their indentation."""
    printed_lines = printed(samples.EVERY["no fix"], 140, verbose=True).splitlines()
    text = "\n".join(line.rstrip() for line in printed_lines)
    assert "      nodes_to_exclude=['/layer0/Conv', '/layer2/BatchNorm'])" in text
    assert "QConfigMapping()\n      .set_module_name('conv1', qconfig)" in text


def test_a_run_for_a_fix_begins_with_it() -> None:
    """`parity fix` prints the fix before all else, and says that the outputs are those without it."""
    text = printed(samples.EVERY["repaired"])
    assert text.index("Fix on onnxruntime:int8") < text.index("Outputs without the fix") < text.index("Why")
    assert text.rstrip().endswith("Next: Deploy cnn.fixed.onnx: it is within tolerance on onnxruntime:int8.")


def test_fixes_of_other_targets_have_a_line() -> None:
    """The fix of a target that is not shown in detail is one sentence."""
    forecast = replace(samples.explained(), target="pytorch:int8", emulated=True, asked=False)
    text = " ".join(printed(samples.report(samples.bad(), forecast), 140).split())
    assert "Fixes elsewhere A fix passes on pytorch:int8 (emulated): 3 of 54 layers kept in FP32" in text
