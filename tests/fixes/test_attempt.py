"""Tests of an attempt on the emulator: its errors are those of the variant that would be deployed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from parity.fixes.attempt import Attempt, Emulation, variant_of
from parity.fixes.keep import overflowing
from parity.graph.executor import Executor
from parity.graph.ops.call import to_numpy
from parity.precision.plan import read_plan
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.fixes.cases import FP16, INT8, branching, cancelling, outlier, problem, rows

CASES = [(cancelling, FP16), (outlier, FP16), (outlier, INT8), (branching, FP16)]


def emulation_of(proto: ModelProto, target: Target, folder: Path = Path()) -> Emulation:
    """The variant as it is made by default, on the emulator."""
    found = problem(proto, target, folder)
    return Emulation(found, Attempt("", "", found.model))


@pytest.mark.parametrize(("make", "target"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_errors_are_those_of_the_variant(make: type, target: Target, data: st.DataObject) -> None:
    """Whatever layers are kept, the error is that of a variant made anew with them in higher precision."""
    emulation = emulation_of(make(), target)
    kept = data.draw(st.lists(st.sampled_from(emulation.mixture.layers), unique=True))
    if target is INT8 and {"a", "c", "e", "y"} <= set(kept):
        kept.remove("a")  # or nothing is left to quantise
    ran = Executor(variant_of(emulation.problem, emulation.attempt, kept).model)
    for samples, error in ((emulation.problem.searched, emulation.error(kept)),
                           (emulation.problem.held_out, emulation.held_out(kept))):
        assert error == max(goal.error({n: to_numpy(v) for n, v in ran.run(feed).items()}) for feed, goal in samples)
    assert emulation.error(()) == emulation.baseline


@pytest.mark.parametrize(("make", "target", "needed"), [
    (cancelling, FP16, ["up", "down"]), (branching, FP16, ["up", "down"]), (outlier, INT8, ["c"])])
def test_the_broken_layers_mend_it(make: type, target: Target, needed: list[str]) -> None:
    """These models miss their tolerance, and meet it with the layers kept that were made to break."""
    emulation = emulation_of(make(), target)
    assert emulation.baseline > 1
    assert emulation.error(needed) <= 1
    held_out = emulation.held_out(needed)
    assert held_out is not None
    assert held_out <= 1
    assert all(emulation.error([layer]) > 1 for layer in needed[:len(needed) - 1])


def test_few_rows_leave_nothing_to_hold_out() -> None:
    """Where all samples are searched, there is no error on others."""
    found = problem(cancelling(), FP16, Path(), [rows(4)])
    assert Emulation(found, Attempt("", "", found.model)).held_out(()) is None


def test_layers_in_a_branch_are_kept_in_the_users_model() -> None:
    """The plan reaches inside the If of the model as it was handed in, with names of the flat one."""
    emulation = emulation_of(branching(), FP16)
    variant = variant_of(emulation.problem, emulation.attempt, ["up", "down"])
    (branches,) = (n for n in variant.model.graph.nodes if n.op == "If")
    assert {n for n, p in variant.plan.nodes.items() if p == "fp32"} == {"up", "down"}
    assert read_plan(variant.model).nodes["up"] == "fp32"
    assert len(branches.subgraphs) == 2


def test_kept_in_fp16_in_an_int8_model() -> None:
    """Layers may stay in another precision than FP32."""
    emulation = emulation_of(outlier(), INT8)
    plan = read_plan(variant_of(emulation.problem, emulation.attempt, ["c"], "fp16").model)
    assert (plan.nodes["c"], plan.nodes["e"]) == ("fp16", "int8")


def test_an_overflow_is_told() -> None:
    """Of a tensor that FP16 cannot hold the magnitude is known; INT8 has no such tensors."""
    nodes = [node("Mul", ["x", "k"], ["big"]), node("Mul", ["big", "r"], ["y"])]
    proto = proto_of(nodes, [declared("x", ("N", 8))], [declared("y", ("N", 8))],
                     {"k": np.float32(6e4), "r": np.float32(1e-4)})
    emulation = emulation_of(proto, FP16)
    assert set(overflowing(emulation.mixture)) == {"big"}
    assert overflowing(emulation.mixture)["big"] == pytest.approx(6e4 * np.abs(rows(32)["x"][0::2]).max(), rel=1e-6)
    assert overflowing(emulation_of(outlier(), INT8).mixture) == {}
