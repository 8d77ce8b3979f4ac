"""Tensors close up: formats, operands and which tensors are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from parity.analysis.localize import Divergence
from parity.analysis.portrait import MOST, Portrait, chosen, portraits, reads_of
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from tests.builders import declared, node, proto_of

X = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(4).standard_normal((4, 3)).astype(np.float32)
INPUT = declared("x", (2, 4))
REFERENCE = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])], [INPUT],
                                      weights={"w": WEIGHT}))
STORED = np.rint(WEIGHT / 0.03).clip(-128, 127).astype(np.int8)
INT8 = Model.from_proto(proto_of(
    [node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
     node("DequantizeLinear", ["q", "ws", "wz"], ["wd"], axis=1), node("MatMul", ["xd", "wd"], ["t"]),
     node("QuantizeLinear", ["t", "ts", "tz"], ["tq"]), node("DequantizeLinear", ["tq", "ts", "tz"], ["td"]),
     node("Relu", ["td"], ["y"])], [INPUT],
    weights={"xs": np.float32(0.02), "xz": np.uint8(128), "q": STORED, "ws": np.array([0.03, 0.03, 0.02], np.float32),
             "wz": np.zeros(3, np.int8), "ts": np.float32(0.01), "tz": np.int8(0)}))
FP16 = Model.from_proto(proto_of(
    [node("Cast", ["x"], ["xh"], to=int(TensorProto.FLOAT16)), node("MatMul", ["xh", "wh"], ["th"]),
     node("Cast", ["th"], ["t"], to=int(TensorProto.FLOAT)), node("Relu", ["t"], ["y"])], [INPUT],
    weights={"wh": WEIGHT.astype(np.float16)}))


def values(model: Model) -> dict[str, np.ndarray]:
    """Every tensor of a run on X."""
    found = {"x": X}
    for step in Executor(model).steps({"x": X}):
        found.update({name: to_numpy(value) for name, value in step.values.items()})
    return found


def shown(variant: Model) -> Portrait:
    """The tensor `t` of a variant, close up."""
    return portraits(REFERENCE, variant, {"t": values(REFERENCE)["t"]}, values(variant))["t"]


def test_int8_ranges_come_from_scale_and_zero_point() -> None:
    """The range that readers have of a tensor is (qmin - z)·s to (qmax - z)·s; elements beyond are clipped."""
    found = shown(INT8).format
    assert found is not None
    assert (found.name, found.zero, found.scales) == ("int8", 0, 1)
    assert (found.low, found.high, found.step) == pytest.approx((-1.28, 1.27, 0.01), rel=1e-6)
    t = values(INT8)["t"]
    beyond = float(np.mean((t > 1.275) | (t < -1.285)))
    assert beyond > 0
    assert found.clipped == beyond


def test_operands_say_what_they_are_held_in() -> None:
    """An activation has its own range, a weight the widest of its channels', each with the values' range."""
    activation, weight = shown(INT8).operands
    assert (activation.name, weight.name) == ("x", "w")
    assert (activation.low, activation.high) == (X.min(), X.max())
    assert activation.format is not None
    assert weight.format is not None
    assert (activation.format.name, activation.format.zero) == ("uint8", 128)
    assert (activation.format.low, activation.format.high) == pytest.approx((-2.56, 2.54), rel=1e-6)
    assert (weight.format.scales, weight.format.zero, weight.format.clipped) == (3, None, None)
    assert (weight.format.low, weight.format.high) == pytest.approx((-3.84, 3.81), rel=1e-6)
    assert (weight.low, weight.high) == (WEIGHT.min(), WEIGHT.max())


def test_halves_are_found_behind_casts() -> None:
    """A tensor that a Cast brings back from FP16 was held in FP16, and so were its operands."""
    found = shown(FP16)
    assert found.format is not None
    assert (found.format.name, found.format.high, found.format.step) == ("float16", 65504.0, 2.0**-14)
    assert [operand.format.name for operand in found.operands if operand.format] == ["float16", "float16"]


def test_the_models_own_format_is_none() -> None:
    """Where nothing is in lower precision, no format is named."""
    found = shown(REFERENCE)
    assert found.format is None
    assert [operand.format for operand in found.operands] == [None, None]
    assert found.values.worst == ()


def test_what_the_candidate_hides_has_no_portrait() -> None:
    """A tensor without a value on the candidate's side is left out."""
    assert portraits(REFERENCE, REFERENCE, {"t": X}, {}) == {}
    assert portraits(REFERENCE, REFERENCE, {}, {"t": X}) == {}


def divergence(name: str) -> Divergence:
    """A tensor of which nothing is known."""
    return Divergence(name, REFERENCE.graph.nodes[0], 0, "float32", (2, 3), None, None, None, None)


def test_outputs_and_the_largest_shares_are_chosen() -> None:
    """Outputs come first, then shares by size whatever their sign, and no more than there is room for."""
    found = [divergence(f"t{i}") for i in range(100)]
    shares = {f"t{i}": (-1) ** i * i / 100 for i in range(100)}
    names = chosen(found, shares, {"t5"})
    assert names[:3] == ("t5", "t99", "t98")
    assert len(names) == MOST
    assert chosen(found, {}, {"t5"}) == ("t5",)


def test_reads_leave_weights_aside() -> None:
    """Each tensor's node reads tensors that depend on inputs; weights are no neighbours."""
    assert reads_of(REFERENCE) == {"t": ("x",), "y": ("t",)}
