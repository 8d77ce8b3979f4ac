"""Tests of keeping layers: which belong together, which come first, and what the plan says."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from parity.fixes.attempt import Attempt, Emulation
from parity.fixes.keep import Group, groups_of, largest, overflowing, plan_with, ranked, touching
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.precision.mixture import Mixture
from parity.precision.plan import plan_for
from tests.builders import X, declared, node, proto_of
from tests.fixes.cases import FP16, branching, cancelling, problem


@cache
def mixture() -> Mixture:
    """The model that cancels, in FP16."""
    found = problem(cancelling(), FP16, Path())
    return Emulation(found, Attempt("", "", found.model)).mixture


def test_every_layer_is_in_one_group() -> None:
    """Groups part the layers; what computes leads, and an exact operator goes with what it hands on."""
    groups = groups_of(mixture())
    assert sorted(layer for g in groups for layer in g.layers) == sorted(mixture().layers)
    assert [g.layers for g in groups if len(g.layers) > 1] == [("e", "y")]
    assert {g.name for g in groups} == set(mixture().layers) - {"y"}


def test_what_joins_two_tensors_stands_alone() -> None:
    """A Concat of two computed tensors, or an exact operator on an input, belongs to neither."""
    nodes = [node("Exp", ["x"], ["a"]), node("Sin", ["x"], ["b"]), node("Concat", ["a", "b"], ["c"], axis=0),
             node("Relu", ["c"], ["d"]), node("Transpose", ["x"], ["t"]), node("Exp", ["t"], ["u"]),
             node("Transpose", ["u"], ["v"]), node("Relu", ["v"], ["w"])]
    outputs = [declared("d", None), declared("w", None)]
    found = problem(proto_of(nodes, outputs=outputs), FP16, Path(), [{"x": np.ones((2, 3), np.float32)}])
    groups = {g.layers for g in Emulation(found, Attempt("", "", found.model)).groups}
    assert ("u", "v", "w") in groups
    assert not any({"a", "c"} <= set(layers) or {"b", "c"} <= set(layers) for layers in groups)


PRICES = st.one_of(st.floats(1e-100, 1e300), st.sampled_from([0.0, math.inf]))


@given(st.dictionaries(st.sampled_from("abcdef"), PRICES),
       st.permutations("abcdef"))
def test_the_dearest_comes_first(prices: dict[str, float], names: list[str]) -> None:
    """Groups are in falling order of their layers' energies together; what has no price costs nothing."""
    groups = [Group((names[0], names[1])), *(Group((n,)) for n in names[2:])]
    found = ranked(groups, prices)
    assert sorted(found, key=groups.index) == groups
    worth = [math.hypot(*(min(prices.get(n, 0), 1e150) for n in g.layers)) for g in found]
    assert all(a >= b * (1 - 1e-9) for a, b in pairwise(worth))


def test_of_equals_the_earlier_comes_first() -> None:
    """Where prices say nothing, the model's order stays."""
    groups = [Group((n,)) for n in "dbac"]
    assert ranked(groups, {}) == groups


def test_magnitudes_are_those_of_the_model() -> None:
    """The largest magnitude of every tensor is that of the model in FP32, over all feeds."""
    values = largest(mixture())
    model = Model.from_proto(cancelling()).watching(values)
    found = [Executor(model).run(feed) for feed in mixture().feeds]
    for name, magnitude in values.items():
        assert magnitude == max(float(np.abs(to_numpy(f[name])).max()) for f in found)
    assert overflowing(mixture()) == {}


def test_touching_finds_makers_and_readers() -> None:
    """Layers that make or read a tensor, and no others, touch it."""
    assert touching(mixture(), ["up"]) == {"up", "down"}
    assert touching(mixture(), []) == set()


def test_the_plan_takes_along_what_belongs_to_a_layer() -> None:
    """Keeping an If keeps the nodes in its branches, and what computes a kept layer's constants stays with it."""
    model = Model.from_proto(branching())
    plan = plan_with(plan_for(model, "fp16"), model, model, ["i"], "fp32")
    assert {n for n, p in plan.nodes.items() if p == "fp32"} == {"i", "up", "down", "neg"}
    flat = problem(branching(), FP16, Path()).flat
    merged = plan_with(plan_for(model, "fp16"), model, flat, ["down", "i"], "fp32")
    assert {n for n, p in merged.nodes.items() if p == "fp32"} == {"i", "down"}  # its Identity, and not its branches
    inner = plan_with(plan_for(model, "fp16"), model, model, ["up"], "fp32")
    assert {n for n, p in inner.nodes.items() if p == "fp32"} == {"up"}
    nodes = [helper.make_node("Mul", ["k", "k"], ["square"]), helper.make_node("Sqrt", ["square"], ["root"]),
             helper.make_node("Add", ["x", "root"], ["y"])]
    computed = Model.from_proto(proto_of(nodes, [X], weights={"k": np.float32(3)}))
    kept = plan_with(plan_for(computed, "fp16"), computed, computed, ["y"], "fp32")
    assert set(kept.nodes.values()) == {"fp32"}
