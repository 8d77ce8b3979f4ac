"""Tests of what nodes cost: torch's own count of its kernels is the truth where it has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, TensorProto, helper, numpy_helper
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fixtures.networks import DigitsCNN, DigitsTransformer
from parity.graph.costs import Cost, added_casts, costs, shapes_of, shares
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.precision.variant import make_variant
from tests.builders import declared, node, proto_of
from tests.models import FIXTURES, RealModel


def counted_by_torch(run: Any, *arguments: Any) -> int:
    """Multiply-adds as torch counts them: two operations each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*arguments)
    return int(counter.get_total_flops()) // 2


def cost_of(op: str, inputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray] | None = None,
            made: int = 1, domain: str = "", **attributes: Any) -> Cost:
    """The cost of a model of one node, its shapes found by a run."""
    names = [*inputs, *(weights or {})]
    outputs = [f"y{i}" if i else "y" for i in range(made)]
    only = node(op, names, outputs, domain=domain, **attributes)
    proto = proto_of([only], [declared(n, s) for n, s in inputs.items()], weights=weights, opset=17,
                     domains={domain: 1} if domain else None)
    model = Model.from_proto(proto)
    feed = {n: np.ones(s, np.float32) for n, s in inputs.items()}
    return costs(model, shapes_of(model, feed))["y"]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    """Shapes of an input and of a kernel [a, b, ...] with a = groups · m, the number of groups, and a stride."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = st.integers(1, 3)
    kernel = draw(st.lists(sizes, min_size=rank, max_size=rank))
    image = [k + draw(st.integers(0, 3)) for k in kernel]
    channels, others = groups * draw(sizes), draw(sizes)
    return (draw(sizes), channels, *image), (others, *kernel), groups, draw(st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_convolutions_cost_what_torch_counts(drawn: tuple[tuple[int, ...], tuple[int, ...], int, int]) -> None:
    """Conv and ConvTranspose of any rank, groups and stride."""
    image, (others, *kernel), groups, stride = drawn
    rank, channels = len(kernel), image[1]
    forward = np.ones((others * groups, channels // groups, *kernel), np.float32)
    backward = np.ones((channels, others, *kernel), np.float32)
    strides = [stride] * rank
    apply = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    apply_transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    expected = counted_by_torch(
        lambda: apply(torch.ones(image), torch.from_numpy(forward), stride=stride, groups=groups))
    transposed = counted_by_torch(
        lambda: apply_transposed(torch.ones(image), torch.from_numpy(backward), stride=stride, groups=groups))
    assert cost_of("Conv", {"x": image}, {"w": forward}, group=groups, strides=strides) == Cost(
        expected, forward.nbytes)
    assert cost_of("ConvTranspose", {"x": image}, {"w": backward}, group=groups, strides=strides) == Cost(
        transposed, backward.nbytes)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 4), k=st.integers(1, 4), n=st.integers(1, 4), batch=st.integers(1, 3),
       left=st.booleans(), right=st.booleans())
def test_products_cost_what_torch_counts(m: int, k: int, n: int, batch: int, left: bool, right: bool) -> None:
    """Gemm with either operand transposed, MatMul with a batch that is broadcast, and Microsoft's FusedMatMul."""
    flat = counted_by_torch(torch.matmul, torch.ones(m, k), torch.ones(k, n))
    a, b = (k, m) if left else (m, k), (n, k) if right else (k, n)
    assert cost_of("Gemm", {"a": a, "b": b}, transA=int(left), transB=int(right)).operations == flat
    assert cost_of("FusedMatMul", {"a": a, "b": b}, domain="com.microsoft",
                   transA=int(left), transB=int(right)).operations == flat
    assert cost_of("MatMul", {"a": (batch, 1, m, k), "b": (2, k, n)}).operations == 2 * batch * flat


@pytest.mark.parametrize(("equation", "shapes", "expected"), [
    ("ij,jk->ik", ((2, 3), (3, 4)), 2 * 3 * 4),
    ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5)), 2 * 3 * 4 * 6 * 5),
    ("...ij,...jk->...ik", ((7, 1, 2, 3), (5, 3, 4)), 7 * 5 * 2 * 3 * 4),
    ("i,j", ((3,), (4,)), 12),
])
def test_einsum_costs_the_product_of_its_axes(equation: str, shapes: tuple[tuple[int, ...], ...],
                                              expected: int) -> None:
    """Every axis counts once, those behind dots as they are broadcast."""
    assert cost_of("Einsum", dict(zip("ab", shapes, strict=True)), equation=equation).operations == expected


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_cost_their_matrices_at_every_step(op: str, gates: int) -> None:
    """Both directions, both matrices."""
    time, batch, width, hidden = 5, 2, 3, 4
    weights = {"w": np.ones((2, gates * hidden, width), np.float32),
               "r": np.ones((2, gates * hidden, hidden), np.float32)}
    found = cost_of(op, {"x": (time, batch, width)}, weights, hidden_size=hidden, direction="bidirectional")
    assert found.operations == time * batch * 2 * gates * hidden * (width + hidden)
    assert found.weight_bytes == sum(w.nbytes for w in weights.values())


def test_fused_attention_costs_as_much_as_its_parts() -> None:
    """Microsoft's Attention: the projection, and two products for each head."""
    batch, tokens, width, heads = 2, 5, 8, 2
    weights = {"w": np.ones((width, 3 * width), np.float32), "b": np.ones(3 * width, np.float32)}
    found = cost_of("Attention", {"x": (batch, tokens, width)}, weights, domain="com.microsoft", num_heads=heads)
    x, q = torch.ones(batch, tokens, width), torch.ones(batch, heads, tokens, width // heads)
    parts = counted_by_torch(lambda: (x @ torch.ones(width, 3 * width), q @ q.mT, torch.ones(tokens, tokens) @ q))
    assert found.operations == parts


@pytest.mark.parametrize(("name", "network"), [("digits_cnn", DigitsCNN), ("digits_transformer", DigitsTransformer)])
def test_whole_networks_cost_what_torch_counts(name: str, network: type[torch.nn.Module]) -> None:
    """The exported fixtures need the multiply-adds of the modules that they came from."""
    model = Model.load(FIXTURES / name / "model.onnx")
    feed, _ = load_feed(model, [str(FIXTURES / name / "inputs.npz")])
    (x,) = feed.values()
    found = costs(model, shapes_of(model, feed))
    assert sum(c.operations for c in found.values()) == counted_by_torch(network().eval(), torch.from_numpy(x))


def test_a_shared_weight_belongs_to_its_first_reader() -> None:
    """It is counted once, also where it is read through what is computed from it alone; constants cost nothing."""
    weights = {"w": np.ones((3, 3), np.float32), "h": np.ones((3, 3), np.float16)}
    nodes = [node("Transpose", ["w"], ["wt"]), node("MatMul", ["x", "wt"], ["a"]), node("MatMul", ["a", "w"], ["b"]),
             node("Cast", ["h"], ["hf"], to=TensorProto.FLOAT), node("MatMul", ["b", "hf"], ["y"])]
    found = costs(Model.from_proto(proto_of(nodes, weights=weights)), {"x": (2, 3), "a": (2, 3), "b": (2, 3),
                                                                        "y": (2, 3)})
    assert found == {"a": Cost(18, 36), "b": Cost(18, 0), "y": Cost(18, 18)}


def test_weights_in_constant_nodes_count_and_element_wise_nodes_are_free() -> None:
    """Some exporters hold all weights in Constant nodes."""
    constant = numpy_helper.from_array(np.ones((3, 4), np.float32))
    nodes = [node("Constant", [], ["w"], value=constant), node("Relu", ["x"], ["a"]),
             node("MatMul", ["a", "w"], ["y"])]
    model = Model.from_proto(proto_of(nodes))
    assert costs(model, shapes_of(model, {"x": np.ones((2, 3), np.float32)})) == {"a": Cost(), "y": Cost(24, 48)}


def test_unknown_shapes_cost_nothing() -> None:
    """A tensor whose shape is not given stops nothing."""
    model = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["y"])], weights={"w": np.ones((3, 3), np.float32)}))
    assert costs(model, {}) == {"y": Cost(0, 36)}


def branch(name: str, weight: np.ndarray) -> GraphProto:
    """A branch that multiplies x with a weight of its own, which has the same name in either."""
    made = node("MatMul", ["x", "own"], [name])
    return helper.make_graph([made], name, [], [declared(name, None)], [numpy_helper.from_array(weight, "own")])


def test_a_body_counts_for_the_node_around_it() -> None:
    """An If costs both branches, each with its own weights."""
    one = node("If", ["yes"], ["y"], then_branch=branch("t", np.ones((3, 4), np.float32)),
               else_branch=branch("e", np.ones((3, 5), np.float32)))
    model = Model.from_proto(proto_of([one], [declared("x"), declared("yes", (), TensorProto.BOOL)]))
    assert costs(model, {"x": (2, 3), "t": (2, 4), "e": (2, 5)}) == {"y": Cost(2 * 3 * 4 + 2 * 3 * 5, 4 * 27)}


@given(st.dictionaries(st.text(max_size=2), st.builds(Cost, st.integers(0, 9), st.integers(0, 9))), st.data())
def test_shares_of_a_part_and_of_the_rest_add_up(found: dict[str, Cost], data: st.DataObject) -> None:
    """Nothing has no share, a part and the rest make a whole, and names that are no nodes are nothing."""
    kept = {n for n in found if data.draw(st.booleans())}
    part, rest = shares(found, {*kept, "no such node"}), shares(found, found.keys() - kept)
    whole = (float(any(c.operations for c in found.values())), float(any(c.weight_bytes for c in found.values())))
    assert np.allclose(np.add(part, rest), whole)
    assert shares(found, []) == (0.0, 0.0)


def test_casts_are_counted_in_branches_too() -> None:
    """The FP16 variant of one node casts its input there and its output back; the way back has fewer."""
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["y"])]))
    half = make_variant(model, "fp16").model
    cast = node("Cast", ["x"], ["t"], to=TensorProto.FLOAT16)
    inner = helper.make_graph([cast], "b", [], [declared("t", None, TensorProto.FLOAT16)])
    nested = Model.from_proto(proto_of([node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)],
                                       [declared("x"), declared("yes", (), TensorProto.BOOL)]))
    assert (added_casts(model, half), added_casts(half, model)) == (2, -2)
    assert added_casts(model, nested) == 2


@pytest.mark.models
def test_every_weight_of_a_real_model_is_counted_once(real_model: RealModel) -> None:
    """The bytes of all nodes are those of the weights that some node needs; every large product has a cost."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    flat = survey(model, feed).flat
    found = costs(flat, shapes_of(flat, feed))
    stored = sum(flat.weight(n).nbytes for n in flat.graph.initializers if flat.graph.readers.get(n))
    attributes = sum(numpy_helper.to_array(a.t).nbytes for n in flat.graph.nodes if n.op == "Constant"
                     for a in n.proto.attribute if a.name == "value")
    assert sum(c.weight_bytes for c in found.values()) == pytest.approx(stored + attributes, rel=0.01)
    heavy = [n.outputs[0] for n in flat.graph.nodes if n.op in {"Conv", "MatMul", "Gemm"} and n.outputs[0] in found]
    assert all(found[n].operations for n in heavy)
