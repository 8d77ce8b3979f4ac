"""Baselines as a user's project keeps them: stored, kept to, lost, damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from parity.api import compare
from tests.pytest_plugin.conftest import Project

pytest_plugins = ["pytester"]

CALL = 'parity.assert_parity("good.onnx", ["candidate.onnx"], tolerance={"rel_l2": 0.1})'
STORED = Path("parity_baselines") / "test_models" / "test_it.json"


@pytest.fixture
def kept(project: Project) -> Project:
    """A project with a stored baseline of a sound candidate."""
    project.candidate()
    project.test(CALL)
    result = project.run("--parity-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*stored the baseline of candidate.onnx on onnxruntime in *test_it.json"])
    return project


def test_the_file_is_small_readable_and_stored_again_the_same(kept: Project) -> None:
    """A tensor a line, figures of three digits, no path of this machine; the same run leaves the file alone."""
    text = (kept.folder / STORED).read_text(encoding="utf-8")
    entry = json.loads(text)["targets"]["candidate.onnx on onnxruntime"]
    assert list(entry["tensors"]) == ["a", "b", "c", "d", "e", "f", "y"]
    assert all(set(figures) == {"error", "own", "noise"} for figures in entry["tensors"].values())
    assert 0 < entry["tensors"]["c"]["noise"] < 1e-5
    assert sum('"noise"' in line for line in text.splitlines()) == 8
    assert len(text) < 2000
    assert str(kept.folder) not in text
    written = (kept.folder / STORED).stat().st_mtime_ns
    kept.run("--parity-update").assert_outcomes(passed=1)
    assert (kept.folder / STORED).stat().st_mtime_ns == written


def test_groups_of_workers_hold_a_test_against_the_baseline_that_it_has_alone(kept: Project) -> None:
    """With `--dist loadgroup` a worker calls the test otherwise; file and command stay what they are without it."""
    path = kept.folder / "test_models.py"
    path.write_text(path.read_text().replace("def test_it", "@pytest.mark.xdist_group('models')\ndef test_it"))
    kept.candidate("w1")
    result = kept.run("-n", "1", "--dist", "loadgroup")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *baseline *test_it.json; `pytest test_models.py::test_it --parity-update` *"])


def test_the_same_run_again_passes(kept: Project) -> None:
    """What was accepted is accepted."""
    result = kept.run()
    result.assert_outcomes(passed=1)
    assert "baseline" not in result.stdout.str()


def test_a_run_that_is_worse_fails_within_tolerance_and_names_the_layer(kept: Project) -> None:
    """The layer that moved, how far, what that did to the output, what changed, and how to accept it."""
    kept.candidate("w1")
    result = kept.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "E *worse than its baseline, while within tolerance", "E *moved      c (MatMul)*the layer itself adds is 0.*",
        "E *output     y: relative L2 error*was*limit 0.1", "E *since then the model is another file",
        "E *next       Find what changed at c (MatMul)*",
        "E *baseline *test_it.json; `pytest test_models.py::test_it --parity-update` accepts this run instead",
        "E *again      pytest test_models.py::test_it"])
    assert len([line for line in result.outlines if line.startswith("E  ")]) <= 12
    assert not any("Nothing to do" in line for line in result.outlines)
    kept.run("--junitxml", "junit.xml")
    assert 'name="parity_verdict" value="regression"' in (kept.folder / "junit.xml").read_text(encoding="utf-8")


def test_a_run_that_is_better_passes_and_says_so(project: Project) -> None:
    """Nothing is stored unasked, but the summary tells that there is something to keep."""
    project.candidate("w1")
    project.test(CALL)
    project.run("--parity-update").assert_outcomes(passed=1)
    project.candidate()
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*candidate.onnx on onnxruntime is better than its baseline*"])
    project.run("--parity-update").assert_outcomes(passed=1)
    project.candidate("w1")
    project.run().assert_outcomes(failed=1)


def test_a_divergence_is_no_baseline(project: Project) -> None:
    """What is beyond tolerance fails under --parity-update too, and is not stored."""
    project.candidate("w1")
    project.test('parity.assert_parity("good.onnx", ["candidate.onnx"])')
    project.run("--parity-update").assert_outcomes(failed=1)
    assert not (project.folder / "parity_baselines").exists()


def test_a_missing_baseline_passes_unless_it_is_required(kept: Project) -> None:
    """Where baselines are kept, the summary tells of one that is not there; `required` fails."""
    (kept.folder / STORED).unlink()
    result = kept.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*candidate.onnx on onnxruntime without a baseline"])
    kept.test(CALL.replace(")", ', baseline="required")'))
    result = kept.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no baseline of candidate.onnx on onnxruntime*--parity-update*"])


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "targets": 3}',
                                    '{"schema_version": 1, "targets": {"x": {"model": "y"}}}', "\x00",
                                    "NOISE -1.0", "NOISE NaN", 'NOISE "nan"'])
def test_a_damaged_baseline_fails_and_can_be_stored_anew(kept: Project, damage: str) -> None:
    """It is never taken for none, and --parity-update mends it."""
    if damage.startswith("NOISE"):  # under which anything would pass, or nothing
        text = (kept.folder / STORED).read_text(encoding="utf-8")
        damage = re.sub(r'"noise": [^}]*', f'"noise": {damage.removeprefix("NOISE ")}', text)
    (kept.folder / STORED).write_text(damage, encoding="utf-8")
    result = kept.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_it.json is no baseline that can be read*"])
    assert "Traceback" not in result.stdout.str()
    assert "direct cause" not in result.stdout.str()
    assert "json/decoder.py" not in result.stdout.str()
    kept.run("--parity-update").assert_outcomes(passed=1)
    kept.run().assert_outcomes(passed=1)


def test_a_baseline_of_other_inputs_is_told_apart(kept: Project) -> None:
    """Figures of other values cannot be held against each other."""
    kept.test(CALL.replace(")", ", seed=3)"))
    result = kept.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was taken with other inputs: 1 × x float32 4x8 seed 0*"])


def test_baselines_can_be_left_alone(kept: Project) -> None:
    """`off` neither reads nor writes."""
    (kept.folder / STORED).write_text("damaged", encoding="utf-8")
    kept.test(CALL.replace(")", ', baseline="off")'))
    kept.run("--parity-update").assert_outcomes(passed=1)
    assert (kept.folder / STORED).read_text(encoding="utf-8") == "damaged"


def test_two_models_of_one_name_keep_baselines_of_their_own(project: Project) -> None:
    """In one test, in two tests, and beside each other as candidates."""
    for folder, fault in (("a", ""), ("b", "w1")):
        (project.folder / folder).mkdir()
        project.candidate(fault).rename(project.folder / folder / "net.onnx")
    project.write("test_models.py", """
def test_calls(parity):
    parity.assert_parity("good.onnx", ["a/net.onnx"], tolerance={"rel_l2": 0.1})
    parity.assert_parity("good.onnx", ["b/net.onnx"], tolerance={"rel_l2": 0.1})

def test_candidates(parity):
    parity.assert_parity("good.onnx", ["a/net.onnx", "b/net.onnx"], tolerance={"rel_l2": 0.1})
""")
    project.run("--parity-update").assert_outcomes(passed=2)
    kept = project.folder / "parity_baselines" / "test_models"
    assert {path.name for path in kept.iterdir()} == {"test_calls.json", "test_calls~2.json", "test_candidates.json"}
    both = json.loads((kept / "test_candidates.json").read_text(encoding="utf-8"))["targets"]
    errors = {name: entry["outputs"]["y"]["error"] for name, entry in both.items()}
    assert errors["net.onnx on onnxruntime"] < 1e-5 < errors["net.onnx on onnxruntime (2)"]
    project.run().assert_outcomes(passed=2)


def test_a_target_that_was_left_out_keeps_its_baseline(project: Project) -> None:
    """Updating on a machine that runs some of the targets forgets none of the others."""
    project.test('parity.assert_parity("good.onnx", ["onnxruntime", "pytorch:fp64"])')
    project.run("--parity-update").assert_outcomes(passed=1)
    project.run("--parity-update", "--parity-targets", "pytorch").assert_outcomes(passed=1)
    assert json.loads((project.folder / STORED).read_text(encoding="utf-8"))["targets"].keys() == {
        "onnxruntime", "pytorch:fp64"}


def test_a_baseline_that_covers_nothing_fails(kept: Project) -> None:
    """One of other tensors holds this run to nothing, which is not the same as keeping to it."""
    text = (kept.folder / STORED).read_text(encoding="utf-8")
    (kept.folder / STORED).write_text(text.replace('"y":', '"z":'), encoding="utf-8")
    result = kept.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_it.json says nothing of y, which it is to hold*--parity-update*"])


def test_a_baseline_that_covers_a_part_is_told(kept: Project) -> None:
    """The test passes, and the summary says how much of the model it was not held to."""
    text = (kept.folder / STORED).read_text(encoding="utf-8")
    (kept.folder / STORED).write_text(text.replace('"c":', '"z":'), encoding="utf-8")
    result = kept.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 of 7 recorded tensors are gone and 1 of 7 tensors now*test_it --parity-update*"])


def test_a_module_has_a_baseline(project: Project) -> None:
    """Of itself and of its export's targets; a module whose export moved is told within tolerance."""
    compare(torch.nn.Linear(2, 2), [torch.ones(1, 2)])  # imports what an export does: pytester would forget it
    project.write("test_models.py", """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.first(x).relu())

def test_it(parity):
    parity.assert_parity(Net(), ["onnxruntime:int8"], torch.ones(3, 8) / 3, tolerance="rel_l2=0.3", fixes=False)
""")
    project.run("--parity-update").assert_outcomes(passed=1)
    stored = json.loads((project.folder / STORED).read_text(encoding="utf-8"))["targets"]
    assert stored.keys() == {"module", "onnxruntime:int8"}
    assert all(entry["outputs"] and entry["tensors"] for entry in stored.values())
    project.run().assert_outcomes(passed=1)
    del stored["module"]
    for figures in (*stored["onnxruntime:int8"]["tensors"].values(), *stored["onnxruntime:int8"]["outputs"].values()):
        figures.update(error=0.0, noise=0.0)
    (project.folder / STORED).write_text(json.dumps({"schema_version": 1, "targets": stored}), encoding="utf-8")
    project.run().assert_outcomes(failed=1)
