"""The plugin as a user's project meets it: fixture, marker, options, xdist, and what is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from parity.report.record import Report
from tests.pytest_plugin.conftest import Project

pytest_plugins = ["pytester"]

BAD = 'parity.assert_parity("good.onnx", ["bad.onnx"], tolerance={"rel_l2": 1e-5})'


def test_a_model_within_tolerance_passes_and_its_report_is_at_hand(project: Project) -> None:
    """The fixture returns the report, and keeps it."""
    project.test('report = parity.assert_parity("good.onnx", ["onnxruntime", "pytorch:fp64"])\n'
                 'assert report.verdict == "parity" and parity.report is report and len(report.candidates) == 2')
    project.run().assert_outcomes(passed=1)


def test_a_failure_tells_all_that_a_log_needs_and_shows_no_frame_of_parity(project: Project) -> None:
    """Target, verdict, metric against tolerance, layer, share, cause, report and command, in about ten lines."""
    project.test(BAD)
    result = project.run("--parity-report", "out")
    result.assert_outcomes(failed=1)
    told = [line for line in result.outlines if line.startswith("E  ")]
    assert 7 <= len(told) <= 11
    for part in ("bad.onnx on onnxruntime against good.onnx: divergence", "relative L2 error", "limit", "first bad  c",
                 "node 2 of 7", "kind", "out/test_models/test_it/report.html",
                 "parity compare good.onnx bad.onnx --tolerance rel_l2=1e-05"):
        assert any(part in line for line in told), part
    assert not any("asserting.py" in line or "check.py" in line for line in result.outlines)
    result.stdout.fnmatch_lines(["test_models.py:4: Diverged"])


def test_the_command_of_the_message_shows_the_same_again(project: Project) -> None:
    """What is printed can be typed, and ends with the status of a divergence."""
    project.test(BAD)
    shown = next(line for line in project.run().outlines if "  again " in line).partition("again")[2].split()
    done = subprocess.run([sys.executable, "-c", "from parity.cli import main; main()", *shown[1:], "--no-html"],
                          cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr


def test_values_in_memory_are_shown_again_by_the_test_itself(project: Project) -> None:
    """From a folder below the root, too: the id is one that can be typed there."""
    project.write("sub/test_models.py", "import onnx\n\ndef test_it(parity):\n"
                                        "    parity.assert_parity(onnx.load('../good.onnx'), ['../bad.onnx'])\n")
    os.chdir(project.folder / "sub")
    shown = next(line for line in project.run().outlines if "  again " in line).partition("again")[2].split()
    assert shown == ["pytest", "test_models.py::test_it"]


def test_a_divergence_can_be_expected(project: Project) -> None:
    """It is an AssertionError of a name of its own."""
    project.test(f"from parity import Diverged\nwith pytest.raises(Diverged, match='first bad'):\n    {BAD}")
    project.run().assert_outcomes(passed=1)


def test_strict_fails_on_what_the_outputs_hide(project: Project) -> None:
    """A named fault fails where that was asked for, and only there."""
    project.test('parity.assert_parity("good.onnx", ["bad.onnx"], tolerance={"rel_l2": 0.1})\n'
                 'parity.assert_parity("good.onnx", ["bad.onnx"], tolerance={"rel_l2": 0.1}, strict=True)')
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_models.py:5: Diverged", "*1 failed*"])
    assert not any("With --strict" in line for line in result.outlines)  # it is what the test did


@pytest.mark.parametrize(("call", "words"), [
    ('parity.assert_parity("none.onnx")', "there is no model file at none.onnx"),
    ('parity.assert_parity("good.onnx", ["onnxrutime"])', "no backend is called 'onnxrutime'"),
    ('parity.assert_parity("good.onnx", tolerance="fp17")', "neither a precision nor metric=value"),
    ('parity.assert_parity("good.onnx", inputs={"z": 1})', "no value for input 'x'"),
    ('parity.assert_parity("good.onnx", baseline="requred")', "Known: optional, required, off"),
    ('parity.assert_parity("good.onnx", [])', "candidates is empty"),
    ('parity.assert_parity("good.onnx", "onnxruntime")', "candidates='onnxruntime' is no list"),
    ('parity.assert_parity("good.onnx", samples=0)', "samples=0 makes no sense"),
    ('parity.assert_parity("good.onnx", optimization="fast")', "Known: off, basic, extended, all"),
    ('parity.assert_parity("good.onnx", tolerance=1e-3)', "does not say what is to be within it"),
    ('parity.assert_parity("good.onnx", strict="yes")', "neither true nor false"),
    ('parity.assert_parity("good.onnx", allow="tensorrt")', "allow='tensorrt' is no list"),
    ('parity.assert_parity("good.onnx", allow=["tensort"])', "no backend is called 'tensort'")])
def test_what_makes_no_sense_fails_with_one_line(project: Project, call: str, words: str) -> None:
    """An error of parity's is told without its frames."""
    project.test(call)
    result = project.run()
    result.assert_outcomes(failed=1)
    assert any(words in line for line in result.outlines)
    assert not any("asserting.py" in line or "contenders.py" in line for line in result.outlines)


def test_a_missing_backend_fails(project: Project) -> None:
    """Named but unable to run is no pass."""
    project.test('parity.assert_parity("good.onnx", ["onnxruntime", "pytorch@nowhere"])')
    result = project.run("--junitxml", "junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*good.onnx on pytorch@nowhere: could not run*"])
    assert '"parity_verdict" value="error"' in (project.folder / "junit.xml").read_text(encoding="utf-8")


def test_a_backend_that_may_be_missing_is_a_visible_skip_after_the_rest_has_run(project: Project) -> None:
    """The other candidates are compared, the test runs on, and the reason stands in the log without any option."""
    project.test('report = parity.assert_parity("good.onnx", ["onnxruntime", "pytorch@nowhere"], allow=["pytorch"])\n'
                 'assert report.candidates[0].verdict == "parity"\n'
                 'open("reached", "w").close()')
    result = project.run()
    result.assert_outcomes(skipped=1)
    assert (project.folder / "reached").exists()
    result.stdout.fnmatch_lines(["test_models.py::test_it: left out pytorch@nowhere: *"])


def test_what_may_be_missing_hides_no_failure(project: Project) -> None:
    """A candidate that diverges beside one that may be missing fails the test."""
    project.test('parity.assert_parity("good.onnx", ["bad.onnx", "onnxruntime", "pytorch@nowhere"], '
                 'tolerance="rel_l2=1e-5", allow=["pytorch@nowhere"])')
    project.run().assert_outcomes(failed=1)


def test_nothing_that_can_run_skips_there_and_then(project: Project) -> None:
    """What follows may need figures, of which there are none."""
    project.test('parity.assert_parity("good.onnx", ["pytorch@nowhere"], allow=["pytorch"])\nraise ValueError')
    result = project.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *pytorch@nowhere*"])


def test_a_marker_makes_one_test_of_each_candidate(project: Project) -> None:
    """Parametrised tests are multiplied, a failure names its candidate, and the body sees the report."""
    project.write("sub/test_marked.py", """
import pytest

@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parity(model="../good.onnx", candidates=["onnxruntime", "../bad.onnx"], tolerance={"rel_l2": 1e-5})
def test_marked(times, parity):
    assert len(parity.report.candidates) == 1

class TestMore:
    pytestmark = pytest.mark.parity("../good.onnx", ["pytorch:fp64"])

    def test_it(self): ...
""")
    result = project.run("-v")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines_random([
        "*::test_marked[[]onnxruntime-1] PASSED*", "*::test_marked[[]bad.onnx-2] FAILED*",
        "*::TestMore::test_it[[]pytorch:fp64] PASSED*"])
    assert not any("hidden" in line for line in result.outlines)


def test_a_marker_on_a_unittest_compares_all_at_once(project: Project) -> None:
    """Where pytest cannot parametrise, nothing is passed over."""
    project.write("test_case.py", """
import unittest, pytest

class TestIt(unittest.TestCase):
    @pytest.mark.parity("good.onnx", ["onnxruntime", "bad.onnx"], tolerance={"rel_l2": 1e-5})
    def test_it(self): ...
""")
    project.run().assert_outcomes(failed=1)


@pytest.mark.parametrize(("marker", "said"), [
    ("modle='good.onnx'", ("the marker `parity`", "'modle'", "Known: model, candidates, ")),
    ("'good.onnx', []", ("candidates is empty",)), ("'good.onnx', baseline='never'", ("Known: optional, required",)),
    ("'good.onnx')\n@pytest.mark.parity('bad.onnx'", ("two markers `parity`",))])
def test_a_marker_that_makes_no_sense_is_told_while_collecting(project: Project, marker: str,
                                                               said: tuple[str, ...]) -> None:
    """A misspelt argument names itself, and of two markers neither is taken."""
    project.write("test_marked.py", f"import pytest\n@pytest.mark.parity({marker})\ndef test_it(): ...\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    assert all(any(part in line for line in result.outlines) for part in said)
    assert not any("collect.py" in line for line in result.outlines)


def test_the_marker_of_a_function_goes_over_that_of_its_class(project: Project) -> None:
    """As pytest's own do; a second one that a parameter brings is refused where it is met."""
    project.write("test_marked.py", """
import pytest

@pytest.mark.parity("bad.onnx")
class TestIt:
    @pytest.mark.parity("good.onnx", ["pytorch:fp64"])
    def test_it(self, parity):
        assert parity.report.model.path.endswith("good.onnx")

    @pytest.mark.parity("good.onnx", ["pytorch:fp64"])
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.parity("good.onnx"))])
    def test_two(self, x): ...
""")
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["parity: two markers `parity`*"])


def test_reports_and_junit_properties_are_written(project: Project) -> None:
    """JSON of every comparison, HTML of those that fail, and where they are in the JUnit file."""
    project.write("test_models.py", "def test_good(parity):\n    parity.assert_parity('good.onnx')\n"
                                    "    parity.assert_parity('good.onnx', ['pytorch:fp64'])\n"
                                    f"def test_bad(parity):\n    {BAD}\n")
    project.run("--parity-report", "out", "--junitxml", "junit.xml")
    out = project.folder / "out" / "test_models"
    found = {str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file()}
    assert found == {"test_good/report.json", "test_good~2/report.json", "test_bad/report.json",
                     "test_bad/report.html", "test_bad/layers.csv"}
    assert Report.load(out / "test_bad" / "report.json").command.startswith("parity compare good.onnx bad.onnx")
    properties = {(case.get("name"), p.get("name")): p.get("value")
                  for case in ET.parse(project.folder / "junit.xml").iter("testcase")  # noqa: S314 - written above
                  for p in case.iter("property")}
    assert properties["test_bad", "parity_report"] == str(out / "test_bad" / "report.html")
    assert properties["test_bad", "parity_first_bad"] == "c"
    assert properties["test_good", "parity_verdict"] == "parity"


def test_targets_leave_out_what_is_for_others(project: Project) -> None:
    """Marked tests are deselected, the fixture leaves candidates out, and says so where none is left."""
    project.write("test_models.py", """
import pytest

@pytest.mark.parity("good.onnx", ["onnxruntime", "pytorch:fp64", "bad.onnx"])
def test_marked(): ...

def test_both(parity):
    assert len(parity.assert_parity("good.onnx", ["onnxruntime", "pytorch:fp64"]).candidates) == 1

def test_other(parity):
    parity.assert_parity("good.onnx", ["onnxruntime"])

def test_without(): ...
""")
    result = project.run("--parity-targets", "pytorch")
    result.assert_outcomes(passed=3, skipped=1, deselected=2)


@pytest.mark.parametrize("typed", ["onxruntime", "onnxruntime:fp17"])
def test_a_misspelt_target_is_refused(project: Project, typed: str) -> None:
    """What would leave nothing to compare is no success."""
    project.write("test_models.py", "def test_without(): ...")
    result = project.run("--parity", "--parity-targets", typed)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--parity-targets: *"])


def test_xdist_and_last_failed_and_exitfirst_work(project: Project) -> None:
    """Workers tell the controller all that one process would; ids are stable enough to run the failed again."""
    project.write("test_models.py", """
import pytest

@pytest.mark.parity("good.onnx", ["onnxruntime", "bad.onnx"], tolerance="rel_l2=1e-5")
def test_marked(): ...

def test_missing(parity):
    parity.assert_parity("good.onnx", ["pytorch@nowhere"], allow=["pytorch"])
""")
    project.write("parity.toml", '[[model]]\npath = "good.onnx"\n')
    result = project.run("-n", "2", "--parity", "--parity-report", "out")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*test_missing: left out pytorch@nowhere*"])
    assert len(list((project.folder / "out").rglob("report.json"))) == 4
    again = project.run("--lf", "-v")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*test_marked[[]bad.onnx] FAILED*"])
    project.run("-x").assert_outcomes(failed=1, passed=1)


def test_other_runs_of_pytest_import_nothing_heavy(project: Project) -> None:
    """Where no parity test runs, the plugin costs a few small modules, collecting parity tests included."""
    project.write("conftest.py", """
import sys

def pytest_unconfigure():
    heavy = {"torch", "numpy", "onnx", "onnxruntime", "numba", "pandas", "plotly", "rich", "click", "parity.api"}
    print("\\nHEAVY", sorted(heavy & sys.modules.keys()), "parity.pytest_plugin" in sys.modules)
""")
    project.write("test_plain.py", "def test_plain(): ...\n")
    project.write("test_models.py", "import pytest\n@pytest.mark.parity('good.onnx')\ndef test_it(): ...\n")
    project.write("parity.toml", '[[model]]\npath = "good.onnx"\n')
    for arguments in (["test_plain.py"], ["--collect-only", "--parity"]):
        done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", *arguments],
                              cwd=project.folder, capture_output=True, text=True, check=False)
        assert "HEAVY [] True" in done.stdout, done.stdout + done.stderr


def test_the_options_are_explained(project: Project) -> None:
    """`pytest --help` and `--markers` name all of them."""
    text = project.run("--help").stdout.str() + project.run("--markers").stdout.str()
    for name in ("--parity ", "--parity-report", "--parity-update", "--parity-targets", "@pytest.mark.parity("):
        assert re.search(re.escape(name), text), name
