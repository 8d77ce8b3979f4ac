"""Tests of the selection: the target has the last word on which layers are kept, and may refuse a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from parity.analysis.tolerance import Tolerance
from parity.errors import BackendFailed
from parity.fixes.attempt import Attempt, Emulation
from parity.fixes.outcome import Outcome
from parity.fixes.problem import Problem
from parity.fixes.repair import repair
from parity.fixes.target import Ran, TargetRuns
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.fixes.cases import FP16, INT8, WIDTH, cancelling, outlier, problem, weights


def normalised(blocks: int, seed: int) -> ModelProto:
    """MatMuls with layer normalisations, written out, between them: ONNX Runtime fuses these, and rounds less."""
    values, random = weights(blocks + 1, seed), np.random.default_rng(seed)
    nodes, last = [], "x"
    for i in range(blocks):
        nodes += [node("MatMul", [last, f"w{i}"], [f"a{i}"]), node("ReduceMean", [f"a{i}"], [f"m{i}"], axes=[-1]),
                  node("Sub", [f"a{i}", f"m{i}"], [f"c{i}"]), node("Pow", [f"c{i}", "two"], [f"q{i}"]),
                  node("ReduceMean", [f"q{i}"], [f"v{i}"], axes=[-1]), node("Add", [f"v{i}", "eps"], [f"e{i}"]),
                  node("Sqrt", [f"e{i}"], [f"s{i}"]), node("Div", [f"c{i}", f"s{i}"], [f"n{i}"]),
                  node("Mul", [f"n{i}", "gain"], [f"g{i}"]), node("Add", [f"g{i}", "bias"], [f"l{i}"])]
        last = f"l{i}"
    nodes.append(node("MatMul", [last, f"w{blocks}"], ["y"]))
    learned = {name: random.normal(size=WIDTH).astype(np.float32) for name in ("gain", "bias")}
    return proto_of(nodes, [declared("x", ("N", WIDTH))], [declared("y", ("N", WIDTH))],
                    {**values, **learned, "two": np.float32(2), "eps": np.float32(1e-5)})


def chained(seed: int) -> ModelProto:
    """Layers of which ONNX Runtime computes most in FP32 and hands FP32 on."""
    nodes, last = [], "x"
    for i in range(5):
        nodes += [node("MatMul", [last, f"w{i}"], [f"a{i}"]), node("Tanh", [f"a{i}"], [f"b{i}"]),
                  node("Mul", [f"b{i}", "g"], [f"c{i}"]), node("Add", [f"c{i}", "h"], [f"d{i}"])]
        last = f"d{i}"
    nodes.append(node("MatMul", [last, "w0"], ["y"]))
    return proto_of(nodes, [declared("x", ("N", WIDTH))], [declared("y", ("N", WIDTH))],
                    {**weights(5, seed), "g": np.float32(1.7), "h": np.float32(0.3)})


def below(proto: ModelProto, share: float, folder: Path) -> Problem:
    """A problem whose limit is a share of the error that the FP16 variant has on ONNX Runtime."""
    loose = problem(proto, FP16, folder, tolerance=Tolerance({"rel_l2": 1.0}))
    base = Emulation(loose, Attempt("", "", loose.model))
    measured = TargetRuns(loose).run(base.variant.model).error
    assert base.baseline > 1.2 * measured  # else the case says nothing of a runtime that rounds less
    return problem(Model.from_proto(proto), FP16, folder, tolerance=Tolerance({"rel_l2": share * measured}))


def mended(found: Problem) -> Outcome:
    """What mending came to."""
    return repair(found, lambda solution: None, lambda what, done, total: None)


@pytest.mark.parametrize(("make", "seed", "share", "most"), [
    ("normalised", 0, 0.75, 1), ("normalised", 1, 0.75, 4), ("chained", 0, 0.9, 7), ("chained", 1, 0.9, 4)])
def test_less_is_kept_than_the_emulator_needs(make: str, seed: int, share: float, most: int, tmp_path: Path) -> None:
    """A set that the emulator takes for too small is tried on a target that rounds less.

    On the emulator 2, 10, 10 and 7 layers are needed; a search of all sets of one or two on the target finds 1 or 2.
    """
    found = below(chained(seed) if make == "chained" else normalised(2, seed), share, tmp_path)
    fix = mended(found).solutions[0].fix
    assert fix.passed
    assert fix.runs <= 12
    assert len(fix.kept) <= most


def test_as_many_layers_as_may_be_kept_are_the_last_resort(tmp_path: Path) -> None:
    """Where the emulator knows of no set that is enough, the target is asked about the largest."""
    fix = mended(below(chained(4), 0.45, tmp_path)).solutions[0].fix
    assert fix.passed
    assert fix.runs <= 12


def test_a_rewrite_that_does_nothing_on_the_target_is_left_out(tmp_path: Path) -> None:
    """ONNX Runtime fuses the normalisation itself: with it written as an operator the same layers are kept."""
    fix = mended(below(normalised(2, 0), 0.75, tmp_path)).solutions[0].fix
    assert fix.passed
    assert fix.strategy == "keep"


@pytest.mark.parametrize(("make", "target"), [(cancelling, Target("pytorch", "", "fp16")), (outlier, INT8)])
def test_a_set_that_the_runtime_refuses_ends_nothing(make: type, target: Target, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The first model with kept layers does not load: the search goes on, and another set passes."""
    loaded = TargetRuns.run

    def run(self: TargetRuns, model: Model) -> Ran:
        ran = loaded(self, model)
        if self.count == 3:
            raise BackendFailed("it refuses the model", "")
        return ran

    monkeypatch.setattr(TargetRuns, "run", run)
    outcome = mended(problem(make(), target, tmp_path))
    assert outcome.solutions[0].fix.passed
