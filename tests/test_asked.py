"""What a comparison is asked for: what makes no sense is refused before anything is read, the rest can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.api import compare
from parity.asked import MOST_SEED, Asked, is_file, without_options
from parity.errors import UsageError
from tests.builders import chain


@pytest.mark.parametrize(("wrong", "said"), [
    ({"candidates": "onnxruntime"}, "candidates='onnxruntime' is no list"),
    ({"candidates": {"onnxruntime"}}, "is no list"),
    ({"judges": "top1"}, "judges='top1' is no list"),
    ({"judges": [1]}, "judges holds 1, which is no text"),
    ({"reference": None}, "reference=None is no target"),
    ({"tolerance": 1e-3}, "tolerance=0.001 does not say what"),
    ({"tolerance": True}, "tolerance=True does not say what"),
    ({"tolerance": [1e-3]}, "tolerance holds 0.001"),
    ({"tolerance": {"rel_l2": True}}, "tolerance of rel_l2 is True, which is no number"),
    ({"tolerance": {"rel_l2": "x"}}, "tolerance of rel_l2 is 'x'"),
    ({"samples": 0}, "samples=0 makes no sense. Give a whole number from 1 up."),
    ({"samples": 1.5}, "samples=1.5 makes no sense"), ({"samples": True}, "samples=True makes no sense"),
    ({"seed": -1}, "seed=-1 makes no sense"), ({"seed": 2**63}, f"from 0 to {MOST_SEED}."),
    ({"seed": None}, "seed=None makes no sense"),
    ({"threads": 0}, "threads=0 makes no sense. Give a whole number from 1 to 1024."),
    ({"optimization": "fast"}, "optimization='fast' is unknown. Known: off, basic, extended, all."),
    ({"fixes": "no"}, "fixes='no' is neither true nor false"),
    ({"shapes": [1, 2]}, "does not say which inputs"), ({"shapes": {"x": 4}}, "the shape of x is 4"),
    ({"shapes": {"x": "1x2"}}, "the shape of x is '1x2'"), ({"shapes": {"x": [1, -2]}}, "the shape of x is [1, -2]"),
    ({"inputs": "x.npz", "samples": 2}, "shapes and samples are for seeded inputs"),
    ({"inputs": {"x": 1}, "shapes": {"x": [1]}}, "shapes and samples are for seeded inputs")])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    """The message names the argument and its value, the hint what may stand there."""
    with pytest.raises(UsageError) as raised:
        Asked("m.onnx", **wrong)
    assert said in str(raised.value)
    assert raised.value.hint


def test_numbers_of_numpy_are_numbers() -> None:
    """Whole ones and limits; a seed as large as runtimes take is taken."""
    two: Any = np.int64(2)
    half: Any = np.float32(0.5)
    asked = Asked("m.onnx", samples=two, seed=MOST_SEED, threads=3, tolerance={"rel_l2": half}, shapes={"x": (two, 3)})
    assert asked.command() == (f"parity compare m.onnx --shape x=2x3 --tolerance rel_l2=0.5 --samples 2 "
                               f"--seed {MOST_SEED} --threads 3")


@pytest.mark.parametrize(("text", "file"), [
    ("onnxruntime", False), ("onnxruntime@cuda:1", False), ("pytorch.compile", False), ("module:fp64", False),
    ("net.onnx", True), ("./dump", True), ("a\\dump", True), ("results.json:runner one", True), (Path("dump"), True),
    (3, False)])
def test_files_are_told_from_targets_by_how_they_are_written(text: object, file: bool) -> None:
    """No folder that happens to be there changes what a candidate means."""
    assert is_file(text) is file


def test_all_that_was_asked_is_in_the_command() -> None:
    """Every argument that bears on the verdict, quoted; what is in memory has no command."""
    asked = Asked("a b.onnx", ["onnxruntime:int8", "o'.onnx"], None, "pytorch:fp64", ["fp16", "top1=0.99"], ["top1"],
                  "l.npy", Path("c"), {"x": [1, 2], "a=b": [3]}, 2, 7, "off", 4)
    assert shlex.split(asked.command()) == [
        "parity", "compare", "a b.onnx", "o'.onnx", "-r", "pytorch:fp64", "-c", "onnxruntime:int8", "--labels", "l.npy",
        "--calibration", "c", "--shape", "x=1x2", "--shape", "a=b=3", "--tolerance", "fp16", "--tolerance",
        "top1=0.99", "--judge", "top1", "--samples", "2", "--seed", "7", "--optimization", "off", "--threads", "4"]
    value: Any = object()
    for memory in (Asked("m.onnx", inputs={"x": 1}), Asked(value), Asked("m.onnx", labels=[1]),
                   Asked("m.onnx", candidates=[value]), Asked("m.onnx", calibration=[{"x": 1}])):
        assert memory.command() == ""


@pytest.mark.parametrize(("told", "expected"), [
    ("Give them with --labels FILE.", "Give them with `labels`."),
    ("Give --input FILE, or --shape a.b=1x3.", 'Give `inputs`, or `shapes={"a.b": [1, 3]}`.'),
    ("Try `--optimization off`, or less.", 'Try `optimization="off"`, or less.'),
    ("--shape and --samples are for seeded inputs", "`shapes` and `samples` are for seeded inputs"),
    ("Check the shapes (`--shape`).", "Check the shapes (`shapes`)."),
    ("Give --shape t=MIN/OPT/MAX", "Give --shape t=MIN/OPT/MAX"), ("Add --torch a:b", "Add --torch a:b")])
def test_options_are_told_as_arguments(told: str, expected: str) -> None:
    """What Python and parity.toml have a word for is told by it; what is for the command line only stays."""
    assert without_options(told) == expected


def test_an_error_in_python_names_arguments() -> None:
    """There is no `--labels` to type there, nor in parity.toml."""
    with pytest.raises(UsageError) as raised:
        compare(chain(), candidates=["onnxruntime"], judges=["accuracy"])
    assert raised.value.hint == "Give them with `labels`."
