"""Tests of the mixture: whatever is kept, it must be the very variant that a changed plan makes, bit by bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.graph.executor import Executor
from parity.graph.feeds import Feed, load_feed
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.precision.mixture import Mixture
from parity.precision.plan import Precision, all_nodes, read_plan
from parity.precision.quantize import WEIGHTED
from parity.precision.variant import Variant, make_variant
from tests.builders import declared, node, proto_of
from tests.models import FIXTURE_FOLDERS, RealModel
from tests.precision import graphs

Outputs = dict[str, np.ndarray]


class Case:
    """A flat model, one of its variants, and the mixture of both on one feed."""

    def __init__(self, model: Model, feed: Feed, precision: Precision) -> None:
        self.flat, self.feed = survey(model, feed).flat, feed
        self.calibration = Calibration.of_feeds(self.flat, [feed])
        self.variant: Variant = make_variant(self.flat, precision, self.calibration)
        self.mixture = Mixture(self.flat, self.variant.model, [feed])

    def planned(self, kept: Collection[str]) -> Outputs:
        """Outputs of the variant that a plan makes that keeps these layers and what belongs to them."""
        plan = self.variant.plan.keep({*kept, *belonging(self.flat, kept)})
        return outputs_of(make_variant(self.flat, plan, self.calibration).model, self.feed)


def outputs_of(model: Model, feed: Feed) -> Outputs:
    """What the executor makes of a whole model."""
    return {n: to_numpy(v) for n, v in Executor(model).run(feed).items()}


def belonging(model: Model, layers: Collection[str]) -> Iterator[str]:
    """First outputs of the nodes inside these layers' bodies, and of those that compute constants which they read."""
    graph = model.graph
    stack = [graph.producer[layer] for layer in layers]
    while stack:
        node = stack.pop()
        for inner in (n for body in node.subgraphs.values() for n in all_nodes(body)):
            yield inner.outputs[0]
        makers = [graph.producer[n] for n in node.reads if n in graph.producer and n in model.constants]
        yield from (m.outputs[0] for m in makers)
        stack.extend(makers)


def assert_same(found: Outputs, expected: Outputs, but: Collection[str] = ()) -> None:
    """The same tensors, in the same types, bit by bit, but for outputs that are constants: no layer makes them."""
    assert found.keys() == expected.keys()
    for name in expected.keys() - set(but):
        value = expected[name]
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@cache
def fixture_case(place: int, precision: Precision) -> Case:
    """One of the fixtures."""
    folder = FIXTURE_FOLDERS[place]
    model = Model.load(folder / "model.onnx")
    return Case(model, load_feed(model, [str(folder / "inputs.npz")])[0], precision)


def some(data: st.DataObject, layers: Collection[str]) -> list[str]:
    """Any of these layers, each with a probability of its own draw."""
    rate = data.draw(st.integers(0, 10))
    return [layer for layer in layers if data.draw(st.integers(0, 9)) < rate]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("place", range(3), ids=[f.name for f in FIXTURE_FOLDERS])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_it_is_the_variant_of_the_plan(place: int, precision: Precision, data: st.DataObject) -> None:
    """On the fixtures, for any layers kept, started from any others; an INT8 plan must quantise something."""
    case = fixture_case(place, precision)
    kept = some(data, case.mixture.layers)
    if len(kept) == len(case.mixture.layers):  # an INT8 plan must quantise something
        kept = kept[1:]
    case.mixture.rebase(some(data, case.mixture.layers))
    assert_same(case.mixture.run(kept)[0], case.planned(kept))


@settings(max_examples=60, deadline=None)
@given(model=graphs.models(), seed=st.integers(0, 99), precision=st.sampled_from(["fp16", "bf16"]), data=st.data())
def test_it_is_the_variant_of_the_plan_on_any_graph(model: Model, seed: int, precision: Precision,
                                                    data: st.DataObject) -> None:
    """With branches, loops, Casts of its own, shared weights, and numbers that FP16 cannot hold."""
    if precision == "bf16" and model.opsets[""] < 22:
        return  # refused before
    case = Case(model, graphs.feed(seed), precision)
    kept = some(data, case.mixture.layers)
    assert_same(case.mixture.run(kept)[0], case.planned(kept), case.flat.constants)


@settings(max_examples=20, deadline=None)
@given(model=graphs.models(), seed=st.integers(0, 99), data=st.data())
def test_where_it_starts_from_changes_nothing(model: Model, seed: int, data: st.DataObject) -> None:
    """Any base, and none at all where nothing may be held, give the same outputs."""
    feed = graphs.feed(seed)
    flat = survey(model, feed).flat
    variant = make_variant(flat, "fp16").model
    held, light = Mixture(flat, variant, [feed, graphs.feed(seed + 2)]), Mixture(flat, variant, [feed], memory=0)
    kept = some(data, held.layers)
    before = held.run(kept)
    base = some(data, held.layers)
    start = dict(held.base(0))
    assert_same(held.rebase(base, lambda outputs: False)[0], held.run(base)[0])
    assert all(held.base(0)[n] is value for n, value in start.items())
    assert_same(held.rebase(base)[0], held.run(base)[0])
    assert len(before) == 2
    for found, expected in zip(held.run(kept), before, strict=True):
        assert_same(found, expected)
    assert light.layers == held.layers
    assert not (light.base(0) and light.units)
    assert_same(light.run(kept)[0], before[0])


@settings(max_examples=20, deadline=None)
@given(model=graphs.models(), seed=st.integers(0, 99))
def test_keeping_all_is_the_model_and_keeping_none_the_variant(model: Model, seed: int) -> None:
    """The two ends; a variant that is the model itself has no layers."""
    feed = graphs.feed(seed)
    flat = survey(model, feed).flat
    variant = make_variant(flat, "fp16").model
    mixture = Mixture(flat, variant, [feed])
    for kept, whole in ((mixture.layers, flat), ((), variant)):
        assert_same(mixture.run(kept)[0], outputs_of(whole, feed), flat.constants)
    assert Mixture(flat, flat, [feed]).layers == ()


def test_layers_are_the_nodes_that_differ() -> None:
    """Of an INT8 variant those that are quantised; in FP16 all but what reads and makes no numbers of that type."""
    weights = {"w": np.full((3, 3), 0.3, np.float32)}
    nodes = [node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("ArgMax", ["b"], ["i"]),
             node("Cast", ["i"], ["c"], to=6), node("Softmax", ["b"], ["y"])]
    model = Model.from_proto(proto_of(nodes, outputs=[declared("y", None), declared("c", None, 6)], weights=weights))
    feed = {"x": np.array([[1, 2, 3], [-1, 5, 2]], np.float32)}
    assert Case(model, feed, "int8").mixture.layers == ("b",)
    assert Case(model, feed, "fp16").mixture.layers == ("a", "b", "i", "y")


def test_what_reads_a_graph_output_reads_the_kept_one() -> None:
    """A graph output stays FP32; its FP16 form, which others read, is not a tensor of its own."""
    nodes = [node("Sqrt", ["x"], ["a"]), node("Neg", ["a"], ["y"])]
    model = Model.from_proto(proto_of(nodes, [declared("x", (999,))], [declared("a", None), declared("y", None)]))
    case = Case(model, {"x": np.linspace(0.1, 3, 999, dtype=np.float32)}, "fp16")
    for kept in (["a"], ["y"], []):
        assert_same(case.mixture.run(kept)[0], case.planned(kept))


def test_nothing_is_rounded_between_two_nodes_in_fp32() -> None:
    """A node that FP16 cannot hold stays FP32 in the variant too: a kept node hands it FP32."""
    weights = {"huge": np.float32(2.0**20)}
    nodes = [node("Sqrt", ["x"], ["a"]), node("Mul", ["a", "huge"], ["b"]), node("Log", ["b"], ["y"])]
    model = Model.from_proto(proto_of(nodes, weights=weights))
    case = Case(model, {"x": np.linspace(0.1, 3, 6, dtype=np.float32).reshape(2, 3)}, "fp16")
    for kept in (["a"], ["a", "y"], ["y"]):
        assert_same(case.mixture.run(kept)[0], case.planned(kept))


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_is_the_variant_of_the_plan_on_real_models(real_model: RealModel, precision: Precision) -> None:
    """A third of the layers of every real model that can be had in this precision, and two thirds."""
    model = Model.load(real_model.path)
    if precision == "int8" and "int8" in read_plan(model).nodes.values():
        pytest.skip("it is INT8 as it is")
    case = Case(model, load_feed(model, [str(real_model.inputs_path)])[0], precision)
    layers = np.array(case.mixture.layers)
    for seed, share in enumerate((1 / 3, 2 / 3)):
        kept = layers[np.random.default_rng(seed).random(len(layers)) < share].tolist()
        quantised = [n for n in case.mixture.layers if case.flat.graph.producer[n].op in WEIGHTED]
        if precision == "int8" and set(quantised) <= set(kept):
            kept = [n for n in kept if n != quantised[0]]  # an INT8 plan must quantise something
        assert_same(case.mixture.run(kept)[0], case.planned(kept))
