"""Rescaling changes nothing but the size of what lies between, and brings that into FP16's range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto

from parity.fixes import homogeneous
from parity.fixes.homogeneous import BOUND, Kind, Role, degrees_by_name, role_of
from parity.fixes.rescale import rescales
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from parity.graph.survey import survey
from tests.builders import declared, node, proto_of
from tests.fixes.equality import assert_equal_model, closed_model, distance, fp16_error, largest_of, tensors_of
from tests.models import RealModel

LIMIT = 65504.0
RANDOM = np.random.default_rng(0)


def model_of(nodes: list[NodeProto], weights: Mapping[str, Any] | None = None, shape: tuple[int, ...] = (2, 4),
             outputs: tuple[str, ...] = ("y",), opset: int = 17) -> Model:
    """A model with input x."""
    return closed_model(proto_of(nodes, [declared("x", shape)], [declared(n, None) for n in outputs], weights,
                                 opset=opset), feed_of(shape))


def feed_of(shape: tuple[int, ...], size: float = 1.0) -> dict[str, np.ndarray]:
    """Normal values of this size for x."""
    return {"x": (np.random.default_rng(1).standard_normal(shape) * size).astype(np.float32)}


def weight(*shape: int, size: float = 1.0) -> np.ndarray:
    """A random weight."""
    return (RANDOM.standard_normal(shape) * size).astype(np.float32)


# --- what the operators are said to do with a factor

A, B = ("a", (2, 4, 6, 6)), ("b", (2, 4, 6, 6))
_I64 = np.int64
# Operator: inputs beside the data (name → value or shape of another data input), and attributes.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{op: ({}, {}) for op in (
        "Identity", "Transpose", "Squeeze", "Flatten", "Split", "Dropout", "Abs", "Neg", "Relu", "LeakyRelu",
        "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL1",
        "ReduceL2", "Trilu", "Shape", "Size", "Sign", "IsNaN", "IsInf", "NonZero", "ArgMax", "ArgMin",
        "LpNormalization", "Reciprocal", "ReduceSumSquare", "Log", "Sum", "Mean")},
    **{op: ({"b": B[1]}, {}) for op in ("Add", "Sub", "Max", "Min", "Mul", "Div", "MatMul", "Equal", "Greater",
                                        "GreaterOrEqual", "Less", "LessOrEqual")},
    "Sqrt": ({}, {}), "Concat": ({"b": B[1]}, {"axis": 1}), "Cast": ({}, {"to": TensorProto.FLOAT}),
    "MaxPool": ({}, {"kernel_shape": [2, 2]}), "AveragePool": ({}, {"kernel_shape": [2, 2]}),
    "Reshape": ({"s": np.array([8, 36], _I64)}, {}), "Unsqueeze": ({"s": np.array([0], _I64)}, {}),
    "Slice": ({"s": np.array([1], _I64), "e": np.array([3], _I64), "d": np.array([2], _I64)}, {}),
    "Gather": ({"i": np.array([1, 0], _I64)}, {}), "GatherElements": ({"i": np.zeros((1, 4, 6, 6), _I64)}, {}),
    "GatherND": ({"i": np.array([[1, 2]], _I64)}, {}), "Expand": ({"s": np.array([3, 2, 4, 6, 6], _I64)}, {}),
    "Tile": ({"s": np.array([1, 2, 1, 1], _I64)}, {}), "DepthToSpace": ({}, {"blocksize": 2}),
    "SpaceToDepth": ({}, {"blocksize": 2}), "CumSum": ({"s": np.array(1, _I64)}, {}),
    "Resize": ({"": None, "r": np.array([1, 1, 1.5, 1.5], np.float32)}, {"mode": "cubic"}),
    "Upsample": ({"r": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}),
    "ReverseSequence": ({"s": np.array([1, 2, 1, 2], _I64)}, {"batch_axis": 1, "time_axis": 0}),
    "Compress": ({"c": np.array([True, False])}, {"axis": 0}), "TopK": ({"k": np.array([2], _I64)}, {}),
    "GridSample": ({"g": np.tanh(RANDOM.normal(size=(2, 3, 3, 2))).astype(np.float32)}, {}),
    "PRelu": ({"p": np.array([0.3], np.float32)}, {}), "Clip": ({"l": (), "h": ()}, {}),
    "Pad": ({"s": np.array([0, 0, 1, 1, 0, 0, 1, 1], _I64), "v": ()}, {}),
    "Where": ({"b": B[1]}, {}), "ScatterND": ({"i": np.array([[1]], _I64), "u": (1, 4, 6, 6)}, {}),
    "ScatterElements": ({"i": np.zeros((1, 4, 6, 6), _I64), "u": (1, 4, 6, 6)}, {}),
    "Gemm": ({"b": (6, 5)}, {}), "Conv": ({"b": (3, 4, 3, 3)}, {}), "ConvTranspose": ({"b": (4, 3, 3, 3)}, {}),
    "Einsum": ({"b": B[1]}, {"equation": "ncij,ncjk->nik"}), "Pow": ({"p": np.array(3, np.float32)}, {}),
}
POSITIVE = frozenset({"Sqrt", "Log"})


def test_every_operator_of_the_tables_has_a_case() -> None:
    """The algebra of each operator below is tested."""
    named = {*homogeneous._JOINS, *homogeneous._INDIFFERENT, *homogeneous._DEGREES, "Pow", "Einsum", "Log"}
    assert named == set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_a_factor_does_what_the_table_says(op: str) -> None:
    """Data inputs times 8 give the result times 8 to the stated degree (log 8 more for Log; nothing for an index)."""
    inputs, attributes = CASES[op]
    random = np.random.default_rng(list(CASES).index(op))
    opset = 9 if op == "Upsample" else 17
    shape = (5, 6) if op == "Gemm" else (1, 4, 6, 6) if op == "Squeeze" else A[1]
    names = ["c", "a", *inputs] if op == "Where" else ["a", *inputs]
    outputs = {"Split": ["y", "y2"], "TopK": ["y", "y2"]}.get(op, ["y"])
    constants = {n: v for n, v in inputs.items() if isinstance(v, np.ndarray)}
    if op == "Where":
        constants["c"] = random.random(A[1]) < 0.5
    shapes = {"a": shape, **{n: v for n, v in inputs.items() if isinstance(v, tuple)}}
    model = Model.from_proto(proto_of([node(op, names, outputs, **attributes)],
                                      [declared(n, s) for n, s in shapes.items()], weights=constants, opset=opset))
    values = {n: np.asarray(random.normal(size=s) + (1 if n == "h" else 0)) for n, s in shapes.items()}
    values["a"] = np.abs(values["a"]) + 0.1 if op in POSITIVE else values["a"]
    (made,) = model.graph.nodes
    role = role_of(made, constants)
    scaled = {n: v * 8 if n in role.data(made) else v for n, v in values.items()}
    before, after = (to_numpy(Executor(model, Arithmetic.DOUBLE).run(v)["y"]) for v in (values, scaled))
    if role.kind is Kind.LOG:
        np.testing.assert_allclose(after, before + np.log(8), rtol=1e-13, atol=1e-13)
    else:
        np.testing.assert_allclose(after, before * 8.0 ** _degree(made, role), rtol=1e-12, atol=1e-12)


def _degree(made: Any, role: Role) -> float:
    if role.kind is Kind.PRODUCT:
        return float(sum(degrees_by_name(made, role).values()))
    return float(role.gives)


@pytest.mark.parametrize("op", ["Erf", "Tanh", "Sigmoid", "Exp"])
def test_a_bounded_function_has_reached_its_limits_at_the_bound(op: str) -> None:
    """In FP64 it gives the same at the bound as far beyond it, on either side."""
    model = model_of([node(op, ["x"], ["y"])], shape=(4,))
    y = to_numpy(Executor(model, Arithmetic.DOUBLE).run({"x": np.array([-1e9, -BOUND, BOUND, 1e9])})["y"])
    assert y[0] == y[1]
    assert y[2] == y[3]


# --- whole graphs


def _unary(op: str) -> Callable[[str, str], list[NodeProto]]:
    return lambda x, y: [node(op, [x], [y])]


def _with(op: str, constant: str) -> Callable[[str, str], list[NodeProto]]:
    return lambda x, y: [node(op, [x, constant], [y])]


def _centred(x: str, y: str) -> list[NodeProto]:
    return [node("ReduceMean", [x], [f"{y}m"], axes=[-1]), node("Sub", [x, f"{y}m"], [y])]


def _normalised(x: str, y: str) -> list[NodeProto]:
    return [node("Mul", [x, x], [f"{y}s"]), node("ReduceMean", [f"{y}s"], [f"{y}v"], axes=[-1]),
            node("Add", [f"{y}v", "epsilon"], [f"{y}e"]), node("Sqrt", [f"{y}e"], [f"{y}r"]),
            node("Div", [x, f"{y}r"], [y])]


def _gelu(x: str, y: str) -> list[NodeProto]:
    return [node("Mul", [x, "half"], [f"{y}h"]), node("Erf", [x], [f"{y}e"]), node("Add", [f"{y}e", "one"], [f"{y}a"]),
            node("Mul", [f"{y}h", f"{y}a"], [y])]


def _log(x: str, y: str) -> list[NodeProto]:
    return [node("Abs", [x], [f"{y}p"]), node("Add", [f"{y}p", "one"], [f"{y}a"]), node("Log", [f"{y}a"], [y])]


STEPS: dict[str, Callable[[str, str], list[NodeProto]]] = {
    **{op: _unary(op) for op in ("Relu", "Abs", "Neg", "LeakyRelu", "Tanh", "Sigmoid", "Erf", "Softmax", "Identity")},
    "matmul": _with("MatMul", "wide"), "times": _with("Mul", "large"), "plus": _with("Add", "vector"),
    "over": _with("Div", "vector"), "most": _with("Max", "vector"), "centred": _centred, "normalised": _normalised,
    "gelu": _gelu, "log": _log,
    "gemm": lambda x, y: [node("Gemm", [x, "wide", "vector"], [y], transB=1)],
    "clip": lambda x, y: [node("Clip", [x, "low", "high"], [y])],
    "layer_norm": lambda x, y: [node("LayerNormalization", [x, "vector", "vector"], [y])],
    "square": lambda x, y: [node("Mul", [x, x], [y])],
    "norm": lambda x, y: [node("ReduceL2", [x], [f"{y}n"], axes=[-1]), node("Mul", [x, f"{y}n"], [y])],
    "spread": lambda x, y: [node("ReduceSumSquare", [x], [f"{y}n"], axes=[-1]), node("Add", [x, f"{y}n"], [y])],
    "parts": lambda x, y: [node("Split", [x], [f"{y}1", f"{y}2"], axis=-1),
                           node("Concat", [f"{y}2", f"{y}1"], [y], axis=-1)],
}
WEIGHTS = {"wide": weight(4, 4, size=40), "large": np.float32(300), "vector": weight(4), "low": np.float32(-2e5),
           "high": np.float32(3e5), "one": np.float32(1), "half": np.float32(0.5), "epsilon": np.float32(1e-5)}


@st.composite
def drawn(draw: st.DrawFn) -> Model:
    """A model of up to 9 steps on [2, 4] tensors, which reads some of them twice."""
    nodes: list[NodeProto] = []
    made = ["x"]
    for i, step in enumerate(draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=9))):
        source = made[-1] if draw(st.booleans()) else draw(st.sampled_from(made))
        nodes += STEPS[step](source, f"t{i}")
        made.append(f"t{i}")
        if draw(st.integers(0, 3)) == 0:
            op, other = draw(st.sampled_from(["Add", "Sub", "Mul", "Max"])), draw(st.sampled_from(made))
            nodes.append(node(op, [f"t{i}", other], [f"j{i}"]))
            made.append(f"j{i}")
    outputs = draw(st.lists(st.sampled_from(made[1:]), max_size=2, unique=True))
    nodes.append(node("Identity", [made[-1]], ["y"]))
    return model_of(nodes, WEIGHTS, outputs=("y", *outputs))


@settings(max_examples=150, deadline=None)
@given(drawn(), st.sampled_from([1.0, 100.0]))
def test_a_rescaled_model_is_the_same_and_fits(model: Model, size: float) -> None:
    """All tensors that are left keep their values, and what is said to be held below half the limit is."""
    feed = feed_of((2, 4), size)
    largest = largest_of(model, feed)
    assume(all(np.isfinite(v).all() for v in tensors_of(model, feed).values()))
    for patch in rescales(model, largest, LIMIT):
        assert_equal_model(model, patch, feed)
        made = largest_of(patch.model, feed)
        assert patch.tensors
        for name in patch.tensors:
            assert largest[name] > LIMIT / 2
            assert 0 < made[f"{name}/scaled"] <= LIMIT / 2


def conv_net() -> tuple[Model, dict[str, np.ndarray]]:
    """Convolutions whose middle overflows FP16, with a shared weight, a skip connection and an ordinary end."""
    weights = {"w0": weight(8, 3, 3, 3, size=300), "w1": weight(8, 8, 1, 1), "b": weight(8),
               "s": weight(8), "m": weight(8), "v": np.abs(weight(8)) + 1, "w2": weight(8, 5, size=1e-5)}
    nodes = [node("Conv", ["x", "w0", "b"], ["a"]), node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
             node("Relu", ["n"], ["r"]), node("Conv", ["r", "w1"], ["c"]), node("Add", ["c", "r"], ["d"]),
             node("GlobalAveragePool", ["d"], ["p"]), node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "w2"], ["y"]),
             node("Conv", ["o", "w1"], ["z"]), node("Tanh", ["n"], ["o"])]
    return model_of(nodes, weights, (1, 3, 8, 8), ("y", "z")), feed_of((1, 3, 8, 8), 20)


def attention() -> tuple[Model, dict[str, np.ndarray]]:
    """Scores that overflow before they are divided by √d."""
    weights = {"q": weight(16, 16, size=60), "k": weight(16, 16, size=60), "d": np.float32(2e5)}
    nodes = [node("MatMul", ["x", "q"], ["a"]), node("MatMul", ["x", "k"], ["b"]),
             node("Transpose", ["b"], ["t"], perm=[0, 2, 1]), node("MatMul", ["a", "t"], ["s"]),
             node("Div", ["s", "d"], ["e"]), node("Softmax", ["e"], ["y"])]
    return model_of(nodes, weights, (1, 6, 16)), feed_of((1, 6, 16), 3)


def training_norm() -> tuple[Model, dict[str, np.ndarray]]:
    """Statistics computed in the graph, of values whose sum of squares is far beyond FP16, into BatchNormalization."""
    weights = {"w": weight(4, 4, size=9000), "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32),
               "n": np.float32(8)}
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("ReduceMean", ["a"], ["m"], axes=[0], keepdims=0),
             node("Sub", ["a", "m"], ["c"]), node("ReduceSumSquare", ["c"], ["q"], axes=[0], keepdims=0),
             node("Div", ["q", "n"], ["v"]), node("BatchNormalization", ["a", "one", "zero", "m", "v"], ["y"])]
    return model_of(nodes, weights, (8, 4)), feed_of((8, 4), 5)


def gelu() -> tuple[Model, dict[str, np.ndarray]]:
    """A GELU of values beyond FP16, brought back by a LayerNormalization."""
    nodes = [node("MatMul", ["x", "wide"], ["a"]), *_gelu("a", "g"), node("LayerNormalization", ["g", "vector"], ["y"])]
    model = model_of(nodes, {**WEIGHTS, "wide": np.abs(weight(4, 4, size=4e4))})
    return model, {"x": np.abs(feed_of((2, 4), 4)["x"])}


def log_amplified() -> tuple[Model, dict[str, np.ndarray]]:
    """Amplified by 2^20, a weight that FP16 cannot hold, before a logarithm."""
    nodes = [node("Mul", ["x", "gain"], ["a"]), *_log("a", "y")]
    return model_of(nodes, {"gain": np.float32(2**20), "one": np.float32(1)}), feed_of((2, 4), 3)


def long_sum() -> tuple[Model, dict[str, np.ndarray]]:
    """A variance from sums: squares fit, their sum does not, the mean does again."""
    nodes = [node("Mul", ["x", "x"], ["q"]), node("ReduceSum", ["q", "axis"], ["s"], keepdims=0),
             node("Mul", ["s", "r"], ["y"])]
    return (model_of(nodes, {"axis": np.array([-1]), "r": np.float32(1 / 64)}, (4, 64)), feed_of((4, 64), 60))


@pytest.mark.parametrize("made", [conv_net, attention, training_norm, gelu, log_amplified, long_sum],
                         ids=lambda f: f.__name__)
def test_an_overflow_is_mended(made: Callable[[], tuple[Model, dict[str, np.ndarray]]]) -> None:
    """The FP16 variant is infinite or far off; rescaled it is as close as FP16 rounding lets it be."""
    model, feed = made()
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    assert_equal_model(model, patch, feed)
    assert fp16_error(model, model, feed) > 0.1
    assert fp16_error(model, patch.model, feed) < 0.01


def test_powers_of_two_leave_fp32_results_bit_for_bit() -> None:
    """Weights and activations scaled by powers of two give the same bits."""
    model, feed = conv_net()
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    before, after = (Executor(m).run(feed) for m in (model, patch.model))
    assert all(np.array_equal(to_numpy(before[n]), to_numpy(after[n])) for n in before)


def test_epsilon_takes_the_factor() -> None:
    """A row whose variance is below epsilon, beside one that overflows, is normalised as it was."""
    nodes = [node("MatMul", ["x", "wide"], ["a"]), node("LayerNormalization", ["a", "vector"], ["y"])]
    model, feed = model_of(nodes, {**WEIGHTS, "wide": weight(4, 4, size=1e5)}), feed_of((2, 4))
    feed["x"][1] *= 1e-8
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    before, after = (to_numpy(Executor(m).run(feed)["y"])[1] for m in (model, patch.model))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_a_sum_that_overflows_is_of_scaled_terms() -> None:
    """Terms that others read as they are get their factor on the way into the sum."""
    nodes = [node("Abs", ["x"], ["a"]), node("ReduceSum", ["a", "axis"], ["s"], keepdims=1),
             node("Div", ["a", "s"], ["y"])]
    model, feed = model_of(nodes, {"axis": np.array([-1])}, (4, 64)), feed_of((4, 64), 6000)
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    assert patch.tensors == ("s",)
    assert_equal_model(model, patch, feed)
    assert fp16_error(model, patch.model, feed) < 0.005 < fp16_error(model, model, feed)


def test_what_is_small_again_is_taken_back() -> None:
    """A part of an overflowing tensor that is small does not lose digits in a product with another small one."""
    wide = weight(4, 4, size=1e8)
    wide[:, 2:] = weight(4, 2, size=4)
    nodes = [node("MatMul", ["x", "wide"], ["a"]), node("LayerNormalization", ["a", "vector"], ["z"]),
             node("Split", ["a"], ["b", "c"], axis=-1), node("Tanh", ["c"], ["t"]), node("Mul", ["t", "tiny"], ["u"]),
             node("Mul", ["c", "u"], ["y"])]
    weights, feed = {**WEIGHTS, "wide": wide, "tiny": np.float32(0.01)}, feed_of((2, 4))
    model = model_of(nodes, weights, outputs=("y", "z"))
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    assert_equal_model(model, patch, feed)
    assert fp16_error(model, patch.model, feed) < 0.005


def test_a_factor_that_weights_take_up_costs_no_node() -> None:
    """A branch that joins an overflowing one gets its factor from its own weights, through what lies between."""
    weights = {"w": weight(4, 4), "v": weight(4, 4, size=1e5), "u": weight(4, 3, size=1e-5)}
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["x", "v"], ["b"]),
             node("Add", ["r", "b"], ["s"]), node("MatMul", ["s", "u"], ["y"])]
    model, feed = model_of(nodes, weights), feed_of((2, 4))
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    assert [n.op for n in patch.model.graph.nodes] == [n.op for n in model.graph.nodes]
    assert_equal_model(model, patch, feed)


def test_neighbours_of_like_size_get_one_factor() -> None:
    """In a GELU whose halves need 2^k and the whole 2^(k+1) nothing is added but what its argument needs."""
    model, feed = gelu()
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    before, after = (sorted(n.op for n in m.graph.nodes) for m in (model, patch.model))
    assert after == sorted([*before, "Clip", "Mul"])


def test_a_weight_beyond_the_format_is_brought_into_it_too() -> None:
    """An amplification by 2^20 of small values is applied with a weight that FP16 holds."""
    model, _ = log_amplified()
    (patch,) = rescales(model, largest_of(model, feed_of((2, 4), 0.03)), LIMIT)
    weights = [patch.model.weight(n) for n in patch.model.graph.initializers]
    assert max(float(np.abs(w).max()) for w in weights) <= LIMIT / 2


def test_a_weight_that_others_read_is_left_to_them() -> None:
    """The convolution outside the overflow reads the weight as it was; the one inside reads a copy."""
    model, feed = conv_net()
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    np.testing.assert_array_equal(patch.model.weight("w1"), model.weight("w1"))
    assert patch.model.graph.producer["z"].inputs[1] == "w1"


def test_an_output_keeps_its_values() -> None:
    """A tensor that is an output and overflows is restored under its name, beside the scaled one."""
    nodes = [node("MatMul", ["x", "wide"], ["a"]), node("LayerNormalization", ["a", "vector"], ["y"])]
    model = model_of(nodes, {**WEIGHTS, "wide": weight(4, 4, size=1e5)}, outputs=("y", "a"))
    (patch,) = rescales(model, largest_of(model, feed_of((2, 4))), LIMIT)
    assert patch.model.graph.producer["a"].op == "Mul"
    assert_equal_model(model, patch, feed_of((2, 4)))


def test_a_body_reads_what_it_read() -> None:
    """A tensor that a sub-graph takes from outside is restored under its name."""
    then, other = (proto_of([node(op, ["a"], ["z"])], [], [declared("z", None)]).graph for op in ("Identity", "Neg"))
    nodes = [node("MatMul", ["x", "wide"], ["a"]), node("LayerNormalization", ["a", "vector"], ["y"]),
             node("If", ["yes"], ["i"], then_branch=then, else_branch=other)]
    weights = {**WEIGHTS, "wide": weight(4, 4, size=1e5), "yes": np.array(True)}
    model = model_of(nodes, weights, outputs=("y", "i"))
    (patch,) = rescales(model, largest_of(model, feed_of((2, 4))), LIMIT)
    assert_equal_model(model, patch, feed_of((2, 4)))


@pytest.mark.parametrize("nodes", [
    [node("Mul", ["x", "one"], ["y"])],
    [node("MatMul", ["x", "huge"], ["y"])],
    [node("Add", ["x", "mask"], ["a"]), node("Softmax", ["a"], ["y"])],
    [node("MatMul", ["x", "huge"], ["a"]), node("Sin", ["a"], ["y"])],
], ids=["nothing overflows", "only an output", "a mask into Softmax", "no operator lets a factor pass"])
def test_nothing_is_proposed_where_nothing_helps(nodes: list[NodeProto]) -> None:
    """No patch where all fits, or where the overflow would only move."""
    weights = {"one": np.float32(1), "huge": weight(4, 4, size=1e6), "mask": np.array([0, -1e9, 0, 0], np.float32)}
    model = model_of(nodes, weights)
    assert rescales(model, largest_of(model, feed_of((2, 4))), LIMIT) == []


@pytest.mark.parametrize("opset", [8, 10, 12])
def test_older_operator_sets(opset: int) -> None:
    """Clip and Pad with their values as attributes, before opset 11."""
    clip = ({"min": -1e5, "max": 3e5}, []) if opset < 11 else ({}, ["low", "high"])
    pad = ({"pads": [0, 1, 0, 0], "value": 9e4}, []) if opset < 11 else ({}, ["pads", "fill"])
    nodes = [node("MatMul", ["x", "wide"], ["a"]), node("Clip", ["a", *clip[1]], ["b"], **clip[0]),
             node("Pad", ["b", *pad[1]], ["c"], **pad[0]), node("Tanh", ["c"], ["t"]),
             node("Mul", ["c", "small"], ["d"]), node("Add", ["d", "t"], ["y"])]
    weights = {"wide": weight(4, 4, size=1e5), "low": np.float32(-1e5), "high": np.float32(3e5),
               "pads": np.array([0, 1, 0, 0]), "fill": np.float32(9e4), "small": np.float32(1e-5)}
    read = {n for made in nodes for n in made.input}
    model, feed = model_of(nodes, {n: w for n, w in weights.items() if n in read}, opset=opset), feed_of((2, 4))
    (patch,) = rescales(model, largest_of(model, feed), LIMIT)
    assert_equal_model(model, patch, feed)
    assert fp16_error(model, patch.model, feed) < 0.01


@pytest.mark.models
def test_real_models_that_overflow(real_model: RealModel) -> None:
    """Where a real model's FP16 variant overflows, the rescaled one's is finite and it is the same model."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    flat = survey(model, feed).flat
    for patch in rescales(flat, largest_of(flat, feed), LIMIT):
        assert_equal_model(flat, patch, feed, fp32=2e-5)
        assert fp16_error(flat, patch.model, feed) < 0.2 < fp16_error(flat, flat, feed)


def test_distances_tell_apart() -> None:
    """The measure of these tests sees a small error, and a number where there was an infinity."""
    one = np.array([1.0, 2.0, np.inf])
    assert distance(one, one) == 0
    assert distance(one, np.array([1.0, 2.0 + 1e-9, np.inf])) > 1e-12
    assert distance(one, np.array([1.0, 2.0, 3.0])) == np.inf
