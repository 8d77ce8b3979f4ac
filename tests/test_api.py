"""parity in Python: the same answer as the command line, from values in memory."""

from __future__ import annotations

import doctest
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import parity
import parity.api
import parity.compare
from parity.errors import FeedError, UsageError
from parity.graph.model import Model
from parity.report.record import Report
from tests.builders import CommandLine
from tests.models import FIXTURES, ROOT
from tests.source_model.models import made

CNN = FIXTURES / "digits_cnn" / "model.onnx"
FAULTY = FIXTURES / "digits_cnn_faulty" / "model.onnx"


def images() -> np.ndarray:
    """The fixture's own inputs."""
    with np.load(CNN.parent / "inputs.npz") as arrays:
        return next(iter(arrays.values()))


def test_compare_is_the_function_even_where_its_module_was_imported() -> None:
    """The name that users call is not taken by the module parity/compare.py."""
    assert callable(parity.compare)
    assert parity.compare is parity.api.compare


def test_importing_parity_imports_nothing_heavy() -> None:
    """`import parity` leaves torch, onnx and pandas alone until something is asked for."""
    code = ("import sys, parity; heavy = {'torch', 'onnx', 'pandas', 'numba', 'parity.api'}; "
            "print(sorted(heavy & sys.modules.keys()), sorted(parity.__all__))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] ['Diverged', 'ParityError', 'Report', 'compare']"
    assert all(getattr(parity, name) for name in parity.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compere'"):
        parity.compere  # noqa: B018 - reading it is the test


def test_the_examples_of_the_documentation_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctests of the public functions say what really comes out."""
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(parity.api)
    assert found.attempted >= 4
    assert found.failed == 0


@pytest.mark.parametrize("kind", ["path", "proto", "model"])
def test_a_model_is_a_path_a_proto_or_a_model(kind: str) -> None:
    """Whatever it comes as, the same model is compared."""
    model = {"path": str(CNN), "proto": onnx.load(CNN), "model": Model.load(CNN)}[kind]
    report = parity.compare(model, {"input": images()} if _input() == "input" else {_input(): images()},
                            candidates=["onnxruntime"])
    assert report.verdict == "parity"
    assert report.layers["tensor"].is_unique


def _input() -> str:
    return Model.load(CNN).graph.inputs[0].name


def test_inputs_come_by_name_by_place_as_tensors_or_as_several_samples() -> None:
    """The forms give the same figures, and several samples are counted."""
    value = images()
    by_name = parity.compare(CNN, {_input(): value}, candidates=["pytorch:fp64"])
    by_place = parity.compare(CNN, [torch.from_numpy(value).requires_grad_()], candidates=["pytorch:fp64"])
    several = parity.compare(CNN, [{_input(): value}, {_input(): value[::-1].copy()}], candidates=["pytorch:fp64"])
    assert by_name.candidates[0].outputs == by_place.candidates[0].outputs
    assert several.samples == 2


@pytest.mark.parametrize(("inputs", "words"), [
    ([], "there are no inputs"), ([np.zeros(3), np.zeros(3)], "2 inputs are given; the model has 1"),
    ({"nothing": np.zeros(3)}, "no value for input")])
def test_inputs_that_do_not_fit_are_refused(inputs: object, words: str) -> None:
    """The message names what the model wants."""
    with pytest.raises(FeedError, match=words):
        parity.compare(CNN, inputs)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused() -> None:
    """A number is neither a path nor a model."""
    with pytest.raises(UsageError, match="a int is no model"):
        parity.compare(3)


def test_a_divergence_is_raised_with_everything_that_a_log_needs() -> None:
    """Another model as the candidate: its first bad layer, its figures and the way to see it again are told."""
    report = parity.compare(CNN, {_input(): images()}, candidates=[onnx.load(FAULTY)])
    assert report.verdict == "divergence"
    with pytest.raises(parity.Diverged) as raised:
        report.raise_if_diverged()
    said = str(raised.value)
    bad = report.candidates[0].first_bad
    assert bad is not None
    assert len(said.splitlines()) <= 10
    for part in (bad.tensor, bad.op, "implementation", "relative L2 error", "limit", "epsilon",
                 "parity.compare(...) with the same arguments"):
        assert part in said


def test_the_message_has_the_command_that_shows_the_same_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that was asked bears on the figures, and is in it: typed, it gives them again."""
    command = CommandLine(tmp_path, monkeypatch, capsys)
    np.savez(tmp_path / "some samples.npz", image=images()[:8] * 3)
    report = parity.compare(
        CNN, candidates=["onnxruntime:int8"], tolerance={"rel_l2": 1e-4}, calibration=tmp_path / "some samples.npz",
        shapes={_input(): [3, 1, 8, 8]}, samples=2, seed=5, optimization="off", threads=1, judges=["top1"])
    with pytest.raises(parity.Diverged) as raised:
        report.raise_if_diverged()
    shown = shlex.split(str(raised.value).splitlines()[-1].strip().removeprefix("again"))
    assert shown[:2] == ["parity", "compare"]
    again = command(*shown[1:], "--no-html", "--no-fixes", "--json", tmp_path / "again.json")
    assert again.status == 1
    other = Report.load(tmp_path / "again.json")
    assert other.candidates[0].outputs == report.candidates[0].outputs
    assert (other.samples, other.seed) == (2, 5)
    assert [t.value for t in other.candidates[0].tasks] == [t.value for t in report.candidates[0].tasks] != []


def test_one_array_is_the_only_input() -> None:
    """Its rows are not taken for inputs, nor are its first row's values for all."""
    value = images()[:1]
    alone, listed = (parity.compare(CNN, given, candidates=["pytorch:fp64"]) for given in (value, [value]))
    assert alone.candidates[0].outputs == listed.candidates[0].outputs
    assert alone.inputs[0].shape == value.shape


@pytest.mark.parametrize(("wrong", "said"), [
    ({"inputs": 3}, "none that parity knows"), ({"inputs": {"image": [[1], [1, 2]]}}, "is no array"),
    ({"labels": [0.5]}, "labels are float64"), ({"calibration": [3]}, "which is no sample"),
    ({"candidates": ["onnxruntime", 3]}, "a int is no model"), ({"threads": 0}, "from 1 to 1024")])
def test_no_error_but_paritys_own_comes_out(wrong: dict[str, Any], said: str) -> None:
    """What makes no sense is told, whatever its type."""
    with pytest.raises(parity.ParityError, match=said):
        parity.compare(CNN, **{"candidates": ["onnxruntime"], **wrong})


def test_parity_raises_nothing_and_a_forecast_does_not_count(tmp_path: Path) -> None:
    """Without targets the forecasts in lower precision are shown, and only what was asked for can fail."""
    report = parity.compare(CNN, {_input(): images()}, tolerance={"rel_l2": 1e-5})
    assert {c.emulated for c in report.candidates} == {True, False}
    assert any(c.verdict == "divergence" for c in report.candidates if c.emulated)
    report.raise_if_diverged()


def test_what_was_asked_for_and_cannot_run_is_raised() -> None:
    """A named backend that is missing is no parity."""
    report = parity.compare(CNN, {_input(): images()}, candidates=["onnxruntime", "pytorch@nowhere"])
    assert [c.target for c in report.failing] == ["pytorch@nowhere"]
    with pytest.raises(parity.Diverged, match="could not run"):
        report.raise_if_diverged()


def test_layers_are_a_data_frame_of_numbers() -> None:
    """Figures can be computed with, shapes are tuples, what is missing is missing."""
    layers = parity.compare(CNN, {_input(): images()}, candidates=["onnxruntime:int8"]).layers
    assert layers["accumulated_rel_l2"].max() > 1e-4
    assert all(isinstance(shape, tuple) for shape in layers["shape"])
    assert layers["first_bad"].dtype == bool


def small() -> torch.nn.Module:
    """A network that was left in training mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def test_a_module_is_compared_with_its_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module comes first, then the targets; inputs by name, by place or by shape give the same rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module, value = small(), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    by_place = parity.compare(module, [value], candidates=["onnxruntime", "module:fp64"])
    assert [(c.target, c.verdict) for c in by_place.candidates] == [
        ("module", "parity"), ("module:fp64", "parity"), ("onnxruntime", "parity")]
    by_name = parity.compare(module, [{"input": value}, {"input": value + 1}], candidates=["onnxruntime"])
    assert by_name.samples == 2
    assert by_name.verdict == "parity"
    assert parity.compare(module, shapes={"input": (3, 4)}, candidates=["module"]).verdict == "parity"
    assert module.training
    assert any("training mode" in note for note in by_place.candidates[0].notes)
    assert {t.module for t in by_place.candidates[0].tensors} == {"0", "2", "3"}


def test_an_exported_program_is_compared_on_its_own_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made on inputs, so none need be given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = torch.export.export(small().eval(), (torch.ones(3, 4),))
    report = parity.compare(program, candidates=["onnxruntime"])
    assert [(c.target, c.verdict) for c in report.candidates] == [("module", "parity"), ("onnxruntime", "parity")]


def test_the_module_cannot_be_a_candidate_of_a_file() -> None:
    """There is none to run."""
    with pytest.raises(UsageError, match="none is given"):
        parity.compare(CNN, {_input(): images()}, candidates=["module"])


@pytest.mark.parametrize("name", ["llama", "cond", "lstm"])
def test_a_clean_export_is_not_blamed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of -inf, a branch, and layers that FP32 computes in one piece: nothing is named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module, inputs = made(name)
    candidate = parity.compare(module, list(inputs), candidates=["module"]).candidates[0]
    assert (candidate.verdict, candidate.first_bad, candidate.diagnoses) == ("parity", None, ())
    assert len(candidate.tensors) >= 7
