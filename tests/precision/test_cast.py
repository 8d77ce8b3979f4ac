"""FP16 and BF16 variants: names keep their place, the standard is kept, and what is computed is what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper, parser

from parity.errors import UsageError
from parity.graph.executor import Executor
from parity.graph.graph import Graph
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic
from parity.precision import elements
from parity.precision.cast import cast_to, cast_with_notes
from parity.precision.elements import read_types
from parity.precision.plan import Precision, PrecisionPlan, all_nodes, plan_for, read_plan
from tests.models import FIXTURE_FOLDERS, RealModel
from tests.precision.graphs import feed, models, numpy_of

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
HALF = {"fp16": FLOAT16, "bf16": BFLOAT16}
TORCH = {FLOAT: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}


def on_ort(model: Model, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of ONNX Runtime with optimisation off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(values)), strict=True))


def _runs_on_ort(model: Model, values: Mapping[str, np.ndarray]) -> bool:
    """ONNX Runtime drops an FP32 to FP32 Cast even where an If body reads what it makes, and fails then."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    try:
        on_ort(model, values)
    except Fail:
        return False
    return True


def check(model: Model) -> None:
    """Hold a variant against the standard: the checker with strict inference, and the order of its nodes."""
    onnx.checker.check_model(model.proto, full_check=True)
    Model.from_proto(model.proto, model.folder)
    assert [n.proto for n in model.graph.nodes] == list(model.proto.graph.node)


def made_in(graph: Graph) -> set[str]:
    """Names of all tensors that nodes make, those of bodies included."""
    return {o for node in all_nodes(graph) for o in node.outputs}


def nodes_of(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g)


def cancelling(model: Model) -> set[str]:
    """Outputs of Casts that narrow to the type from which what they read was widened."""
    types = read_types(model)
    wide = {n.proto.output[0]: types.of(n.inputs[0]) for n in model.graph.nodes
            if n.op == "Cast" and types.of(n.inputs[0]) in HALF.values() and types.of(n.outputs[0]) == FLOAT}
    return {n.outputs[0] for n in model.graph.nodes
            if n.op == "Cast" and n.inputs[0] in wide and types.of(n.outputs[0]) == wide[n.inputs[0]]}


def model_of(text: str, opset: int = 18, weights: Mapping[str, np.ndarray] | None = None) -> Model:
    """A model from ONNX's text format, its header filled in."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in (weights or {}).items())
    return Model.from_proto(proto)


def half(model: Model, precision: Precision = "fp16", *keep: str) -> Model:
    """The variant in one half precision, some nodes kept in FP32."""
    return cast_to(model, plan_for(model, precision).keep(keep))


def ops_of(model: Model) -> list[str]:
    """Operators in order."""
    return [n.op for n in model.graph.nodes]


@st.composite
def planned(draw: st.DrawFn, precisions: tuple[Precision, ...]) -> tuple[Model, PrecisionPlan]:
    """A drawn model with a precision drawn for each of its nodes."""
    model = draw(models())
    names = list(plan_for(model, "fp32").nodes)
    chosen = draw(st.lists(st.sampled_from(precisions), min_size=len(names), max_size=len(names)))
    return model, PrecisionPlan("fp32", dict(zip(names, chosen, strict=True)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(planned(("fp32", "fp16", "bf16")), st.integers(0, 9), st.booleans())
def test_any_plan_of_any_graph_is_sound(drawn: tuple[Model, PrecisionPlan], seed: int, keep_io: bool) -> None:
    """Names stay, the standard is kept, no Casts cancel, and without rounding the variant is the model itself."""
    model, plan = drawn
    variant = cast_to(model, plan, keep_io=keep_io)
    check(variant)
    assert made_in(model.graph) <= made_in(variant.graph)
    assert cancelling(variant) <= cancelling(model)
    values = feed(seed)
    exact = numpy_of(Executor(variant, Arithmetic.DOUBLE).run(values))
    expected = numpy_of(Executor(model, Arithmetic.DOUBLE).run(values))
    for name, value in expected.items():
        np.testing.assert_allclose(exact[name], value, rtol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(planned(("fp32", "fp16")), st.integers(0, 9))
def test_onnx_runtime_runs_any_fp16_variant(drawn: tuple[Model, PrecisionPlan], seed: int) -> None:
    """ONNX Runtime accepts every FP16 variant, with the inputs and output types of the model."""
    model, plan = drawn
    assume(_runs_on_ort(model, feed(seed)))
    outputs = on_ort(cast_to(model, plan), feed(seed))
    assert {n: v.dtype for n, v in outputs.items()} == {o.name: o.dtype for o in model.graph.outputs}


def test_an_fp32_plan_changes_nothing() -> None:
    """A model that follows its plan already is returned as it is."""
    model = Model.load(FIXTURE_FOLDERS[0] / "model.onnx")
    assert cast_to(model, plan_for(model, "fp32")) is model
    assert cast_to(model, plan_for(model, "int8")) is model
    assert cast_to(model, read_plan(model)) is model


def test_one_cast_serves_all_readers_and_constants_need_none() -> None:
    """Three FP16 readers of an input share a Cast, and their weight is stored in FP16."""
    model = model_of("g (float[4] x) => (float[4] y) { a = Add(x, w) b = Mul(x, a) c = Mul(b, x) y = Relu(c) }",
                     weights={"w": np.ones(4, np.float32)})
    variant = half(model)
    assert ops_of(variant) == ["Cast", "Add", "Mul", "Mul", "Relu", "Cast"]
    assert variant.graph.initializers["w"].data_type == FLOAT16
    assert [list(n.proto.output) for n in variant.graph.nodes][-2:] == [["y/fp16"], ["y"]]


def test_a_shared_weight_is_stored_in_both_types() -> None:
    """A weight that an FP16 and an FP32 node read keeps its name in FP32 and is stored in FP16 beside it."""
    model = model_of("g (float[4] x) => (float[4] y) { a = Mul(x, w) y = Add(a, w) }",
                     weights={"w": np.full(4, 1 / 3, np.float32)})
    variant = half(model, "fp16", "y")
    assert variant.weight("w").dtype == np.float32
    assert variant.weight("w/fp16").dtype == np.float16
    assert variant.graph.producer["a"].inputs == ("x/fp16", "w/fp16")


def test_a_graph_output_is_read_where_it_was_made() -> None:
    """FP16 readers of an FP32 graph output read the FP16 tensor beside it, not a Cast back from it."""
    model = model_of("g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Neg(y) }")
    variant = half(model)
    assert variant.graph.producer["z/fp16"].inputs == ("y/fp16",)
    assert cancelling(variant) == set()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_outputs_take_the_narrow_type_when_asked(precision: Precision) -> None:
    """Without keep_io there is not a single Cast in a model that is narrow throughout."""
    model = model_of("g (float[4] x) => (float[4] y) { a = Add(x, w) y = Relu(a) }",
                     weights={"w": np.ones(4, np.float32)})
    variant = cast_to(model, plan_for(model, precision), keep_io=False)
    check(variant)
    assert ops_of(variant) == ["Add", "Relu"]
    assert {v.type.tensor_type.elem_type for v in (*variant.proto.graph.input, *variant.proto.graph.output)} == {
        HALF[precision]}


def test_an_input_that_two_types_are_made_from_stays_fp32() -> None:
    """An input that were FP16 would hand its BF16 reader rounded values."""
    model = model_of("g (float[4] x) => (float[4] y, float[4] z) { y = Neg(x) z = Neg(x) }")
    plan = plan_for(model, "fp16").keep(["z"], "bf16")
    assert cast_to(model, plan, keep_io=False).graph.inputs[0].dtype == np.float32


def test_an_input_whose_values_a_cast_to_integers_reads_stays_fp32() -> None:
    """Integers taken from an input are not taken from its rounded values."""
    model = model_of("g (float[1] x) => (int64[1] n, float[1] y) { n = Cast<to=7>(x) y = Relu(x) }")
    variant = cast_to(model, plan_for(model, "fp16"), keep_io=False)
    assert int(on_ort(variant, {"x": np.array([4097.0], np.float32)})["n"][0]) == 4097


def test_a_weight_beyond_the_range_keeps_its_reader_in_fp32() -> None:
    """The node is reported, and its weight is not turned to Inf; an Inf that is there already is no obstacle."""
    weights = {"w": np.array([1, 70000.0], np.float32), "inf": np.array([0, -np.inf], np.float32)}
    model = model_of("g (float[2] x) => (float[2] y) { a = Mul(x, w) b = Add(x, inf) y = Add(a, b) }", weights=weights)
    variant, notes = cast_with_notes(model, plan_for(model, "fp16"))
    assert [(n.kind, n.tensor) for n in notes] == [("range", "a")]
    assert "70000" in notes[0].text
    assert "65504" in notes[0].text
    assert variant.weight("w").dtype == np.float32
    assert variant.weight("inf").dtype == np.float16
    assert read_plan(variant).nodes["a"] == "fp32"


def test_a_number_beyond_the_range_is_followed_through_what_hands_it_on() -> None:
    """A mask filled with the lowest FP32 number keeps its reader in FP32, inside a body too, for BF16 as well."""
    lowest = float(np.finfo(np.float32).min)
    model = model_of("""g (float[2] x, bool yes) => (float[2] y) {
        shape = Shape(x) low = ConstantOfShape(shape) wide = Unsqueeze(low, zero) mask = Squeeze(wide, zero)
        y = If(yes) <then_branch = g1 () => (float[2] t) { t = Min(x, mask) },
                     else_branch = g2 () => (float[2] e) { e = Identity(mask) }> }""",
                     opset=22, weights={"zero": np.array([0])})
    filled = next(n for n in model.proto.graph.node if n.op_type == "ConstantOfShape")
    filled.attribute.append(helper.make_attribute("value", helper.make_tensor("", FLOAT, [1], [lowest])))
    for precision in ("fp16", "bf16"):
        variant, notes = cast_with_notes(model, plan_for(model, precision))
        check(variant)
        assert {n.tensor for n in notes if n.kind == "range"} == {"low", "wide", "mask", "y", "t", "e"}
    values = {"x": np.ones(2, np.float32), "yes": np.array(False)}
    assert on_ort(half(model), values)["y"].tolist() == [lowest, lowest]


def test_numbers_that_vanish_are_counted() -> None:
    """What becomes 0 and what becomes subnormal in FP16 is counted; in BF16 nothing is lost."""
    weight = np.array([1e-9, -1e-8, 0, 1e-6, 1.0], np.float32)
    model = model_of("g (float[5] x) => (float[5] y) { y = Add(x, w) }", weights={"w": weight})
    variant, notes = cast_with_notes(model, plan_for(model, "fp16"))
    assert [(n.kind, n.tensor) for n in notes] == [("underflow", "w")]
    assert notes[0].text == "2 of the 5 numbers of weight 'w' become 0 in FP16, and 1 more lose digits"
    np.testing.assert_array_equal(variant.weight("w"), weight.astype(np.float16))
    assert cast_with_notes(model, plan_for(model, "bf16"))[1] == ()


def test_what_the_standard_forbids_stays_fp32() -> None:
    """Scales of a Resize, a Range, boxes of a NonMaxSuppression: their types are the standard's."""
    model = model_of("""g (float[1,1,4,4] x, float[1,2,4] boxes, float[1,1,2] scores, float one)
        => (float[1,1,8,8] y, int64[N,3] kept, float[M] r) {
        a = Relu(x) y = Resize(a, , scales) b = Relu(boxes) kept = NonMaxSuppression(b, scores)
        q = Range(zero, ten, one) r = Relu(q) }""",
                     weights={"scales": np.array([1, 1, 2, 2], np.float32), "zero": np.array(0, np.float32),
                              "ten": np.array(10, np.float32)})
    variant, notes = cast_with_notes(model, plan_for(model, "fp16"))
    check(variant)
    types = read_types(variant)
    resize, range_, boxes = (next(n for n in variant.graph.nodes if n.op == op)
                             for op in ("Resize", "Range", "NonMaxSuppression"))
    assert [types.of(n) for n in (resize.inputs[0], resize.inputs[2])] == [FLOAT16, FLOAT]
    assert {types.of(n) for n in (*range_.inputs, *boxes.inputs)} == {FLOAT}
    assert {(n.kind, n.tensor) for n in notes} == {("form", "q"), ("form", "kept")}
    rng = np.random.default_rng(0)
    on_ort(variant, {"x": rng.random((1, 1, 4, 4), np.float32), "boxes": rng.random((1, 2, 4), np.float32),
                     "scores": rng.random((1, 1, 2), np.float32), "one": np.array(1, np.float32)})


def test_the_forms_follow_the_opset() -> None:
    """CumSum has an FP16 form from opset 14 on, BatchNormalization a BF16 one."""
    sums = "g (float[4] x) => (float[4] y) { y = CumSum(x, axis) }"
    found = [ops_of(half(model_of(sums, opset, {"axis": np.array(0)}))) for opset in (11, 14)]
    assert found == [["CumSum"], ["Cast", "CumSum", "Cast"]]
    norm = "g (float[1,2] x) => (float[1,2] y) { y = BatchNormalization(x, w, w, w, w) }"
    found = [ops_of(half(model_of(norm, opset, {"w": np.ones(2, np.float32)}), "bf16")) for opset in (14, 15)]
    assert found == [["Cast", "BatchNormalization", "Cast"]] * 2


def test_bf16_before_opset_13_is_refused() -> None:
    """There is no BF16 in such a model, so one clear line says so."""
    model = model_of("g (float[4] x) => (float[4] y) { y = Relu(x) }", opset=12)
    with pytest.raises(UsageError, match="opset 12, which knows no BF16"):
        half(model, "bf16")


def test_what_reads_no_values_gets_no_cast() -> None:
    """A Shape takes its tensor in any type, an ArgMax too."""
    model = model_of("""g (float[4] x) => (int64[1] s, int64[1] m) {
        a = Relu(x) b = Relu(a) s = Shape(a) m = ArgMax<axis=0>(b) }""")
    assert ops_of(half(model, "fp16", "s", "m", "b")) == ["Cast", "Relu", "Cast", "Relu", "Shape", "ArgMax"]
    assert ops_of(half(model)) == ["Cast", "Relu", "Relu", "Shape", "ArgMax"]


def test_what_reads_any_type_but_the_narrow_one_gets_a_cast() -> None:
    """IsInf takes FP32 and FP64 only before opset 20."""
    model = model_of("g (float[4] x) => (bool[4] y) { a = Relu(x) y = IsInf(a) }")
    variant = half(model)
    check(variant)
    assert ops_of(variant) == ["Cast", "Relu", "Cast", "IsInf"]


def test_casts_of_the_models_own_become_identities_where_they_are_idle() -> None:
    """A user's round trip through FP16 costs nothing in an FP16 region, and keeps its names."""
    model = model_of("""g (float[4] x) => (float[4] y) {
        a = Relu(x) b = Cast<to=10>(a) c = Neg(b) d = Cast<to=1>(c) y = Relu(d) }""")
    variant = half(model)
    assert ops_of(variant) == ["Cast", "Relu", "Identity", "Neg", "Identity", "Relu", "Cast"]
    assert made_in(model.graph) <= made_in(variant.graph)


def test_a_cast_that_a_kept_layer_would_undo_is_bypassed() -> None:
    """Where the user's Cast back to FP32 stays, the FP16 reader after it reads what was cast."""
    model = model_of("g (float[4] x) => (float[4] y, float[4] d) { a = Relu(x) d = Cast<to=1>(a) y = Neg(d) }")
    variant = half(model, "fp16", "d")
    assert variant.graph.producer["y/fp16"].inputs == ("a",)
    assert cancelling(variant) == set()


def test_a_cast_at_the_border_goes_straight_there() -> None:
    """A user's Cast whose result is an FP16 graph output makes FP16, also where the plan runs it in FP32."""
    model = model_of("g (float[4] x) => (float16[4] y) { a = Cast<to=10>(x) y = Cast<to=10>(a) }")
    variant = cast_to(model, plan_for(model, "fp32").keep(["a"], "fp16"))
    assert cancelling(variant) == set()
    assert on_ort(variant, {"x": np.ones(4, np.float32)})["y"].dtype == np.float16


def test_a_cast_of_the_models_own_shares_one_that_is_needed_anyway() -> None:
    """Where a later reader needs what the user's Cast makes, there is still one Cast of that tensor."""
    model = model_of("g (float[4] x) => (float16[4] a, float[4] y) { a = Cast<to=10>(x) y = Neg(x) }")
    assert ops_of(cast_to(model, plan_for(model, "fp16"))) == ["Cast", "Identity", "Neg", "Cast"]


def test_a_weight_that_the_model_casts_is_stored_as_it_is_cast() -> None:
    """Unless the type cannot hold it: then the Cast stays, and makes the Inf that it always made."""
    model = model_of("""g (float[2] x) => (float16[2] a, float16[2] b, float[2] y) {
        a = Cast<to=10>(w) b = Cast<to=10>(huge) y = Add(x, w) }""",
                     weights={"w": np.ones(2, np.float32), "huge": np.full(2, 1e6, np.float32)})
    variant = half(model, "fp16", "y")
    assert ops_of(variant) == ["Identity", "Cast", "Add"]
    assert [variant.weight(n).dtype for n in ("w", "w/fp16", "huge")] == [np.float32, np.float16, np.float32]


def test_what_is_counted_in_a_weight_is_counted_before_rounding() -> None:
    """A number that FP16 turns to 0 is no zero to NonZero."""
    model = model_of("g (float[2] x) => (float[2] y, int64[1,N] n) { y = Add(x, w) n = NonZero(w) }",
                     weights={"w": np.array([1e-9, 0], np.float32)})
    assert on_ort(half(model), {"x": np.zeros(2, np.float32)})["n"].tolist() == [[0]]


def test_rounding_that_the_model_does_itself_is_kept() -> None:
    """A trip through FP16 in an FP32 region rounds, so it is no idle pair."""
    model = model_of("g (float[1] x) => (float[1] y) { a = Cast<to=10>(x) b = Cast<to=1>(a) y = Relu(b) }")
    plan = read_plan(model)
    assert cast_to(model, plan) is model
    assert on_ort(cast_to(model, plan.keep(["y"], "fp16")), {"x": np.array([1.0001], np.float32)})["y"][0] == 1


def test_an_integer_is_cast_to_the_narrow_type_at_once() -> None:
    """A Cast from integers to FP32 makes FP16 where a plan says so."""
    model = model_of("g (int64[4] n) => (float[4] y) { a = Cast<to=1>(n) y = Relu(a) }")
    variant = half(model)
    assert read_types(variant).of("a") == FLOAT16
    assert ops_of(variant) == ["Cast", "Relu", "Cast"]


def test_constants_of_every_kind_are_weights() -> None:
    """Constant nodes and what fills a ConstantOfShape are stored narrow, in both types where both are read."""
    model = model_of("""g (float[2] x) => (float[2] y, float[2] z) {
        a = Constant<value_float=0.1>() b = Constant<value_floats=[0.5, 0.25]>()
        s = Shape(x) c = ConstantOfShape(s) d = Add(x, a) e = Add(d, b) y = Add(e, c) z = Mul(x, b) }""")
    variant = half(model, "fp16", "z")
    check(variant)
    types = read_types(variant)
    assert [types.of(n) for n in ("a", "b", "b/fp16", "c")] == [FLOAT16, FLOAT, FLOAT16, FLOAT16]
    assert ops_of(variant).count("Cast") == 2  # of the input, and before the output y
    got = Executor(variant).run({"x": np.ones(2, np.float32)})
    np.testing.assert_allclose(np.asarray(got["y"]), [1.6, 1.35], rtol=1e-3)


def test_random_numbers_stay_in_the_type_that_they_are_drawn_in() -> None:
    """Generators keep their type, also where it was their input's."""
    model = model_of("""g (float[2,2] x) => (float[2,2] y) {
        a = Relu(x) b = RandomNormalLike(a) c = EyeLike(a) d = Add(b, c) y = Add(a, d) }""")
    variant = half(model)
    check(variant)
    types = read_types(variant)
    assert [types.of(n) for n in "abcdy"] == [FLOAT16, FLOAT, FLOAT, FLOAT16, FLOAT]
    on_ort(variant, {"x": np.ones((2, 2), np.float32)})


def test_scan_and_loop_hand_over_the_narrow_type() -> None:
    """States, scanned slices and stacked results are FP16 inside and at the border of a body."""
    model = model_of("""g (float[2] s0, float[3,2] xs) => (float[2] s, float[3,2] ys, float[N,2] stack) {
        s, ys = Scan <num_scan_inputs = 1, body = b (float[2] state, float[2] slice)
            => (float[2] next, float[2] out) { next = Add(state, slice) out = Mul(next, half) }> (s0, xs)
        last, stack = Loop <body = l (int64 i, bool c, float[2] v) => (bool go, float[2] w, float[2] z) {
            go = Identity(c) w = Add(v, s) z = Relu(w) }> (n, , s) }""",
                     weights={"half": np.array([0.5, 0.5], np.float32), "n": np.array(2)})
    values = {"s0": np.ones(2, np.float32), "xs": np.arange(6, dtype=np.float32).reshape(3, 2)}
    variant = half(model)
    check(variant)
    scan, loop = (next(n for n in variant.graph.nodes if n.op == op) for op in ("Scan", "Loop"))
    bodies = (scan.subgraphs["body"], loop.subgraphs["body"])
    assert {o for body in bodies for o in (v.type.tensor_type.elem_type for v in body.proto.output)} == {
        FLOAT16, TensorProto.BOOL}
    assert not any(n.op == "Cast" for body in bodies for n in body.nodes)
    for name, expected in on_ort(model, values).items():
        np.testing.assert_array_equal(on_ort(variant, values)[name], expected)  # small integers and halves are exact


def test_a_branch_may_hand_out_what_it_reads_from_outside() -> None:
    """It then hands out the tensor of the type that the If makes."""
    model = model_of("""g (float[2] x, bool yes) => (float[2] y) { a = Relu(x)
        b = If(yes) <then_branch = g1 () => (float[2] t) { t = Neg(a) }, else_branch = g2 () => (float[2] a) { }>
        y = Relu(b) }""")
    values = {"x": np.array([1.5, -2.0], np.float32), "yes": np.array(False)}
    for keep in ((), ("a",), ("b",)):
        variant = half(model, "fp16", *keep)
        got = Executor(variant).run(values, capture=["b"])
        assert got["b"].dtype == TORCH[read_types(variant).of("b")]  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.asarray(got["y"]), [1.5, 0])


def test_an_if_stays_as_it_is_where_one_branch_is_unknown() -> None:
    """An operator that nobody knows makes what it makes, so the other branch makes FP32, too."""
    branches = []
    for name, op, domain in (("t", "Neg", ""), ("e", "Mystery", "acme")):
        node = helper.make_node(op, ["x"], [name], domain=domain)
        branches.append(helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=name)]))
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    infos = [helper.make_tensor_value_info(n, e, s) for n, e, s in
             (("x", FLOAT, [4]), ("yes", TensorProto.BOOL, []), ("y", FLOAT, [4]))]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    proto = helper.make_model(helper.make_graph([node], "g", infos[:2], infos[2:]), opset_imports=opsets)
    variant = half(Model.from_proto(proto))
    body = next(n for n in variant.graph.nodes if n.op == "If").subgraphs["then_branch"]
    assert [n.op for n in body.nodes] == ["Neg", "Cast"]
    assert ops_of(variant) == ["Cast", "If"]


def test_local_functions_are_inlined() -> None:
    """A plan reaches inside functions; the tensors of the main graph keep their names."""
    proto = parser.parse_model("""<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[4] x) => (float[4] y) { a = my.twice(x) y = Relu(a) }
        <domain: "my", opset_import: ["" : 18]> twice (v) => (w) { t = Neg(v) w = Neg(t) }""")
    model = Model.from_proto(proto)
    variant = half(model)
    check(variant)
    assert ops_of(variant) == ["Cast", "Neg", "Neg", "Relu", "Cast"]
    assert {"a", "y"} <= made_in(variant.graph)


def test_a_layer_of_an_fp16_model_is_kept_in_fp32() -> None:
    """The plan of a model with FP16 weights can be changed like any other: the kept layer reads them widened."""
    model = model_of("g (float16[4] x) => (float16[4] y) { a = Mul(x, w) y = Add(a, w) }",
                     weights={"w": np.array([1, 2, 3, 4], np.float16)})
    variant = cast_to(model, read_plan(model).keep(["a"]))
    check(variant)
    assert ops_of(variant) == ["Cast", "Mul", "Cast", "Add"]
    assert variant.weight("w/fp32").dtype == np.float32
    assert variant.graph.outputs[0].dtype == np.float16


def test_new_names_step_aside() -> None:
    """A tensor that is called as a new one would be keeps its name."""
    proto = helper.make_model(helper.make_graph(
        [helper.make_node("Neg", ["x"], ["x/fp16"]), helper.make_node("Add", ["x", "x/fp16"], ["y"])], "g",
        [helper.make_tensor_value_info("x", FLOAT, [4])], [helper.make_tensor_value_info("y", FLOAT, [4])]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    variant = half(Model.from_proto(proto))
    check(variant)
    assert variant.graph.producer["x/fp16"].op == "Neg"
    assert variant.graph.producer["x/fp16_2"].op == "Cast"


def test_old_models_may_hold_new_weights() -> None:
    """Before IR version 4 every initializer had to be an input; a variant with one more is of version 4."""
    model = model_of("g (float[4] x) => (float[4] y) { a = Mul(x, w) y = Add(a, w) }", opset=8,
                     weights={"w": np.ones(4, np.float32)})
    model.proto.ir_version = 3
    model.proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4]))
    variant = half(Model.from_proto(model.proto), "fp16", "y")
    check(variant)
    assert variant.proto.ir_version == 4
    assert [i.name for i in variant.graph.inputs] == ["x"]


def test_external_weights_are_rewritten_beside_the_variant(tmp_path: Path) -> None:
    """They are never embedded: one new file holds the converted ones and those that stay, and maps back."""
    weights = {"w": np.linspace(0, 1, 1024, dtype=np.float32), "v": np.linspace(0, 2, 1024, dtype=np.float32)}
    model = model_of("g (float[1024] x) => (float[1024] y) { a = Mul(x, w) y = Add(a, v) }", weights=weights)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    external = model.externalised(old)
    plan = plan_for(model, "fp16").keep(["y"])
    with pytest.raises(UsageError, match="external files"):
        cast_to(external, plan)
    cast_to(external, plan, folder=new).save(new / "variant.onnx")
    variant = Model.load(new / "variant.onnx")
    onnx.checker.check_model(str(new / "variant.onnx"), full_check=True)
    assert variant.proto.ByteSize() < 2048
    for name, dtype in (("w", np.float16), ("v", np.float32)):
        weight = variant.weight(name)
        assert isinstance(weight, np.memmap)
        np.testing.assert_array_equal(weight, weights[name].astype(dtype))


def test_quantised_layers_and_their_scales_stay_as_they_are() -> None:
    """Q/DQ keep their FP32 scales in an FP16 model, also where the standard would allow FP16 ones."""
    model = model_of("""g (float[4] x) => (float[4] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }""", opset=21,
                     weights={"s": np.array(1e-6, np.float32), "z": np.array(0, np.int8)})
    variant = half(model)
    check(variant)
    assert variant.weight("s").dtype == np.float32
    assert ops_of(variant) == ["QuantizeLinear", "DequantizeLinear", "Cast", "Relu", "Cast"]


def test_operators_of_another_domain_stay_in_their_types_unless_they_are_known() -> None:
    """An unknown operator reads and makes FP32; a known one of ONNX Runtime computes in FP16."""
    def one(domain: str, op: str) -> list[str]:
        nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node(op, ["a"], ["b"], domain=domain),
                 helper.make_node("Relu", ["b"], ["y"])]
        infos = [helper.make_tensor_value_info(n, FLOAT, [4]) for n in "xby"]
        graph = helper.make_graph(nodes, "g", infos[:1], infos[2:], value_info=infos[1:2])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
        return ops_of(half(Model.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))))

    assert one("com.microsoft", "QuickGelu") == ["Cast", "Relu", "com.microsoft::QuickGelu", "Relu", "Cast"]
    assert one("acme", "Mystery") == ["Cast", "Relu", "Cast", "acme::Mystery", "Cast", "Relu", "Cast"]


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_fixtures(folder: Path, precision: Precision) -> None:
    """Variants of the fixtures are sound, and where ONNX Runtime has the kernels it finds what emulation finds."""
    _sound(Model.load(folder / "model.onnx"), _inputs(folder / "inputs.npz"), precision)


@pytest.mark.models
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_real_models(real_model: RealModel, precision: Precision) -> None:
    """Variants of the real models are sound; those before opset 13 have no BF16 one."""
    model = Model.load(real_model.path)
    if precision == "bf16" and model.opsets[""] < 13:
        with pytest.raises(UsageError, match="knows no BF16"):
            half(model, precision)
        return
    _sound(model, _inputs(real_model.inputs_path), precision)


def _inputs(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def _sound(model: Model, inputs: Mapping[str, np.ndarray], precision: Precision) -> None:
    """The standard is kept, names are there, types are real, and ONNX Runtime agrees with emulation."""
    values = {i.name: inputs[i.name] for i in model.graph.inputs}
    variant = half(model, precision)
    check(variant)
    names = made_in(model.graph)
    assert names <= made_in(variant.graph)
    assert cancelling(variant) == set()
    types = read_types(variant)
    emulated = {n: v for n, v in Executor(variant).run(values, capture=names).items() if isinstance(v, torch.Tensor)}
    for name, value in emulated.items():
        assert value.dtype == TORCH.get(types.of(name), value.dtype), name
    if precision == "bf16":
        return  # ONNX Runtime has hardly any BF16 kernels for CPUs
    got = on_ort(variant, values)
    if all(bool(torch.isfinite(v).all()) for v in emulated.values()):  # it computes in FP32, so nothing overflows there
        for name, mine in numpy_of({n: emulated[n] for n in got}).items():
            assert _distance(got[name], mine) < 0.1, name


@pytest.mark.slow
@pytest.mark.models
def test_real_models_without_rounding(real_model: RealModel) -> None:
    """With weights that FP16 holds and FP64 everywhere, a variant computes exactly what its model does."""
    model = _representable(Model.load(real_model.path))
    inputs = _inputs(real_model.inputs_path)
    values = {i.name: inputs[i.name] for i in model.graph.inputs}
    expected = numpy_of(Executor(model, Arithmetic.DOUBLE).run(values))
    for name, value in numpy_of(Executor(half(model), Arithmetic.DOUBLE).run(values)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def _representable(model: Model) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    constants = (a.t for n in nodes_of(proto.graph) for a in n.attribute if a.type == onnx.AttributeProto.TENSOR)
    for tensor in (*proto.graph.initializer, *constants):
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and not (np.abs(value[np.isfinite(value)]) > 65504).any():
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), tensor.name))
    return Model.from_proto(proto)


# Where another converter ends nearer to FP32, and why.
_NEARER = {"basic_pitch": "its 1e-10 before a Log becomes 0 and the Log -Inf, as in any FP16; they raise it to 6e-8"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the float32 number")
@pytest.mark.models
def test_against_other_converters(real_model: RealModel, record_property: Callable[[str, object], None]) -> None:
    """Ours runs and is as near to FP32 wherever another converter's does, and passes a checker that theirs fail."""
    from onnxconverter_common import float16 as common
    from onnxruntime.transformers import float16 as of_onnxruntime
    model = Model.load(real_model.path)
    inputs = _inputs(real_model.inputs_path)
    values = {i.name: inputs[i.name] for i in model.graph.inputs}
    expected = on_ort(model, values)

    def error(made: Model) -> float:
        got = on_ort(made, values)
        return max(_distance(got[n], v) for n, v in expected.items() if v.dtype.kind == "f")

    ours = error(half(model))
    record_property("ours", ours)
    for converter in (of_onnxruntime, common):
        try:
            theirs = error(Model(converter.convert_float_to_float16(onnx.load(real_model.path), keep_io_types=True)))
        except Exception as failure:  # noqa: BLE001 - whatever it is, their variant does not run
            record_property(converter.__name__, str(failure)[:80])
            continue
        record_property(converter.__name__, theirs)
        if real_model.name not in _NEARER and np.isfinite(theirs):
            assert ours < 1.5 * theirs + 1e-4, converter.__name__


@pytest.mark.parametrize("op", sorted(elements._MICROSOFT))
def test_the_table_of_other_operators_agrees_with_onnx_runtime(op: str) -> None:
    """Each operator of the table has one type for its floating-point tensors, BF16 where the table says so."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    domain = "" if op == "SimplifiedLayerNormalization" else "com.microsoft"
    schema = next(s for s in get_all_operator_schema() if s.name == op and s.domain == domain)
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    narrow = {v for v, types in allowed.items() if "tensor(float16)" in types and v != "U"}
    assert narrow == ({"T", "V"} if op == "SimplifiedLayerNormalization" else {"T"})
    assert all(("tensor(bfloat16)" in allowed[v]) == (op not in elements._MICROSOFT_FP16) for v in narrow)
    statistics = {i for i, o in enumerate(schema.outputs) if o.typeStr == "U"}
    slots = elements._microsoft_slots(op, "com.microsoft", len(schema.inputs), len(schema.outputs))[1]
    assert statistics == {i for i, slot in enumerate(slots) if slot.variable == "U"}


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(got.astype(np.float64) - expected)) / max(size, 1e-12)
