"""Baselines in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.baseline.drift import better, worse
from parity.baseline.record import Baseline, Figures, baseline_of, by_name, load, save
from parity.errors import OutputError, UsageError
from tests.report.samples import bad, good, hidden, nonfinite, report

NUMBERS = st.one_of(st.none(), st.floats(min_value=0, allow_nan=False))
FIGURES = st.builds(Figures, NUMBERS, NUMBERS, st.floats(min_value=0, allow_nan=False))
TENSORS = st.dictionaries(st.text(), FIGURES, max_size=3)
BASELINES = st.builds(Baseline, st.text(), st.text(), st.text(), st.lists(st.text(), max_size=2).map(tuple),
                      st.integers(0), TENSORS, TENSORS)


@given(st.dictionaries(st.text(), BASELINES, max_size=3))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, baselines: dict[str, Baseline]) -> None:
    """Names of any kind, missing and infinite figures, no targets at all."""
    path = tmp_path_factory.mktemp("baselines") / "b.json"
    save(path, baselines)
    assert load(path) == baselines


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_figures_are_rounded_upwards_to_three_digits(noise: float) -> None:
    """The same run again is never beyond its own baseline, nor far below it."""
    stored = baseline_of(report(good()), good(), {"logits": noise}).outputs["logits"].noise
    assert noise <= stored <= noise * 1.0101
    assert stored == float(f"{stored:.2e}")


def test_the_same_run_is_neither_worse_nor_better() -> None:
    """Whatever it is like: sound, with a fault, or with figures that are missing or not finite."""
    for candidate in (good(), bad(), hidden(), nonfinite()):
        baseline = baseline_of(report(candidate), candidate, {})
        assert worse(baseline, candidate) == ()
        assert better(baseline, candidate) == ()


def test_candidates_are_called_the_same_on_every_machine() -> None:
    """Folders are left out, and what is then called the same is numbered."""
    targets = ["onnxruntime:int8", "/a/net.onnx on onnxruntime", "C:\\b\\net.onnx on onnxruntime", "d/dump.npz"]
    assert list(by_name([replace(good(), target=target) for target in targets])) == [
        "onnxruntime:int8", "net.onnx on onnxruntime", "net.onnx on onnxruntime (2)", "dump.npz"]


def test_no_file_is_no_baseline_and_a_folder_is_no_file(tmp_path: Path) -> None:
    """What is not there was not stored; what is there and cannot be read is an error."""
    assert load(tmp_path / "none.json") == {}
    with pytest.raises(UsageError, match="is no baseline that can be read"):
        load(tmp_path)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file stands where the folder should."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        save(tmp_path / "file" / "b.json", {})
