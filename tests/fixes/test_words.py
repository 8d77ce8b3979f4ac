"""Tests of a decision in other tools' words: the tools that are here are really run on them."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper

from parity.fixes.words import words
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.plan import Precision, plan_for, read_plan
from parity.precision.quantize import WEIGHTED, QuantizeSettings
from parity.precision.ranges import RangeSettings
from parity.precision.variant import make_variant
from tests.builders import declared, node, proto_of
from tests.fixes.cases import outlier
from tests.models import FIXTURES

LOWS: tuple[Precision, ...] = ("int8", "fp16", "bf16")
# The names of unnamed nodes, and of those that share a name, are not enough to tell them apart.
NAMINGS = ("own", "none", "same")


@pytest.fixture(params=NAMINGS)
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The convolutional fixture in the current folder, its nodes with names, without, or with one for all."""
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(str(FIXTURES / "digits_cnn" / "model.onnx"))
    for made in proto.graph.node:
        made.name = {"own": made.name, "none": "", "same": "layer"}[request.param]
    path = tmp_path / "model.onnx"
    onnx.save(proto, str(path))
    return path


def feed_of(model: Model) -> Mapping[str, np.ndarray]:
    """Real inputs."""
    return load_feed(model, [str(FIXTURES / "digits_cnn" / "inputs.npz")])[0]


def quantised(proto: ModelProto) -> set[str]:
    """First outputs of the operators with weights that read a dequantised activation and a dequantised weight."""
    made = {o: n.op_type for n in proto.graph.node for o in n.output}
    return {n.output[0] for n in proto.graph.node
            if n.op_type in WEIGHTED and [made.get(i) for i in n.input[:2]] == ["DequantizeLinear"] * 2}


@pytest.mark.parametrize("kept", [("conv2d_1",), ("conv2d", "conv2d_2", "logits", "relu")])
def test_onnxruntime_leaves_exactly_these_nodes(file: Path, kept: tuple[str, ...]) -> None:
    """Run as it is written, its quantiser quantises the same nodes as the variant does."""
    model = Model.load(file)
    feed = feed_of(model)
    feeds = iter([feed])
    text = words(model, dict.fromkeys(kept, "fp32"), "int8")["ONNX Runtime quantize_static"]
    exec(compile(text, "words", "exec"),  # noqa: S102
         {"calibration_data_reader": SimpleNamespace(get_next=lambda: next(feeds, None))})
    original = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    variant = make_variant(original, plan_for(original, "int8").keep(kept), Calibration.of_feeds(original, [feed]))
    found = quantised(onnx.load("model.int8.onnx"))
    assert found == quantised(variant.model.proto)
    weighted = {n.outputs[0] for n in model.graph.nodes if n.op in WEIGHTED}
    assert weighted - found == weighted & set(kept)


def test_onnxconverter_common_leaves_exactly_these_nodes(file: Path) -> None:
    """Run as it is written, the converter makes a model in which these nodes alone compute in FP32."""
    import onnxruntime

    model = Model.load(file)
    kept = {"conv2d_1", "getitem_9", "relu_2"}
    assert kept < model.graph.producer.keys()
    text = words(model, dict.fromkeys(kept, "fp32"), "fp16")["onnxconverter-common"]
    exec(compile(text, "words", "exec"), {})  # noqa: S102
    converted = Model.load("model.fp16.onnx")
    source = "model.named.onnx" if Path("model.named.onnx").exists() else "model.onnx"
    named = {n.proto.name: n.outputs[0] for n in Model.load(source).graph.nodes}
    plan = read_plan(converted)
    assert {named[n.proto.name] for n in converted.graph.nodes
            if n.op in {"Conv", "BatchNormalization", "Relu", "Gemm"} and plan.of(n) == "fp32"} == kept
    onnxruntime.InferenceSession("model.fp16.onnx", providers=["CPUExecutionProvider"]).run(None, dict(feed_of(model)))


NAMES = st.lists(st.text("ab/.:;,*' \"$\\#[(+é", min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


def relus(names: list[str]) -> Model:
    """A chain of Relu nodes with these names."""
    tensors = ["x", *(f"t{i}" for i in range(len(names) - 1)), "y"]
    return Model.from_proto(proto_of([node("Relu", [a], [b], name=name)
                                      for name, a, b in zip(names, tensors, tensors[1:], strict=False)]))


@settings(max_examples=60, deadline=None)
@given(NAMES, st.data())
def test_trtexec_understands_the_command(names: list[str], data: st.DataObject) -> None:
    """Split at commas and at last colons, as trtexec does, it holds the kept nodes; what it cannot hold is said."""
    model = relus(names)
    kept = {n.outputs[0]: n.proto.name for n in model.graph.nodes if data.draw(st.booleans())}
    found = words(model, dict.fromkeys(kept, "fp32"), "fp16")
    assert bool(found) == bool(kept)
    if not kept:
        return
    text = found["trtexec"]
    command = shlex.split(text, comments=True)
    options = dict(a.partition("=")[::2] for a in command[1:])
    speakable = {n for n in kept.values() if not set(n) & set(",'*")}
    for option in ("--layerPrecisions", "--layerOutputTypes"):
        entries = options[option].split(",") if option in options else []
        assert dict(e.rsplit(":", 1) for e in entries) == dict.fromkeys(speakable, "fp32")
    assert options["--precisionConstraints"] == "obey"
    assert all(f"# {n!r} holds a comma" in text for n in kept.values() if n not in speakable)


@settings(max_examples=60, deadline=None)
@given(NAMES, st.data())
def test_patterns_match_the_kept_names_alone(names: list[str], data: st.DataObject) -> None:
    """Model Optimizer excludes a node where a pattern matches its name from the start."""
    model = relus(names)
    kept = {n.outputs[0]: n.proto.name for n in model.graph.nodes if data.draw(st.booleans())}
    found = words(model, dict.fromkeys(kept, "fp32"), data.draw(st.sampled_from(LOWS)))
    for tool in found.keys() & {"Model Optimizer quantize", "Model Optimizer AutoCast"}:
        patterns = argument(found[tool], "nodes_to_exclude")
        assert {n for n in names if any(re.match(p, n) for p in patterns)} == set(kept.values())


def argument(code: str, name: str) -> Any:
    """The literal that a call in a piece of Python passes under a name."""
    (found,) = [k.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) for k in n.keywords
                if k.arg == name]
    return ast.literal_eval(found)


@given(NAMES, st.sampled_from(LOWS), st.sampled_from(["fp32", "fp16"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_text_is_python_or_shell(names: list[str], low: Precision, high: Precision, unnamed: bool) -> None:
    """All but the command compile as Python, whatever the names."""
    model = relus([""] * len(names) if unnamed else names)
    found = words(model, {"y": high}, low, path="folder/a model.onnx")
    assert found.keys() >= {"trtexec", "Polygraphy"}
    for tool, text in found.items():
        if tool != "trtexec":
            ast.parse(text)


class Layer(SimpleNamespace):
    """A layer as TensorRT's Python shows it, as far as a postprocessing script touches it."""

    def get_output(self, index: int) -> SimpleNamespace:
        """One of its tensors."""
        return SimpleNamespace(dtype=self.dtypes[index])

    def set_output_type(self, index: int, dtype: str) -> None:
        """Note the type that was asked for."""
        self.asked[index] = dtype


def layer(name: str, metadata: str, *dtypes: str) -> Layer:
    """A layer with these outputs."""
    return Layer(name=name, metadata=metadata, dtypes=dtypes, num_outputs=len(dtypes), precision="", asked={})


def test_polygraphy_finds_every_layer_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name where there is no metadata, by its metadata where a node became several, and no integers."""
    model = relus(["one", "", "three"])
    text = words(model, {"t0": "fp32", "t1": "fp16"}, "int8")["Polygraphy"]
    monkeypatch.setitem(sys.modules, "tensorrt",
                        SimpleNamespace(float32="f32", float16="f16"))
    scope: dict[str, Any] = {}
    exec(compile(text, "keep.py", "exec"), scope)  # noqa: S102
    network = [layer("one", "", "f32"), layer("one_7", "[ONNX Layer: one]", "f32", "i32"),
               layer("node_of_t1", "[ONNX Layer: node_of_t1]", "f32"), layer("one_8", "[ONNX Layer: one]", "i32"),
               layer("three", "[ONNX Layer: three]", "f32")]
    scope["postprocess"](network=network)
    assert [(made.precision, made.asked) for made in network] == [
        ("f32", {0: "f32"}), ("f32", {0: "f32"}), ("f16", {0: "f16"}), ("", {}), ("", {})]


def body(name: str) -> GraphProto:
    """A branch of one unnamed and one named node."""
    nodes = [node("Relu", ["x"], [f"{name}_inner"]), node("Neg", [f"{name}_inner"], [name], name=f"{name}_neg")]
    return helper.make_graph(nodes, name, [], [declared(name, None)])


def test_what_a_tool_cannot_be_told_is_said() -> None:
    """Nodes of sub-graphs and of inlined functions, control flow, and integers in TensorRT."""
    nodes = [node("If", ["yes"], ["b"], name="if", then_branch=body("t"), else_branch=body("e")),
             node("Shape", ["b"], ["s"], name="shape"), node("Reshape", ["b", "s"], ["y"], name="reshape")]
    model = Model.from_proto(proto_of(nodes, [declared("x"), declared("yes", (), TensorProto.BOOL)]))
    found = words(model, dict.fromkeys(["t_inner", "t", "b", "s", "y", "from_function"], "fp32"), "fp16")
    assert 'KEPT = [\n    "if",\n    "shape",\n    "reshape",\n    "t_neg",\n]' in found["onnxconverter-common"]
    assert "inside If, Loop and Scan" in found["onnxconverter-common"]
    assert "# 't_inner' lies inside a sub-graph" in found["onnxconverter-common"]
    autocast = found["Model Optimizer AutoCast"]
    assert all(f"# {name!r} lies inside a sub-graph" in autocast for name in ("t_inner", "t"))
    assert "# 'from_function' is not in this file" in autocast
    assert "# 'if' (If) is no layer" in found["trtexec"]
    assert "--layerPrecisions=node_of_t_inner:fp32,t_neg:fp32,shape:fp32,reshape:fp32" in found["trtexec"]
    assert "--layerOutputTypes=node_of_t_inner:fp32,t_neg:fp32,reshape:fp32" in found["trtexec"]


def test_settings_alone_are_said() -> None:
    """Where no node is kept, but the rest is quantised otherwise than by default, ONNX Runtime is told how."""
    narrow = words(Model.from_proto(outlier()), {}, "int8", QuantizeSettings(reduce_range=True))
    assert list(narrow) == ["ONNX Runtime quantize_static"]
    assert argument(narrow["ONNX Runtime quantize_static"], "reduce_range") is True
    assert argument(narrow["ONNX Runtime quantize_static"], "nodes_to_exclude") == []
    assert words(Model.from_proto(outlier()), {}, "int8") == {}


def test_constants_are_left_out_and_nothing_kept_says_nothing() -> None:
    """What computes a weight is folded by every tool; in FP32 there is nothing to decide."""
    nodes = [node("Transpose", ["w"], ["wt"], name="t"), node("MatMul", ["x", "wt"], ["y"], name="m")]
    model = Model.from_proto(proto_of(nodes, weights={"w": np.ones((3, 3), np.float32)}))
    found = words(model, {"wt": "fp32", "y": "fp32"}, "int8")
    assert argument(found["ONNX Runtime quantize_static"], "nodes_to_exclude") == ["m"]
    assert words(model, {"wt": "fp32"}, "int8") == words(model, {"y": "fp32"}, "fp32") == {}


def test_what_onnxruntime_does_otherwise_is_said() -> None:
    """It hands dequantised tensors and weights to all readers: said of those that are kept, and only of them."""
    weights = {n: np.full((3, 3), i + 1, np.float32) for i, n in enumerate("wvu")}
    nodes = [node("MatMul", ["x", "w"], ["a"], name="one"), node("MatMul", ["x", "v"], ["b"], name="two"),
             node("MatMul", ["a", "u"], ["c"], name="three"), node("MatMul", ["b", "u"], ["d"], name="four"),
             node("Add", ["c", "d"], ["y"], name="sum")]
    model = Model.from_proto(proto_of(nodes, weights=weights))

    def said(*kept: str) -> str:
        text = words(model, dict.fromkeys(kept, "fp32"), "int8")["ONNX Runtime quantize_static"]
        return text.replace("  # yours", "")

    assert "# 'one'" in said("a", "y")  # x is quantised for two
    assert "# 'three'" in said("c", "y")  # u is quantised for four
    assert "# 'sum'" not in said("a", "y", "c")
    assert "#" not in said("a", "b", "y")


def test_what_onnxruntime_leaves_alone_is_said() -> None:
    """A fused convolution, and what is inside a branch."""
    kernel = {"k": np.ones((1, 1, 1, 1), np.float32), "w": np.ones((3, 3), np.float32)}
    fused = node("FusedConv", ["x", "k"], ["y"], domain="com.microsoft", name="fused", activation="Relu")
    inner = helper.make_graph([node("MatMul", ["x", "w"], ["t"], name="in")], "b", [], [declared("t", None)])
    branch = node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner, name="if")
    inputs = [declared("x", None), declared("yes", (), TensorProto.BOOL)]
    model = Model.from_proto(proto_of([fused, branch, node("Neg", ["z"], ["n"], name="neg")], inputs, weights=kernel,
                                      domains={"com.microsoft": 1}))
    text = words(model, {"n": "fp32"}, "int8")["ONNX Runtime quantize_static"]
    assert "quantises no com.microsoft::FusedConv" in text
    assert "quantises nothing inside If" in text


def runs(path: str, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, dict(feed))
    return found


def awkward(opset: int) -> ModelProto:
    """A Cast to FP32, a weight that two layers share, and an output that another layer reads."""
    random = np.random.default_rng(0)
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
             node("Sigmoid", ["b"], ["c"]), node("MatMul", ["c", "w"], ["d"]), node("Max", ["d", "k"], ["e"]),
             node("MatMul", ["e", "v"], ["f"]), node("Mul", ["f", "k"], ["y"])]
    weights = {"w": random.normal(size=(8, 8)).astype(np.float32), "v": random.normal(size=(8, 4)).astype(np.float32),
               "k": np.float32(0.5)}
    return proto_of(nodes, [declared("x", ("N", 8))], [declared("y", ("N", 4)), declared("d", ("N", 8))], weights,
                    opset=opset, ir=6 if opset < 13 else 10)


FEED = {"x": np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)}
PERCENTILE = QuantizeSettings(RangeSettings("percentile", percentile=99.5), reduce_range=True)


@pytest.mark.parametrize("settings", [QuantizeSettings(), PERCENTILE, QuantizeSettings(RangeSettings("entropy"))])
@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21])
def test_the_words_run_at_every_opset(opset: int, settings: QuantizeSettings, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Pasted as they are, they make INT8 and FP16 models that ONNX Runtime runs, in which the kept layer is FP32."""
    monkeypatch.chdir(tmp_path)
    onnx.save(awkward(opset), "model.onnx")
    model = Model.load(Path("model.onnx"))
    right = runs("model.onnx", FEED)
    for low, tool in (("int8", "ONNX Runtime quantize_static"), ("fp16", "onnxconverter-common")):
        text = words(model, {"d": "fp32"}, low, settings)[tool]  # type: ignore[arg-type]
        reader = SimpleNamespace(get_next=partial(next, iter([FEED]), None))
        exec(compile(text, "words", "exec"), {"calibration_data_reader": reader})  # noqa: S102
        for one, other in zip(right, runs(f"model.{low}.onnx", FEED), strict=True):
            assert np.linalg.norm(one - other) <= {"int8": 0.2, "fp16": 2e-3}[low] * np.linalg.norm(one)
    assert quantised(onnx.load("model.int8.onnx")) == {"a", "f"}
    named = Model.load(Path("model.fp16.onnx")).graph
    kept = next(n for n in named.nodes if n.proto.name == "d")
    assert {named.initializers[n].data_type for n in kept.inputs if n in named.initializers} == {TensorProto.FLOAT}


def test_the_ranges_are_found_as_they_were() -> None:
    """The method, its percentile and the bits of weights stand in the call; minmax is the tool's own default."""
    model = Model.from_proto(awkward(17))
    tool = "ONNX Runtime quantize_static"
    text = words(model, {"d": "fp32"}, "int8", PERCENTILE)[tool]
    assert "calibrate_method=CalibrationMethod.Percentile" in text
    assert '"CalibPercentile": 99.5' in text
    assert argument(text, "reduce_range") is True
    assert "CalibrationMethod" not in words(model, {"d": "fp32"}, "int8")[tool]


def test_weights_among_the_inputs_are_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the first IR versions list them there: the words make models that run all the same."""
    monkeypatch.chdir(tmp_path)
    proto = awkward(9)
    proto.ir_version = 3
    proto.graph.input.extend(declared(t.name, t.dims) for t in proto.graph.initializer)
    onnx.save(proto, "model.onnx")
    model = Model.load(Path("model.onnx"))
    text = words(model, {"d": "fp32"}, "fp16")["onnxconverter-common"]
    exec(compile(text, "words", "exec"), {})  # noqa: S102
    assert len(runs("model.fp16.onnx", FEED)) == 2
