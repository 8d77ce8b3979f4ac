"""Slopes averaged between two sets of inputs, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto

from parity.analysis.derivative import Derivative, Parts, carries, difference, dot, parts_of
from parity.analysis.slopes import Segment, averaged
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy
from tests.builders import declared, node, proto_of

Arrays = Mapping[str, np.ndarray]


class Trial:
    """One operator between two sets of inputs, all of them in FP64, with an adjoint for its first output."""

    def __init__(self, operator: NodeProto, start: Arrays, end: Arrays, weights: Mapping[str, Any] | None = None,
                 domains: Mapping[str, int] | None = None, adjoint: np.ndarray | None = None) -> None:
        kinds = {"f": TensorProto.DOUBLE, "i": TensorProto.INT8}
        inputs = [declared(n, v.shape, kinds[v.dtype.kind]) for n, v in start.items()]
        proto = proto_of([operator], inputs, [declared("y", None)], weights, domains=domains, opset=20)
        model = Model.from_proto(proto)
        executor = Executor(model, Arithmetic.DOUBLE, gradients=True)
        constants = executor.weights(model.graph)
        low, high = ({**constants, **{n: from_numpy(v) for n, v in side.items()}} for side in (start, end))
        (self.node,) = model.graph.nodes
        f_low, f_high = (executor.evaluate(self.node, [v[n] if n else None for n in self.node.inputs])[0]
                         for v in (low, high))
        rise = difference(f_high, f_low)
        assert rise is not None
        self.rise = rise
        self.steps = {n: d for n in start if (d := difference(high[n], low[n])) is not None}
        random = np.random.default_rng(1).normal(size=rise[0].shape)
        self.adjoint = {"y": [torch.from_numpy(np.asarray(random if adjoint is None else adjoint, np.float64))]}
        segment = Segment(self.node, low, self.steps, {"y": rise})
        self.found = averaged(executor, segment, self.adjoint, 1e-3 * abs(dot(self.adjoint["y"], rise)))

    @property
    def missed(self) -> float:
        """What the slopes miss of adjoint · rise, relative to the magnitudes that go into it."""
        passed = sum(dot(p, self.steps[n]) for n, p in self.found.items())
        size = float((self.adjoint["y"][0] * self.rise[0]).abs().sum())
        return abs(dot(self.adjoint["y"], self.rise) - passed) / (size or 1.0)


def pair(seed: int, *shape: int, step: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Two tensors not far from each other, some elements equal and some zero on a side."""
    random = np.random.default_rng(seed)
    start = random.normal(size=shape)
    end = start + step * random.normal(size=shape)
    kind = random.integers(0, 8, shape)
    return np.where(kind == 0, 0.0, start), np.where(kind == 1, start, np.where(kind == 2, 0.0, end))


@pytest.mark.parametrize(
    "op", ["Relu", "Sigmoid", "Tanh", "Erf", "Abs", "Exp", "Floor", "HardSwish", "Softplus", "Sign"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_secant_misses_nothing(op: str, seed: int) -> None:
    """An element-wise operator's averaged slope explains its rise in full, kinks and jumps included."""
    x, c = pair(seed, 3, 5)
    assert Trial(node(op, ["x"], ["y"]), {"x": x}, {"x": c}).missed < 1e-9


def test_the_secant_is_used_with_a_constant_operand() -> None:
    """Division of a constant, and a power, bend; with one moving input they are element-wise all the same."""
    x, c = (np.abs(v) + 0.1 for v in pair(0, 4, 4, step=2.0))
    weights = {"w": np.float64(3.0), "p": np.float64(2.5)}
    assert Trial(node("Div", ["w", "x"], ["y"]), {"x": x}, {"x": c}, weights).missed < 1e-12
    assert Trial(node("Pow", ["x", "p"], ["y"]), {"x": x}, {"x": c}, weights).missed < 1e-12


@pytest.mark.parametrize(("op", "shapes", "attributes"), [
    ("MatMul", [(2, 3, 4), (4, 5)], {}), ("Mul", [(2, 3), (3,)], {}), ("Add", [(2, 3), (2, 1)], {}),
    ("Conv", [(1, 2, 5, 5), (3, 2, 3, 3), (3,)], {"pads": [1] * 4}), ("Gemm", [(2, 3), (3, 4), (4,)], {"alpha": 0.5}),
    ("Concat", [(2, 3), (1, 3)], {"axis": 0}), ("ReduceSumSquare", [(2, 3)], {}), ("Transpose", [(2, 3)], {})])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_midpoint_is_exact_up_to_degree_two(op: str, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any],
                                                seed: int) -> None:
    """Linear and bilinear operators are explained in full, all inputs moving at once."""
    sides = {f"x{i}": pair(seed + i, *shape, step=3.0) for i, shape in enumerate(shapes)}
    operator = node(op, list(sides), ["y"], **attributes)
    trial = Trial(operator, {n: a for n, (a, _) in sides.items()}, {n: b for n, (_, b) in sides.items()})
    assert trial.missed < 1e-12


def test_the_square_of_one_tensor_is_bilinear_in_it() -> None:
    """Mul of a tensor with itself has one input, but not one slope."""
    x, c = pair(3, 4, step=5.0)
    assert Trial(node("Mul", ["x", "x"], ["y"]), {"x": x}, {"x": c}).missed < 1e-12


@pytest.mark.parametrize(("op", "shapes", "attributes"), [
    ("MaxPool", [(1, 2, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", [(1, 1, 7)], {"kernel_shape": [3]}), ("GlobalMaxPool", [(2, 3, 5, 5)], {}),
    ("ReduceMax", [(4, 8)], {"keepdims": 0}), ("ReduceMin", [(4, 8)], {}), ("Max", [(3, 4), (3, 4)], {}),
    ("Min", [(3, 4), (4,), (3, 1)], {})])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_maxima_miss_next_to_nothing(op: str, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Any],
                                     seed: int) -> None:
    """However often a maximum changes its element on the way, its averaged slope explains the rise."""
    sides = {f"x{i}": pair(seed + i, *shape, step=3.0) for i, shape in enumerate(shapes)}
    operator = node(op, list(sides), ["y"], **attributes)
    trial = Trial(operator, {n: a for n, (a, _) in sides.items()}, {n: b for n, (_, b) in sides.items()})
    assert trial.missed < 1e-4


def test_a_maximum_gives_each_element_its_part_of_the_way() -> None:
    """From (1, 0) to (0, 3) the second element takes over after a quarter of the way."""
    trial = Trial(node("ReduceMax", ["x"], ["y"]), {"x": np.array([1.0, 0.0])}, {"x": np.array([0.0, 3.0])},
                  adjoint=np.ones((1,)))
    assert trial.found["x"][0].tolist() == pytest.approx([0.25, 0.75], abs=1e-5)


@pytest.mark.parametrize(("op", "shapes"), [
    ("Softmax", [(3, 6)]), ("LogSoftmax", [(3, 6)]), ("Div", [(3, 4), (4,)]), ("LayerNormalization", [(2, 8), (8,)]),
    ("ReduceL2", [(3, 4)])])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_quadrature_takes_points_until_little_is_missed(op: str, shapes: Sequence[tuple[int, ...]], seed: int) -> None:
    """Smooth operators of many elements are explained within the thousandth that was asked for."""
    sides = {f"x{i}": [np.abs(v) + 0.5 for v in pair(seed + i, *shape)] for i, shape in enumerate(shapes)}
    start, end = ({n: v[side] for n, v in sides.items()} for side in (0, 1))
    trial = Trial(node(op, list(sides), ["y"]), start, end)
    assert trial.missed <= 1e-3


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal"])
def test_infinite_slopes_become_zero(op: str) -> None:
    """Where nothing moves off a pole, or something moves onto it, the adjoint stays finite."""
    trial = Trial(node(op, ["x"], ["y"]), {"x": np.array([0.0, 1.0, 2.0])}, {"x": np.array([0.0, 0.0, 3.0])})
    assert trial.found["x"][0].isfinite().all()
    assert trial.found["x"][0][2] != 0


def test_quantisation_is_passed_straight_through() -> None:
    """The adjoint of QuantizeLinear is 1/scale of what it is given inside the range and 0 outside of it."""
    weights = {"scale": np.float64(0.5), "zero": np.int8(0)}
    x = np.array([0.2, 10.0, 100.0, -100.0])
    trial = Trial(node("QuantizeLinear", ["x", "scale", "zero"], ["y"]), {"x": x}, {"x": x + 0.1}, weights,
                  adjoint=np.ones(4))
    assert trial.found["x"][0].tolist() == [2.0, 2.0, 0.0, 0.0]


def test_dequantised_integers_count_as_real_numbers() -> None:
    """DequantizeLinear has a slope to its integers, the scale; an operator on integers as such has none."""
    q = np.array([1, -3], np.int8)
    weights = {"scale": np.float64(0.25)}
    trial = Trial(node("DequantizeLinear", ["q", "scale"], ["y"]), {"q": q}, {"q": q + np.int8(2)}, weights,
                  adjoint=np.ones(2))
    assert trial.found["q"][0].tolist() == [0.25, 0.25]
    assert carries(trial.node, "q", from_numpy(q), {"y"})
    other = Trial(node("Cast", ["q"], ["y"], to=TensorProto.DOUBLE), {"q": q}, {"q": q}).node
    assert not carries(other, "q", from_numpy(q), {"y"})


@pytest.mark.parametrize(("activation", "params"), [
    ("Relu", []), ("LeakyRelu", [0.1]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.2, 0.5]), ("Tanh", [])])
def test_a_fused_activation_is_taken_apart(activation: str, params: list[float]) -> None:
    """FusedConv with a term added is explained in full, though its activation bends inside of it."""
    sides = {n: pair(i, 1, 2, 6, step=2.0) for i, n in enumerate(("x", "z"))}
    operator = node("FusedConv", ["x", "w", "", "z"], ["y"], domain="com.microsoft", activation=activation,
                    pads=[1, 1], **({"activation_params": params} if params else {}))
    trial = Trial(operator, {n: a for n, (a, _) in sides.items()}, {n: b for n, (_, b) in sides.items()},
                  {"w": np.random.default_rng(0).normal(size=(2, 2, 3))}, {"com.microsoft": 1})
    assert set(trial.found) == {"x", "z"}
    assert trial.missed < 1e-12


def test_a_fused_gemm_is_taken_apart() -> None:
    """FusedGemm names its activation's parameters otherwise than FusedConv."""
    x, c = pair(0, 3, 4, step=2.0)
    operator = node("FusedGemm", ["x", "w"], ["y"], domain="com.microsoft", activation="LeakyRelu",
                    activation_alpha=0.3)
    trial = Trial(operator, {"x": x}, {"x": c}, {"w": np.eye(4)}, {"com.microsoft": 1})
    assert trial.missed < 1e-12


@pytest.mark.parametrize("op", ["LSTM", "Relu"])
def test_a_stack_of_adjoints_is_pulled_as_one_by_one(op: str) -> None:
    """Operators with a batched derivative and those without give the same as single products."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(1, 8, 3)), "r": random.normal(size=(1, 8, 2))} if op == "LSTM" else {}
    model = Model.from_proto(proto_of([node(op, ["x", *weights], ["y"], **({"hidden_size": 2} if weights else {}))],
                                      [declared("x", (4, 1, 3), TensorProto.DOUBLE)], weights=weights))
    executor = Executor(model, Arithmetic.DOUBLE, gradients=True)
    values: dict[str, Value] = {**executor.weights(model.graph), "x": from_numpy(random.normal(size=(4, 1, 3)))}
    derivative = Derivative(executor, model.graph.nodes[0], values, ["x"])
    shape = derivative.outputs["y"][0].shape
    stack = torch.from_numpy(random.normal(size=(3, *shape)))
    together = derivative.pull_each({"y": [stack]})["x"][0]
    for row, adjoint in zip(together, stack, strict=True):
        single = Derivative(executor, model.graph.nodes[0], values, ["x"]).pull({"y": [adjoint]})["x"][0]
        assert torch.allclose(row, single, rtol=1e-12, atol=0)


def test_differences_are_finite_or_none() -> None:
    """Equal infinities are no difference, unequal ones count as none, and shapes that differ give nothing."""
    inf = math.inf
    one, other = torch.tensor([inf, -inf, math.nan, 2.0]), torch.tensor([inf, 1.0, math.nan, 1.5])
    found = difference(one, other)
    assert found is not None
    assert found[0].tolist() == [0, 0, 0, 0.5]
    assert difference(one, other[:2]) is None
    assert difference([one], [one, other]) is None
    pairs: Parts = parts_of([one, [other]])
    assert [len(p) for p in pairs] == [4, 4]
