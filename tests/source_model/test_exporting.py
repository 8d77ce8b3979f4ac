"""A module that parity exports, from the command line: its inputs, and what is told where it does not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import CommandLine

CODE = '''"""Networks of unlike inputs."""
import torch
from torch import nn


class One(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 4)

    def forward(self, input):
        return self.fc(input)


class Ids(One):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.kinds = nn.Embedding(2, 8)

    def forward(self, ids, scale, kinds):
        return self.fc(self.words(ids) * scale + self.kinds(kinds))


class Echo(One):
    def forward(self, input):
        return self.fc(input), input


class Picks(One):
    def forward(self, input, rows):
        return self.fc(input)[rows] * rows.any()[torch.tensor(9)]


def raising():
    return {}["width"]


def sized(width, depth=2):
    return nn.Linear(width, depth)
'''
SHAPE = ("--shape", "input=3x8", "--no-html")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`parity …` in a folder of its own, with its own cache, beside a package that defines networks."""
    (tmp_path / "unlike_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return CommandLine(tmp_path / "report", monkeypatch, capsys)


@pytest.mark.parametrize(("words", "said"), [
    (["raising", *SHAPE], ["raises KeyError: 'width'", 'in raising: return {}["width"]', "called by itself"]),
    (["One", "--shape", "input=3x9"], ["shapes cannot be multiplied (3x9 and 8x4)", "in forward: return self.fc(input)",
                                       "input is float32 3x9: give other shapes with --shape"]),
    (["Picks", *SHAPE, "--shape", "rows=2"], ["does not run", "in forward: return self.fc(input)[rows]", "integers"])])
def test_the_users_lines_stand_on_lines_of_their_own(command: CommandLine, words: list[str], said: list[str]) -> None:
    """Between what is wrong and what to do; of the exporter nothing is said where the module itself does not run."""
    outcome = command("compare", "--torch", f"unlike_nets:{words[0]}", *words[1:], "-o", command.folder)
    assert outcome.status == 2
    lines = outcome.err.splitlines()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True)), outcome.err
    assert "export" not in outcome.err


@pytest.mark.parametrize(("words", "said"), [
    (["Ids", "--shape", "ids=3x5"], "Give scale, kinds too"),
    (["Ids", *SHAPE], "takes ids, scale, kinds, and 'input' is given"),
    (["sized", *SHAPE], "sized needs width, and a factory is called with no arguments")])
def test_what_is_missing_is_named(command: CommandLine, words: list[str], said: str) -> None:
    """Inputs and arguments without a default that nothing gives."""
    outcome = command("compare", "--torch", f"unlike_nets:{words[0]}", *words[1:], "-o", command.folder)
    assert outcome.status == 2
    assert said in outcome.err
    assert "cannot be exported" not in outcome.err


def test_inputs_of_tables_are_seeded_as_integers(command: CommandLine) -> None:
    """With --shape, those that the module does not take as floats, and no others."""
    shapes = [f"--shape={name}=3x5{tail}" for name, tail in (("ids", ""), ("scale", "x8"), ("kinds", ""))]
    report = command.compare("--torch", "unlike_nets:Ids", *shapes, "--no-html", "-c", "onnxruntime").report
    assert [c.verdict for c in report.candidates] == ["parity", "parity"]
    assert {i.name: i.dtype for i in report.inputs} == {"ids": "int64", "scale": "float32", "kinds": "int64"}


def test_an_input_that_is_returned_keeps_its_name(command: CommandLine) -> None:
    """The exporter calls it otherwise, and its name is the one under which its values are given."""
    report = command.compare("--torch", "unlike_nets:Echo", *SHAPE, "-c", "onnxruntime").report
    assert [c.verdict for c in report.candidates] == ["parity", "parity"]
    assert [i.name for i in report.inputs] == ["input"]
    assert len(report.candidates[0].outputs) == 2


def test_a_run_that_fails_leaves_the_folder_as_it_was(command: CommandLine) -> None:
    """The export is taken away again, and the one of an earlier run is put back."""
    np.save("none.npy", np.zeros((7, 7, 7)))
    failing = ("compare", "--torch", "unlike_nets:One", *SHAPE, "--labels", "none.npy", "-o", command.folder)
    assert command(*failing).status == 2
    assert list(command.folder.iterdir()) == []
    assert command.compare("--torch", "unlike_nets:Echo", *SHAPE, "-c", "onnxruntime").status == 0
    before = {file.name: file.read_bytes() for file in command.folder.iterdir()}
    assert "model.onnx" in before
    assert command(*failing).status == 2
    assert {file.name: file.read_bytes() for file in command.folder.iterdir()} == before
