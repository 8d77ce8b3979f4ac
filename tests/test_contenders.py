"""What the command line names: models, tensors taken elsewhere, and the inputs that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from parity.contenders import Request, contenders_of, feeds_of
from parity.errors import BackendUnavailable, FeedError, UsageError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.targets import Target
from tests.builders import CHAIN, CommandLine, chain, declared, node, proto_of, saved

RESULTS = Path(__file__).parent / "graph" / "dumps" / "polygraphy"
ROW = np.ones((4, 8), np.float32)


def test_kinds_of_candidates(tmp_path: Path) -> None:
    """A model runs on every target; any file or folder of tensors is one candidate, a runner's results too."""
    model = saved(tmp_path / "m.onnx", chain())
    dumps = [tmp_path, tmp_path / "d.npz", tmp_path / "d.safetensors", RESULTS / "two_runners.json:onnxrt-runner-N1"]
    found = contenders_of([model, *dumps], [Target("onnxruntime"), Target("pytorch")])
    assert [c.tensors for c in found] == [None, None, *dumps]
    with pytest.raises(UsageError, match=r"notes\.txt is neither a model .* nor tensors .*safetensors"):
        contenders_of([tmp_path / "notes.txt"], [])


def test_targets_beside_files_are_candidates_too(tmp_path: Path) -> None:
    """A target runs the reference beside tensors taken elsewhere, and the other models where there are some."""
    model = saved(tmp_path / "other.onnx", chain())
    dump = tmp_path / "dump.npz"
    np.savez(dump, y=np.zeros((2, 3), np.float32))
    targets = [Target("onnxruntime"), Target("pytorch", "", "fp16")]
    assert [str(c) for c in contenders_of([dump], targets)] == [str(dump), "onnxruntime", "pytorch:fp16"]
    assert [str(c) for c in contenders_of([dump, model], targets)] == [
        str(dump), f"{model} on onnxruntime", f"{model} on pytorch:fp16"]


@pytest.mark.parametrize(("gpus", "refuses", "expected"), [
    (1, False, ["onnxruntime", "tensorrt", "tensorrt:fp16", "tensorrt:int8"]),
    (1, True, ["onnxruntime", "pytorch:fp16", "pytorch:int8"]),
    (0, False, ["onnxruntime", "pytorch:fp16", "pytorch:int8"])])
def test_tensorrt_is_a_default_where_it_runs(gpus: int, refuses: bool, expected: list[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """With no target named, TensorRT runs beside ONNX Runtime, or else a forecast stands in for it."""
    class TensorRt:
        """Says what it is told to."""

        def devices(self) -> list[str]:
            """One, or why not."""
            if refuses:
                raise BackendUnavailable("too old a driver", "Update it.")
            return ["cuda:0"]

    monkeypatch.setattr("parity.contenders.driver.devices", lambda: ("a GPU",) * gpus)
    monkeypatch.setattr("parity.contenders.backend_of", lambda target: TensorRt())
    found = contenders_of([], [])
    assert [str(c) for c in found] == expected
    assert not any(c.asked for c in found)


def test_a_folder_that_holds_the_inputs_is_fed_them(tmp_path: Path) -> None:
    """Tensors of a folder were taken with the inputs beside them, even where a file name cannot spell the input's."""
    model = Model(proto_of([node("Relu", ["in:0"], ["y"])], [declared("in:0", (4, 8))]))
    np.save(tmp_path / "in_0.npy", 2 * ROW)
    np.save(tmp_path / "y.npy", 2 * ROW)
    feeds, facts = feeds_of(model, Request(tmp_path / "m.onnx", [tmp_path]), 0)
    np.testing.assert_array_equal(feeds[0]["in:0"], 2 * ROW)
    assert facts[0].source == f"file {tmp_path.name}"


def test_results_without_inputs_leave_them_seeded(tmp_path: Path) -> None:
    """Polygraphy's results hold no inputs; two runners are told apart before anything runs."""
    model = Model(chain())
    feeds, facts = feeds_of(model, Request(tmp_path / "m.onnx", [RESULTS / "results.json"]), 0)
    assert set(feeds[0]) == {"x"}
    assert "seeded" in facts[0].source
    with pytest.raises(FeedError, match="2 runners"):
        feeds_of(model, Request(tmp_path / "m.onnx", [RESULTS / "two_runners.json"]), 0)


def test_a_range_of_shapes_beside_given_inputs(tmp_path: Path) -> None:
    """What an engine is to accept says nothing of what is fed; a single shape does."""
    np.savez(tmp_path / "in.npz", x=ROW)
    given = [str(tmp_path / "in.npz")]
    feeds, _ = feeds_of(Model(chain()), Request(tmp_path / "m.onnx", inputs=given, shapes=["x=1x8/4x8/9x8"]), 0)
    np.testing.assert_array_equal(feeds[0]["x"], ROW)
    with pytest.raises(UsageError, match="--shape and --samples are for seeded inputs"):
        feeds_of(Model(chain()), Request(tmp_path / "m.onnx", inputs=given, shapes=["x=4x8"]), 0)


def test_tensors_taken_elsewhere_are_of_one_sample(tmp_path: Path) -> None:
    """Several seeded samples would hold the same tensors against different inputs."""
    with pytest.raises(UsageError, match=r"holds tensors of one sample, and --samples asks for 3"):
        feeds_of(Model(chain()), Request(tmp_path / "m.onnx", [RESULTS / "results.json"], samples=3), 0)


@pytest.mark.parametrize(("faulty", "status"), [("", 0), ("w1", 1)])
def test_debug_tensors_taken_on_what_parity_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str], faulty: str, status: int) -> None:
    """From `parity inputs` over a folder as trtexec leaves it to a verdict, and the faulty tensor by its own name."""
    command = CommandLine(tmp_path / "report", monkeypatch, capsys)
    there = tmp_path / "there"
    names = {name: f"/{name}:0" for name in CHAIN}
    models = [renamed(chain(f), names) for f in ("", faulty)]
    path = saved(tmp_path / "m.onnx", models[0])
    assert command("inputs", path, "-o", there).status == 0
    feed = dict(np.load(there / "inputs.npz"))
    values = Executor(Model(models[1])).run(feed, list(names.values()))
    for number, (name, value) in enumerate(values.items()):
        np.save(there / f"{number:04}_{name.replace('/', '_').replace(':', '_')}.npy", to_numpy(value))
    outcome = command("compare", path, there, "--input", there / "inputs.npz", "--strict", "-o", command.folder)
    assert outcome.status == status, outcome.out + outcome.err
    first = outcome.candidate.first_bad
    assert (first.tensor if first else "") == (names["c"] if faulty else "")


def renamed(proto: ModelProto, names: Mapping[str, str]) -> ModelProto:
    """The same model with other names for its tensors."""
    for each in proto.graph.node:
        each.input[:] = [names.get(n, n) for n in each.input]
        each.output[:] = [names.get(n, n) for n in each.output]
    for output in proto.graph.output:
        output.name = names.get(output.name, output.name)
    return proto
