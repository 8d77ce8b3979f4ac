"""Functions and branches made visible in the main graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from parity.graph.executor import Executor
from parity.graph.flatten import inline_branches, inline_functions
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy

X = np.array([1.0, -2.0, 3.0], np.float32)


def model_of(text: str) -> Model:
    """A model in ONNX's textual form."""
    return Model.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17, "local": 1]>' + text))


def ops(model: Model) -> list[str]:
    """The operators of the main graph, in order."""
    return [node.op for node in model.graph.nodes]


def same_outputs(one: Model, other: Model, feed: dict[str, np.ndarray]) -> None:
    """Assert that two models give the same, under the same names."""
    expected, found = Executor(one).run(feed), Executor(other).run(feed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(to_numpy(found[name]), to_numpy(value), strict=True)


def test_functions_are_expanded() -> None:
    """Calls, nested ones too, become the nodes of the functions; main-graph tensors keep their names."""
    model = model_of("""
    g (float[3] x) => (float[3] z) { y = local.twice(x) z = local.scaled <by = 3.0> (y) }
    <domain: "local", opset_import: ["": 17, "local": 1]>
    twice (a) => (b) { b = local.scaled <by = 2.0> (a) }
    <domain: "local", opset_import: ["": 17]>
    scaled <by> (c) => (d) { f = Constant <value_float: float = @by> () d = Mul(c, f) }
    """)
    flat = inline_functions(model)
    assert ops(flat) == ["Constant", "Mul", "Constant", "Mul"]
    assert {"y", "z"} <= flat.graph.producer.keys()
    same_outputs(model, flat, {"x": X})


def test_a_model_without_functions_or_branches_stays() -> None:
    """Nothing to do is nothing done."""
    model = model_of("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    assert inline_functions(model) is model
    assert inline_branches(model, {}) is model


BRANCHES = """
g (bool c, bool d, float[3] x) => (float[3] y, float[3] z) {
    n = Neg(x)
    y = If (c) <
        then_branch = a () => (float[3] p) {
            w = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            p = If (d) <then_branch = aa () => (float[3] q) { q = Add(n, w) },
                        else_branch = ab () => (float[3] r) { r = Mul(n, w) }>
        },
        else_branch = b () => (float[3] s) { s = Abs(n) }>
    z = Relu(y)
}
"""


@pytest.mark.parametrize(("first", "second", "expected"), [
    (True, True, ["Neg", "Constant", "Add", "Identity", "Identity", "Relu"]),
    (True, False, ["Neg", "Constant", "Mul", "Identity", "Identity", "Relu"]),
    (False, True, ["Neg", "Abs", "Identity", "Relu"]),
])
def test_the_branch_that_ran_takes_the_place_of_the_if(first: bool, second: bool, expected: list[str]) -> None:
    """Nested branches too; tensors inside them keep their names, and the outputs their values."""
    model = model_of(BRANCHES)
    feed = {"c": np.array(first), "d": np.array(second), "x": X}
    scout = Executor(model)
    scout.run(feed)
    flat = inline_branches(model, scout.branches)
    assert ops(flat) == expected
    same_outputs(model, flat, feed)


def test_an_if_that_never_ran_stays() -> None:
    """Without a record of the branch taken, the If is left as it is."""
    model = model_of(BRANCHES)
    assert ops(inline_branches(model, {})) == ["Neg", "If", "Relu"]


def test_branches_with_names_of_the_main_graph_stay() -> None:
    """Two branches that make a tensor of one name cannot both be inlined."""
    text = """
    g (bool c, float[3] x) => (float[3] y, float[3] z) {
        y = If (c) <then_branch = a () => (float[3] t) { t = Neg(x) },
                    else_branch = b () => (float[3] u) { u = Abs(x) }>
        z = If (c) <then_branch = d () => (float[3] t) { t = Exp(x) },
                    else_branch = e () => (float[3] u) { u = Abs(x) }>
    }
    """
    model = model_of(text)
    feed = {"c": np.array(True), "x": X}
    flat = inline_branches(model, {"y": True, "z": True})
    assert ops(flat) == ["Neg", "Identity", "If"]
    same_outputs(model, flat, feed)


def test_weights_of_a_branch_come_along() -> None:
    """Initializers of the branch become those of the main graph."""
    model = model_of("""
    g (bool c, float[3] x) => (float[3] y) {
        y = If (c) <then_branch = a () => (float[3] p) <float[3] w = {1.0, 2.0, 3.0}> { p = Add(x, w) },
                    else_branch = b () => (float[3] q) { q = Abs(x) }>
    }
    """)
    flat = inline_branches(model, {"y": True})
    assert list(flat.graph.initializers) == ["w"]
    same_outputs(model, flat, {"c": np.array(True), "x": X})
