"""`parity fix` as a user runs it: what it writes passes in a fresh process, and what it cannot do it says."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from parity.errors import OutputError
from parity.fix import _Files
from parity.fixes.attempt import Attempt, Emulation, variant_of
from parity.fixes.fix import Fix
from parity.fixes.mending import Mending
from parity.fixes.outcome import Outcome, Solution
from parity.fixes.target import TargetRuns
from parity.graph.model import Model
from tests.builders import CommandLine, node, saved
from tests.fixes.cases import INT8, branching, cancelling, outlier, problem, rows
from tests.models import FIXTURES


@pytest.fixture
def parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, with a folder to write to."""
    return CommandLine(tmp_path / "out", monkeypatch, capsys)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Inputs of 64 rows."""
    path = tmp_path / "rows.npz"
    np.savez(path, x=rows(64)["x"])
    return path


def given(parity: CommandLine, proto: ModelProto, target: str, inputs: Path, *more: object) -> list[object]:
    """Arguments of `parity fix` for a model, which is written first."""
    path = saved(parity.folder.parent / "model" / "net.onnx", proto)
    return ["fix", path, "--for", target, "--input", inputs, "--threads", 1, "--no-html", "-o", parity.folder, *more]


def fresh(*arguments: object, seed: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `parity …` in a process of its own, its hashes salted with `seed`."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
    code = "from parity.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          check=False, env=environment)


def untimed(value: Any) -> Any:
    """A report without what differs from run to run: when, where and how fast it ran, and what was typed."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items()
                if not k.startswith(("latency", "seconds")) and k not in {"command", "environment", "model", "file"}}
    return [untimed(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("make", "target"), [(outlier, "onnxruntime:int8"), (branching, "pytorch:fp16")])
def test_the_written_model_passes(make: type, target: str, parity: CommandLine, inputs: Path) -> None:
    """Exit status 0, and the file that was written is at parity with the model in a fresh process, within the limit."""
    arguments = given(parity, make(), target, inputs)
    outcome = parity(*arguments)
    assert outcome.status == 0, outcome.err
    assert "a fix passes" in " ".join(outcome.out.split())
    fixed = parity.folder / "net.fixed.onnx"
    onnx.checker.check_model(str(fixed), full_check=True)
    limit = "int8" if target.endswith("int8") else "fp16"
    again = fresh("compare", arguments[1], fixed, "-c", target.partition(":")[0], "--input", inputs, "--tolerance",
                  limit, "--no-html", "-o", parity.folder.parent / "again")
    assert again.returncode == 0, again.stdout + again.stderr
    fix = outcome.candidate.fixes[0]
    plan = json.loads((parity.folder / "plan.json").read_text())
    kept = {e["match"].removeprefix("tensor:") for e in plan["exceptions"] if e["precision"] == "fp32"}
    assert kept == {k.tensor for k in fix.kept}  # nothing of the branch that is not taken
    assert fix.passed
    assert fix.file == str(fixed)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer(parity: CommandLine, inputs: Path) -> None:
    """In two processes that order sets otherwise, plan and model are equal to the byte, the report but for times."""
    arguments = given(parity, cancelling(), "pytorch:fp16", inputs, "--tolerance", "rel_l2=4e-4", "--max-kept", 1)
    found = []
    for seed in (1, 2):
        folder = parity.folder / str(seed)
        assert fresh(*arguments, "-o", folder, seed=seed).returncode == 0
        report = json.loads((folder / "report.json").read_text())
        found.append([(folder / name).read_bytes() for name in ("plan.json", "net.fixed.onnx")] + [untimed(report)])
    assert found[0] == found[1]


def test_nothing_to_fix(parity: CommandLine, inputs: Path) -> None:
    """A variant that passes is told as such, exit status 0, and no model is written."""
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs, "--tolerance", "rel_l2=2"))
    assert outcome.status == 0
    assert "nothing to fix" in " ".join(outcome.out.split())
    assert not (parity.folder / "net.fixed.onnx").exists()


def test_a_tolerance_that_fp32_misses(parity: CommandLine, inputs: Path) -> None:
    """It is refused with the measured floor, exit status 2."""
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs, "--tolerance", "max_abs=1e-9"))
    assert outcome.status == 2
    assert "the tolerance cannot be met: onnxruntime in FP32 is at" in outcome.err
    for limit in ("1e-8", "0"):
        outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs, "--tolerance", f"rel_l2={limit}"))
        assert outcome.status == 2
        assert re.search(r"correct FP32 runs of the model are up to [1-9][0-9.]*e-0[67]", outcome.err)
        assert len(outcome.err.splitlines()) == 2


def test_the_table_and_the_multiples_have_one_limit(parity: CommandLine, inputs: Path) -> None:
    """Where the model's own noise raises the limit, output rows, verdict and multiples all go by the raised one."""
    outcome = parity(*given(parity, cancelling(), "onnxruntime:fp16", inputs, "--tolerance", "rel_l2=1e-4"))
    (row,) = outcome.candidate.outputs
    assert row.accumulated is not None
    assert row.tolerance is not None
    assert row.tolerance > 1e-4
    times = row.accumulated.rel_l2 / row.tolerance
    assert any(f"in FP16 at {times:.3g} times" in note for note in outcome.candidate.notes)
    assert row.passed == (times <= 1) == (outcome.candidate.verdict == "parity")


def test_random_numbers_are_told(parity: CommandLine, inputs: Path) -> None:
    """A model whose outputs random numbers move beyond its limit is refused; one that they hardly move is mended."""
    for scale, status in ((0.5, 2), (1e-7, 0)):
        proto = outlier()
        proto.graph.node.insert(0, node("RandomNormalLike", ["x"], ["drawn"]))
        proto.graph.node.insert(1, node("Mul", ["drawn", "scale"], ["small"]))
        proto.graph.node.insert(2, node("Add", ["x", "small"], ["moved"]))
        proto.graph.node[3].input[0] = "moved"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale), "scale"))
        outcome = parity(*given(parity, proto, "onnxruntime:int8", inputs, "--tolerance", "rel_l2=0.1"))
        assert outcome.status == status, outcome.out + outcome.err
        said = outcome.err if status else " ".join(outcome.out.split())
        assert "draws random numbers" in said


def test_inputs_that_are_not_finite_are_told(parity: CommandLine, tmp_path: Path) -> None:
    """They make the outputs so, which nothing in INT8 follows: one line says which input, and no trials are wasted."""
    x = rows(64)["x"].copy()
    x[3, 4] = np.nan
    np.savez(tmp_path / "odd.npz", x=x)
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", tmp_path / "odd.npz"))
    assert outcome.status == 2
    assert "input 'x' holds 1 NaN or Inf among 512 elements" in outcome.err
    assert not (parity.folder / "trials.jsonl").exists()


@pytest.mark.parametrize("target", ["onnxruntime", "pytorch:fp32", "nowhere:int8", "onnxruntime:int9"])
def test_a_target_with_nothing_to_fix_is_refused(target: str, parity: CommandLine, inputs: Path) -> None:
    """A target in full precision, or one that does not exist, is a mistake: one line, exit status 2."""
    outcome = parity(*given(parity, outlier(), target, inputs))
    assert outcome.status == 2
    assert outcome.err.startswith("parity: ")


def test_no_fix_within_the_limits(parity: CommandLine, inputs: Path) -> None:
    """Exit status 1, the best that was found, what to train, and no fixed model."""
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs, "--tolerance", "rel_l2=1e-3",
                            "--max-kept", 0, "--max-trials", 4))
    assert outcome.status == 1, outcome.err
    fixes = outcome.candidate.fixes
    assert fixes
    assert not any(f.passed for f in fixes)
    assert any(f.training for f in fixes)
    assert not any(f.kept for f in fixes)
    assert not (parity.folder / "net.fixed.onnx").exists()


def test_the_best_found_has_another_name(parity: CommandLine, inputs: Path) -> None:
    """What does not pass is never called fixed, and what an earlier run called so does not stay to be mistaken."""
    arguments = given(parity, outlier(), "onnxruntime:int8", inputs)
    assert parity(*arguments).status == 0
    assert {"net.fixed.onnx", "plan.json"} < {p.name for p in parity.folder.iterdir()}
    missed = parity(*arguments, "--tolerance", "rel_l2=1e-4")
    assert missed.status == 1
    assert {p.name for p in parity.folder.glob("*n*.[oj]*n*")} >= {"net.best.onnx", "plan.best.json"}
    assert not (parity.folder / "net.fixed.onnx").exists()
    assert not (parity.folder / "plan.json").exists()
    assert missed.candidate.fixes[0].file == str(parity.folder / "net.best.onnx")
    assert any("net.fixed.onnx and plan.json of an earlier run were removed" in n for n in missed.candidate.notes)
    assert parity(*arguments).status == 0
    assert not (parity.folder / "net.best.onnx").exists()


@pytest.mark.parametrize("target", ["onnxruntime:int8", "pytorch:fp16"])
def test_no_fix_keeps_all(target: str, parity: CommandLine, inputs: Path) -> None:
    """However much may be kept, a model in which nothing is in lower precision any more is no fix."""
    outcome = parity(*given(parity, outlier(), target, inputs, "--tolerance", "rel_l2=1e-6", "--max-kept", 1))
    assert outcome.status == 1
    assert outcome.candidate.fixes
    assert all(len(f.kept) < f.layers for f in outcome.candidate.fixes)


def test_the_plan_makes_the_fixed_model_again(parity: CommandLine, inputs: Path) -> None:
    """`parity convert --plan` with the same samples makes the same file: settings and kept layers are in the plan."""
    arguments = given(parity, outlier(), "onnxruntime:int8", inputs, "--calibration", inputs)
    assert parity(*arguments).status == 0
    again = parity.folder / "again.onnx"
    made = parity("convert", arguments[1], "--plan", parity.folder / "plan.json", "--calibration", inputs, "-o", again)
    assert made.status == 0, made.err
    assert again.read_bytes() == (parity.folder / "net.fixed.onnx").read_bytes()


def test_an_interrupt_says_how_to_go_on(parity: CommandLine, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with exit status 2, and the last line says that the same command goes on."""
    def interrupted(self: Emulation, kept: Sequence[str]) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Emulation, "error", interrupted)
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs))
    assert outcome.status == 2
    assert "goes on where it was" in outcome.err.splitlines()[-1]
    (parity.folder / "trials.jsonl").unlink()
    monkeypatch.setattr(Mending, "priced", lambda self, emulation: interrupted(emulation, ()))
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs))
    assert "nothing was tried yet" in outcome.err
    assert "starts anew" in outcome.err.splitlines()[-1]


def test_a_full_folder_of_temporary_files(parity: CommandLine, inputs: Path) -> None:
    """One line says which folder is full and what to do; the fix of an earlier run stays, which is said too."""
    arguments = given(parity, outlier(), "onnxruntime:int8", inputs)
    assert parity(*arguments).status == 0
    before = (parity.folder / "net.fixed.onnx").read_bytes()
    with disk_of(16):
        outcome = parity(*arguments, "--tolerance", "rel_l2=0.09")
    assert outcome.status == 2
    assert "TMPDIR" in outcome.err
    assert "net.fixed.onnx of an earlier run was kept" in " ".join(outcome.err.split())
    assert (parity.folder / "net.fixed.onnx").read_bytes() == before


def test_layers_kept_in_fp16(parity: CommandLine, inputs: Path) -> None:
    """`--keep fp16` keeps layers of an INT8 model in FP16, and the plan says so."""
    outcome = parity(*given(parity, outlier(), "onnxruntime:int8", inputs, "--keep", "fp16"))
    assert outcome.status == 0
    plan = json.loads((parity.folder / "plan.json").read_text())
    assert {e["precision"] for e in plan["exceptions"]} == {"fp16"}
    assert {k.precision for k in outcome.candidate.fixes[0].kept} == {"fp16"}


def test_a_second_search_measures_nothing_again(parity: CommandLine, inputs: Path) -> None:
    """What was tried lies in the folder, so that asking again costs no trials but comes to the same."""
    arguments = given(parity, cancelling(), "pytorch:fp16", inputs)
    first = parity(*arguments).candidate.fixes[0]
    second = parity(*arguments).candidate.fixes[0]
    assert second.trials < first.trials
    assert (second.kept, second.after, second.curve) == (first.kept, first.after, first.curve)


def test_accuracy_decides(parity: CommandLine) -> None:
    """With labels and a limit of accuracy alone, the fixture that INT8 makes lose it is mended to that limit."""
    folder = FIXTURES / "digits_transformer"
    outcome = parity("fix", folder / "model.onnx", "--for", "onnxruntime:int8", "--input", folder / "inputs.npz",
                     "--labels", folder / "labels.npz", "--tolerance", "accuracy=0.98", "--no-html",
                     "-o", parity.folder)
    assert outcome.status == 0, outcome.err
    images = dict(np.load(folder / "inputs.npz"))
    labels = np.load(folder / "labels.npz")["labels"]
    fixed = parity.folder / "model.fixed.onnx"
    if outcome.candidate.fixes:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(fixed), providers=["CPUExecutionProvider"])
        scores = session.run(None, images)[0]
        assert np.mean(scores.argmax(1) == labels) >= 0.98


def test_external_weights_stay_beside_the_fixed_model(parity: CommandLine, inputs: Path) -> None:
    """A model with its weights in a file gets a fixed one with its weights in a file, which runs from elsewhere."""
    arguments = given(parity, outlier(), "onnxruntime:int8", inputs)
    path = Path(str(arguments[1]))
    onnx.save(outlier(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    assert parity(*arguments).status == 0
    assert (parity.folder / "net.fixed.onnx.data").exists()
    moved = parity.folder.rename(parity.folder.with_name("moved"))
    compared = parity.compare(path, moved / "net.fixed.onnx", "-c", "onnxruntime", "--input", inputs, "--tolerance",
                              "int8", "--no-html")
    assert compared.status == 0, compared.out


@pytest.mark.parametrize(("limit", "most"), [(0.016, 4), (0.0277, 1)])
def test_small_sets_are_not_missed(limit: float, most: int, parity: CommandLine) -> None:
    """What cheap layers, or one alone, can mend is mended so, on samples of which half are held out, too."""
    ran = parity("fix", FIXTURES / "digits_cnn" / "model.onnx", "--for", "pytorch:int8", "--samples", 8, "--seed", 7,
                 "--tolerance", f"rel_l2={limit}", "--threads", 1, "--no-html", "-o", parity.folder)
    best = ran.candidate.fixes[0]
    assert ran.status == 0
    assert best.passed
    assert best.held_out is not None
    assert best.held_out <= 1
    assert len(best.kept) <= most


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def solution(folder: Path, kept: list[str]) -> Solution:
    """A fix of the model with an outlier."""
    found = problem(outlier(), INT8, folder)
    attempt = Attempt("", "", found.model)
    variant = variant_of(found, attempt, kept)
    session = TargetRuns(found).run(variant.model).session
    return Solution(Fix("keep", "", (), 2.0, 0.5, passed=True), variant, attempt, session)


def outcome_of(*solutions: Solution) -> Outcome:
    """What a repair with these solutions comes to."""
    return Outcome(problem(outlier(), INT8, Path()), 2.0, 0.0, (), solutions)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_the_last_good_fix(tmp_path: Path, external: bool) -> None:
    """Where a better fix cannot be written, the one before is whole; where none could be written, that is told."""
    good, better = solution(tmp_path, ["c"]), solution(tmp_path, ["c", "e"])
    if external:
        good, better = (
            replace(s, variant=replace(s.variant, model=s.variant.model.externalised(tmp_path, f"w{i}")))
            for i, s in enumerate((good, better)))
    folder = tmp_path / "out"
    folder.mkdir()
    files = _Files(Path("net.onnx"), folder)
    files.save(good)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with disk_of(64):
        files.save(better)
        none = _Files(Path("other.onnx"), folder)
        none.save(good)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert files.written == {"fixed model": folder / "net.fixed.onnx", "plan": folder / "plan.json"}
    (note,) = files.finish(outcome_of(better, good))
    assert "A better fix could not be written" in note
    assert (files.file(good, best=False), files.file(better, best=True)) == (str(folder / "net.fixed.onnx"), "")
    assert Model.load(folder / "net.fixed.onnx").graph.outputs
    with pytest.raises(OutputError):
        none.finish(outcome_of(good))
    with disk_of(64):
        later = _Files(Path("net.onnx"), folder)
        (note,) = later.finish(outcome_of(replace(better, fix=replace(better.fix, passed=False))))
    assert "The best found could not be written" in note
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_model_without_its_plan_is_told(tmp_path: Path) -> None:
    """Where the disk takes the model and not the plan, the error says which of them is there."""
    (tmp_path / "plan.json").mkdir()
    files = _Files(Path("net.onnx"), tmp_path)
    files.save(solution(tmp_path, ["c"]))
    with pytest.raises(OutputError, match=r"cannot write .*plan\.json"):
        files.finish(outcome_of())
    assert list(files.written) == ["fixed model"]
    assert "net.fixed.onnx, which passes, is written" in files.kept


def test_a_share_that_is_no_number_is_refused(parity: CommandLine) -> None:
    """Nan passes for a number where ranges are checked."""
    model = FIXTURES / "digits_cnn" / "model.onnx"
    outcome = parity("fix", model, "--for", "onnxruntime:int8", "--max-kept", "nan")
    assert outcome.status == 2
    assert "no share of the layers" in outcome.err
