"""Rewritten formulas give the same in FP64, and what they had to give in FP16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, numpy_helper

from parity.fixes.patch import Patch
from parity.fixes.rescale import rescales
from parity.fixes.rewrite import PATTERNS, rewrites
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from tests.builders import declared, node, proto_of
from tests.fixes.equality import assert_equal_model, closed_model, fp16_error, largest_of, tensors_of
from tests.models import RealModel

SHAPE = (3, 8)
F = np.float32
LAST = np.array([-1])


def feed_of(size: float, offset: float = 0.0, shape: Sequence[int] = SHAPE) -> dict[str, np.ndarray]:
    """Normal values of this size for x."""
    return {"x": (np.random.default_rng(1).standard_normal(shape) * size + offset).astype(F)}


def model_of(nodes: Sequence[NodeProto], weights: Mapping[str, Any], outputs: Sequence[str] = ("y",), *,
             opset: int = 17, shape: Sequence[int] = SHAPE) -> Model:
    """A model with input x that reads some of these weights."""
    read = {n for made in nodes for n in made.input}
    return closed_model(proto_of(nodes, [declared("x", shape)], [declared(n, None) for n in outputs],
                                 {n: w for n, w in weights.items() if n in read}, opset=opset),
                        feed_of(1, 3, shape))


WEIGHTS: dict[str, Any] = {
    "one": F(1), "two": F(2), "minus": F(-1), "half": F(0.5), "last": LAST, "eps": F(1e-10), "small": F(1e-6),
    "g": np.linspace(0.5, 2, 8).astype(F), "b": np.linspace(-1, 1, 8).astype(F), "eighth": F(1 / 8), "eight": F(8),
    "mask": np.array([[0, -1e9, 0, 0, -1e9, 0, 0, -1e9]], F), "low": F(-1e9),
    "yes": np.arange(24).reshape(SHAPE) % 3 > 0,
}
MEAN = node("ReduceMean", ["x"], ["m"], axes=[-1])
CENTRED = [MEAN, node("Sub", ["x", "m"], ["d"]), node("Pow", ["d", "two"], ["q"]),
           node("ReduceMean", ["q"], ["v"], axes=[-1]), node("Add", ["v", "small"], ["w"]), node("Sqrt", ["w"], ["r"])]
PARTS = node("Split", ["x"], ["a", "c"], axis=-1)
SQUARES = [PARTS, node("Mul", ["a", "a"], ["aa"]), node("Pow", ["c", "two"], ["cc"]), node("Add", ["aa", "cc"], ["s"])]
SQUARE = node("Mul", ["x", "x"], ["q"])
EXP = node("Exp", ["x"], ["e"])
TOTAL = node("ReduceSum", ["e", "last"], ["t"], keepdims=1)
NEGATIVE = [node("Neg", ["x"], ["n"]), node("Exp", ["n"], ["f"])]

# What a pattern is called, the nodes, the operator that makes y afterwards, and values that FP16 has trouble with.
Case = tuple[str, list[NodeProto], str, dict[str, np.ndarray]]
CASES: dict[str, Case] = {
    "log softmax": ("Log(Softmax(x))", [node("Softmax", ["x"], ["s"], axis=-1), node("Log", ["s"], ["y"])],
                    "LogSoftmax", feed_of(30)),
    "log sum exp": ("Log(ReduceSum(Exp(x)))", [EXP, TOTAL, node("Log", ["t"], ["y"])], "ReduceLogSumExp", feed_of(30)),
    "softplus": ("Log(1 + Exp(x))", [EXP, node("Add", ["one", "e"], ["a"]), node("Log", ["a"], ["y"])], "Softplus",
                 feed_of(10, 15)),
    "log sigmoid": ("Log(Sigmoid(x))", [node("Sigmoid", ["x"], ["s"]), node("Log", ["s"], ["y"])], "Neg", feed_of(20)),
    "log of the rest": ("Log(Sigmoid(x))", [node("Sigmoid", ["x"], ["s"]), node("Sub", ["one", "s"], ["r"]),
                                            node("Log", ["r"], ["y"])], "Neg", feed_of(2, 8)),
    "softmax": ("Exp(x)/ReduceSum(Exp(x))", [EXP, TOTAL, node("Div", ["e", "t"], ["y"])], "Softmax", feed_of(8, 8)),
    "softmax by reciprocal": ("Exp(x)/ReduceSum(Exp(x))", [EXP, TOTAL, node("Reciprocal", ["t"], ["r"]),
                                                           node("Mul", ["r", "e"], ["y"])], "Softmax", feed_of(8, 8)),
    "sigmoid": ("1/(1 + Exp(-x))", [EXP, node("Add", ["e", "one"], ["a"]), node("Div", ["e", "a"], ["y"])], "Sigmoid",
                feed_of(10, 10)),
    "sigmoid of -x": ("1/(1 + Exp(-x))", [*NEGATIVE, node("Add", ["f", "one"], ["a"]),
                                          node("Div", ["one", "a"], ["y"])], "Sigmoid", feed_of(3)),
    "sigmoid by reciprocal": ("1/(1 + Exp(-x))", [node("Mul", ["minus", "x"], ["n"]), node("Exp", ["n"], ["f"]),
                                                  node("Add", ["one", "f"], ["a"]), node("Reciprocal", ["a"], ["y"])],
                              "Sigmoid", feed_of(3)),
    "tanh": ("(Exp(x) - Exp(-x))/(Exp(x) + Exp(-x))", [EXP, *NEGATIVE, node("Sub", ["e", "f"], ["s"]),
                                                       node("Add", ["f", "e"], ["a"]), node("Div", ["s", "a"], ["y"])],
             "Tanh", feed_of(5, 10)),
    "norm": ("Sqrt(ReduceSum(x²))", [SQUARE, node("ReduceSum", ["q", "last"], ["t"]), node("Sqrt", ["t"], ["y"])],
             "ReduceL2", feed_of(300)),
    "norm of a sum square": ("Sqrt(ReduceSum(x²))", [node("ReduceSumSquare", ["x"], ["t"], axes=[1], keepdims=0),
                                                     node("Pow", ["t", "half"], ["y"])], "ReduceL2", feed_of(300)),
    "magnitude": ("Sqrt(a² + b² + ε)", [*SQUARES, node("Sqrt", ["s"], ["y"])], "Mul", feed_of(1e-4)),
    "magnitude with epsilon": ("Sqrt(a² + b² + ε)", [*SQUARES, node("Add", ["eps", "s"], ["p"]),
                                                     node("Sqrt", ["p"], ["y"])], "Mul", feed_of(1e-4)),
    "log power": ("Log(a² + b² + ε)", [SQUARE, node("Add", ["q", "eps"], ["p"]), node("Log", ["p"], ["y"])], "Mul",
                  feed_of(1e-3)),
    "log power of two": ("Log(a² + b² + ε)", [*SQUARES, node("Log", ["s"], ["y"])], "Mul", feed_of(1e-3)),
    "variance": ("mean(x²) - mean(x)²", [SQUARE, node("ReduceMean", ["q"], ["a"], axes=[-1], keepdims=0),
                                         node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
                                         node("Mul", ["m", "m"], ["n"]), node("Sub", ["a", "n"], ["y"])],
                 "ReduceMean", feed_of(1, 30)),
    "variance of sums": ("mean(x²) - mean(x)²", [SQUARE, node("ReduceSum", ["q", "last"], ["t"]),
                                                 node("Mul", ["eighth", "t"], ["a"]),
                                                 node("ReduceSum", ["x", "last"], ["u"]),
                                                 node("Div", ["u", "eight"], ["m"]), node("Pow", ["m", "two"], ["n"]),
                                                 node("Sub", ["a", "n"], ["y"])], "ReduceMean", feed_of(1, 30)),
    "layer norm": ("(x - mean)/Sqrt(variance + epsilon)", [*CENTRED, node("Div", ["d", "r"], ["y"])],
                   "LayerNormalization", feed_of(400)),
    "layer norm, whole": ("(x - mean)/Sqrt(variance + epsilon)",
                          [*CENTRED, node("Reciprocal", ["r"], ["i"]), node("Mul", ["i", "d"], ["k"]),
                           node("Mul", ["g", "k"], ["l"]), node("Add", ["b", "l"], ["y"])], "LayerNormalization",
                          feed_of(400)),
    "layer norm, two differences": ("(x - mean)/Sqrt(variance + epsilon)",
                                    [*CENTRED, node("Sub", ["x", "m"], ["d2"]), node("Div", ["d2", "r"], ["k"]),
                                     node("Mul", ["k", "g"], ["y"])], "LayerNormalization", feed_of(400)),
    "mask chosen": ("Softmax with a mask that FP16 cannot hold", [node("Where", ["yes", "x", "low"], ["s"]),
                                                                  node("Softmax", ["s"], ["y"], axis=-1)], "Softmax",
                    feed_of(3)),
    "mask added": ("Softmax with a mask that FP16 cannot hold", [node("Add", ["x", "mask"], ["s"]),
                                                                 node("Softmax", ["s"], ["y"], axis=1)], "Softmax",
                   feed_of(3)),
}
# With Inf from the Cast of the mask these pass in FP16 as they were.
SOUND = frozenset({"sigmoid of -x", "sigmoid by reciprocal", "mask chosen", "mask added"})

# In FP32 the formula itself loses three digits, so that the rewritten one cannot agree with it better.
CANCELS = frozenset({"variance", "variance of sums", "log of the rest"})


def as_constants(model: Model) -> Model:
    """The model with every weight made by a Constant node."""
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    made = [node("Constant", [], [t.name], value=numpy_helper.from_array(numpy_helper.to_array(t)))
            for t in proto.graph.initializer]
    nodes = [*made, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return Model.from_proto(proto)


def found_in(patches: Sequence[Patch]) -> str:
    """What the first patch says."""
    return patches[0].message if patches else ""


@pytest.mark.parametrize("constants", [False, True], ids=["initializers", "Constant nodes"])
@pytest.mark.parametrize("name", CASES)
def test_a_formula_is_found_and_mended(name: str, constants: bool) -> None:
    """It is rewritten, equal in FP64, and right in FP16 where it was not."""
    before, nodes, op, feed = CASES[name]
    model = model_of(nodes, WEIGHTS)
    model = as_constants(model) if constants else model
    patches = rewrites(model)
    assert before in found_in(patches)
    assert patches[0].tensors == ("y",)
    assert patches[0].model.graph.producer["y"].op == op
    assert_equal_model(model, patches[0], feed, fp32=1e-3 if name in CANCELS else 1e-5)
    assert fp16_error(model, patches[0].model, feed) < 0.01
    if name not in SOUND:
        assert fp16_error(model, model, feed) > 0.02


def test_every_pattern_has_a_case() -> None:
    """No entry of the table goes untested."""
    assert {p.before for p in PATTERNS} == {case[0] for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_other_readers_keep_what_they_read(name: str) -> None:
    """Where every tensor of the formula is an output too, all of them keep their names and values."""
    before, nodes, _, feed = CASES[name]
    inner = [o for made in nodes for o in made.output]
    model = model_of(nodes, WEIGHTS, inner)
    patches = rewrites(model)
    assert before in found_in(patches)
    assert_equal_model(model, patches[0], feed, fp32=1e-3 if name in CANCELS else 1e-5)
    assert set(inner) <= tensors_of(patches[0].model, feed).keys()


NEAR_MISSES: dict[str, list[NodeProto]] = {
    "softmax of a sum over all": [EXP, node("ReduceSum", ["e"], ["t"], keepdims=1), node("Div", ["e", "t"], ["y"])],
    "softmax over another axis without keepdims": [
        node("Exp", ["sq"], ["e"]), node("ReduceSum", ["e", "last"], ["t"], keepdims=0),
        node("Div", ["e", "t"], ["y"])],
    "softmax upside down": [EXP, TOTAL, node("Div", ["t", "e"], ["y"])],
    "softmax that is shifted already": [
        node("ReduceMax", ["x"], ["m"], axes=[-1]), node("Sub", ["x", "m"], ["d"]), node("Exp", ["d"], ["e"]), TOTAL,
        node("Div", ["e", "t"], ["y"])],
    "log of two and exp": [EXP, node("Add", ["e", "two"], ["a"]), node("Log", ["a"], ["y"])],
    "sigmoid with a two": [*NEGATIVE, node("Add", ["f", "two"], ["a"]), node("Div", ["one", "a"], ["y"])],
    "sigmoid of the wrong sign": [EXP, node("Add", ["e", "one"], ["a"]), node("Div", ["one", "a"], ["y"])],
    "a cube": [node("Pow", ["x", "three"], ["q"]), node("ReduceSum", ["q", "last"], ["t"]), node("Sqrt", ["t"], ["y"])],
    "variance over two axes": [SQUARE, node("ReduceMean", ["q"], ["a"], axes=[1]),
                               node("ReduceMean", ["x"], ["m"], axes=[0]), node("Mul", ["m", "m"], ["n"]),
                               node("Sub", ["a", "n"], ["y"])],
    "variance with another length": [
        SQUARE, node("ReduceSum", ["q", "last"], ["t"]), node("Mul", ["seventh", "t"], ["a"]),
        node("ReduceSum", ["x", "last"], ["u"]), node("Mul", ["seventh", "u"], ["m"]), node("Mul", ["m", "m"], ["n"]),
        node("Sub", ["a", "n"], ["y"])],
    "norm of the first axis": [
        node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["d"]), node("Mul", ["d", "d"], ["q"]),
        node("ReduceMean", ["q"], ["v"], axes=[0]), node("Add", ["v", "small"], ["w"]), node("Sqrt", ["w"], ["r"]),
        node("Div", ["d", "r"], ["y"])],
    "a normalisation by something else": [*CENTRED, node("Div", ["x", "r"], ["y"])],
    "a mask that closes a row": [node("Add", ["x", "closed"], ["s"]), node("Softmax", ["s"], ["y"], axis=-1)],
    "a mask along another axis": [node("Add", ["x", "mask"], ["s"]), node("Softmax", ["s"], ["y"], axis=0)],
    "a mask of infinities": [node("Where", ["yes", "x", "inf"], ["s"]), node("Softmax", ["s"], ["y"])],
    "a power with a large constant": [SQUARE, node("Add", ["q", "one"], ["p"]), node("Log", ["p"], ["y"])],
    "a constant that broadcasts": [EXP, node("Add", ["e", "ones"], ["a"]), node("Log", ["a"], ["y"])],
    "a number of higher rank": [EXP, node("Add", ["e", "deep"], ["a"]), node("Log", ["a"], ["y"])],
}
MISSES = {**WEIGHTS, "three": F(3), "seventh": F(1 / 7), "inf": F(-np.inf), "deep": np.ones((1, 1, 1), F),
          "closed": np.array([[0] * 8, [-1e9] * 8, [0] * 8], F), "ones": np.ones(8, F) * 1.5}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_only_looks_like_a_formula_is_left(name: str) -> None:
    """A formula that differs in one place is not what would take its place, and is not touched."""
    nodes = NEAR_MISSES[name]
    square = "sq" in {n for made in nodes for n in made.input}
    given_nodes = [node("MatMul", ["x", "w88"], ["sq"]), *nodes] if square else nodes
    model = model_of(given_nodes, {**MISSES, "w88": np.eye(8, dtype=F)}, shape=(8, 8) if square else SHAPE)
    assert rewrites(model) == []


@pytest.mark.parametrize(("opset", "op"), [(11, "LogSoftmax"), (12, "ReduceLogSumExp"), (13, "ReduceLogSumExp"),
                                           (18, "ReduceLogSumExp"), (18, "ReduceL2"), (11, "ReduceL2")])
def test_operator_sets(opset: int, op: str) -> None:
    """Axes are an attribute or an input, as the model's opset has it."""
    axes: dict[str, Any] = {"axes": [-1]} if opset < 13 else {}
    inputs = [] if axes else ["last"]
    nodes = {"LogSoftmax": [node("Softmax", ["x"], ["s"]), node("Log", ["s"], ["y"])],
             "ReduceLogSumExp": [EXP, node("ReduceSum", ["e", *inputs], ["t"], **axes), node("Log", ["t"], ["y"])],
             "ReduceL2": [SQUARE, node("ReduceSum", ["q", *inputs], ["t"], **axes), node("Sqrt", ["t"], ["y"])]}[op]
    model = model_of(nodes, WEIGHTS, opset=opset)
    (patch,) = rewrites(model)
    assert patch.model.graph.producer["y"].op == op
    assert_equal_model(model, patch, feed_of(3))


@pytest.mark.parametrize(("opset", "found"), [(16, False), (17, True)])
def test_layer_normalization_needs_its_opset(opset: int, found: bool) -> None:
    """It exists from opset 17 on."""
    model = model_of([*CENTRED, node("Div", ["d", "r"], ["y"])], WEIGHTS, opset=opset)
    assert bool(rewrites(model)) is found


def test_what_changes_along_other_axes_is_added_afterwards() -> None:
    """A bias of its own for every row is not a bias of the normalisation."""
    nodes = [*CENTRED, node("Div", ["d", "r"], ["k"]), node("Add", ["k", "rows"], ["y"])]
    model = model_of(nodes, {**WEIGHTS, "rows": np.arange(24, dtype=F).reshape(SHAPE)})
    patch = rewrites(model)[0]
    assert patch.tensors == ("k",)
    assert_equal_model(model, patch, feed_of(400))


def test_without_the_mean_it_is_an_rms_normalization() -> None:
    """From opset 23 on, where x is divided by the root of its own mean square."""
    nodes = [SQUARE, node("ReduceMean", ["q", "last"], ["v"]), node("Add", ["v", "small"], ["w"]),
             node("Sqrt", ["w"], ["r"]), node("Div", ["x", "r"], ["k"]), node("Mul", ["k", "g"], ["y"])]
    model = model_of(nodes, WEIGHTS, opset=23)
    patch = rewrites(model)[0]
    assert patch.model.graph.producer["y"].op == "RMSNormalization"
    assert_equal_model(model, patch, feed_of(400))


def test_several_kinds_come_together_first() -> None:
    """One patch for all, then one for each kind."""
    nodes = [*CENTRED, node("Div", ["d", "r"], ["k"]), node("Softmax", ["k"], ["s"]), node("Log", ["s"], ["y"])]
    patches = rewrites(model_of(nodes, WEIGHTS))
    assert [set(p.tensors) for p in patches] == [{"k", "y"}, {"y"}, {"k"}]
    assert all(";" not in p.message for p in patches[1:])


def test_a_root_whose_squares_vanish_and_a_gain_that_overflows() -> None:
    """Rewriting and rescaling, one after the other, mend what neither mends alone."""
    nodes = [*SQUARES, node("Sqrt", ["s"], ["n"]), node("Mul", ["n", "gain"], ["k"]), node("Add", ["k", "one"], ["l"]),
             node("Log", ["l"], ["y"])]
    model, feed = model_of(nodes, {**WEIGHTS, "gain": F(2**20)}), feed_of(1)
    feed["x"] *= np.logspace(-4, 0, 24, dtype=F).reshape(SHAPE)
    rewritten = rewrites(model)[0].model
    (both,) = rescales(rewritten, largest_of(rewritten, feed), 65504.0)
    (alone,) = rescales(model, largest_of(model, feed), 65504.0)
    errors = [fp16_error(model, m, feed) for m in (model, rewritten, alone.model, both.model)]
    assert errors[3] < 1e-3 < min(errors[:3])


PIECES = {name: case[1] for name, case in CASES.items()
          if name.split()[0] in {"sigmoid", "tanh", "softplus", "softmax", "layer", "mask"}}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=4), st.data())
def test_formulas_in_a_row(names: list[str], data: st.DataObject) -> None:
    """Any formulas one after the other, with some inner tensors as outputs: equal, and nothing is found twice."""
    nodes: list[NodeProto] = []
    source = "x"
    for i, name in enumerate(names):
        for made in PIECES[name]:
            copy = NodeProto()
            copy.CopyFrom(made)
            inner = {o for n in PIECES[name] for o in n.output}
            copy.input[:] = [source if n == "x" else f"{n}{i}" if n in inner else n for n in made.input]
            copy.output[:] = [f"{o}{i}" for o in made.output]
            nodes.append(copy)
        source = f"z{i}"
        nodes.append(node("Sub", [f"y{i}", "minus"], [source]))  # or a mean would be nothing but rounding
    tensors = [o for made in nodes for o in made.output]
    outputs = data.draw(st.lists(st.sampled_from(tensors), max_size=3, unique=True))
    model = model_of(nodes, WEIGHTS, list(dict.fromkeys([source, *outputs])))
    patches = rewrites(model)
    ends = {f"y{i}" for i in range(len(names))}
    assert ends <= set(patches[0].tensors) <= ends | set(outputs)
    for patch in patches:
        assert_equal_model(model, patch, feed_of(2), fp32=1e-4)
    assert outputs or rewrites(patches[0].model) == []


@pytest.mark.models
def test_real_models(real_model: RealModel) -> None:
    """Whatever is rewritten in a real model, it is the same model, and no worse in FP16."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    flat = survey(model, feed).flat
    for patch in rewrites(flat)[:1]:
        assert_equal_model(flat, patch, feed, fp32=2e-5)
        before, after = (fp16_error(flat, m, feed) for m in (flat, patch.model))
        assert after <= 1.1 * before
