"""The generated test is plain Python that says what it tests."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from parity.backends.base import RunOptions
from parity.errors import UsageError
from parity.reduce.expect import Expectation
from parity.reduce.script import runner_for, script_of
from parity.targets import Target

NASTY = 'a"""\\n\'/b'
EXPECTED = (Expectation(NASTY, np.zeros(3), 0.25, "l2", "Because."),)


def imported(text: str) -> set[str]:
    """Top names of all that a script imports."""
    found: set[str] = set()
    for item in ast.walk(ast.parse(text)):
        if isinstance(item, ast.Import):
            found.update(alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            found.add(str(item.module).split(".")[0])
    return found


@pytest.mark.parametrize(("target", "runtime"), [
    ("onnxruntime", "onnxruntime"), ("onnxruntime@cuda:1", "onnxruntime"), ("tensorrt", "tensorrt"),
    ("tensorrt-rtx", "tensorrt_rtx")])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("optimization", ["off", "all"])
def test_it_is_python_with_the_runtime_and_numpy(target: str, runtime: str, apart: bool, optimization: str) -> None:
    """It parses whatever the tensors are called, and imports the runtime, numpy and the standard library."""
    text = script_of(NASTY, NASTY, EXPECTED, Target.parse(target), RunOptions(optimization, threads=1), apart=apart)
    standard = {"os", "sys", "pathlib", "ctypes"} | ({"subprocess"} if apart else set())
    assert imported(text) - standard == {runtime, "numpy"}
    values = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    assert NASTY in values
    assert 0.25 in values


def test_a_target_of_paritys_own_is_refused() -> None:
    """What runs in parity alone cannot be sent to anybody."""
    with pytest.raises(UsageError, match="without parity"):
        runner_for(Target("pytorch", "", "fp16"), RunOptions())
