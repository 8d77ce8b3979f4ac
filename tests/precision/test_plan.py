"""Plans: built from one precision and exceptions, read from models, written and read back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from parity.errors import UsageError
from parity.graph.model import Model
from parity.precision.plan import PRECISIONS, PrecisionPlan, Rule, plan_for, read_plan
from tests.models import RealModel


def model_of(text: str, opset: int = 18, **weights: np.ndarray) -> Model:
    """A model from ONNX's text format, its header filled in."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    return Model.from_proto(proto)


def small() -> Model:
    """Four nodes in a row, one of another domain, one with a name, one whose output is called like a glob."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Softmax", ["a"], ["b[0]"]),
             helper.make_node("QuickGelu", ["b[0]"], ["b0"], domain="com.microsoft"),
             helper.make_node("Relu", ["b0"], ["y"], name="first")]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    return Model.from_proto(helper.make_model(graph, opset_imports=opsets))


@pytest.mark.parametrize(("match", "names"), [
    ("op:Softmax", {"b[0]"}), ("op:Re*", {"a", "y"}), ("op:com.microsoft::QuickGelu", {"b0"}), ("op:QuickGelu", {"b0"}),
    ("first", {"a", "y"}), ("tensor:a", {"a"}), ("b[0]", {"b[0]"}), ("tensor:b[0]", {"b[0]"}), ("b[01]", {"b0"}),
    ("b*", {"b[0]", "b0"}), ("*", {"a", "b[0]", "b0", "y"})])
def test_a_rule_matches_types_names_and_globs(match: str, names: set[str]) -> None:
    """What a rule matches gets its precision, all else the default; a name that looks like a glob is a name first."""
    plan = plan_for(small(), "fp16", [Rule(match, "fp32")])
    assert {n for n, p in plan.nodes.items() if p == "fp32"} == names
    assert set(plan.nodes) == {"a", "b[0]", "b0", "y"}


def test_the_last_rule_decides() -> None:
    """A later exception makes exceptions to an earlier one."""
    plan = plan_for(small(), "int8", [Rule("op:Relu", "fp16"), Rule("y", "fp32")])
    assert [plan.of(n) for n in small().graph.nodes] == ["fp16", "int8", "int8", "fp32"]


def test_a_rule_that_matches_nothing_is_refused() -> None:
    """One clear line names the node that is not there."""
    with pytest.raises(UsageError, match="names 'conv9', which no node of"):
        plan_for(small(), "fp16", [Rule("conv9", "fp32")])


def test_a_rule_for_a_form_that_does_not_exist_is_refused() -> None:
    """Asking for an FP16 Range is a mistake; a default that a Range cannot have is not."""
    model = model_of("g (float a) => (float[N] y) { r = Range(a, a, a) y = Relu(r) }")
    with pytest.raises(UsageError, match=r"'op:Range' cannot be fp16: Range has no such form at opset 18"):
        plan_for(model, "fp32", [Rule("op:Range", "fp16")])
    assert plan_for(model, "fp16").nodes == {"r": "fp16", "y": "fp16"}
    assert plan_for(model, "fp32", [Rule("*", "fp16")]).nodes == {"r": "fp16", "y": "fp16"}


def test_a_precision_that_does_not_exist_is_refused() -> None:
    """It is named, with those that exist."""
    with pytest.raises(UsageError, match=r"'fp8' is no precision.*fp32, fp16, bf16, int8"):
        plan_for(small(), "fp8")  # type: ignore[arg-type]


def test_a_plan_cannot_be_changed() -> None:
    """Neither its fields nor its nodes, nor through the mapping that it was made from."""
    nodes = {"a": "fp16"}
    plan = PrecisionPlan("fp32", nodes)  # type: ignore[arg-type]
    nodes["a"] = "int8"
    assert plan.nodes["a"] == "fp16"
    with pytest.raises(FrozenInstanceError):
        plan.default = "fp16"  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.nodes["a"] = "int8"  # type: ignore[index]


def test_keep_makes_a_new_plan() -> None:
    """The kept nodes are FP32 in it, the old plan is as it was, and a name that it lacks is refused."""
    plan = plan_for(small(), "int8")
    kept = plan.keep(["a", "y"]).keep(["y"], "fp16")
    assert [kept.nodes[n] for n in ("a", "b0", "y")] == ["fp32", "int8", "fp16"]
    assert set(plan.nodes.values()) == {"int8"}
    with pytest.raises(UsageError, match="no node that makes 'conv9'"):
        plan.keep(["conv9"])


def test_the_digest_is_of_the_content() -> None:
    """Order does not matter, content does, and the hash is the same on every machine and in every run."""
    plan = PrecisionPlan("fp32", {"a": "fp16", "b": "int8"})
    assert plan.digest == PrecisionPlan("fp32", {"b": "int8", "a": "fp16"}).digest
    assert plan.digest == "97ede91d5d72fdd4e1ae5dbfa1077523af5d64b48f404c21e13407d813bc5c8b"
    assert len({plan, plan.keep(["a"]), PrecisionPlan("fp16", plan.nodes), PrecisionPlan("fp32", plan.nodes)}) == 3


@given(st.sampled_from(PRECISIONS), st.lists(st.sampled_from(PRECISIONS), min_size=4, max_size=4))
def test_json_reads_back_as_it_was(default: str, precisions: list[str]) -> None:
    """Every plan of a model survives its JSON, also where names look like globs."""
    nodes = dict(zip(["a", "b[0]", "b0", "y"], precisions, strict=True))
    plan = PrecisionPlan(default, nodes)  # type: ignore[arg-type]
    assert PrecisionPlan.from_json(plan.to_json(), small()) == plan


def test_json_is_written_by_hand() -> None:
    """Only the default must be there, and exceptions may be globs."""
    assert PrecisionPlan.from_json('{"precision": "fp16"}', small()) == plan_for(small(), "fp16")
    text = '{"precision": "fp16", "exceptions": [{"match": "op:Relu", "precision": "fp32"}]}'
    assert PrecisionPlan.from_json(text, small()) == plan_for(small(), "fp16", [Rule("op:Relu", "fp32")])


@pytest.mark.parametrize(("change", "said"), [
    ({"layers": []}, "unknown field 'layers'"), ({"version": 2}, "version 2"), ({"precision": "half"}, "'half'"),
    ({"exceptions": {}}, "not a list"), ({"exceptions": ["a"]}, "'a' where an object belongs"),
    ({"exceptions": [{"match": 3, "precision": "fp32"}]}, "matches 3, which is no text"),
    ({"exceptions": [{"match": "a", "precision": "fp32", "why": ""}]}, "unknown field 'why'"),
    ({"exceptions": [{"match": "a", "precision": ["fp32"]}]}, "is no precision"),
    ({"exceptions": [{"match": "conv9", "precision": "fp32"}]}, "'conv9'")])
def test_json_of_another_shape_is_refused(change: dict[str, object], said: str) -> None:
    """One clear line says what is wrong with it."""
    with pytest.raises(UsageError, match=said):
        PrecisionPlan.from_json(json.dumps({"version": 1, "precision": "fp16"} | change), small())


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    """Not with a traceback."""
    with pytest.raises(UsageError, match="plan"):
        PrecisionPlan.from_json(text, small())


def test_plans_reach_inside_bodies_and_functions() -> None:
    """Nodes of branches are listed, and those of local functions under the names that inlining gives them."""
    proto = parser.parse_model("""<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[4] x, bool yes) => (float[4] y) {
            a = my.twice(x)
            y = If(yes) <then_branch = g1 () => (float[4] t) { t = Neg(a) }, else_branch = g2 () => (float[4] e) {
                e = Relu(a) }> }
        <domain: "my", opset_import: ["" : 18]> twice (v) => (w) { u = Neg(v) w = Neg(u) }""")
    plan = plan_for(Model.from_proto(proto), "fp16", [Rule("op:Neg", "fp32")])
    assert {n: plan.nodes[n] for n in "ayte"} == {"a": "fp32", "y": "fp16", "t": "fp32", "e": "fp16"}
    assert len(plan.nodes) == 5


def test_quantised_layers_are_read() -> None:
    """Q, DQ, integer operators, and what reads DQ, by way of a Reshape too, are INT8; what comes after is not."""
    model = model_of("""g (float[4] x) => (float[2,2] y, int32[2,2] n) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) r = Reshape(d, shape) m = MatMul(r, r) y = Relu(m)
        w = Reshape(q, shape) n = MatMulInteger(w, w) }""",
                     s=np.array(0.1, np.float32), z=np.array(0, np.int8), shape=np.array([2, 2]))
    assert dict(read_plan(model).nodes) == {
        "q": "int8", "d": "int8", "r": "int8", "m": "int8", "y": "fp32", "w": "fp32", "n": "int8"}


def test_element_types_are_read() -> None:
    """What makes FP16 is fp16; a comparison is what it compares; a widening Cast and FP64 are fp32."""
    model = model_of("""g (float16[4] x, double[4] v) => (float[4] y, bool[4] c, bfloat16[4] n, double[4] w) {
        a = Mul(x, k) y = Cast<to=1>(a) c = Greater(x, a) n = Cast<to=16>(a) s = Shape(a) w = Neg(v) }""",
                     k=np.ones(4, np.float16))
    assert dict(read_plan(model).nodes) == {
        "a": "fp16", "y": "fp32", "c": "fp16", "n": "bf16", "s": "fp16", "w": "fp32"}


def test_a_quantised_tensor_is_known_inside_a_body() -> None:
    """A branch that reads a dequantised tensor from outside is INT8."""
    model = model_of("""g (float[4] x, bool yes) => (float[4] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        y = If(yes) <then_branch = g1 () => (float[4] t) { t = Neg(d) }, else_branch = g2 () => (float[4] e) {
            e = Relu(x) }> }""", s=np.array(0.1, np.float32), z=np.array(0, np.int8))
    plan = read_plan(model)
    assert [plan.nodes[n] for n in "tey"] == ["int8", "fp32", "fp32"]


@pytest.mark.models
def test_real_models_are_read(real_model: RealModel) -> None:
    """The one with FP16 weights is FP16 throughout, the one with Q/DQ INT8 but for six nodes, the others FP32."""
    plan = read_plan(Model.load(real_model.path))
    found = {p: list(plan.nodes.values()).count(p) for p in set(plan.nodes.values())}
    expected = {"squeezenet_fp16": {"fp16": 66}, "ultraface_qdq_int8": {"int8": 335, "fp32": 6}}
    assert found == expected.get(real_model.name, {"fp32": len(plan.nodes)})
