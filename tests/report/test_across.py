"""Error against latency, and targets by layers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from parity.backends.latency import Latency
from parity.report import across, closeup
from tests.report import samples
from tests.report.test_html import page


def test_every_timed_target_and_fix_is_a_point() -> None:
    """A target has its own latency and worst error over its limit, a fix those that were measured with it."""
    found = across.costs(samples.EVERY["pictured"])
    assert [(c.label, c.fix, c.passed) for c in found] == [
        ("onnxruntime", False, True), ("onnxruntime:int8", False, False),
        ("onnxruntime:int8, calibration", True, False), ("onnxruntime:int8, keep (3 kept)", True, True)]
    assert [c.error for c in found] == pytest.approx([0.003, 312, 2.4, 0.8], rel=1e-6)
    assert [c.latency.median for c in found] == [0.0302, 0.0121, 0.0142, 0.0142]


def test_one_point_is_no_picture() -> None:
    """A single timed target has nothing to be weighed against."""
    timed = replace(samples.good(), latency=Latency(0.01, 0.01, 0.01, 7))
    assert across.costs(samples.report(timed)) == ()
    assert across.section(samples.report(timed)) == ""


def test_nan_counts_as_the_worst() -> None:
    """A target whose outputs are not finite is a point at infinity, not one at the foot."""
    timed = Latency(0.01, 0.01, 0.01, 7)
    found = across.costs(samples.report(replace(samples.good(), latency=timed),
                                        replace(samples.nonfinite(), latency=timed)))
    assert found[1].error == math.inf


def test_the_page_holds_both_pictures_and_their_tables() -> None:
    """Pictures over several targets stand once, with the same figures in words, and are embedded."""
    shown = page("pictured")
    assert {"cost-plot", "map-plot", "map-figure"} <= {a.get("id") for _, a in shown.elements}
    for said in ("onnxruntime:int8, keep (3 kept)", "Largest accumulated", "14.2 ms (14 to 15.1)"):
        assert said in shown.text
    assert shown.data()["costs"][1] == [1, "onnxruntime:int8", 0, 12.1, 312.0]
    assert "cost-plot" not in {a.get("id") for _, a in page("divergence").elements}


def test_portraits_are_embedded_by_row() -> None:
    """Both histograms, worst elements, the format and the operands of a tensor stand under its row, in strict JSON."""
    found = page("pictured").data()["candidates"][1]["portraits"]
    assert list(found) == ["3", "17", "18", "24"]
    low, high, reference, candidate = found["17"]["values"]
    assert low < -2.56 < 2.54 < high
    assert sum(reference) == sum(candidate) == 4096
    assert found["17"]["format"] == ["int8", -2.56, 2.54, 0.02, 1, 0, 0.0105]
    assert found["17"]["operands"][2] == ["bias", "nan", "inf", None]
    assert found["18"]["worst"][0][1:] == [0.0, "nan"]


def test_without_portraits_nothing_is_embedded() -> None:
    """A candidate without close-ups has an empty table of them."""
    assert closeup.portraits(samples.good(), lambda value: value) == {}


def test_the_graph_is_embedded_by_name() -> None:
    """What each tensor's node reads stands in the page as places among the strings."""
    data = page("pictured").data()
    names = [[data["strings"][i] for i in line] for line in data["reads"]]
    assert names[0] == ["/layer0/Conv_0_output_0", "image"]
    assert names[2][1:] == ["/layer0/Conv_0_output_0", "/layer0/BatchNormalization_1_output_0"]
