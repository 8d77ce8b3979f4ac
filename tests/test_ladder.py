"""The ladder on real runs: each planted error enters at the rung where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import parity
from parity.backends.base import RunOptions
from parity.backends.ort import InProcess, OrtSession
from parity.compare import Options, compare
from parity.contenders import Contender
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.original import MODULE, original_of
from parity.report.ladder import entrance, way_to
from parity.report.record import Report, Rung
from parity.source_model.exporting import export
from parity.source_model.loading import source_of_module
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.source_model.models import Turning

ORT = Target("onnxruntime")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def net() -> nn.Module:
    """Two layers and a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()


def of_module(module: nn.Module, x: np.ndarray, *targets: Target,
              edit: Callable[[onnx.ModelProto], None] = lambda proto: None) -> Report:
    """A module and its edited export on targets."""
    source = source_of_module(module)
    proto = export(source, [x]).model.proto
    edit(proto)
    model = Model.from_proto(proto)
    feed = {model.graph.inputs[0].name: x}
    original = original_of(source, model, feed)
    contenders = [Contender(MODULE, original=original), *map(Contender, targets)]
    return compare(model, contenders, [feed], [], options=Options(RunOptions(threads=1)))


def rungs(report: Report) -> dict[str, Rung]:
    """By name."""
    return {rung.name: rung for rung in report.ladder}


def scaled(proto: onnx.ModelProto) -> None:
    """The second layer's weight is half as large again."""
    for weight in proto.graph.initializer:
        if weight.name in ("2.weight", "b.weight"):
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))


def inputs(rows: int = 4) -> np.ndarray:
    """Of eight features."""
    return np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)


def test_a_clean_way_has_every_rung() -> None:
    """From FP64 to INT8, each stands on its own runtime in FP32, and only formats add what can be seen."""
    found = rungs(of_module(net(), inputs(), ORT, Target("onnxruntime", "", "int8"), Target("pytorch", "", "fp16")))
    assert {n: (r.stage, r.above) for n, r in found.items()} == {
        "module:fp64": ("truth", None), "module": ("types", "module:fp64"), "pytorch": ("export", "module"),
        "onnxruntime, unoptimised": ("runtime", "pytorch"), "onnxruntime": ("optimised", "onnxruntime, unoptimised"),
        "onnxruntime:int8": ("precision", "onnxruntime"), "pytorch:fp16": ("precision", "pytorch")}
    assert all(r.passed and r.first_bad is None for r in found.values())
    assert all(r.added is not None and r.error is not None for n, r in found.items() if r.above)
    assert (found["pytorch"].error or 1) < 1e-6 < (found["onnxruntime:int8"].added or 0)
    assert "computes what the module does" in found["pytorch"].note


def test_an_export_fault_enters_at_the_export() -> None:
    """A weight changed in the .onnx: that rung is bad, names the tensor, and the runtime adds nothing to it."""
    report = of_module(net(), inputs(), ORT, edit=scaled)
    found = entrance(way_to(report, report.candidates[0]))
    assert found is not None
    assert (found.name, found.stage) == ("pytorch", "export")
    assert found.first_bad is not None
    assert (found.first_bad.tensor, found.first_bad.kind) == ("linear_1", "export")
    assert "computes something else" in found.note
    assert [r.name for r in report.ladder if not r.passed] == ["pytorch"]
    assert rungs(report)["module"].first_bad is None


def added(proto: onnx.ModelProto) -> None:
    """A difference becomes a sum."""
    next(n for n in proto.graph.node if n.op_type == "Sub").op_type = "Add"


def test_a_fault_among_tensors_that_the_module_lacks_is_the_exports() -> None:
    """The nodes are named together, with the figure at their end, and the rung is the export's and not the module's."""
    torch.manual_seed(0)
    report = of_module(Turning().eval(), inputs(), ORT, edit=added)
    module, found = report.candidates[0], rungs(report)
    bad = module.first_bad
    assert bad is not None
    assert (bad.tensor, bad.kind) == (module.outputs[0].tensor, "export")
    assert bad.accumulated == module.outputs[0].accumulated
    assert len(bad.region) > 4
    assert found["module"].passed
    assert found["module"].first_bad is None
    assert found["pytorch"].first_bad == bad
    said = next(d for d in module.diagnoses if d.cause == "export-fault")
    assert said.tensor == bad.tensor
    assert f"'{bad.tensor}' is off by" in said.message
    assert f"one of the {len(bad.region)} nodes after" in said.message


class Squashed(nn.Module):
    """Ends in a softmax over features."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to [N, 8]."""
        y: Tensor = self.a(x).softmax(-1)
        return y


def other_axis(proto: onnx.ModelProto) -> None:
    """The softmax is over rows."""
    softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
    del softmax.attribute[:]
    softmax.attribute.append(onnx.helper.make_attribute("axis", 0))


def transposed(proto: onnx.ModelProto) -> None:
    """The layer's weight is transposed."""
    weight = next(w for w in proto.graph.initializer if list(w.dims) == [8, 8])
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight).T), weight.name))


@pytest.mark.parametrize(("edit", "module", "file"), [
    (other_axis, "with axis 1,", "and the .onnx with 0:"), (transposed, "with transB 0,", "and the .onnx with 1:")])
def test_what_differs_is_told_with_the_module_as_the_truth(edit: Callable[[onnx.ModelProto], None], module: str,
                                                           file: str) -> None:
    """In the module's row the .onnx is what is wrong, and no operator of the module was computed wrongly."""
    torch.manual_seed(0)
    said = [d.message for d in of_module(Squashed().eval(), inputs(), edit=edit).candidates[0].diagnoses]
    assert len(said) == 2
    assert said[1].startswith("The module computes")
    assert module in said[1]
    assert file in said[1]
    assert "was computed" not in " ".join(said)


class Drawing(nn.Module):
    """Draws random numbers for one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs."""
        y = torch.relu(self.a(x))
        return self.b(F.dropout(y, 0.5)), self.b(y)


def test_random_numbers_are_no_fault_of_the_export() -> None:
    """Outputs that a Dropout in training mode makes are compared on no rung, and nothing is said against the export."""
    torch.manual_seed(0)
    report = of_module(Drawing().eval(), inputs(rows=256), ORT)  # of few, two draws may be alike
    found = rungs(report)
    module = report.candidates[0]
    drawn, kept = (row.tensor for row in module.outputs)
    assert [d.cause for d in module.diagnoses] == ["nondeterminism"]
    assert module.first_bad is None
    assert all(rung.passed and rung.first_bad is None for rung in found.values())
    assert {rung.output for rung in found.values() if rung.above is not None} == {kept}
    assert repr(drawn) in found["module:fp64"].note
    assert "something else" not in found["pytorch"].note


def test_an_export_fault_beside_random_numbers_is_told() -> None:
    """A weight that the export scaled is its fault, though another output is drawn at random."""
    torch.manual_seed(0)
    report = of_module(Drawing().eval(), inputs(), edit=scaled)
    bad = report.candidates[0].first_bad
    assert bad is not None
    assert bad.kind == "export"


class Autocast(nn.Module):
    """Computes two layers in BF16, as training loops do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to the same shape."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y: Tensor = self.b(torch.relu(self.a(x)))
        return y.float()


def test_what_autocast_rounds_is_no_fault_of_the_export() -> None:
    """Weights that the exporter stores in BF16 are the module's, rounded: nothing is named."""
    torch.manual_seed(0)
    report = of_module(Autocast().eval(), inputs())
    assert report.candidates[0].first_bad is None
    assert report.candidates[0].diagnoses == ()
    assert all(rung.passed and rung.first_bad is None for rung in report.ladder)
    assert "rounded to BF16 may explain" in rungs(report)["pytorch"].note


def test_a_fault_among_rounded_weights_is_the_exports() -> None:
    """A weight that is not the module's rounded one is wrong."""
    def scale(proto: onnx.ModelProto) -> None:
        gemm = [n for n in proto.graph.node if n.op_type == "Gemm"][1]
        weight = next(w for w in proto.graph.initializer if w.name == gemm.input[1])
        changed = (numpy_helper.to_array(weight).astype(np.float32) * 1.25).astype(numpy_helper.to_array(weight).dtype)
        weight.CopyFrom(numpy_helper.from_array(changed, weight.name))

    torch.manual_seed(0)
    bad = of_module(Autocast().eval(), inputs(), edit=scale).candidates[0].first_bad
    assert bad is not None
    assert (bad.op, bad.tensor, bad.kind) == ("Gemm", "linear_1", "export")


class Wide(nn.Module):
    """Has a constant that FP32 cannot hold."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to the same shape."""
        return torch.tanh(x * 0.1 + 0.3)


def test_rounded_constants_are_told_apart_from_an_export_fault() -> None:
    """0.1 as FP32 is not the 0.1 of FP64: that is said, and is no fault."""
    found = rungs(of_module(Wide(), inputs()))["pytorch"]
    assert found.passed
    assert found.first_bad is None
    assert "rounded to FP32" in found.note


class Lost(nn.Module):
    """Passes FP32's range on the way."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to the same shape."""
        return torch.log(torch.exp(100 + x * x))


def test_what_fp32_itself_loses_is_found_in_the_module() -> None:
    """exp(100) is finite in FP64 only: the rung is the module's own types, whatever deploys it."""
    report = of_module(Lost(), inputs(), ORT)
    found = rungs(report)["module"]
    assert not found.passed
    assert found.first_bad is not None
    assert (found.first_bad.op, found.first_bad.kind) == ("Exp", "nonfinite")
    assert rungs(report)["pytorch"].passed


def layers(gain: float) -> onnx.ModelProto:
    """Two products, the first of which may have a wrong weight."""
    weights = np.random.default_rng(1).standard_normal((2, 3, 3)).astype(np.float32)
    return proto_of([node("MatMul", ["x", "v"], ["a"]), node("MatMul", ["a", "w"], ["y"])], [declared("x")],
                    [declared("y")], {"v": weights[0] * np.float32(gain), "w": weights[1]})


@pytest.mark.parametrize(("when", "expected"), [
    ("off", "onnxruntime, unoptimised"), ("all", "onnxruntime")])
def test_optimisation_is_told_apart_from_the_runtime(when: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault with and without graph optimisation enters at the runtime, one with it alone at the optimisation."""
    plain = InProcess.open

    def opened(self: InProcess, model: Model, flat: Model, target: Target, options: RunOptions) -> OrtSession:
        faulty = Model.from_proto(layers(1.1)) if when == "off" or options.optimization == "all" else model
        return plain(self, faulty, faulty, target, options)

    monkeypatch.setattr(InProcess, "open", opened)
    model = Model.from_proto(layers(1.0))
    feed, _ = seeded_feed(model, 0)
    report = compare(model, [Contender(ORT)], [feed], [], options=Options(RunOptions(threads=1)))
    found = entrance(way_to(report, report.candidates[0]))
    assert found is not None
    assert found.name == expected


def test_without_a_module_it_starts_at_the_model_in_fp64() -> None:
    """The .onnx in FP64 is the truth, another reference is a rung, and a candidate of the same name is none."""
    model = Model.from_proto(proto_of([node("Exp", ["x"], ["y"])], [declared("x")], [declared("y")]))
    feed, _ = seeded_feed(model, 0)
    found = compare(model, [Contender(Target("pytorch"))], [feed], [], ORT, Options(RunOptions(threads=1)))
    assert [(r.name, r.stage, r.above) for r in found.ladder] == [
        ("pytorch:fp64", "truth", None), ("pytorch", "types", "pytorch:fp64"), ("onnxruntime", "reference", "pytorch")]


def test_samples_are_pooled() -> None:
    """Of several samples each rung has the worst."""
    x = [np.random.default_rng(s).standard_normal((2, 8)).astype(np.float32) for s in range(3)]
    report = parity.compare(net(), [{"input": each} for each in x], candidates=["onnxruntime:int8"], threads=1)
    alone = [parity.compare(net(), {"input": each}, candidates=["onnxruntime:int8"], threads=1,
                            calibration=[{"input": each} for each in x]) for each in x]
    worst = max(rungs(each)["onnxruntime:int8"].added or 0 for each in alone)
    assert rungs(report)["onnxruntime:int8"].added == pytest.approx(worst)
