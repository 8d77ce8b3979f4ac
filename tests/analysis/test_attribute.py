"""Shares of the output error: they add up, and they find what was planted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from parity.analysis.attribute import Shares, attribute, pool
from parity.analysis.match import comparable_tensors
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, from_numpy, is_tensor, to_numpy
from parity.graph.survey import survey
from parity.precision.variant import make_variant
from tests.builders import chain, declared, node, proto_of
from tests.models import RealModel

MEMORY = 2**28
Arrays = Mapping[str, np.ndarray]


def tensors_of(model: Model, feed: Arrays) -> dict[str, np.ndarray]:
    """Every tensor of a run in the tensors' own types."""
    found: dict[str, np.ndarray] = {}
    for step in Executor(model).steps(feed):
        found.update({n: to_numpy(v) for n, v in step.values.items() if is_tensor(v)})
    return found


def followed(model: Model, feed: Arrays, change: Mapping[str, float] | Arrays) -> dict[str, np.ndarray]:
    """Every tensor in FP64 where some are changed, and all others are what their operators make of that."""
    executor, values = Executor(model, Arithmetic.DOUBLE), dict(feed)
    known: dict[str, Value] = {**executor.weights(model.graph), **{n: from_numpy(v) for n, v in feed.items()}}
    for each in model.graph.nodes:
        made = executor.evaluate(each, [known[n] if n else None for n in each.inputs], known)
        for name, value in zip(each.proto.output, made, strict=False):
            known[name] = value
            if name in change:
                known[name] = from_numpy(to_numpy(value) + np.asarray(change[name]))
            if is_tensor(value):
                values[name] = to_numpy(known[name])
    return values


def shares_of(nodes: Sequence[NodeProto], feed: Arrays, change: Mapping[str, float] | Arrays,
              weights: Mapping[str, Any] | None = None, kind: int = TensorProto.FLOAT) -> Shares:
    """The shares of a candidate in which some tensors are changed."""
    model = Model.from_proto(proto_of(nodes, [declared(n, v.shape) for n, v in feed.items()],
                                      [declared("y", None, kind)], weights))
    return attribute(model, feed, followed(model, feed, change), MEMORY, {})


def total(shares: Shares) -> float:
    """All shares and all that slopes miss."""
    return sum(shares.shares.values()) + sum(shares.missed.values())


UNARY = ("Relu", "Sigmoid", "Exp", "Abs", "Softmax", "Neg", "Sqrt", "Log", "Sign", "Floor")
BINARY = ("Add", "Mul", "Sub", "Max", "Div")


@st.composite
def graphs(draw: st.DrawFn) -> list[NodeProto]:
    """Up to eight operators on [3, 4] tensors, each reading any that is there, Sqrt and Log of negatives included."""
    names, nodes = ["x"], []
    for i in range(draw(st.integers(1, 8))):
        op = draw(st.sampled_from(UNARY + BINARY))
        inputs = [draw(st.sampled_from(names)) for _ in range(1 + (op in BINARY))]
        nodes.append(node(op, inputs, [f"t{i}"]))
        names.append(f"t{i}")
    return [*nodes, node("Sum", names, ["s"]), node("Tanh", ["s"], ["y"])]


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 10**6))
def test_shares_and_what_slopes_miss_are_all_of_the_error(nodes: list[NodeProto], seed: int) -> None:
    """In any graph, whatever a candidate shows, hidden tensors, NaN and Inf included, the account is exact."""
    random = np.random.default_rng(seed)
    model = Model.from_proto(proto_of(nodes, [declared("x", (3, 4))], [declared("y", (3, 4))]))
    feed = {"x": random.normal(size=(3, 4)).astype(np.float32)}
    shown = {}
    for name, value in tensors_of(model, feed).items():
        if name == "y" or random.random() < 0.7:
            noise = random.normal(scale=0.05, size=value.shape) * random.integers(0, 2, value.shape)
            shown[name] = (value + noise).astype(np.float32)
    if random.random() < 0.3:
        shown["x"] = feed["x"] * np.float32(1.01)
    found = attribute(model, feed, shown, MEMORY, {})
    if not found.withheld:
        assert total(found) == pytest.approx(1, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["a", "b", "c", "d", "e", "f"]))
def test_a_planted_error_has_all_of_the_share(seed: int, tensor: str) -> None:
    """One node is off and all others compute what they should: its share is 1, and no slope misses a hundredth."""
    model = Model.from_proto(chain())
    feed = {"x": np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)}
    noise = np.random.default_rng(seed + 1).normal(scale=0.05, size=(4, 8))
    found = attribute(model, feed, followed(model, feed, {tensor: noise}), MEMORY, {})
    assert found.shares[tensor] == pytest.approx(1, abs=0.01)
    assert total(found) == pytest.approx(1, abs=1e-9)


def test_two_faults_share_by_what_each_adds() -> None:
    """Errors of 3 and 1 at two terms of a sum are three quarters and one quarter of the whole."""
    nodes = [node("Relu", ["x"], ["a"]), node("Abs", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    found = shares_of(nodes, {"x": np.ones((1, 4), np.float32)}, {"a": 0.03, "b": 0.01})
    assert found.shares == pytest.approx({"a": 0.75, "b": 0.25}, abs=1e-6)


def test_layers_that_offset_each_other_show_in_the_magnitudes() -> None:
    """An error of +4 that another of −3 takes away again: shares of 4 and −3, magnitudes of 7."""
    nodes = [node("Relu", ["x"], ["a"]), node("Abs", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    pooled = pool([shares_of(nodes, {"x": np.ones((1, 4), np.float32)}, {"a": 0.04, "b": -0.03})])
    assert pooled.sum == pytest.approx(1, abs=1e-5)
    assert pooled.sum_abs == pytest.approx(7, abs=1e-3)


def test_an_input_that_differs_has_its_share() -> None:
    """A candidate that was fed something else shows so at the graph input."""
    model = Model.from_proto(chain())
    feed = {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)}
    found = attribute(model, feed, followed(model, {"x": feed["x"] + np.float32(0.01)}, {}), MEMORY, {})
    assert found.shares["x"] == pytest.approx(1, abs=0.01)


def test_a_hidden_tensor_is_what_its_inputs_make_of_it() -> None:
    """Where only the output is shown, an error upstream is the share of the first shown tensor behind it."""
    model = Model.from_proto(chain())
    feed = {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)}
    bad = tensors_of(Model.from_proto(chain("w1")), feed)
    found = attribute(model, feed, {n: bad[n] for n in ("a", "b", "e", "y")}, MEMORY, {})
    assert found.shares["e"] == pytest.approx(1, abs=0.01)
    assert not {"c", "d"} & found.shares.keys()


def test_spilling_changes_nothing() -> None:
    """With no memory at all every tensor goes through a file, and every figure stays the same."""
    model = Model.from_proto(chain())
    feed = {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)}
    shown = tensors_of(make_variant(model, "fp16").model, feed)
    assert attribute(model, feed, shown, 0, {}) == attribute(model, feed, shown, MEMORY, {})


def test_slopes_that_are_infinite_spoil_nothing() -> None:
    """Sqrt at zero and Log of zero have no slope; what moves off them is missed there, and all else is told."""
    nodes = [node("Relu", ["x"], ["a"]), node("Sqrt", ["a"], ["b"]),
             node("Log", ["a"], ["c"]), node("Exp", ["c"], ["d"]), node("Add", ["b", "d"], ["y"])]
    feed = {"x": np.array([[-1, 0, 1, 4]], np.float32)}
    found = shares_of(nodes, feed, {"a": np.array([[0, 0.01, 0.01, 0]])})
    assert total(found) == pytest.approx(1, abs=1e-9)
    assert all(map(math.isfinite, [*found.shares.values(), *found.missed.values()]))
    error = np.array([0.1 + 0.01, math.sqrt(1.01) - 1 + 0.01])  # of Sqrt and of Log's inverse
    assert found.missed["d"] == pytest.approx(0.11 * 0.01 / (error @ error), rel=1e-4)


def test_masks_of_minus_infinity_are_no_difference() -> None:
    """Scores masked by −inf on both sides leave the others' shares as they are."""
    mask = np.where(np.arange(4) < 2, 0, -np.inf).astype(np.float32)
    nodes = [node("Relu", ["x"], ["a"]), node("Add", ["a", "mask"], ["b"]), node("Softmax", ["b"], ["y"])]
    found = shares_of(nodes, {"x": np.ones((2, 4), np.float32)}, {"a": np.array([[0.1, 0, 0, 0]])}, {"mask": mask})
    assert found.shares["a"] == pytest.approx(1, abs=1e-2)


def test_a_choice_that_switches_is_missed_where_it_is_read() -> None:
    """An argmax has no slope: what its switch does lands at the Gather that reads it."""
    nodes = [node("Relu", ["x"], ["a"]), node("ArgMax", ["a"], ["k"], axis=0, keepdims=0),
             node("Gather", ["table", "k"], ["y"])]
    found = shares_of(nodes, {"x": np.array([1.0, 0.9], np.float32)}, {"a": np.array([0.0, 0.2])},
                      {"table": np.array([1.0, 1.5], np.float32)})
    assert found.missed == {"y": pytest.approx(1)}
    assert pool([found]).residual_at == "y"


def test_quantisation_passes_shares_straight_through() -> None:
    """An error before QuantizeLinear of many steps is the share of the layer before, not of the rounding."""
    weights = {"s": np.float32(1e-3), "z": np.int8(0)}
    nodes = [node("Relu", ["x"], ["a"]), node("QuantizeLinear", ["a", "s", "z"], ["q"]),
             node("Identity", ["q"], ["r"]), node("DequantizeLinear", ["r", "s", "z"], ["y"])]
    feed = {"x": np.linspace(0, 0.1, 50, dtype=np.float32)}
    found = shares_of(nodes, feed, {"a": np.full(50, 0.02)}, weights)
    assert found.shares["a"] == pytest.approx(1, abs=0.01)


def test_sequences_carry_shares() -> None:
    """Between a split into a sequence and its joining nothing is shown, and nothing is lost."""
    nodes = [node("Relu", ["x"], ["a"]), node("SplitToSequence", ["a"], ["parts"], axis=1),
             node("ConcatFromSequence", ["parts"], ["b"], axis=1), node("Exp", ["b"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (2, 3))]))
    feed = {"x": np.ones((2, 3), np.float32)}
    a = np.full((2, 3), 1.1, np.float32)
    found = attribute(model, feed, {"a": a, "b": a, "y": np.exp(a)}, 0, {})
    assert found.shares["a"] == pytest.approx(1, abs=1e-5)


def test_a_loop_passes_shares_to_what_its_body_reads() -> None:
    """A tensor that the body takes from outside, and the state, both have slopes."""
    body = helper.make_graph(
        [node("Mul", ["v_in", "a"], ["v_out"]), node("Identity", ["go"], ["on"])], "body",
        [declared("i", (), TensorProto.INT64), declared("go", (), TensorProto.BOOL), declared("v_in", (2,))],
        [declared("on", (), TensorProto.BOOL), declared("v_out", (2,))])
    nodes = [node("Relu", ["x"], ["a"]), node("Abs", ["x"], ["v"]), node("Loop", ["n", "", "v"], ["y"], body=body)]
    model = Model.from_proto(proto_of(nodes, [declared("x", (2,))], weights={"n": np.int64(3)}))
    feed = {"x": np.array([1.0, 2.0], np.float32)}
    a, v = feed["x"] * np.float32(1.01), feed["x"] * np.float32(1.01)
    found = attribute(model, feed, {"a": a, "v": v, "y": v * a**3}, MEMORY, {})
    assert found.shares == pytest.approx({"a": 0.75, "v": 0.25, "y": 0}, abs=0.01)
    assert total(found) == pytest.approx(1, abs=1e-9)


def test_a_branch_that_was_inlined_has_shares() -> None:
    """The tensors of the branch taken are named among the shares."""
    then = helper.make_graph([node("Exp", ["a"], ["inner"])], "then", [], [declared("inner", None)])
    other = helper.make_graph([node("Neg", ["a"], ["minus"])], "else", [], [declared("minus", None)])
    nodes = [node("Relu", ["x"], ["a"]), node("If", ["yes"], ["y"], then_branch=then, else_branch=other)]
    model = Model.from_proto(proto_of(nodes, [declared("x", (3,))], weights={"yes": np.bool_(True)}))
    feed = {"x": np.ones(3, np.float32)}
    flat = survey(model, feed).flat
    right = tensors_of(flat, feed)
    wrong = right["inner"] + np.float32(0.1)
    found = attribute(flat, feed, {**right, "inner": wrong, "y": wrong}, MEMORY, {})
    assert found.shares["inner"] == pytest.approx(1, abs=1e-5)


def test_a_recurrent_layer_passes_shares_on() -> None:
    """The input of an LSTM that is off has the share, and the LSTM's averaged slope misses little."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(1, 16, 3)).astype(np.float32),
               "r": random.normal(size=(1, 16, 4)).astype(np.float32)}
    nodes = [node("Relu", ["x"], ["a"]), node("LSTM", ["a", "w", "r"], ["y"], hidden_size=4)]
    feed = {"x": random.normal(size=(6, 2, 3)).astype(np.float32)}
    found = shares_of(nodes, feed, {"a": random.normal(scale=0.2, size=(6, 2, 3))}, weights)
    assert found.shares["a"] == pytest.approx(1, abs=0.01)


def test_tensors_of_another_shape_are_missed_not_fatal() -> None:
    """A candidate that keeps fewer elements on the way, and the same number at the end: missed where they meet."""
    nodes = [node("Relu", ["x"], ["a"]), node("NonZero", ["a"], ["k"]),
             node("Cast", ["k"], ["f"], to=TensorProto.FLOAT), node("ReduceSum", ["f"], ["y"], keepdims=0)]
    found = shares_of(nodes, {"x": np.array([-1.0, 1.0, 1.0, 1.0], np.float32)}, {"a": np.array([0, 0, 0, -1])})
    assert total(found) == pytest.approx(1, abs=1e-9)
    assert found.missed["y"] == pytest.approx(1)


def test_a_candidate_whose_shapes_do_not_fit_its_operators_is_survived() -> None:
    """A dump with a tensor of a nonsensical shape: what its reader would make of it cannot be told."""
    nodes = [node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (2, 3))], weights={"w": np.eye(3, dtype=np.float32)}))
    feed = {"x": np.ones((2, 3), np.float32)}
    shown = {"a": np.ones((2, 5), np.float32), "y": np.full((2, 3), 1.1, np.float32)}
    found = attribute(model, feed, shown, MEMORY, {})
    assert total(found) == pytest.approx(1, abs=1e-9)
    assert found.missed == {"y": pytest.approx(1)}


@pytest.mark.parametrize(("change", "noise", "reason"), [
    (np.array([[np.nan, 0]]), 0.0, "NaN or Inf"), (np.array([[9.0, 9.0]]), 0.0, "beyond 1"),
    (np.array([[1e-9, 0]]), 1e-3, "nothing to explain"), (np.array([[0.0, 0]]), 0.0, "nothing to explain")])
def test_shares_that_would_mislead_are_withheld(change: np.ndarray, noise: float, reason: str) -> None:
    """A non-finite output, one that is far off, and one that is as good as right give a reason and no shares."""
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["y"])], [declared("x", (1, 2))]))
    feed = {"x": np.ones((1, 2), np.float32)}
    found = attribute(model, feed, {"y": (1 + change).astype(np.float64)}, MEMORY, {"y": noise})
    assert reason in found.withheld
    assert not found.shares
    assert pool([found]).withheld == found.withheld


def test_outputs_of_another_shape_or_kind_have_no_shares() -> None:
    """Outputs that cannot be subtracted, and models that give no real numbers, are said so."""
    feed = {"x": np.ones((1, 2), np.float32)}
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["y"])], [declared("x", (1, 2))]))
    assert "shapes of output y" in attribute(model, feed, {"y": np.ones((1, 3), np.float32)}, MEMORY, {}).withheld
    whole = [node("ArgMax", ["x"], ["y"])]
    assert "floating-point" in shares_of(whole, feed, {}, kind=TensorProto.INT64).withheld


def test_samples_are_pooled_by_their_error() -> None:
    """A sample whose error is three times another's weighs three times as much; flips count where they matter."""
    one = Shares({"a": 0.9, "b": 0.1, "c": -0.001}, {"a": 0.001}, error=3.0)
    two = Shares({"a": 0.5, "b": -0.1, "c": 0.6}, {}, error=1.0)
    pooled = pool([one, two, Shares(withheld="not this one")])
    assert pooled.shares == pytest.approx({"a": 0.8, "b": 0.05, "c": 0.14925})
    assert pooled.sum == pytest.approx(0.99925)
    assert pooled.sum + pooled.residual == pytest.approx(1)
    assert (pooled.flips, pooled.samples, pooled.residual_at, pooled.withheld) == (1, 2, "a", "")


@pytest.mark.models
def test_shares_of_a_real_model_add_up(real_model: RealModel) -> None:
    """FP16 emulated: withheld with a reason, or exact, and for all but a model that is quantised itself near 1."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    flat = survey(model, feed).flat
    names = comparable_tensors(flat)
    shown = {n: v for n, v in tensors_of(make_variant(flat, "fp16").model, feed).items() if n in names}
    found = attribute(flat, feed, shown, MEMORY, {})
    if found.withheld:
        assert "NaN" in found.withheld or "beyond 1" in found.withheld
        return
    assert total(found) == pytest.approx(1, abs=1e-5)
    quantized = any(n.op == "QuantizeLinear" for n in flat.graph.nodes)
    assert quantized or sum(found.shares.values()) == pytest.approx(1, abs=0.02)
