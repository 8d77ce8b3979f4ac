"""What README says of tests is true: its examples are collected and pass as they stand there."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.models import FIXTURES, ROOT
from tests.pytest_plugin.conftest import Project

pytest_plugins = ["pytester"]

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Keep it right in CI")[2].partition("\n## ")[0]
COMMANDS = [line.partition("#")[0].strip() for line in SECTION.splitlines() if line.startswith("    pytest ")]


def block(language: str) -> str:
    """The fenced block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def documented(project: Project) -> Project:
    """A project that holds what README shows."""
    for name in ("model.onnx", "inputs.npz"):
        (project.folder / name).write_bytes((FIXTURES / "digits_cnn" / name).read_bytes())
    project.write("test_models.py", block("python"))
    project.write("parity.toml", block("toml"))
    return project


def test_the_examples_pass(documented: Project) -> None:
    """The fixture, the marker on both of its targets, and the list."""
    result = documented.run("--parity", "-v")
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines_random(["parity.toml::model[[]onnxruntime:int8] PASSED*",
                                        "test_models.py::test_everywhere[[]onnxruntime] PASSED*"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_line_that_calls_pytest_is_accepted(documented: Project, command: str) -> None:
    """Its options exist, and tests are collected."""
    result = documented.run(*shlex.split(command)[1:], "--collect-only")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert "test_models.py::test_cnn" in result.stdout.str() + "".join(documented.run(
        *shlex.split(command)[1:], "--collect-only", "-q").outlines)
