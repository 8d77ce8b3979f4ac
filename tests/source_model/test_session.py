"""The module as a target, compiled and not, and its map kept."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity.compare import compare
from parity.contenders import Contender
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.original import MODULE, original_of
from parity.report.exported import with_export_findings
from parity.report.record import Candidate, FirstBad, Layer
from parity.source_model.loading import source_of_module
from parity.source_model.mapped import dumps, loads, mapped
from parity.source_model.session import CompiledSession, ModuleSession
from tests.builders import declared, node, proto_of
from tests.source_model.exports import case, exported


@pytest.mark.parametrize("double", [False, True])
def test_the_module_shows_its_activations_under_onnx_names(double: bool) -> None:
    """What the module shows is what the executor makes of the export, to rounding."""
    found = case("bert", dynamo=False, opset=17)
    made, feed = found.mapped(), found.feeds[0]
    session = ModuleSession(found.source, found.flat, made, double=double)
    expected = Executor(found.flat).run(feed, list(made.matches))
    shown = {n: v for chunk in session.watch(feed, list(made.matches), {}) for n, v in chunk.items()}
    assert shown.keys() == made.matches.keys()
    for name, value in {**shown, **session.run(feed).outputs}.items():
        np.testing.assert_allclose(value, to_numpy(expected[name]), rtol=1e-3, atol=1e-4)


def test_the_compiled_module_shows_what_its_parts_return() -> None:
    """Without a break in its graph, the boundaries of modules come out right."""
    found = case("resnet", dynamo=False, opset=17)
    made, feed = found.mapped(), found.feeds[0]
    session = CompiledSession(found.source, found.flat, made, found.source.trace(feed, double=False), "eager")
    shown = {n: v for chunk in session.watch(feed, list(made.matches), {}) for n, v in chunk.items()}
    plain = ModuleSession(found.source, found.flat, made)
    expected = {n: v for chunk in plain.watch(feed, list(made.matches), {}) for n, v in chunk.items()}
    assert len(shown) >= 15
    for name, value in {**shown, **session.run(feed).outputs}.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)


class _ByMean(nn.Module):
    """A layer's values times their input's mean: a scalar on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.linear(x) * x.mean()
        return scaled


def test_the_module_shows_a_scalar_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scalar activation is held against the scalar of the graph, and nothing of an export that is right is bad."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    module, x = _ByMean().eval(), torch.randn(2, 8)
    model, feed = exported(module, (x,), dynamo=True, opset=18), {"x": x.numpy()}
    original = original_of(source_of_module(module), model, feed)
    found = compare(model, [Contender(MODULE, original=original)], [feed], []).candidates[0]
    assert (found.verdict, found.first_bad) == ("parity", None)
    assert () in {row.shape for row in found.tensors}
    assert all(row.passed and row.accumulated is not None for row in found.tensors)


def test_what_fp64_clears_is_bad_in_no_row() -> None:
    """A row that the module's own types name, and the map in FP64 clears, does not stand in the report as bad."""
    found = case("bert", dynamo=False, opset=17)
    made = found.mapped()
    tensor = next(n for n, m in made.matches.items() if m.agrees and n in found.flat.graph.producer)
    row = Layer(tensor, "", "Add", 1, passed=False, origin="implementation")
    bad = FirstBad(tensor, "", "Add", 1, "implementation", None, None)
    named = Candidate("module", "ok", verdict="parity", tensors=(row,), first_bad=bad)
    cleared = with_export_findings(named, made, found.flat)
    assert (cleared.first_bad, cleared.tensors) == (None, (Layer(tensor, "", "Add", 1),))


def test_a_map_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of the cache is what was put in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = case("custom", dynamo=False, opset=17)
    made = mapped(found.source, found.flat, found.feeds[0])
    assert len(list(tmp_path.rglob("*.json"))) == 1
    again = mapped(found.source, found.flat, found.feeds[0])
    assert again.matches == made.matches == loads(dumps(made)).matches
    assert again.places == made.places


def test_torchscript_is_mapped_by_its_values() -> None:
    """It has no lines and no owners, and most is found all the same."""
    from parity.source_model.source import SourceModel

    found = case("bert", dynamo=False, opset=17)
    inputs = tuple(torch.from_numpy(a) for a in found.feeds[0].values())
    script = SourceModel(torch.jit.trace(found.source.module, inputs), "script")  # type: ignore[no-untyped-call]
    made = mapped(script, found.flat, found.feeds[0], keep=False)
    assert made.share >= 0.95
    assert made.faults == ()


def test_a_map_takes_one_run_of_each_in_fp64() -> None:
    """Where nothing is ambiguous and the export follows on other inputs, these are not looked at in FP64."""
    found = case("bert", dynamo=True, opset=18)
    made = mapped(found.source, found.flat, found.feeds[0], keep=False)
    assert (made.onnx_runs, made.module_runs, made.share) == (1.0, 1, 1.0)
    assert made.matches == mapped(found.source, found.flat, found.feeds[0], keep=False).matches


def test_what_is_baked_in_is_found_though_the_example_agrees() -> None:
    """The outputs on other inputs tell that something is, and then every tensor is looked at there."""
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    model = Model.from_proto(proto_of(
        [node("Tanh", ["x"], ["t"]), node("Add", ["t", "c"], ["y"])], [declared("x")], [declared("y")],
        {"c": np.float32(x.mean())}))
    made = mapped(source_of_module(Following()), model, {"x": x}, keep=False)
    assert made.module_runs == 2
    assert [m.tensor for m in made.faults] == ["y"]


class Following(nn.Module):
    """Adds the mean of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """[2, 3] to the same."""
        return torch.tanh(x) + x.mean()


def test_every_run_finds_the_buffers_as_they_were_given() -> None:
    """A counter in place, a cache that is replaced, and a buffer that is returned: the same values from every run."""
    class Counting(nn.Module):
        n: Tensor
        cache: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.ones(()))
            self.register_buffer("cache", torch.zeros(2, 3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.n += 1
            self.cache = self.cache + x
            return self.cache * self.n, self.n

    module = Counting().eval()
    source, feed = source_of_module(module), {"x": np.ones((2, 3), np.float32)}
    for _ in range(2):
        values = source.run(feed)
        np.testing.assert_array_equal(values[0], np.full((2, 3), 2.0))
        assert values[1] == 2
        source.trace(feed, double=True)
    assert (float(module.n), float(module.cache.sum())) == (1.0, 0.0)


def test_a_constant_baked_from_the_example_is_said() -> None:
    """Right on the example, and on no other inputs: the map's notes say so; of an export that follows they are none."""
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean()) * 2.0

    feed = {"x": np.linspace(0, 4, 12, dtype=np.float32).reshape(3, 4)}
    weights = {"mean": np.float32(feed["x"].mean()), "two": np.float32(2)}
    made = [node("Sub", ["x", "mean"], ["d"]), node("Mul", ["d", "two"], ["y"])]
    right = [node("ReduceMean", ["x"], ["mean"], keepdims=0), *made]
    baked = proto_of(made, [declared("x", (3, 4))], weights={n: np.asarray(v) for n, v in weights.items()})
    follows = proto_of(right, [declared("x", (3, 4))], weights={"two": np.asarray(weights["two"])})
    source = source_of_module(Centred())
    (note,) = mapped(source, Model.from_proto(baked), feed, keep=False).notes
    assert "baked in" in note
    assert mapped(source, Model.from_proto(follows), feed, keep=False).notes == ()


def test_a_branch_that_the_module_does_not_take_is_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison turned round in the .onnx: what decides is named, and not what the other branch makes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = case("cond", dynamo=True, opset=18)
    model = exported(found.source.module, tuple(map(torch.from_numpy, found.feeds[0].values())), dynamo=True, opset=18)
    assert mapped(found.source, model, found.feeds[0], keep=False).fault is None
    wrong = copy.deepcopy(model.proto)
    compared = next(n for n in wrong.graph.node if n.op_type == "Greater")
    compared.op_type = "Less"
    changed = Model.from_proto(wrong)
    fault = mapped(found.source, changed, found.feeds[0], keep=False).fault
    assert fault is not None
    assert fault.begins == compared.output[0]
    original = original_of(found.source, changed, found.feeds[0])
    module = compare(changed, [Contender(MODULE, original=original)], [found.feeds[0]], []).candidates[0]
    assert module.first_bad is not None
    assert (module.first_bad.op, module.first_bad.kind) == ("Less", "export")
    assert "another branch than the module takes" in module.diagnoses[0].message
