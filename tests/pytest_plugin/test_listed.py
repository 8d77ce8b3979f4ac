"""Models listed in parity.toml and pyproject.toml."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.pytest_plugin.case import Case
from parity.pytest_plugin.listed import pairs_in
from tests.pytest_plugin.conftest import Project

pytest_plugins = ["pytester"]


def listing(folder: Path, text: str, name: str = "parity.toml") -> Path:
    """Write a list."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_each_model_on_each_target_is_a_pair_with_a_stable_name(tmp_path: Path) -> None:
    """Names come from the list alone; a model's entries go over those of all, a target's limits over its model's."""
    pairs = pairs_in(listing(tmp_path, """
targets = ["onnxruntime", "onnxruntime:int8"]
allow = ["tensorrt"]
tolerance = "fp16"
[[model]]
path = "a/net.onnx"
inputs = "a/inputs.npz"
tolerance = { rel_l2 = 1e-3, "onnxruntime:int8" = { rel_l2 = 0.5, max_abs = 1.0 } }
[[model]]
path = "b/net.onnx"
targets = ["tensorrt:fp16"]
seed = 4
[[model]]
path = "b/net.onnx"
name = "again"
"""))
    assert [pair.name for pair in pairs] == [
        "a/net[onnxruntime]", "a/net[onnxruntime:int8]", "b/net[tensorrt:fp16]", "again[onnxruntime]",
        "again[onnxruntime:int8]"]
    assert pairs[0].case == Case(tmp_path / "a" / "net.onnx", ["onnxruntime"], tmp_path / "a" / "inputs.npz",
                                 tolerance={"rel_l2": 1e-3}, allow=["tensorrt"])
    assert pairs[1].case.tolerance == {"rel_l2": 0.5, "max_abs": 1.0}
    assert (pairs[2].case.tolerance, pairs[2].case.seed) == ("fp16", 4)


def test_limits_of_all_models_may_be_for_targets_of_some(tmp_path: Path) -> None:
    """A table at the top speaks of any target that is listed; a model's own only of its own."""
    text = """
tolerance = { rel_l2 = 1e-3, "onnxruntime:int8" = { rel_l2 = 0.5 } }
[[model]]
path = "a.onnx"
[[model]]
path = "b.onnx"
targets = ["onnxruntime:int8"]
"""
    assert [pair.case.tolerance for pair in pairs_in(listing(tmp_path, text))] == [{"rel_l2": 1e-3}, {"rel_l2": 0.5}]
    for wrong in (text.replace("int8\" = {", "fp16\" = {"),
                  text + '[[model]]\npath = "c.onnx"\ntolerance = { "onnxruntime:int8" = { rel_l2 = 0.5 } }\n'):
        with pytest.raises(UsageError, match="none of the targets"):
            pairs_in(listing(tmp_path, wrong))


def test_pyproject_lists_models_too_and_need_not(tmp_path: Path) -> None:
    """[tool.parity] holds what parity.toml does."""
    text = '[project]\nname = "x"\n'
    assert pairs_in(listing(tmp_path, text, "pyproject.toml")) == []
    text += '[tool.parity]\ntargets = ["pytorch:fp64"]\n[[tool.parity.model]]\npath = "m.onnx"\n'
    assert [pair.name for pair in pairs_in(listing(tmp_path, text, "pyproject.toml"))] == ["m[pytorch:fp64]"]


@pytest.mark.parametrize(("text", "words"), [
    ("[[model]", "cannot be read"), ("[[model]]\nname = 'x'", "no `path`"),
    ("model = 3", "not a list of tables"), ("[[model]]\npath = 'm.onnx'\ntarget = ['x']", "Did you mean `targets`"),
    ("tolerence = 3", "Did you mean `tolerance`"), ("path = 'm.onnx'", "unknown entry `path`"),
    ("[[model]]\npath = 'm.onnx'\ntargets = 'onnxruntime'", "not a list of targets"),
    ("[[model]]\npath = 'm.onnx'\ntargets = [3]", "something else than text"),
    ("[[model]]\npath = 'm.onnx'\ntargets = ['onnxruntime:fp17']", "unknown precision 'fp17'"),
    ("[[model]]\npath = 'm.onnx'\nseed = true", "not a number"),
    ("[[model]]\npath = 'm.onnx'\nbaseline = 'never'", "m.onnx: baseline='never' is unknown. Known: optional"),
    ("[[model]]\npath = 'm.onnx'\ntargets = []", "m.onnx: targets is empty"),
    ("targets = ['onnxruntime']", "no model is listed"), ("", "no model is listed"),
    ("[[model]]\npath = 'm.onnx'\nsamples = 0", "m.onnx: samples=0 makes no sense"),
    ("[[model]]\npath = 'm.onnx'\nthreads = 0", "from 1 to 1024"),
    ("[[model]]\npath = 'm.onnx'\noptimization = 'fast'", "Known: off, basic, extended, all"),
    ("[[model]]\npath = 'm.onnx'\nseed = -1", "seed=-1 makes no sense"),
    ("[[model]]\npath = 'm.onnx'\ntolerance = true", "not text, a list of texts or a table"),
    ("[[model]]\npath = 'm.onnx'\ntolerance = { rel_l2 = true }", "tolerance of rel_l2 is True"),
    ("[[model]]\npath = 'm.onnx'\nshapes = { x = '1x8' }", "the shape of x is '1x8'"),
    ("[[model]]\npath = 'm.onnx'\ntolerance = { 'tensorrt' = { rel_l2 = 1.0 } }", "none of the targets"),
    ("[[model]]\npath = 'm.onnx'\n[[model]]\npath = 'm.onnx'", "two tests are called m[onnxruntime]")])
def test_a_list_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """The message names the entry, the hint what may stand there."""
    with pytest.raises(UsageError) as raised:
        pairs_in(listing(tmp_path, text))
    assert words in str(raised.value)


def test_listed_pairs_are_tests_where_they_are_asked_for(project: Project) -> None:
    """With --parity, by their ids, and from a folder below; a failure is told without frames."""
    project.write("parity.toml", """
tolerance = { rel_l2 = 1e-3 }
[[model]]
path = "good.onnx"
targets = ["onnxruntime", "pytorch:fp64", "pytorch@nowhere"]
allow = ["pytorch"]
""")
    project.write("sub/parity.toml", '[[model]]\npath = "../bad.onnx"\nname = "bad"\n'
                                     'targets = ["onnxruntime:fp16"]\ntolerance = { max_abs = 0.0 }\n')
    project.run().assert_outcomes()
    result = project.run("--parity", "-v")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines_random([
        "parity.toml::good[[]onnxruntime] PASSED*", "sub/parity.toml::bad[[]onnxruntime:fp16] FAILED*",
        "*bad.onnx on onnxruntime:fp16: divergence*"])
    assert not any("hidden" in line for line in result.outlines)
    project.run("parity.toml::good[pytorch:fp64]").assert_outcomes(passed=1)
    project.run("--parity", "--parity-targets", "pytorch:fp64").assert_outcomes(passed=1, deselected=3)
    project.run("--parity", "-m", "parity", "-k", "nowhere").assert_outcomes(skipped=1, deselected=3)


def test_the_list_at_the_root_is_found_beside_testpaths(project: Project) -> None:
    """`pytest --parity` runs it though `testpaths` names another folder, and once only."""
    (project.folder / "tox.ini").unlink()
    project.write("tests/test_plain.py", "def test_plain(): ...\n")
    project.write("pyproject.toml", '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n'
                                    '[[tool.parity.model]]\npath = "good.onnx"\n')
    project.run("--parity").assert_outcomes(passed=2)
    project.run("--parity", "tests").assert_outcomes(passed=1)


@pytest.mark.parametrize(("folder", "arguments", "expected"), [
    (".", ["-n", "2", "--dist", "loadfile"], 2), ("sub", ["-n", "1"], 2), (".", ["-n", "1", "tests"], 1)])
def test_workers_run_the_list_that_one_process_would(
        project: Project, monkeypatch: pytest.MonkeyPatch, folder: str, arguments: list[str], expected: int) -> None:
    """A list that is dropped where tests are shared out would look like success."""
    project.write("tox.ini", "[pytest]\ntestpaths = tests\n")
    project.write("tests/test_plain.py", "def test_plain(): ...\n")
    project.write("sub/test_plain.py", "def test_plain(): ...\n")
    project.write("parity.toml", '[[model]]\npath = "good.onnx"\n')
    monkeypatch.chdir(project.folder / folder)
    project.run("--parity", *arguments).assert_outcomes(passed=expected)


def test_no_list_at_all_is_an_error(project: Project) -> None:
    """A run that was to hold models to parity and found none has not passed; what works without a list is named."""
    result = project.run("--parity", "--parity-update")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no parity.toml" in result.stderr.str()
    assert "`pytest --parity-update` stores their baselines" in result.stderr.str()


def test_a_list_that_cannot_be_read_is_told_while_collecting(project: Project) -> None:
    """One error, in words."""
    project.write("parity.toml", "[[model]]\nname = 'x'\n")
    result = project.run("--parity")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*parity.toml: a model has no `path`*"])


def test_listed_models_keep_baselines_beside_the_list(project: Project) -> None:
    """Two models of one name keep their own."""
    for folder in ("a", "b"):
        (project.folder / folder).mkdir()
        project.candidate().rename(project.folder / folder / "net.onnx")
    project.write("parity.toml", '[[model]]\npath = "a/net.onnx"\n[[model]]\npath = "b/net.onnx"\n')
    project.run("--parity", "--parity-update").assert_outcomes(passed=2)
    stored = sorted(path.name for path in (project.folder / "parity_baselines" / "parity").iterdir())
    assert len(stored) == 2
    assert stored[0].startswith("a-net-onnxruntime")
    project.run("--parity").assert_outcomes(passed=2)


def test_the_listed_models_that_failed_run_again_alone_or_first(project: Project) -> None:
    """`--lf` and `--ff` know them by their ids."""
    project.write("parity.toml", '[[model]]\npath = "good.onnx"\n[[model]]\npath = "none.onnx"\n')
    project.run("--parity").assert_outcomes(passed=1, failed=1)
    project.run("--parity", "--lf").assert_outcomes(failed=1)
    project.run("--parity", "--ff", "-x").assert_outcomes(failed=1)


def test_the_command_that_is_told_stores_a_listed_models_baseline(project: Project) -> None:
    """Missing or damaged: plain `pytest --parity-update` would not run the list."""
    project.write("parity.toml", '[[model]]\npath = "good.onnx"\nbaseline = "required"\n')
    for damage in ("", "{"):
        if damage:
            next((project.folder / "parity_baselines").rglob("*.json")).write_text(damage)
        result = project.run("--parity")
        result.assert_outcomes(failed=1)
        told = re.search(r"tore it (?:anew )?with `pytest ([^`]*)`", result.stdout.str())
        assert told is not None
        project.run(*shlex.split(told[1])).assert_outcomes(passed=1)
        project.run("--parity").assert_outcomes(passed=1)
