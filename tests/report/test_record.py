"""The report's JSON form loses nothing and refuses what it cannot read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.analysis.measure import Comparison
from parity.errors import UsageError
from parity.report.record import Candidate, Layer, Report
from tests.report import samples

finite = st.floats(allow_nan=False)
short = st.text(max_size=8)
st.register_type_strategy(float, finite)
st.register_type_strategy(str, short)

layers = st.builds(Layer, accumulated=st.none() | st.builds(Comparison), local=st.none() | st.builds(Comparison))
few = st.lists(layers, max_size=2).map(tuple)
candidates = st.builds(Candidate, outputs=few, tensors=few)
reports = st.builds(Report, candidates=st.lists(candidates, max_size=2).map(tuple), schema_version=st.just(1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports)
def test_every_report_comes_back_as_it_was(report: Report) -> None:
    """Writing a report and reading it gives an equal report, infinities included."""
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("name", samples.EVERY)
def test_json_is_strict_and_stable(name: str) -> None:
    """No sample needs a number that JSON does not have, and a second round writes the same text."""
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = samples.EVERY[name].to_json()
    json.loads(text, parse_constant=refuse)
    assert Report.from_json(text).to_json() == text


def test_nan_comes_back_as_nan() -> None:
    """NaN, which equals nothing, is still NaN after a round trip."""
    candidate = replace(samples.good(1), seconds=math.nan, watching_moved_outputs=-math.inf)
    text = samples.report(candidate).to_json()
    assert json.loads(text)["candidates"][0]["seconds"] == "nan"
    assert json.loads(text)["candidates"][0]["watching_moved_outputs"] == "-inf"
    back = Report.from_json(text).candidates[0]
    assert back.seconds is not None
    assert math.isnan(back.seconds)


def test_a_field_that_a_later_version_adds_is_ignored() -> None:
    """A report with more fields than this version knows still reads."""
    report = samples.EVERY["divergence"]
    data = json.loads(report.to_json())
    data["weather"] = "fine"
    data["candidates"][0]["tensors"][0]["mood"] = 1
    assert Report.from_json(json.dumps(data)) == report


DAMAGED = {
    "empty": "", "not JSON": "{", "a list": "[]", "a number": "3", "null": "null", "no version": "{}",
    "another version": '{"schema_version": 2}', "nothing else": '{"schema_version": 1}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_not_a_report_is_refused(name: str) -> None:
    """Text that is no report gives a UsageError with a hint, whatever it is."""
    with pytest.raises(UsageError) as caught:
        Report.from_json(DAMAGED[name])
    assert caught.value.hint


@pytest.mark.parametrize(("field", "value"), [
    ("environment", []), ("environment", 3), ("candidates", 3), ("candidates", [3]), ("candidates", ["x"]),
    ("model", []), ("model", "x"), ("model", None), ("inputs", [{"name": "x"}]), ("reference", {}),
    ("verdict", "banana"), ("verdict", 3), ("seed", "zero"), ("command", None),
])
def test_a_damaged_field_is_refused(field: str, value: object) -> None:
    """A field of the wrong kind gives a UsageError, not a crash."""
    data = json.loads(samples.EVERY["parity"].to_json())
    data[field] = value
    with pytest.raises(UsageError, match="damaged"):
        Report.from_json(json.dumps(data))


def test_a_truncated_file_is_refused() -> None:
    """Half a report is not a report."""
    text = samples.EVERY["parity"].to_json()
    with pytest.raises(UsageError, match="not a JSON file"):
        Report.from_json(text[: len(text) // 2])


def test_loading_says_which_file(tmp_path: Path) -> None:
    """A file that is missing, or is not text, is named in the error."""
    binary = tmp_path / "report.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.json", binary):
        with pytest.raises(UsageError, match=path.name):
            Report.load(path)


def test_loading_reads_what_was_written(tmp_path: Path) -> None:
    """A report written as UTF-8 loads, names in any script included."""
    path = tmp_path / "report.json"
    path.write_text(samples.EVERY["hostile"].to_json(), encoding="utf-8")
    assert Report.load(path) == Report.load(str(path)) == samples.EVERY["hostile"]
