"""The local rule: what one operator may be off by, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto

from parity.analysis.judge import Judgement, judge
from parity.analysis.streams import Inputs, Rulers
from parity.errors import MatchError, ModelError
from parity.graph.model import Model
from tests.builders import declared, node, proto_of

F32, F16 = np.float32, np.float16
RANDOM = np.random.default_rng(0)
U = 2.0**-24


def judged(proto: NodeProto, inputs: Mapping[str, np.ndarray], candidate: np.ndarray, *, weights: Sequence[str] = (),
           hidden: Sequence[str] = (), opset: int = 17, ir: int = 8, index: int = 0) -> Judgement:
    """Judge one node's output; `weights` names the inputs that are constants, `hidden` those that are estimates."""
    import onnx

    kinds = {n: onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in inputs.items()}
    model = Model.from_proto(proto_of(
        [proto], [declared(n, v.shape, kinds[n]) for n, v in inputs.items() if n not in weights],
        [declared(proto.output[0], None, kinds["x"])], {n: inputs[n] for n in weights}, opset=opset, ir=ir))
    seen = Inputs()
    for name in inputs.keys() - set(weights):
        seen.show(name, inputs[name], None)
    seen.hidden.update(hidden)
    ruler = Rulers(model).at(model.graph.nodes[0], seen)
    assert ruler is not None
    return judge(ruler, index, candidate)


def product(rows: int = 8, inner: int = 32, columns: int = 8) -> dict[str, np.ndarray]:
    """The inputs of a matrix product."""
    return {"x": RANDOM.normal(size=(rows, inner)).astype(F32), "w": RANDOM.normal(size=(inner, columns)).astype(F32)}


MATMUL = node("MatMul", ["x", "w"], ["y"])


@given(order=st.permutations(range(32)))
@settings(deadline=None, max_examples=20)
def test_a_sum_in_any_order_is_sound(order: list[int]) -> None:
    """Runtimes add in whatever order is fast; the rounding of that is no fault."""
    inputs = product()
    total = np.zeros((8, 8), F32)
    for k in order:
        total += np.outer(inputs["x"][:, k], inputs["w"][k])
    found = judged(MATMUL, inputs, total)
    assert found.passed
    assert found.implementation <= found.floor


@given(share=st.floats(1e-5, 1.0), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_a_scaled_result_is_bad(share: float, sign: int, seed: int) -> None:
    """A result that is off by a hundred-thousandth as a whole is beyond any rounding."""
    inputs = {n: np.random.default_rng(seed).permutation(v) for n, v in product().items()}
    right = inputs["x"].astype(np.float64) @ inputs["w"].astype(np.float64)
    found = judged(MATMUL, inputs, (right * (1 + sign * share)).astype(F32))
    assert not found.passed
    assert found.implementation == pytest.approx(share, rel=0.05)
    assert found.local.rel_l2 == found.implementation
    assert found.precision is None


@pytest.mark.parametrize("op", ["Relu", "Neg", "Abs", "Identity", "Transpose", "Flatten"])
def test_operators_without_arithmetic_are_exact(op: str) -> None:
    """What only moves or selects values may not be off by one bit."""
    x = RANDOM.normal(size=(3, 4)).astype(F32)
    right = {"Relu": np.maximum(x, 0), "Neg": -x, "Abs": np.abs(x), "Transpose": x.T}.get(op, x)
    assert judged(node(op, ["x"], ["y"]), {"x": x}, np.ascontiguousarray(right)).passed
    wrong = np.ascontiguousarray(right)
    wrong = np.where(wrong == wrong.max(), np.nextafter(wrong, F32(9)), wrong)
    assert not judged(node(op, ["x"], ["y"]), {"x": x}, wrong).passed


def test_behind_a_hidden_tensor_nothing_is_exact() -> None:
    """Where an input is an estimate, the last bits of a Relu are not known either."""
    x = RANDOM.normal(size=(3, 4)).astype(F32)
    nudged = np.maximum(np.nextafter(x, F32(9)), 0)
    assert not judged(node("Relu", ["x"], ["y"]), {"x": x}, nudged).passed
    assert judged(node("Relu", ["x"], ["y"]), {"x": x}, nudged, hidden=["x"]).passed


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh"])
def test_bounded_functions_are_accurate_in_absolute_terms(op: str) -> None:
    """A runtime's sigmoid is off by a unit of 1 where its value is tiny, and that is accepted; 1e-4 is not."""
    x = np.linspace(-16, -14, 64, dtype=F32) if op == "Sigmoid" else np.linspace(1e-7, 1e-6, 64, dtype=F32)
    right = 1 / (1 + np.exp(-x.astype(np.float64))) if op == "Sigmoid" else np.tanh(x.astype(np.float64))
    assert judged(node(op, ["x"], ["y"]), {"x": x}, (right + U).astype(F32)).passed
    assert not judged(node(op, ["x"], ["y"]), {"x": x}, (right + 1e-4).astype(F32)).passed


def test_a_large_reduction_may_round_more() -> None:
    """A sum over a million elements in plain order is within its floor."""
    x = RANDOM.uniform(0, 1, size=(1, 2**18)).astype(F32)
    total = np.cumsum(x, dtype=F32)[-1:].reshape(1, 1)
    proto = node("ReduceSum", ["x"], ["y"])
    assert judged(proto, {"x": x}, total).passed
    assert not judged(proto, {"x": x}, total * F32(1.001)).passed


@pytest.mark.parametrize("change", ["none", "one"])
def test_integers_and_booleans_are_equal_or_bad(change: str) -> None:
    """There is no such thing as a nearly equal index."""
    x = RANDOM.normal(size=(4, 5)).astype(F32)
    right = x.argmax(axis=1)
    wrong = right.copy()
    wrong[0] += change == "one"
    proto = node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)
    assert judged(proto, {"x": x}, wrong).passed == (change == "none")
    mask = x > 0
    mask[0, 0] ^= change == "one"
    greater = node("Greater", ["x", "zero"], ["y"])
    assert judged(greater, {"x": x, "zero": np.zeros((), F32)}, mask, weights=["zero"]).passed == (change == "none")


def test_another_shape_is_a_mismatch() -> None:
    """A tensor of another shape cannot be judged element by element."""
    inputs = product()
    with pytest.raises(MatchError):
        judged(MATMUL, inputs, np.zeros((8, 9), F32))


def test_text_for_numbers_is_a_mismatch() -> None:
    """Nor can text where numbers are due."""
    with pytest.raises(MatchError):
        judged(MATMUL, product(), np.full((8, 8), "1.0"))


def test_inputs_that_do_not_fit_are_a_model_error() -> None:
    """Inputs that a fault upstream made unusable are told from a fault of the node."""
    inputs = product()
    model = Model.from_proto(proto_of([MATMUL], [declared("x", (8, 32)), declared("w", (32, 8))]))
    seen = Inputs()
    seen.show("x", inputs["x"].ravel()[:7], None)
    seen.show("w", inputs["w"], None)
    ruler = Rulers(model).at(model.graph.nodes[0], seen)
    assert ruler is not None
    with pytest.raises(ModelError):
        judge(ruler, 0, np.zeros((8, 8), F32))


def test_an_input_that_was_never_seen_gives_no_ruler() -> None:
    """A node whose inputs are unknown is not judged."""
    model = Model.from_proto(proto_of([MATMUL], [declared("x", (8, 32)), declared("w", (32, 8))]))
    assert Rulers(model).at(model.graph.nodes[0], Inputs()) is None


EXP = node("Exp", ["x"], ["y"])


@pytest.mark.parametrize(("candidate", "passed"), [
    ([1.0, np.inf, 0.0], True), ([1.0, 3.4e38, 0.0], False), ([1.0, np.nan, 0.0], False),
    ([np.nan, np.inf, 0.0], False),
    ([np.inf, np.inf, 0.0], False), ([1.0, -np.inf, 0.0], False),
])
def test_overflow_is_judged_after_rounding(candidate: list[float], passed: bool) -> None:
    """exp(1000) is finite nowhere in FP32: Inf is right there, and any other disagreement is non-finite."""
    found = judged(EXP, {"x": np.array([0, 1000, -1000], F32)}, np.array(candidate, F32))
    assert found.passed == passed
    assert found.nonfinite == (not passed)


def test_nan_on_both_sides_is_sound() -> None:
    """The square root of a negative number is NaN everywhere."""
    x = np.array([-1.0, 4.0], F32)
    assert judged(node("Sqrt", ["x"], ["y"]), {"x": x}, np.array([np.nan, 2], F32)).passed
    assert not judged(node("Sqrt", ["x"], ["y"]), {"x": x}, np.array([0, 2], F32)).passed


@pytest.mark.parametrize("shape", [(0, 3), (3, 0, 2), (0,)])
def test_tensors_without_elements_pass(shape: tuple[int, ...]) -> None:
    """There is nothing to be wrong about."""
    found = judged(EXP, {"x": np.zeros(shape, F32)}, np.zeros(shape, F32))
    assert (found.passed, found.implementation) == (True, 0.0)


def test_all_zeros_and_subnormals() -> None:
    """Zero against zero passes, zero against one does not, and flushing subnormals to zero is accepted."""
    mul = node("Mul", ["x", "k"], ["y"])
    zero = {"x": np.zeros(4, F32), "k": np.ones(4, F32)}
    assert judged(mul, zero, np.zeros(4, F32)).passed
    found = judged(mul, zero, np.ones(4, F32))
    assert (found.passed, found.implementation) == (False, np.inf)
    tiny = {"x": np.full(4, 1e-39, F32), "k": np.ones(4, F32)}
    assert judged(mul, tiny, np.zeros(4, F32)).passed


def test_a_huge_mask_value_hides_nothing_and_alarms_nobody() -> None:
    """An addition of -3.4e38 to some scores passes as every FP32 runtime computes it."""
    scores = RANDOM.normal(size=(4, 4)).astype(F32)
    mask = np.where(np.eye(4) > 0, F32(-3.4028235e38), F32(0))
    with np.errstate(over="ignore"):
        total = scores + mask
    assert judged(node("Add", ["x", "m"], ["y"]), {"x": scores, "m": mask}, total).passed


def test_fp16_is_judged_against_its_emulation() -> None:
    """FP16 results within a few roundings pass as precision; a 5 % error is the implementation's."""
    inputs = {n: v.astype(F16) for n, v in product().items()}
    wide = inputs["x"].astype(np.float64) @ inputs["w"].astype(np.float64)
    sound = judged(MATMUL, inputs, wide.astype(F16))
    assert sound.passed
    assert sound.precision is not None
    assert 0 < sound.precision < 1e-3
    bad = judged(MATMUL, inputs, (1.05 * wide).astype(F16))
    assert not bad.passed
    assert bad.implementation == pytest.approx(0.05, rel=0.05)


QUANTIZE = node("QuantizeLinear", ["x", "s", "z"], ["y"])


def quantised(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """Elements in steps, before they are rounded."""
    return np.asarray(np.clip(x.astype(np.float64) / scale + zero, -128, 127))


def test_a_quantised_tensor_may_round_a_tie_either_way() -> None:
    """Half a step up or down is a rounding decision; a whole step off is not."""
    x = np.array([0.25, 0.75, 1.25, -0.25], F32)
    given_scale: dict[str, Any] = {"x": x, "s": np.array(0.5, F32), "z": np.array(0, np.int8)}
    for value in (np.floor(quantised(x, 0.5, 0)), np.ceil(quantised(x, 0.5, 0))):
        assert judged(QUANTIZE, given_scale, value.astype(np.int8), weights=["s", "z"]).passed
    off = judged(QUANTIZE, given_scale, (np.floor(quantised(x, 0.5, 0)) - 1).astype(np.int8), weights=["s", "z"])
    assert not off.passed
    assert off.implementation == pytest.approx(1.0)


@given(scale=st.floats(1e-3, 10), zero=st.integers(-100, 100), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_quantising_right_always_passes(scale: float, zero: int, seed: int) -> None:
    """Any scale, any zero point, saturation included."""
    x = np.random.default_rng(seed).normal(scale=50 * scale, size=40).astype(F32)
    s = F32(scale)
    right = np.rint(quantised(x, float(s), zero)).astype(np.int8)
    assert judged(QUANTIZE, {"x": x, "s": np.array(s), "z": np.array(zero, np.int8)}, right, weights=["s", "z"]).passed


@pytest.mark.parametrize("axis", [0, 1])
def test_scales_along_an_axis(axis: int) -> None:
    """Per-channel scales are applied along their axis, on either."""
    x = RANDOM.normal(size=(3, 4)).astype(F32)
    scale = np.linspace(0.01, 0.1, x.shape[axis], dtype=F32)
    along = scale.reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float64)
    right = np.rint(np.clip(x / along, -128, 127)).astype(np.int8)
    proto = node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=axis)
    inputs: dict[str, np.ndarray] = {"x": x, "s": scale, "z": np.zeros(len(scale), np.int8)}
    assert judged(proto, inputs, right, weights=["s", "z"]).passed
    assert not judged(proto, inputs, np.roll(right, 1, axis), weights=["s", "z"]).passed


def test_a_weight_off_by_half_a_percent_is_found_in_int8() -> None:
    """The excess over half a step shows faults far smaller than a step."""
    x = RANDOM.normal(size=4096).astype(F32)
    inputs: dict[str, np.ndarray] = {"x": x, "s": np.array(0.03, F32), "z": np.array(0, np.int8)}
    wrong = np.rint(quantised(x * F32(1.005), float(F32(0.03)), 0)).astype(np.int8)
    found = judged(QUANTIZE, inputs, wrong, weights=["s", "z"])
    assert not found.passed
    assert found.implementation > found.floor
