"""`parity calibrate-tolerance`: tolerances from noise over seeds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.api import compare_asked
from parity.asked import MOST_SEED
from parity.baseline.tolerances import HEADROOM, Spread, _spread, listed, rounded_up
from parity.contenders import Request
from parity.pytest_plugin.listed import pairs_in
from tests.builders import CommandLine, chain, saved
from tests.models import FIXTURES
from tests.report.samples import bad, good, nonfinite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CNN = FIXTURES / "digits_cnn"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`parity …` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return CommandLine(tmp_path / "report", monkeypatch, capsys)


@given(st.floats(1e-12, 1e3))
def test_limits_are_rounded_up_to_one_digit(limit: float) -> None:
    """Never below what was measured, never twice of it."""
    assert limit <= rounded_up(limit) <= 2 * limit
    assert rounded_up(limit) == float(f"{rounded_up(limit):.0e}")


def test_every_target_gets_a_limit_that_its_errors_keep_to_and_that_a_list_takes(command: CommandLine) -> None:
    """What is printed last is a parity.toml, with wider limits for lower precision."""
    model = saved(command.folder.parent / "model.onnx", chain())
    outcome = command("calibrate-tolerance", model.name, "-c", "onnxruntime", "-c", "onnxruntime:fp16", "--seeds", "3")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("(3 runs)") == 2
    toml = command.folder.parent / "parity.toml"
    toml.write_text(outcome.out.partition("\n\n")[2], encoding="utf-8")
    limits = {pair.target: pair.case.tolerance["rel_l2"] for pair in pairs_in(toml)}  # type: ignore[call-overload]
    assert limits.keys() == {"onnxruntime", "onnxruntime:fp16"}
    assert 0 < limits["onnxruntime"] < limits["onnxruntime:fp16"] < 1e-2
    again = command.compare(model, "-c", "onnxruntime", "--seed", "1", "--tolerance",
                            f"rel_l2={limits['onnxruntime'] / HEADROOM}")
    assert again.status == 0


def test_the_list_has_all_that_was_measured_with(command: CommandLine) -> None:
    """Calibration, shapes, reference, seed and optimisation, quoted whatever paths are called; run, it passes."""
    folder = command.folder.parent / 'a "b"\\c'
    folder.mkdir()
    model = saved(folder / "model.onnx", chain())
    np.savez(folder / "cal.npz", x=np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    outcome = command("calibrate-tolerance", model, "-c", "onnxruntime:int8", "-r", "pytorch:fp64", "--seeds", "2",
                      "--seed", "3", "--calibration", folder / "cal.npz", "--shape", "x=4x8", "--optimization", "off")
    assert outcome.status == 0, outcome.err
    toml = command.folder.parent / "parity.toml"
    toml.write_text(outcome.out.partition("\n\n")[2], encoding="utf-8")
    case = pairs_in(toml)[0].case
    assert (case.model, case.calibration) == (model, folder / "cal.npz")
    assert (case.shapes, case.reference, case.seed, case.optimization) == ({"x": [4, 8]}, "pytorch:fp64", 3, "off")
    assert compare_asked(case).verdict == "parity"


@pytest.mark.parametrize("text", ["plain", 'a"b', "a\\b", "ü\n\t\x7f\x01", "名"])
def test_any_name_is_quoted_as_toml_reads_it(text: str) -> None:
    """Quotes, backslashes and control characters come back as they were."""
    request = Request(Path(text), targets=["onnxruntime"], shapes=[f"{text}=2"])
    found = tomllib.loads(listed(request, [Spread("onnxruntime", (0.1,), 0.0, 0.2)], 0, "all"))["model"][0]
    assert (found["path"], found["shapes"]) == (Path(text).as_posix(), {text: [2]})


def test_seeds_past_the_largest_are_refused(command: CommandLine) -> None:
    """In one line, not by the runtime."""
    model = saved(command.folder.parent / "model.onnx", chain())
    outcome = command("calibrate-tolerance", model, "--seed", MOST_SEED, "--seeds", 2)
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 2)


def test_given_inputs_are_run_once_and_rounding_makes_the_rest(command: CommandLine) -> None:
    """One error, and the noise of as many movements as there are seeds."""
    outcome = command("calibrate-tolerance", CNN / "model.onnx", "--input", CNN / "inputs.npz", "--seeds", "2")
    assert outcome.status == 0, outcome.err
    assert "(1 run)" in outcome.out
    assert "inputs.npz" in outcome.out.partition("[[model]]")[2]


def test_a_target_that_cannot_run_gets_none(command: CommandLine) -> None:
    """The others do, and the status says that one is missing."""
    model = saved(command.folder.parent / "model.onnx", chain())
    outcome = command("calibrate-tolerance", model, "-c", "pytorch:fp64", "-c", "pytorch@nowhere", "--seeds", "1")
    assert outcome.status == 2
    assert "✗ pytorch@nowhere: could not run" in outcome.out
    assert "nowhere" not in outcome.out.partition("[[model]]")[2]


def test_a_layer_that_is_wrong_by_itself_is_not_calibrated_away() -> None:
    """A fault on any seed, and an output that is not finite, leave no tolerance to give."""
    request = Request(CNN / "model.onnx", targets=["onnxruntime:fp16"])
    wrong = _spread(request, [good(), bad()], [0, 1])
    assert wrong.limit is None
    assert bad().tensors[17].tensor in wrong.reason
    endless = _spread(request, [replace(nonfinite(), first_bad=None)], [0])
    assert (endless.limit, endless.reason) == (None, "an output cannot be compared")
