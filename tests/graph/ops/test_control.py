"""Control flow, sequences and optionals against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import parser

from parity.graph.executor import Executor, Level
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy
from tests.graph.ops.one_node import normal

HEADER = '<ir_version: 8, opset_import: ["": {opset}]>'


def check(text: str, feed: dict[str, np.ndarray], opset: int = 16) -> list[Any]:
    """Assert that torch kernels give what ONNX Runtime gives, in DOUBLE too; return it.

    Args:
        text: the main graph in ONNX's textual form.
        feed: its inputs.
        opset: version of ONNX.
    """
    proto = parser.parse_model(HEADER.format(opset=opset) + text)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)
    for arithmetic in Arithmetic:
        executor = Executor(Model.from_proto(proto), arithmetic)
        found = executor.run(feed)
        assert set(executor.levels.values()) == {Level.TORCH}
        for output, want in zip(proto.graph.output, expected, strict=True):
            same(found[output.name], want, arithmetic)
    return list(expected)


def same(found: Value, want: object, arithmetic: Arithmetic) -> None:
    """Assert that two values are equal; floats of DOUBLE may be wider."""
    if isinstance(want, list):
        assert isinstance(found, list)
        for one, other in zip(found, want, strict=True):
            same(one, other, arithmetic)
        return
    got, expected = to_numpy(found), np.asarray(want)
    wider = arithmetic is Arithmetic.DOUBLE and expected.dtype.kind == "f"
    assert got.dtype == (np.float64 if wider else expected.dtype)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


LOOP = """
agraph (int64 n, bool go, float[2] x) => (float[2] y, float[m, 2] each, float[m] first) {
    y, each, first = Loop <body = step (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] o, float[] p) {
        t = Add(s, x)
        o = Mul(t, s)
        p = ReduceMax <keepdims = 0> (t)
        limit = Constant <value_float = 4.0> ()
        d = Less(p, limit)
    }> (n, go, x)
}
"""


@pytest.mark.parametrize(("count", "go", "iterations"), [(3, True, 3), (99, True, 3), (0, True, 0), (5, False, 0)])
def test_loop(count: int, go: bool, iterations: int) -> None:
    """Ends by its count or its condition, reads from outside, and stacks what each iteration adds."""
    feed = {"n": np.array(count), "go": np.array(go), "x": np.array([1.0, 0.5], np.float32)}
    _, each, first = check(LOOP, feed)
    assert len(each) == len(first) == iterations


def test_endless_loop() -> None:
    """Without a count only the condition ends it."""
    check(LOOP.replace("(n, go, x)\n", '("", go, x)\n').replace("int64 n, ", ""),
          {"go": np.array(True), "x": np.array([1.0, 0.5], np.float32)})


def test_loop_computes_halves_as_halves() -> None:
    """A state in FP16 is rounded by every node of the body."""
    text = LOOP.replace("float[", "float16[").replace("Less(p, limit)", "Less(p, narrow)")
    text = text.replace("d = Less", "narrow = Cast <to = 10> (limit)\n        d = Less")
    x = np.array([1.0, 0.1], np.float16)
    executor = Executor(Model.from_proto(parser.parse_model(HEADER.format(opset=16) + text)))
    found = executor.run({"n": np.array(3), "go": np.array(True), "x": x})
    state, want = x, []
    for _ in range(3):
        state, before = state + x, state
        want.append(state * before)
    np.testing.assert_array_equal(to_numpy(found["each"]), np.stack(want), strict=True)
    np.testing.assert_array_equal(to_numpy(found["y"]), state, strict=True)


@pytest.mark.parametrize("condition", [True, False])
def test_if(condition: bool) -> None:
    """One branch runs, with what it reads from outside; which one is on record."""
    text = """
    agraph (bool c, float[2] x) => (float[2] y) {
        z = Neg(x)
        y = If (c) <then_branch = a () => (float[2] p) { p = Add(x, z) },
                    else_branch = b () => (float[2] q) { q = Mul(x, z) }>
    }
    """
    feed = {"c": np.array(condition), "x": normal(2)}
    check(text, feed)
    executor = Executor(Model.from_proto(parser.parse_model(HEADER.format(opset=16) + text)))
    executor.run(feed)
    assert executor.branches == {"y": condition}


SCAN = """
agraph (float[3] s, float[{shape}] x) => (float[3] t, float[{outs}] each) {{
    t, each = Scan <num_scan_inputs = 1, {attributes}
                    body = step (float[3] a, float[3] b) => (float[3] c, float[3] d) {{
        two = Constant <value_float = 2.0> ()
        half = Div(a, two)
        c = Add(half, b)
        d = Sub(a, b)
    }}> (s, x)
}}
"""


@pytest.mark.parametrize(("shape", "outs", "attributes"), [
    ((4, 3), "4, 3", ""), ((3, 4), "4, 3", "scan_input_axes = [1],"), ((3, 4), "3, 4",
     "scan_input_axes = [-1], scan_output_axes = [-1],"), ((4, 3), "4, 3", "scan_input_directions = [1],"),
    ((4, 3), "4, 3", "scan_output_directions = [1],"),
    ((4, 3), "3, 4", "scan_output_axes = [1], scan_output_directions = [1], scan_input_directions = [1],")])
def test_scan(shape: tuple[int, ...], outs: str, attributes: str) -> None:
    """Over any axis, either way, with outputs stacked on any axis from either end."""
    text = SCAN.format(shape=", ".join(map(str, shape)), outs=outs, attributes=attributes)
    check(text, {"s": normal(3), "x": normal(*shape)})


@pytest.mark.parametrize("lengths", [None, np.array([4, 2])])
@pytest.mark.parametrize("backward", ["", "directions = [1],"])
def test_batched_scan(lengths: np.ndarray | None, backward: str) -> None:
    """Scan of opset 8: every sequence of a batch for itself, as long as it says."""
    text = f"""
    agraph ({"" if lengths is None else "int64[2] n, "}float[2, 3] s, float[2, 4, 3] x)
        => (float[2, 3] t, float[2, 4, 3] each) {{
        t, each = Scan <num_scan_inputs = 1, {backward}
                        body = step (float[3] a, float[3] b) => (float[3] c, float[3] d) {{
            c = Add(a, b)
            d = Mul(a, b)
        }}> ({'""' if lengths is None else "n"}, s, x)
    }}
    """
    feed = {"s": normal(2, 3), "x": normal(2, 4, 3)}
    check(text, feed if lengths is None else {**feed, "n": lengths}, opset=8)


def test_loop_is_differentiable() -> None:
    """Autograd agrees with numerical gradients through iterations and outer reads."""
    model = Model.from_proto(parser.parse_model(HEADER.format(opset=16) + LOOP))
    executor = Executor(model, Arithmetic.DOUBLE, gradients=True)

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {"n": torch.tensor(3), "go": torch.tensor(True), "x": x}
        return tuple(v for v in executor.run(given).values() if isinstance(v, torch.Tensor))

    assert torch.autograd.gradcheck(function, [torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True)])


SEQUENCES = [
    ("seq(float[N]) y", "y = SequenceConstruct(a, b)"),
    ("seq(float[N]) y", "e = SequenceEmpty() y = SequenceInsert(e, a)"),
    ("seq(float[N]) y", "s = SequenceConstruct(a, b) y = SequenceInsert(s, a, minus)"),
    ("seq(float[N]) y", "s = SequenceConstruct(a, b, a) y = SequenceErase(s)"),
    ("seq(float[N]) y", "s = SequenceConstruct(a, b, a) y = SequenceErase(s, minus)"),
    ("float[N] y", "s = SequenceConstruct(a, b) y = SequenceAt(s, minus)"),
    ("int64 y", "s = SequenceConstruct(a, b, a) y = SequenceLength(s)"),
    ("float[M, N] y", "s = SequenceConstruct(a, b) y = ConcatFromSequence <axis = 0> (s)"),
    ("float[M, K, N] y", "s = SequenceConstruct(a, b) y = ConcatFromSequence <axis = -1, new_axis = 1> (s)"),
    ("seq(float[N, K]) y", "y = SplitToSequence <axis = 1> (a)"),
    ("seq(float[N]) y", "y = SplitToSequence <axis = 1, keepdims = 0> (a)"),
    ("seq(float[N, K]) y", "two = Constant <value_int = 2> () y = SplitToSequence <axis = -1> (a, two)"),
    ("seq(float[N, K]) y", "p = Constant <value_ints = [1, 2]> () y = SplitToSequence <axis = 1> (a, p)"),
    ("bool y", "o = Optional(a) y = OptionalHasElement(o)"),
    ("float[2, 3] y", "o = Optional(a) y = OptionalGetElement(o)"),
]


@pytest.mark.parametrize(("output", "nodes"), SEQUENCES)
def test_sequence(output: str, nodes: str) -> None:
    """Sequences made, changed, read, split and joined; optionals opened."""
    text = f"agraph (float[2, 3] a, float[2, 3] b) => ({output}) {{ minus = Constant <value_int = -1> () {nodes} }}"
    check(text, {"a": normal(2, 3), "b": normal(2, 3, seed=1)})
