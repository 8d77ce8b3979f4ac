"""The executor as a whole: memory, arithmetic, levels, gradients, errors."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from parity.errors import ModelError, UnsupportedOp
from parity.graph.executor import Executor, Level
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy
from tests.graph.ops.one_node import normal

X = np.array([1.0, -2.0, 3.0], np.float32)


def model_of(text: str, opset: int = 17) -> Model:
    """A model in ONNX's textual form."""
    imports = f'"": {opset}, "local": 1, "com.microsoft": 1'
    return Model.from_proto(parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]>" + text))


def run(text: str, feed: dict[str, np.ndarray], arithmetic: Arithmetic = Arithmetic.DECLARED,
        capture: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """What a model makes of a feed, tensors only."""
    found = Executor(model_of(text), arithmetic).run(feed, capture)
    return {n: to_numpy(v) for n, v in found.items()}


# Memory

CHAIN = """
g (float[3] x) => (float[3] e) {
    a = Neg(x)
    b = Exp(a)
    unread = Exp(b)
    c = Sin(b)
    d = Add(c, a)
    e = Abs(d)
}
"""


@pytest.mark.parametrize(("keep", "extra"), [((), set()), (("b",), {"b"})])
def test_a_tensor_is_freed_once_its_last_reader_has_run(keep: Sequence[str], extra: set[str]) -> None:
    """After each step only what is still to be read, what was asked for and the step's own output are alive."""
    alive: list[set[str]] = []
    references: dict[str, weakref.ref[torch.Tensor]] = {}
    for step in Executor(model_of(CHAIN)).steps({"x": X}, keep):
        for name, value in step.values.items():
            assert isinstance(value, torch.Tensor)
            references[name] = weakref.ref(value)
            del value
        alive.append({n for n, reference in references.items() if reference() is not None})
    expected = [{"a"}, {"a", "b"}, {"a", "b", "unread"}, {"a", "c"}, {"d"}, {"e"}]
    assert alive == [*expected[:3], *({*names} | extra for names in expected[3:])]


def test_double_holds_no_wide_copy_of_the_weights() -> None:
    """In DOUBLE a weight is widened where it is read, and dropped with the node; what stays is FP32."""
    model = model_of("g (float[3] x) => (float[3] y) <float[3] w = {1.0, 2.0, 3.0}> { a = Mul(x, w) y = Add(a, w) }")
    widened: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def spy(node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        weight = inputs[1]
        assert isinstance(weight, torch.Tensor)
        assert weight.dtype == torch.float64
        alive.append(sum(w() is not None for w in widened))
        widened.append(weakref.ref(weight))
        return outputs

    executor = Executor(model, Arithmetic.DOUBLE, rounding=spy)
    executor.run({"x": X})
    assert alive == [0, 0]
    assert widened[-1]() is None
    kept = executor.prepared(model.graph).weights["w"]
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype == torch.float32


def test_constants_are_read_once() -> None:
    """All runs share the value of a Constant node and of an initializer."""
    model = model_of("g (float[1] x) => (float[1] y) <float[1] w = {1.0}> "
                     "{ c = Constant <value = float[1] {2.0}> () a = Add(x, c) y = Add(a, w) }")
    first, second = (Executor(model).run({"x": X[:1]}, ["c", "w"]) for _ in range(2))
    assert first["c"] is second["c"]
    assert first["w"] is second["w"]


def test_more_external_weights_than_files_may_be_open(tmp_path: Path) -> None:
    """A file of weights is mapped once, not once for each weight."""
    count = 300
    weights = [numpy_helper.from_array(np.ones(300, np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    model = Model.from_proto(proto_of(nodes, ["x0"], [f"x{count}"], weights, shape=[300])).externalised(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 200), limits[1]))
    try:
        found = Executor(model).run({"x0": np.zeros(300, np.float32)})[f"x{count}"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    np.testing.assert_array_equal(to_numpy(found), np.full(300, count, np.float32))


def proto_of(nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str],
             weights: Sequence[TensorProto] = (), shape: Sequence[int] = (3, 3)) -> ModelProto:
    """A model whose inputs are FP32 tensors of one shape."""
    declared = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in inputs]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs]
    graph = helper.make_graph(list(nodes), "g", declared, results, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# Sub-graphs and functions

LOOP = """
g (int64 n, float[3] x) => (float[3] y) {
    half = Constant <value_float = 0.5> ()
    y = Loop <body = step (int64 i, bool go, float[3] s) => (bool on, float[3] t) {
        inner = Mul(s, half)
        t = Add(inner, x)
        on = Identity(go)
    }> (n, "", x)
}
"""


def test_capture_in_a_loop() -> None:
    """A tensor of a loop body comes under its ONNX name, as of the last iteration; the body reads outer names."""
    found = run(LOOP, {"n": np.array(2), "x": X}, capture=["inner", "half"])
    np.testing.assert_array_equal(found["inner"], (X * 0.5 + X) * 0.5)
    np.testing.assert_array_equal(found["y"], found["inner"] + X)
    assert found["half"] == 0.5


def test_capture_in_a_scan_and_in_nested_branches() -> None:
    """Bodies in bodies can be looked into; a branch that is not taken shows nothing."""
    text = """
    g (bool c, float[2, 3] x) => (float[3] y) {
        zero = ReduceSum <keepdims = 0> (x, axis)
        y, each = Scan <num_scan_inputs = 1, body = step (float[3] s, float[3] e) => (float[3] t, float[3] u) {
            u = Mul(s, e)
            t = If (c) <then_branch = a () => (float[3] p) { p = Add(e, u) },
                        else_branch = b () => (float[3] q) { q = Sub(e, u) }>
        }> (zero, x)
    }
    """.replace("(float[3] y) {", "(float[3] y) <int64[1] axis = {0}> {", 1)
    x = np.stack([X, 2 * X])
    found = run(text, {"c": np.array(True), "x": x}, capture=["u", "p", "q"])
    state = x.sum(0)
    for row in x:
        product, state = state * row, row + state * row
    np.testing.assert_array_equal(found["u"], product)
    np.testing.assert_array_equal(found["p"], state)
    assert "q" not in found


FUNCTION = """
g (float[3] x) => (float[3] y, float[3] z) { y = local.scaled <by = 2.5> (x) z = local.scaled <by = -1.0> (x) }
<domain: "local", opset_import: ["": 17]>
scaled <by> (a) => (b) { factor = Constant <value_float: float = @by> () b = Mul(a, factor) }
"""


def test_local_functions_with_attributes() -> None:
    """Each call of a function sees the attributes that it was given."""
    executor = Executor(model_of(FUNCTION))
    for _ in range(2):
        found = executor.run({"x": X})
        np.testing.assert_array_equal(to_numpy(found["y"]), X * np.float32(2.5))
        np.testing.assert_array_equal(to_numpy(found["z"]), -X)
    assert executor.levels == {"y": Level.FUNCTION, "z": Level.FUNCTION}


def test_levels() -> None:
    """Each node says what evaluated it; a function is as low as its lowest node."""
    executor = Executor(model_of("""
    g (float[3] x) => (float[3] a, float b, string[3] c, string[3] d) {
        a = Relu(x)
        label = Constant <value = int64[1] {0}> ()
        row = Unsqueeze(x, label)
        b = NegativeLogLikelihoodLoss(row, label)
        c = Cast <to = 8> (x)
        d = local.written(x)
    }
    <domain: "local", opset_import: ["": 17]>
    written (p) => (q) { q = Cast <to = 8> (p) }
    """))
    executor.run({"x": X})
    assert executor.levels["a"] is executor.levels["label"] is Level.TORCH
    assert executor.levels["b"] is Level.FUNCTION
    assert executor.levels["c"] is executor.levels["d"] is Level.REFERENCE


def test_sequences() -> None:
    """Sequences are fed, kept and returned as lists."""
    text = """
    g (seq(float[n]) s, float[3] x) => (seq(float[n]) t, float[3] y) {
        t = SequenceInsert(s, x)
        last = Constant <value_int = -1> ()
        y = SequenceAt(t, last)
    }
    """
    found = Executor(model_of(text)).run({"s": [X[:1]], "x": X})
    assert isinstance(found["t"], list)
    assert [to_numpy(v).tolist() for v in found["t"]] == [[1.0], X.tolist()]
    np.testing.assert_array_equal(to_numpy(found["y"]), X)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers(flat: bool) -> None:
    """Sparse weights are read as dense ones, whether indices are flat or coordinates."""
    indices = np.array([1, 5]) if flat else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.array([7, 9], np.float32), "w"),
                                       numpy_helper.from_array(indices, "w_indices"), [2, 3])
    proto = proto_of([helper.make_node("Add", ["x", "w"], ["y"])], ["x"], ["y"], shape=[2, 3])
    proto.graph.sparse_initializer.append(sparse)
    found = Executor(Model.from_proto(proto)).run({"x": np.zeros((2, 3), np.float32)})["y"]
    np.testing.assert_array_equal(to_numpy(found), [[0, 7, 0], [0, 0, 9]])


# Arithmetic

@pytest.mark.parametrize("narrow", [1, 10, 16])
def test_double_redirects_casts(narrow: int) -> None:
    """In DOUBLE, casts to FP32, FP16 and BF16 lose nothing."""
    x = np.array([1 + 2.0**-40, 1e300])
    found = run(f"g (double[2] x) => (float[2] y) {{ y = Cast <to = {narrow}> (x) }}", {"x": x}, Arithmetic.DOUBLE)
    np.testing.assert_array_equal(found["y"], x, strict=True)


def test_double_takes_weights_and_constants_as_they_are_in_the_file() -> None:
    """In DOUBLE the FP32 numbers of the file are meant, exactly."""
    text = """
    g (float[1] x) => (float[1] y, float[1] w) <float[1] w = {0.1}> {
        c = Constant <value_floats = [0.3]> ()
        a = Add(x, w)
        y = Add(a, c)
    }
    """
    found = run(text, {"x": np.zeros(1, np.float32)}, Arithmetic.DOUBLE)
    tenth, three = (float(np.float32(v)) for v in (0.1, 0.3))
    assert found["y"].item() == tenth + three
    assert found["w"].dtype == np.float64
    assert found["w"].item() == tenth


def test_fp16_rounds_after_each_operator() -> None:
    """FP16 is emulated: every operator computes in FP32, and what it makes is rounded."""
    a, b, c = (normal(1000, seed=i).astype(np.float16) for i in range(3))
    found = run("g (float16[n] a, float16[n] b, float16[n] c) => (float16[n] y) { p = Mul(a, b) y = Add(p, c) }",
                {"a": a, "b": b, "c": c}, capture=["p"])
    product = (a.astype(np.float32) * b.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(found["p"], product, strict=True)
    total = (product.astype(np.float32) + c.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(found["y"], total, strict=True)
    in_one = (a.astype(np.float32) * b.astype(np.float32) + c.astype(np.float32)).astype(np.float16)
    assert (found["y"] != in_one).any()


def test_rounding_is_applied_to_every_operator_once() -> None:
    """The executor's own rounding sees each operator of bodies and functions, and what it returns is used."""
    seen: list[str] = []

    def doubled(node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        seen.append(node.op)
        assert isinstance(outputs[0], torch.Tensor)
        return [2 * outputs[0]] if node.op == "Mul" else outputs

    found = Executor(model_of(FUNCTION), rounding=doubled).run({"x": X})
    np.testing.assert_array_equal(to_numpy(found["y"]), 5 * X)
    Executor(model_of(LOOP), rounding=doubled).run({"n": np.array(2), "x": X})
    assert seen == ["Mul", "Mul", *["Mul", "Add", "Identity"] * 2]


NETWORK = """
g (float[1, 2, 5, 4] x) => (float y) <float[3, 2, 3, 3] w, float[3] scale, float[3] bias> {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    h = Tanh(c)
    shape = Constant <value = int64[3] {1, 3, 20}> ()
    r = Reshape(h, shape)
    t = Transpose <perm = [0, 2, 1]> (r)
    n = LayerNormalization (t, scale, bias)
    k = Transpose <perm = [0, 2, 1]> (n)
    s = MatMul(n, k)
    p = Softmax(s)
    o = MatMul(p, n)
    q = Mul(o, o)
    y = ReduceSum <keepdims = 0> (q)
}
"""


def test_gradients_are_those_of_the_function() -> None:
    """Through a convolution, a LayerNorm and attention, torch's gradient equals finite differences in FP64."""
    proto = model_of(NETWORK.replace(" <float[3, 2, 3, 3] w, float[3] scale, float[3] bias>", "").replace(
        "(float[1, 2, 5, 4] x)", "(float[1, 2, 5, 4] x, float[3, 2, 3, 3] w, float[3] scale, float[3] bias)")).proto
    for name, shape in (("w", (3, 2, 3, 3)), ("scale", (3,)), ("bias", (3,))):
        proto.graph.initializer.append(numpy_helper.from_array(normal(*shape), name))
    executor = Executor(Model.from_proto(proto), Arithmetic.DOUBLE, gradients=True)

    def f(x: torch.Tensor) -> torch.Tensor:
        y = executor.run({"x": x})["y"]
        assert isinstance(y, torch.Tensor)
        return y

    leaf = torch.from_numpy(normal(1, 2, 5, 4)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    with torch.no_grad():
        for seed in range(3):
            step = 1e-5 * torch.from_numpy(normal(*leaf.shape, seed=seed)).double()
            slope = (f(leaf + step) - f(leaf - step)) / 2
            assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=1e-6)


# Errors

def test_errors_name_node_and_operator() -> None:
    """A node that fails says which one it is, what it was given, and why."""
    text = "g (float[3] x, float[4] y) => (float[3] z) { [sum] z = Add(x, y) }".replace("[sum] ", "")
    with pytest.raises(ModelError, match=r"node 'z' \(Add\) fails on inputs \[float32\[3\], float32\[4\]\]"):
        run(text, {"x": X, "y": np.zeros(4, np.float32)})


def test_unknown_operator() -> None:
    """An operator that no level knows is named with its domain and version."""
    with pytest.raises(UnsupportedOp, match=r"node 'y': operator com\.microsoft::Nonesuch \(opset 1\)"):
        run("g (float[3] x) => (float[3] y) { y = com.microsoft.Nonesuch(x) }", {"x": X})


# Against ONNX Runtime

_UNARY = ["Neg", "Abs", "Relu", "Transpose", "Identity"]
_BINARY = ["Add", "Sub", "Mul", "Max", "Min", "MatMul"]
Numbers = st.lists(st.integers(-2, 2), min_size=9, max_size=9).map(lambda v: np.array(v, np.float32).reshape(3, 3))


@st.composite
def graphs(draw: Callable[..., object]) -> list[NodeProto]:
    """Nodes that read any earlier tensor: inputs x and z, a weight w, a Constant."""
    nodes = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.eye(3, dtype=np.float32)))]
    names = ["x", "z", "w", "k"]
    for i in range(draw(st.integers(1, 8))):  # type: ignore[call-overload] # hypothesis's own typing
        op = draw(st.sampled_from(_UNARY + _BINARY))
        inputs = [draw(st.sampled_from(names)) for _ in range(1 if op in _UNARY else 2)]
        names.append(f"t{i}")
        nodes.append(helper.make_node(op, inputs, [f"t{i}"]))
    return nodes


@settings(max_examples=60, deadline=None)
@given(nodes=graphs(), x=Numbers, z=Numbers, w=Numbers, order=st.randoms(use_true_random=False))
def test_small_graphs_equal_onnx_runtime(nodes: list[NodeProto], x: np.ndarray, z: np.ndarray, w: np.ndarray,
                                         order: object) -> None:
    """On whole numbers, which FP32 computes exactly, every tensor of any small graph is the same, bit for bit."""
    made = [n.output[0] for n in nodes if n.op_type != "Constant"]
    weight = [numpy_helper.from_array(w, "w")]
    feed = {"x": x, "z": z}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto_of(nodes, ["x", "z"], made, weight).SerializeToString(), options,
                                   providers=["CPUExecutionProvider"])
    expected = dict(zip(made, session.run(made, feed), strict=True))
    assume(all(np.abs(v).max() < 2**24 for v in expected.values()))
    order.shuffle(nodes)  # type: ignore[attr-defined] # a random.Random
    model = Model.from_proto(proto_of(nodes, ["x", "z"], made[-1:], weight))
    for arithmetic in Arithmetic:
        found = Executor(model, arithmetic).run(feed, made)
        for name in made:
            np.testing.assert_array_equal(to_numpy(found[name]), expected[name])
