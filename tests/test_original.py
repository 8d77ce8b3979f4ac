"""The user's own PyTorch model, from the command line to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import parity
from parity.asked import AnyInputs
from parity.errors import FeedError, UsageError
from parity.graph.model import Model
from parity.original import check_originals, original_of, read_example, source_of
from parity.report.record import Layer
from parity.source_model.loading import source_of_module
from parity.targets import Target
from tests.builders import CommandLine, Outcome, declared, node, proto_of, saved

CODE = '''"""A small network."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return x + self.drop(torch.relu(self.fc(x)))


def training():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 4))


def made():
    return training().eval()


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 4)

    def forward(self, input):
        y = self.fc(input)
        return {"scores": y, "best": y.argmax(-1), "name": "many", "parts": [y.softmax(-1), None]}


class Two(Many):
    def forward(self, input):
        y = self.fc(input)
        return y, y.softmax(-1)


class Swapped(Two):
    def forward(self, input):
        return super().forward(input)[::-1]


class Wild(Many):
    def forward(self, input):
        if input.sum() > 0:
            return self.fc(input)
        return -self.fc(input)


def raising():
    return {}["width"]
'''
SHAPE = ("--shape", "input=3x8", "--no-html")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`parity …` in a folder of its own, with its own cache, beside a package that defines a network."""
    (tmp_path / "small_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return CommandLine(tmp_path / "report", monkeypatch, capsys)


def told(outcome: Outcome) -> dict[str, str]:
    """The verdict of each candidate."""
    assert outcome.status in (0, 1), outcome.err
    return {c.target: c.verdict for c in outcome.report.candidates}


def exported(command: CommandLine, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """The network's export, edited."""
    assert command.compare("--torch", "small_net:made", *SHAPE).status == 0
    proto = onnx.load(str(command.folder / "model.onnx"))
    edit(proto)
    return saved(command.folder.parent / "edited.onnx", proto)


def test_a_module_is_exported_and_held_against_its_export(command: CommandLine) -> None:
    """The module is the first row; its lines and module paths stand with the layers; training mode is told."""
    outcome = command.compare("--torch", "small_net:training", *SHAPE)
    assert told(outcome) == {"module": "parity", "onnxruntime": "parity"}
    row = {layer.module: layer.source or "" for layer in outcome.candidate.tensors}
    assert row["1.fc"].endswith("small_net.py:13")
    assert any("training mode" in note for note in outcome.candidate.notes)
    assert (command.folder / "model.onnx").is_file()


def test_an_export_fault_is_told_apart_from_a_runtime_fault(command: CommandLine) -> None:
    """A weight changed in the .onnx: the module's row names it as the export's doing, and the runtime agrees."""
    def scaled(proto: onnx.ModelProto) -> None:
        for weight in proto.graph.initializer:
            if weight.name == "1.fc.weight":
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))

    outcome = command.compare(exported(command, scaled), "--torch", "small_net:made", "--no-html", "-c", "onnxruntime")
    assert outcome.status == 1
    assert told(outcome) == {"module": "divergence", "onnxruntime": "parity"}
    bad = outcome.candidate.first_bad
    assert bad is not None
    assert (bad.tensor, bad.kind) == ("linear_1", "export")
    assert outcome.candidate.diagnoses[0].cause == "export-fault"
    assert "1.fc" in outcome.candidate.diagnoses[0].message
    assert outcome.report.candidates[1].first_bad is None


@pytest.mark.parametrize("option", ["--names-from", "--torch"])
def test_lines_survive_a_model_that_lost_them(command: CommandLine, option: str) -> None:
    """The original beside it, or the module itself, says where the layers of a stripped model come from."""
    def stripped(proto: onnx.ModelProto) -> None:
        for each in proto.graph.node:
            del each.metadata_props[:]
            each.name = ""

    path = exported(command, stripped)
    before = command.folder / "model.onnx"
    tensors = {t.tensor: t for t in command.compare("--torch", "small_net:made", *SHAPE).candidate.tensors}
    plain = command.compare(path, "--no-html").candidate.tensors
    found = command.compare(path, option, before if option == "--names-from" else "small_net:made", "--no-html")
    assert {(t.source, t.module) for t in plain} == {(None, None)}
    rows = found.candidate.tensors
    assert [t.module for t in rows] == [tensors[t.tensor].module for t in rows]
    assert [line(t) for t in rows] == [line(tensors[t.tensor]) for t in rows]


def line(layer: Layer) -> str:
    """The line of the network's own code, empty for torch's."""
    name = Path(layer.source or "").name
    return name if name.startswith("small_net") else ""


def test_programs_and_torchscript_are_models_too(command: CommandLine) -> None:
    """A .pt2 brings its example inputs, a .pt needs them; both are exported and compared."""
    import small_net  # type: ignore[import-not-found] # written by the fixture

    module, example = small_net.made(), torch.randn(3, 8)
    torch.export.save(torch.export.export(module, (example,)), "net.pt2")
    torch.jit.trace(module, (example,)).save("net.pt")  # type: ignore[no-untyped-call] # torch's own
    np.savez("inputs.npz", input=example.numpy())
    expected = {"module": "parity", "onnxruntime": "parity"}
    assert told(command.compare("net.pt2", "--no-html")) == expected
    assert told(command.compare("net.pt", "--input", "inputs.npz", "--no-html")) == expected


@pytest.mark.parametrize(("words", "said"), [
    ([], "there is no MODEL to compare"),
    (["net.pt2", "--torch", "small_net:made"], "are two PyTorch models"),
    (["m.onnx", "--checkpoint", "w.safetensors"], "none is given"),
    (["m.onnx", "-c", "module"], "Add --torch package.module:factory"),
    (["m.onnx", "-c", "pytorch.compile"], "Add --torch package.module:factory"),
    (["--torch", "small_net:made"], "nothing says on what inputs"),
    (["--torch", "small_net:made", "--shape", "y=3x8"], "takes input"),
    (["--torch", "small_net:made", *SHAPE, "-c", "module:int8"], "Known: module, module:fp64")])
def test_what_makes_no_sense_is_told_with_the_next_step(command: CommandLine, words: list[str], said: str) -> None:
    """One line says what is wrong, and one what to type."""
    outcome = command("compare", *words, "-o", command.folder)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 2
    assert said in outcome.err


def test_targets_of_the_module_are_known_apart() -> None:
    """They need a module, and run in no format of a runtime."""
    check_originals([Target("onnxruntime"), Target("module", "", "fp64")], given=True)
    with pytest.raises(UsageError, match="none is given"):
        check_originals([Target("module")], given=False)
    with pytest.raises(UsageError, match="not run as"):
        check_originals([Target("pytorch.compile", "", "fp64")], given=True)


class Two(nn.Module):
    """Takes two inputs."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Their product."""
        return x * scale


def test_examples_are_read_by_the_names_of_forward(tmp_path: Path) -> None:
    """Files may hold more than inputs; shapes may not, and the same seed gives the same values."""
    source = source_of_module(Two())
    x, scale = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    np.savez(tmp_path / "both.npz", scale=scale, x=x, labels=np.zeros(2, int))
    assert list(read_example(source, [str(tmp_path / "both.npz")], [], 0)) == ["x", "scale"]
    np.save(tmp_path / "one.npy", scale)
    named = read_example(source, [str(tmp_path / "both.npz"), f"scale={tmp_path / 'one.npy'}"], [], 0)
    np.testing.assert_array_equal(named["scale"], scale)
    one, other = (read_example(source, [], ["x=2x3", "scale=3"], 5)["x"] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(FeedError, match="takes x, scale"):
        read_example(source, [], ["x=2x3", "other=3"], 0)


def test_the_users_own_module_is_left_as_it_is() -> None:
    """It stays in training mode, though what is compared is not."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    source = source_of(module)
    assert source is not None
    assert module.training
    assert not source.module.training
    assert source_of("model.onnx") is None


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_modules_that_keep_what_they_computed_are_copied() -> None:
    """The older weight_norm leaves a tensor with a gradient function on the module, which torch refuses to copy."""
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(8, 4)))
    report = parity.compare(module.eval(), torch.ones(2, 8))
    assert report.candidates[0].verdict == "parity"
    assert report.candidates[0].first_bad is None


def half(kind: torch.dtype) -> nn.Module:
    """Two layers in a narrow type."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval().to(kind)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_modules_in_narrow_types_take_tensors_of_theirs(kind: torch.dtype) -> None:
    """BF16, which numpy lacks, among them: given as tensors, and seeded where only shapes are given."""
    report = parity.compare(half(kind), torch.ones(2, 8, dtype=kind), candidates=["pytorch"])
    assert [(c.target, c.verdict) for c in report.candidates] == [("module", "parity"), ("pytorch", "parity")]
    seeded = read_example(source_of_module(half(kind)), [], ["input=2x8"], 0)
    assert seeded["input"].dtype.name == str(kind).removeprefix("torch.")


class Nested(nn.Module):
    """Takes a dict."""

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """The sum of its parts."""
        return given["a"] + given["b"]


@pytest.mark.parametrize("inputs", [
    ({"a": torch.ones(2), "b": torch.ones(2)},), {"a": torch.ones(2), "b": torch.ones(2)},
    ([torch.ones(2), torch.ones(3)],), {"given": {"a": torch.ones(2), "b": torch.ones(2)}}])
def test_inputs_within_inputs_are_refused_with_the_way_round(inputs: AnyInputs) -> None:
    """A dict or list that is one argument is told as that, before anything is run."""
    with pytest.raises(FeedError) as error:
        parity.compare(Nested(), inputs)
    assert "by name or in order" in error.value.hint or "or in their order" in error.value.hint
    assert "wrap it in a module" in error.value.hint


def test_outputs_that_are_no_tensors_are_left_aside(command: CommandLine) -> None:
    """Of a nested result with text and None in it, the tensors are the outputs, integers among them."""
    outcome = command.compare("--torch", "small_net:Many", *SHAPE)
    assert told(outcome) == {"module": "parity", "onnxruntime": "parity"}
    assert [o.dtype for o in outcome.candidate.outputs] == ["float32", "int64", "float32"]


def test_a_program_of_any_batch_runs_on_another_than_its_example(command: CommandLine) -> None:
    """Dynamic shapes stay dynamic in the export."""
    import small_net

    x = torch.randn(3, 8)
    program = torch.export.export(small_net.Two().eval(), (x,), dynamic_shapes={"input": {0: torch.export.Dim("n")}})
    torch.export.save(program, "any.pt2")
    np.savez("five.npz", input=np.ones((5, 8), np.float32))
    outcome = command.compare("any.pt2", "--input", "five.npz", "--no-html")
    assert told(outcome) == {"module": "parity", "onnxruntime": "parity"}
    assert outcome.candidate.outputs[0].shape == (5, 4)
    assert told(command.compare("any.pt2", "--no-html")) == {"module": "parity", "onnxruntime": "parity"}
    batch = onnx.load(str(command.folder / "model.onnx")).graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param


@pytest.mark.parametrize(("words", "said"), [
    (["--torch", "small_net:raising"], ["raises KeyError: 'width'", "small_net.py:", "in raising"]),
    (["--torch", "small_net:Two", "--checkpoint", "w.pt"], ["do not fit", "lacks fc.bias", "fc.weight is (4, 7)"]),
    (["two.onnx", "--torch", "small_net:Swapped"], ["is number 1", "values of number 2"]),
    (["two.onnx", "--torch", "small_net:Wild"], ["returns 1 tensors", "2 outputs"]),
    (["--torch", "small_net:Wild"], ["cannot be exported", "small_net.py:", "if input.sum() > 0", "older exporter"])])
def test_bad_sources_are_told_with_the_users_own_lines(command: CommandLine, words: list[str], said: list[str]) -> None:
    """What is wrong with a factory, weights, outputs or an export is one message, with nothing of torch's beside it."""
    import small_net

    torch.save({"fc.weight": torch.zeros(4, 7)}, "w.pt")
    older(small_net.Two(), "two.onnx")
    shape = [] if words[0].endswith(".onnx") else ["--shape", "input=3x8"]
    outcome = command("compare", *words, *shape, "-o", command.folder)
    assert outcome.status == 2
    assert outcome.out == ""
    assert all(part in outcome.err for part in said), outcome.err
    assert "torch/" not in outcome.err
    assert "def forward(self" not in outcome.err


def older(module: nn.Module, path: str) -> None:
    """Export with torch's older exporter, on inputs whose sum is positive."""
    torch.onnx.export(module.eval(), (torch.ones(3, 8),), path, dynamo=False, input_names=["input"])


def test_a_branch_that_an_export_has_baked_in_is_the_exports_fault(command: CommandLine) -> None:
    """Given the .onnx, a module that cannot be exported is compared; that other inputs go elsewhere is found."""
    import small_net

    older(small_net.Wild(), "wild.onnx")
    np.savez("ones.npz", input=np.ones((3, 8), np.float32))
    outcome = command.compare("wild.onnx", "--torch", "small_net:Wild", "--input", "ones.npz", "--no-html")
    assert outcome.status == 0
    bad = outcome.candidate.first_bad
    assert bad is not None
    assert bad.kind == "export"
    assert outcome.candidate.outputs[0].passed
    assert "baked in" in outcome.candidate.diagnoses[0].message


class Optional(nn.Module):
    """Has arguments that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """[N, 8] each."""
        y: Tensor = self.a(x)
        y = y if shift is None else y + shift
        return y if scale is None else y * scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("gain", [1.0, 1.02])
def test_inputs_without_names_are_given_as_what_they_are(tmp_path: Path, gain: float) -> None:
    """An argument that was None is no input: what follows it is not given in its place, in a faulty export either."""
    torch.manual_seed(0)
    module, path = Optional().eval(), tmp_path / "optional.onnx"
    torch.onnx.export(module, (torch.ones(2, 8), None, torch.ones(2, 8)), path, dynamo=False)
    proto = onnx.load(str(path))
    for weight in proto.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(gain), weight.name))
    model, draw = Model.from_proto(proto), np.random.default_rng(0)
    feed = {spec.name: draw.standard_normal((2, 8), np.float32) for spec in model.graph.inputs}
    original = original_of(source_of_module(module), model, feed)
    assert [parameter for _, parameter in original.source.given if parameter != "x"] == ["scale"]
    assert "as scale" in original.source.notes[0]
    assert (original.mapping.fault is None) == (gain == 1.0)


def test_inputs_that_may_be_any_argument_are_refused() -> None:
    """Where no way of handing them over is right, none is taken for it."""
    model = Model.from_proto(proto_of(
        [node("Mul", ["x", "x"], ["xx"]), node("Sin", ["u"], ["v"]), node("Mul", ["xx", "v"], ["y"])],
        [declared("x", shape=[2, 8]), declared("u", shape=[2, 8])], [declared("y", shape=[2, 8])]))
    draw = np.random.default_rng(0)
    with pytest.raises(FeedError, match=r"which arguments .* its inputs 'u' are") as error:
        original_of(source_of_module(Optional().eval()), model,
                    {name: draw.standard_normal((2, 8), np.float32) for name in "xu"})
    assert "input_names" in error.value.hint


def test_a_compiled_module_shows_its_outputs_and_boundaries(command: CommandLine, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """-c pytorch.compile: a row of its own, on the module's rung, with what its parts return."""
    pytest.importorskip("torch._inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # others may compile at the same time
    outcome = command.compare("--torch", "small_net:made", *SHAPE, "-c", "pytorch.compile")
    if "compiler" in outcome.report.candidates[1].reason:
        pytest.skip("there is no C++ compiler")
    assert told(outcome) == {"module": "parity", "pytorch.compile": "parity"}
    compiled = outcome.report.candidates[1]
    assert {layer.module for layer in compiled.tensors} >= {"0.fc", "1.fc", "2"}
    assert [(r.name, r.above) for r in outcome.report.ladder if r.stage == "compiled"] == [
        ("pytorch.compile", "module")]
