"""The search by marking a few tensors at a time: it names the region of a fault that watching everything hides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from parity.analysis.cuts import Cut, Search, budget, cuts_of, search
from parity.analysis.measure import measure
from parity.backends.base import RunOptions, Session
from parity.backends.ort import InProcess
from parity.backends.planted import Fault
from parity.contenders import Contender
from parity.errors import BackendFailed
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.graph.survey import survey
from parity.preparation import make_ready
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.models import FIXTURES, RealModel

Tensors = Mapping[str, np.ndarray]


def network(widths: list[int]) -> Model:
    """A network x → … → y: a node for each number, which adds the tensor that many steps before it to its own."""
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(8, 8)).astype(np.float32) / 3 for i in range(len(widths))}
    names = ["x", *(f"t{i}" for i in range(len(widths)))]
    nodes = []
    for i, back in enumerate(widths):
        nodes += [node("MatMul", [names[i], f"w{i}"], [f"m{i}"]),
                  node("Add", [f"m{i}", names[max(0, i - back)]], [names[i + 1]])]
    last = node("Identity", [names[-1]], ["y"])
    return Model.from_proto(proto_of([*nodes, last], [declared("x", (4, 8))], [declared("y", (4, 8))], weights))


def values_of(model: Model, feed: Tensors) -> Tensors:
    """Every tensor of the graph, on the executor."""
    return {n: to_numpy(v) for step in Executor(model).steps(feed) for n, v in step.values.items() if is_tensor(v)}


def faulty(model: Model, tensor: str) -> Model:
    """The model with the weight of the MatMul that makes `tensor` turned round."""
    def turn(proto: ModelProto) -> None:
        reader = next(n for n in proto.graph.node if tensor in n.output)
        weight = next(w for w in proto.graph.initializer if w.name == reader.input[1])
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))

    return Fault("weight negated", tensor, turn).plant(model)


class FaultyFusion:
    """A runtime that computes `tensor` wrongly unless one of the tensors inside of its fusion is marked."""

    def __init__(self, model: Model, tensor: str, inside: Collection[str]) -> None:
        options = RunOptions("off", threads=1)
        self._sound, self._faulty = (
            InProcess().open(m, m, Target("onnxruntime"), options) for m in (model, faulty(model, tensor)))
        self._inside = frozenset(inside)
        self.asked: list[tuple[str, ...]] = []

    def show(self, feed: Tensors, names: Collection[str]) -> Tensors:
        """As `Session.show`."""
        self.asked.append(tuple(names))
        session = self._sound if self._inside & set(names) else self._faulty
        return session.show(feed, names).outputs


def found_in(model: Model, tensor: str, inside: Collection[str]) -> tuple[Search, FaultyFusion, list[Cut]]:
    """Search the model for a fault at `tensor` that marking any of `inside` undoes."""
    feed = {"x": np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)}
    expected = values_of(model, feed)
    runtime = FaultyFusion(model, tensor, inside)
    cuts = cuts_of(model, list(expected))
    unmarked = runtime.show(feed, [])
    runtime.asked.clear()
    return search(model, cuts, partial(runtime.show, feed), expected, unmarked, 1e-4), runtime, cuts


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.data())
@settings(max_examples=25, deadline=None)
def test_a_faulty_fusion_is_within_the_region(widths: list[int], data: st.DataObject) -> None:
    """Wherever the fault is and whatever undoes it, its node is in the region, and few runs are spent."""
    model = network(widths)
    at = data.draw(st.integers(0, len(widths) - 1))
    first = data.draw(st.integers(0, at))
    inside = [f"{kind}{i}" for i in range(first, at + 1) for kind in "mt"][:data.draw(st.integers(0, 4))]
    found, runtime, cuts = found_in(model, f"m{at}", [n for n in inside if n != f"t{len(widths) - 1}"])
    assert found.runs == len(runtime.asked) <= budget(len(cuts))
    if found.region is None:
        assert found.runs == budget(len(cuts)) or all(runtime._inside & set(c.marked) for c in cuts)
        assert "changes the result" in found.reason
        return
    region = [n.outputs[0] for n in found.region.nodes]
    assert f"m{at}" in region
    assert not set(found.region.right) & set(region)
    assert found.region.comparison is not None
    assert found.region.comparison.rel_l2 > 1e-4


def test_a_fault_that_marking_leaves_alone_is_named_to_the_node() -> None:
    """Where no marking disturbs it, the region is the one node at fault, in as many runs as a binary search takes."""
    found, runtime, cuts = found_in(network([0] * 30), "m17", [])
    assert found.region is not None
    assert [n.outputs[0] for n in found.region.nodes] == ["m17"]
    assert found.region.wrong == "m17"
    assert set(found.region.right) == {"t16"}
    assert found.runs <= np.ceil(np.log2(len(cuts) + 1))
    assert max(map(len, runtime.asked)) <= 2


def test_a_fusion_that_marking_undoes_is_the_region() -> None:
    """What lies inside tells nothing: the region is from the last cut before the fusion to the first after it."""
    found, _, _ = found_in(network([0] * 12), "m6", ["t5", "m6", "t6"])
    assert found.region is not None
    assert found.region.wrong == "t7"
    assert set(found.region.right) == {"m5", "t4"}
    assert [n.outputs[0] for n in found.region.nodes] == ["t5", "m6", "t6", "m7", "t7"]


def test_a_fault_that_every_marking_undoes_is_not_found() -> None:
    """Then there is no region, and the reason is given."""
    model = network([0, 0, 0])
    found, _, cuts = found_in(model, "m1", [o for n in model.graph.nodes for o in n.outputs])
    assert (found.region, found.runs) == (None, len(cuts))
    assert found.reason == "every marking that was tried changes the result"


def test_nothing_is_searched_where_nothing_is_wrong() -> None:
    """Outputs within tolerance cost no run."""
    model = network([0, 0])
    feed = {"x": np.ones((4, 8), np.float32)}
    expected = values_of(model, feed)
    found = search(model, cuts_of(model, list(expected)), lambda names: pytest.fail("not needed"), expected,
                   {"y": expected["y"]}, 1e-4)
    assert (found.region, found.runs) == (None, 0)


def test_a_runtime_that_refuses_a_marking_is_asked_for_another() -> None:
    """A model that cannot be run with these tensors marked, or does not show them, tells nothing; others do."""
    model = network([0] * 8)
    feed = {"x": np.ones((4, 8), np.float32)}
    expected = values_of(model, feed)
    runtime = FaultyFusion(model, "m3", [])
    cuts = cuts_of(model, list(expected))

    def show(names: Collection[str]) -> Tensors:
        if "t3" in names:
            raise BackendFailed("no kernel for this")
        return {n: v for n, v in runtime.show(feed, names).items() if n != "m3"}

    found = search(model, cuts, show, expected, runtime.show(feed, []), 1e-4)
    assert found.region is not None
    assert {"m3", "t3"} <= {n.outputs[0] for n in found.region.nodes}


def test_a_tensor_of_another_shape_or_not_finite_is_wrong() -> None:
    """So that the search goes on before it."""
    model = network([0] * 6)
    feed = {"x": np.ones((4, 8), np.float32)}
    expected = values_of(model, feed)
    late = [f"{kind}{i}" for i in range(3, 6) for kind in "mt"] + ["y"]
    bad = {n: v if n not in late else np.full_like(v, np.nan) for n, v in expected.items()}
    bad["m4"] = np.zeros(3)
    found = search(model, cuts_of(model, list(expected)), lambda names: {n: bad[n] for n in (*names, "y")}, expected,
                   {"y": np.full((4, 8), 7, np.float32)}, 1e-4)
    assert found.region is None  # the outputs moved: NaN is not what the deployed run gave
    finite = {n: np.ones(2) if np.isnan(v).any() else v for n, v in bad.items()}
    finite["y"] = expected["y"] + 1
    found = search(model, cuts_of(model, list(expected)), lambda names: {n: finite[n] for n in (*names, "y")}, expected,
                   {"y": finite["y"]}, 1e-4)
    assert found.region is not None
    assert found.region.wrong == "m3"


def test_a_cut_separates(fixture_model: RealModel) -> None:
    """What a cut marks is enough: with it and the inputs, all that comes after can be computed."""
    model = survey(Model.load(fixture_model.path), load_feed(
        Model.load(fixture_model.path), [str(fixture_model.inputs_path)])[0]).flat
    feed, _ = load_feed(model, [str(fixture_model.inputs_path)])
    expected = values_of(model, feed)
    cuts = cuts_of(model, list(expected))
    assert len(cuts) > 10
    for cut in cuts:
        given = {**feed, **{n: expected[n] for n in cut.marked}}
        rest = model.between(given, [o.name for o in model.graph.outputs if o.name not in cut.ready])
        made = {o for n in rest.graph.nodes for o in n.outputs if o not in model.constants}
        assert not made & {o for n in model.graph.nodes[:cut.index + 1] for o in n.outputs}


def test_an_output_made_early_is_looked_at_with_every_later_cut() -> None:
    """A fault that shows in one early output alone is found before it, not after."""
    proto = proto_of(
        [node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["early"]), node("Tanh", ["a"], ["b"]),
         node("Exp", ["b"], ["c"]), node("Exp", ["c"], ["late"])],
        outputs=[declared("early", None), declared("late", None)])
    model = Model.from_proto(proto)
    feed = {"x": np.ones((2, 3), np.float32)}
    expected = values_of(model, feed)
    bad = {**expected, "early": expected["early"] + 1}
    found = search(model, cuts_of(model, list(expected)),
                   lambda names: {n: bad[n] for n in (*names, "early", "late")}, expected,
                   {n: bad[n] for n in ("early", "late")}, 1e-4)
    assert found.region is not None
    assert [n.outputs[0] for n in found.region.nodes] == ["early"]


def test_saturating_kernels_are_named() -> None:
    """ONNX Runtime's INT8 kernels saturate without VNNI; watching every tensor hides it, marking few does not.

    The first matrix product of the transformer is to blame, though the watched run has it right.
    """
    folder = FIXTURES / "digits_transformer"
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    surveyed = survey(model, feed)
    ready = make_ready(model, Contender(Target("onnxruntime", "", "int8")), surveyed, feed, None, RunOptions(threads=1))
    session: Session = ready.session
    unmarked = session.run(feed).outputs
    if measure(surveyed.outputs["logits"], unmarked["logits"]).rel_l2 < 0.2:
        pytest.skip("this CPU's INT8 kernels do not saturate")
    expected = values_of(surveyed.flat, feed)
    watched = {n: v for c in session.watch(feed, ready.shown, ready.sizes) for n, v in c.items()}
    assert measure(expected["logits"], watched["logits"]).rel_l2 < 0.05
    cuts = cuts_of(surveyed.flat, ready.shown & expected.keys())
    found = search(surveyed.flat, cuts, lambda names: session.show(feed, names).outputs, expected, unmarked, 0.1)
    assert found.region is not None
    assert [n.op for n in found.region.nodes] == ["MatMul"]
    assert found.region.right == ()
    assert found.runs <= budget(len(cuts))
    assert measure(expected[found.region.wrong], watched[found.region.wrong]).rel_l2 < 0.05
