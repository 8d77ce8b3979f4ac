"""From a fault to a small model that shows it, on ONNX Runtime itself."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest

from parity.analysis.tolerance import Tolerance
from parity.backends.base import RunOptions
from parity.errors import BackendFailed, BackendUnavailable, OutputError, UsageError
from parity.graph.model import Model
from parity.reduce.pipeline import Order, Repro
from parity.reduce.verify import verify
from parity.reduce.write import staged, write_repro
from tests.builders import chain, declared, node, proto_of
from tests.reduce.cases import (
    ONE_THREAD,
    branching,
    crashing,
    fused,
    looping,
    model_of,
    operators,
    reduced,
    repro_of,
    requantised,
    weights,
)


@pytest.fixture(scope="module")
def wrong_weight(tmp_path_factory: pytest.TempPathFactory) -> Repro:
    """Of a chain of seven nodes, the repro of the one whose weight is wrong in another file."""
    return repro_of(tmp_path_factory.mktemp("wrong_weight"), chain(), chain("w1"))


def ran_by_pytest(repro: Repro, model: str = "repro.onnx") -> subprocess.CompletedProcess[str]:
    """What anybody's pytest makes of the files."""
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_repro.py"],
                          cwd=repro.written["test_repro.py"].parent, env={"REPRO_MODEL": model}, capture_output=True,
                          text=True, check=False)


def outcome_on_reference(repro: Repro) -> str:
    """What the test came to on reference.onnx."""
    assert repro.verified.reference is not None
    return repro.verified.reference.outcome


def test_a_wrong_weight_becomes_one_node(wrong_weight: Repro) -> None:
    """The node alone fails in a fresh process, passes with the reference's weight, and only what it needs is kept."""
    assert operators(wrong_weight) == ["MatMul"]
    assert wrong_weight.shown.part.outputs == ("c",)
    assert wrong_weight.verified.shown
    assert outcome_on_reference(wrong_weight) == "right"
    assert wrong_weight.runs <= 25
    model = onnx.load(wrong_weight.written["repro.onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert [t.name for t in model.graph.initializer] == ["w1"]


def test_the_written_test_is_one_of_pytest(wrong_weight: Repro) -> None:
    """It fails on repro.onnx and passes on reference.onnx, with nothing of parity imported."""
    assert "parity" not in wrong_weight.written["test_repro.py"].read_text(encoding="utf-8")
    assert ran_by_pytest(wrong_weight).returncode == 1
    assert ran_by_pytest(wrong_weight, "reference.onnx").returncode == 0


def test_the_bug_report_tells_what_is_needed(wrong_weight: Repro) -> None:
    """Versions, device, figures, shapes and how to run it are in BUG.md."""
    text = wrong_weight.written["BUG.md"].read_text(encoding="utf-8")
    assert text.startswith("# other.onnx on onnxruntime computes a wrong result of MatMul")
    for words in ("onnxruntime: ", "on cpu", "python test_repro.py", "| `c` |", "float32 [1, 8]", "model's own",
                  "the same runtime is right"):
        assert words in text
    folder = wrong_weight.written["BUG.md"].parent
    hashes = [sha256(path.read_bytes()).hexdigest() for path in (
        folder / "repro.onnx", folder / "reference.onnx", folder.parent / "other.onnx", folder.parent / "model.onnx")]
    *_, first, second, last = text.splitlines()
    assert first == f"`repro.onnx` has SHA-256 {hashes[0]}."
    assert second == f"`reference.onnx` has SHA-256 {hashes[1]}."
    assert last.index(hashes[2][:16]) < last.index("held against") < last.index(hashes[3][:16])


def test_a_reference_that_does_not_run_is_neither_right_nor_wrong(wrong_weight: Repro, tmp_path: Path) -> None:
    """What a runtime cannot load shows no divergence, and the report says that it failed, in the runtime's words."""
    for file in wrong_weight.written.values():
        shutil.copy(file, tmp_path)
    (tmp_path / "reference.onnx").write_bytes(b"no model")
    verified = verify(tmp_path, wrong_weight.shown, ran_reference=True)
    assert (verified.repro.outcome, verified.shown) == ("wrong", True)
    assert verified.reference is not None
    assert verified.reference.outcome == "failed"
    text = wrong_weight.story.markdown({}, verified.reference)
    assert "the same runtime fails, which says nothing about it: " in text
    assert str(tmp_path) not in text
    assert "WRONG" not in text.split("## How to run it")[0]


def test_the_files_come_together_or_not_at_all(tmp_path: Path) -> None:
    """What is interrupted, or finds the disk full, leaves the repro before it as it was; the next one replaces all."""
    found = repro_of(tmp_path, chain(), chain("w1"))
    folder = tmp_path / "repro"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken_off(error: BaseException) -> None:
        with staged(folder) as unproven:
            write_repro(found.shown, found.story, unproven)
            raise error

    for error, raised in ((KeyboardInterrupt(), KeyboardInterrupt),
                          (OSError(errno.ENOSPC, "No space left on device"), OutputError)):
        with pytest.raises(raised):
            broken_off(error)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    repro_of(tmp_path, fused())
    assert {path.name for path in folder.iterdir()} == before.keys() - {"reference.onnx"}


def test_where_nothing_is_wrong_nothing_is_written(tmp_path: Path) -> None:
    """Parity, and no tensor to blame: no files."""
    assert reduced(tmp_path, chain()) is None
    assert not (tmp_path / "repro").exists()


def test_what_watching_hides_is_bisected(tmp_path: Path) -> None:
    """Of a fusion that only the unwatched run does, exactly the four nodes that it takes are left."""
    found = repro_of(tmp_path, requantised(), order=Order(ONE_THREAD, Tolerance({"rel_l2": 1e-3})))
    assert found.symptom.kind == "outputs"
    assert operators(found) == ["QuantizeLinear", "DequantizeLinear"] * 2
    assert found.verified.shown
    assert "With graph optimisation off the runtime is right." in found.story.notes
    assert found.runs <= 25


def test_a_crash_becomes_the_node_that_the_runtime_dies_of(tmp_path: Path) -> None:
    """The process that runs the repro dies as the one that ran the model did; pytest itself does not."""
    found = repro_of(tmp_path, crashing())
    assert operators(found) == ["Split"]
    assert "SIGSEGV" in found.shown.failure
    assert found.verified.shown
    done = ran_by_pytest(found)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(("build", "left"), [(looping, "Loop"), (branching, "Mul")])
def test_control_flow(build: Callable[[float], onnx.ModelProto], left: str, tmp_path: Path) -> None:
    """The body of a Loop is one unit; the node in the taken branch of an If stands alone."""
    found = repro_of(tmp_path, build(1.0), build(1.01))
    assert operators(found) == [left]
    assert found.verified.shown
    assert outcome_on_reference(found) == "right"


def test_a_fault_that_needs_its_neighbour(tmp_path: Path) -> None:
    """Weights of four bits and their MatMul are fused into a kernel that rounds: neither of them does alone."""
    found = repro_of(tmp_path, fused())
    assert operators(found) == ["DequantizeLinear", "MatMul"]


def test_a_precision_that_misses_its_tolerance(tmp_path: Path) -> None:
    """What a format loses is cut out of the variant, with the reference's result as expected."""
    order = Order(RunOptions("off", threads=1), Tolerance({"rel_l2": 1e-3}))  # or kernels that saturate are found
    model = model_of([node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["y"])], weights("w0"))
    found = repro_of(tmp_path, model, target="onnxruntime:int8", order=order)
    assert "QuantizeLinear" in operators(found)
    assert found.story.limited
    assert found.verified.shown
    assert "loses accuracy" in found.story.title


def test_seeded_values_stand_for_ones_own(tmp_path: Path) -> None:
    """With --anonymise no value of input or weight is the model's, the fault stays, and what is kept is said."""
    good, bad = (proto_of([node("Gather", ["table", "ids"], ["a"]), node("LeakyRelu", ["a"], ["b"], alpha=alpha),
                           node("MatMul", ["b", "w"], ["y"])], [declared("ids", (2, 5), onnx.TensorProto.INT64)],
                          [declared("y", (2, 5, 8))], {"table": weights("t", rows=100)["t"], **weights("w")})
                 for alpha in (0.1, 0.2))
    found = repro_of(tmp_path, good, bad, order=Order(ONE_THREAD, anonymise=True))
    assert found.story.notes[0].startswith("Seeded values")
    assert "a" in found.story.notes[0]
    own = Model.load(tmp_path / "model.onnx").weight("table")
    assert not np.isin(found.shown.part.feed["a"], own).any()


def test_a_weight_in_which_the_sides_differ_is_kept(tmp_path: Path) -> None:
    """--anonymise does not replace what the fault may be in, and says so."""
    kept = repro_of(tmp_path, chain(), chain("w1"), order=Order(ONE_THREAD, anonymise=True))
    assert any("OWN values are still in w1" in note for note in kept.story.notes)


def test_what_cannot_be_reduced_is_told(tmp_path: Path) -> None:
    """An absent device and an emulated target are errors with a way on."""
    with pytest.raises(BackendUnavailable):
        reduced(tmp_path, chain(), target="onnxruntime@cuda")
    with pytest.raises(UsageError, match="without parity"):
        reduced(tmp_path, chain(), target="pytorch:fp16")


def test_two_models_of_other_operators_are_told(tmp_path: Path) -> None:
    """Where one model lacks operators of the other, none that it has is accused."""
    ends = [node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["b"], ["y"])]
    whole = model_of([ends[0], node("Mul", ["a", "k"], ["c"]), node("Relu", ["c"], ["b"]), ends[1]],
                     {**weights("w0"), "k": np.float32(2)})
    short = model_of([ends[0], node("Tanh", ["a"], ["y"])], weights("w0"))
    found = repro_of(tmp_path, whole, short)
    assert found.story.title == "other.onnx on onnxruntime differs in structure from the reference model before 'y'"
    told = found.written["BUG.md"].read_text(encoding="utf-8")
    assert "differ in structure here: `repro.onnx` lacks Mul, Relu." in told
    assert "same operators" not in told


def test_two_models_whose_nodes_read_other_tensors_are_told(tmp_path: Path) -> None:
    """Whose operator reads another tensor than the reference's is told; one that is called otherwise is no other."""
    def reading(first: str, second: str, weight: str = "w0") -> onnx.ModelProto:
        return model_of([node("MatMul", ["x", weight], ["a"]), node("Tanh", ["a"], ["b"]),
                         node("Sub", [first, second], ["y"])], {weight: weights("w0")["w0"]})

    told = repro_of(tmp_path, reading("a", "b"), reading("b", "a")).written["BUG.md"].read_text(encoding="utf-8")
    assert told.startswith("# other.onnx on onnxruntime differs in structure from the reference model before 'y'")
    assert "input 0 of Sub 'y' is 'b', in the reference model 'a'; input 1 of Sub 'y' is 'a', in" in told
    renamed = reading("a", "b", "v0")
    renamed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(2 * weights("w0")["w0"], "v0"))
    assert not repro_of(tmp_path, reading("a", "b"), renamed).story.structure


def drawing(gain: float) -> onnx.ModelProto:
    """A model that adds random numbers before and after a factor."""
    nodes = [node("RandomNormalLike", ["x"], ["r"], name="rnd"), node("Add", ["x", "r"], ["a"]),
             node("Mul", ["a", "gain"], ["b"]), node("RandomNormalLike", ["b"], ["s"]), node("Add", ["b", "s"], ["y"])]
    return model_of(nodes, {"gain": np.float32(gain)})


def test_random_numbers_are_no_fault(tmp_path: Path) -> None:
    """Draws that differ are told and not reported; what is wrong beside them is reduced without them."""
    with pytest.raises(UsageError, match="'y' depends on the random numbers of RandomNormalLike 'rnd'"):
        reduced(tmp_path, drawing(1.0), order=Order(ONE_THREAD, Tolerance.parse(["rel_l2=1e-3"])))
    assert not (tmp_path / "repro").exists()
    assert operators(repro_of(tmp_path, drawing(1.0), drawing(1.5))) == ["Mul"]


def test_a_budget_that_is_too_small_is_told(tmp_path: Path) -> None:
    """Where the runs do not suffice even for one part, nothing is claimed."""
    with pytest.raises(BackendFailed, match="on no part of it"):
        reduced(tmp_path, fused(), order=Order(ONE_THREAD, runs=2))
