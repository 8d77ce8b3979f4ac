"""INT8 variants: every name in its place, scales that TensorRT parses, and the same integers as the rule demands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from parity.analysis.tolerance import EXCESS_LIMIT, quantization_excess
from parity.errors import UsageError
from parity.graph.executor import Executor
from parity.graph.feeds import Feed, load_feed
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import from_numpy, to_numpy
from parity.graph.survey import survey
from parity.precision.calibration import Calibration
from parity.precision.plan import PrecisionPlan, plan_for
from parity.precision.quantize import Quantized, QuantizeSettings, quantize
from parity.precision.ranges import Method, RangeSettings, first_run, observe
from tests.models import FIXTURE_FOLDERS, RealModel

QDQ = ("QuantizeLinear", "DequantizeLinear")
RNG = np.random.default_rng(0)
_START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    RNG.bit_generator.state = _START


def noise(*shape: int) -> np.ndarray:
    """Normal numbers, as FP32."""
    return RNG.standard_normal(shape).astype(np.float32)


def built(nodes: Sequence[NodeProto], weights: Mapping[str, np.ndarray], shape: Sequence[int],
          outputs: Sequence[str] = ("y",), opset: int = 17) -> Model:
    """A model of these nodes with one input x."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * len(shape)) for n in outputs]
    graph = helper.make_graph(nodes, "g", [x], results, [numpy_helper.from_array(w, n) for n, w in weights.items()])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return Model.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def int8(model: Model, feed: Feed, settings: QuantizeSettings | None = None, **kept: str) -> Quantized:
    """The model in INT8, calibrated on one feed, some nodes (by first output) in another precision."""
    plan = PrecisionPlan("int8", kept)  # type: ignore[arg-type] # the tests name precisions
    return quantize(model, plan, Calibration.of_feeds(model, [feed]), settings or QuantizeSettings())


def outputs_of(model: Model, feed: Feed) -> dict[str, np.ndarray]:
    """The graph outputs on the executor."""
    return {n: to_numpy(v) for n, v in Executor(model).run(feed).items()}


def close(left: np.ndarray, right: np.ndarray, within: float) -> bool:
    """Whether two tensors are this close in relative L2."""
    return bool(np.linalg.norm(left - right) <= within * np.linalg.norm(right))


def node_of(model: Model, output: str) -> Node:
    """The node that makes a tensor."""
    return model.graph.producer[output]


def check_sound(original: Model, variant: Model) -> None:
    """Names, inputs and outputs as they were, and Q/DQ as TensorRT parses them."""
    onnx.checker.check_model(variant.proto)
    graph = variant.graph
    names = graph.producer.keys() | graph.initializers.keys()
    computed = {o for n in original.graph.nodes for o in n.outputs} - original.constants
    assert computed <= names
    assert [(s.name, s.dtype, s.shape) for s in graph.inputs] == [
        (s.name, s.dtype, s.shape) for s in original.graph.inputs]
    assert [(s.name, s.dtype) for s in graph.outputs] == [(s.name, s.dtype) for s in original.graph.outputs]
    for node in graph.nodes:
        if node.op in QDQ:
            scale, zero_point = variant.weight(node.inputs[1]), variant.weight(node.inputs[2])
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
        elif node.op in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2:
            bias = graph.producer.get(node.inputs[2])
            assert bias is None or bias.op != "DequantizeLinear"


def check_channels(variant: Model) -> None:
    """Every weight of an operator has one scale for each output channel."""
    for node in variant.graph.nodes:
        dequantize = variant.graph.producer.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if dequantize is None or dequantize.op != "DequantizeLinear" or dequantize.inputs[0] in variant.graph.producer:
            continue
        weight, scale = variant.weight(dequantize.inputs[0]), variant.weight(dequantize.inputs[1])
        axis = next(a.i for a in dequantize.proto.attribute if a.name == "axis")
        transposed = any(a.name == "transB" and a.i for a in node.proto.attribute)
        last = weight.ndim - 1
        expected = {"Conv": 0, "ConvTranspose": 1, "MatMul": last, "Gemm": 0 if transposed else 1}[node.op]
        assert (axis, scale.shape) == (expected, (weight.shape[expected],)), node.label
        assert np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)).max() == 127


def check_rule(variant: Model, feed: Feed, folder: Path) -> None:
    """ONNX Runtime runs the variant, and each QuantizeLinear keeps to the INT8 rule at ONNX Runtime's own inputs."""
    quantizers = [n for n in variant.graph.nodes if n.op == "QuantizeLinear"]
    assert quantizers
    path = folder / "watched.onnx"
    variant.watching([*(n.inputs[0] for n in quantizers), *(n.outputs[0] for n in quantizers)]).save(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    values = {**feed, **dict(zip(names, session.run(names, dict(feed)), strict=True))}
    executor = Executor(variant)
    assert executor.run(feed).keys() == {o.name for o in variant.graph.outputs}
    for node in quantizers:
        operands = [values[node.inputs[0]], *(variant.weight(n) for n in node.inputs[1:])]
        unrounded = np.clip(operands[0].astype(np.float64) / operands[1].astype(np.float64), -128, 127)
        ours = to_numpy(executor.evaluate(node, [from_numpy(v) for v in operands])[0])
        assert quantization_excess(unrounded, values[node.outputs[0]]) <= EXCESS_LIMIT, node.label
        assert quantization_excess(unrounded, ours) <= EXCESS_LIMIT, node.label


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_fixtures_in_int8_keep_their_accuracy(folder: Path, tmp_path: Path) -> None:
    """Calibrated on their inputs, the fixtures lose at most one of 64 labels, and keep to the rule."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    result = quantize(model, PrecisionPlan("int8"), Calibration.load(model, folder / "inputs.npz"))
    check_sound(model, result.model)
    check_channels(result.model)
    check_rule(result.model, feed, tmp_path)
    with np.load(folder / "labels.npz") as archive:
        labels = archive[archive.files[0]]
    right = {name: int((outputs_of(m, feed)["logits"].argmax(axis=1) == labels).sum())
             for name, m in (("fp32", model), ("int8", result.model))}
    assert right["int8"] >= right["fp32"] - 1


@pytest.mark.models
def test_real_models_in_int8(real_model: RealModel, tmp_path: Path) -> None:
    """Every real model is quantised and keeps to the rule, but one, which is quantised already."""
    model = Model.load(real_model.path)
    feed, _ = load_feed(model, [str(real_model.inputs_path)])
    flat = survey(model, feed).flat if any(n.op == "If" for n in model.graph.nodes) else model
    if real_model.name == "ultraface_qdq_int8":
        with pytest.raises(UsageError, match="quantised already"):
            int8(flat, feed)
        return
    result = int8(flat, feed)
    small_channels = [n for n in result.notes if n.endswith("too small for an FP16 scale.")]
    assert list(result.notes) == small_channels
    assert len(small_channels) == (3 if real_model.name == "squeezenet_fp16" else 0)
    check_sound(flat, result.model)
    check_channels(result.model)
    check_rule(result.model, feed, tmp_path)


def two_readers() -> tuple[Model, Feed]:
    """One input feeds a Conv, whose weight a second Conv shares, and an Add; the Conv's result is an output too."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
             helper.make_node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Add", ["x", "c"], ["y"])]
    weights = {"w": noise(2, 2, 3, 3), "b": noise(2), "x_scale": noise(1)}
    return built(nodes, weights, [1, 2, 6, 6], ["a", "y"]), {"x": noise(1, 2, 6, 6)}


def test_a_node_kept_in_fp32_reads_and_makes_what_it_did() -> None:
    """Readers of a quantised tensor that are not INT8 take the original, a shared weight stays for them."""
    model, feed = two_readers()
    variant = int8(model, feed, c="fp32").model
    assert node_of(variant, "c").inputs == ("a", "w")
    assert node_of(variant, "y").inputs == ("x", "c")
    assert node_of(variant, "a").inputs == ("x_DequantizeLinear_Output", "w_DequantizeLinear_Output", "b")
    check_sound(model, variant)


def test_a_graph_output_that_is_quantised_for_its_readers_stays_itself() -> None:
    """The output is what the node made; its Q/DQ stand beside."""
    model, feed = two_readers()
    for settings in (QuantizeSettings(), QuantizeSettings(outputs=True)):
        variant = int8(model, feed, settings).model
        assert node_of(variant, "a").op == "Conv"
        assert node_of(variant, "c").inputs[0] == "a_DequantizeLinear_Output"
        check_sound(model, variant)


def test_outputs_are_quantised_for_every_reader_when_asked() -> None:
    """With the option the Add reads the Conv's dequantised result; without it the Conv's own."""
    model, feed = two_readers()
    assert node_of(int8(model, feed).model, "y").inputs == ("x", "c")
    variant = int8(model, feed, QuantizeSettings(outputs=True)).model
    assert node_of(variant, "y").inputs == ("x", "c_DequantizeLinear_Output")


def test_new_names_make_way_for_old_ones() -> None:
    """A model that has a tensor x_scale of its own keeps it."""
    model, feed = two_readers()
    graph = model.proto.graph
    graph.node.add().CopyFrom(helper.make_node("Mul", ["y", "x_scale"], ["z"]))
    graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    model = Model.from_proto(model.proto)
    variant = int8(model, feed).model
    assert np.array_equal(variant.weight("x_scale"), model.weight("x_scale"))
    assert close(outputs_of(variant, feed)["z"], outputs_of(model, feed)["z"], 0.05)


@pytest.mark.parametrize(("node", "weight", "shape"), [
    (helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=3.0, transB=1), noise(5, 4), [3, 4]),
    (helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5), noise(4, 5), [3, 4]),
    (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), noise(2, 5, 3, 3), [1, 2, 4, 4]),
    (helper.make_node("MatMul", ["x", "w"], ["y"]), noise(2, 4, 5), [2, 3, 4]),
], ids=["Gemm transposed, beta", "Gemm", "ConvTranspose", "MatMul of rank 3"])
def test_channels_lie_along_the_right_axis(node: NodeProto, weight: np.ndarray, shape: list[int]) -> None:
    """One channel 1,000 times the others costs nothing, and attributes such as a Gemm's beta stay."""
    axis = {"ConvTranspose": 1, "MatMul": 2}.get(node.op_type, 0 if len(node.attribute) > 1 else 1)
    gain = np.ones(weight.shape[axis], np.float32)
    gain[0] = 1000
    weight = weight * gain.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    model, feed = built([node], {"w": weight, "b": noise(5)}, shape), {"x": noise(*shape)}
    variant = int8(model, feed).model
    check_channels(variant)
    found, expected = (np.moveaxis(outputs_of(m, feed)["y"], 1 if node.op_type == "ConvTranspose" else -1, 0)
                       for m in (variant, model))
    assert all(close(f, e, 0.05) for f, e in zip(found, expected, strict=True))


def test_a_weight_whose_readers_differ_or_that_comes_first_has_one_scale() -> None:
    """Tied weights, used transposed and not, have no common channel axis; the left of a MatMul has none here."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"], transB=1), helper.make_node("Gemm", ["a", "w"], ["b"]),
             helper.make_node("MatMul", ["w2", "b"], ["y"])]
    model, feed = built(nodes, {"w": noise(5, 4), "w2": noise(3, 3)}, [3, 4]), {"x": noise(3, 4)}
    variant = int8(model, feed).model
    assert variant.weight("w_scale").shape == variant.weight("w2_scale").shape == ()
    assert close(outputs_of(variant, feed)["y"], outputs_of(model, feed)["y"], 0.1)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Clip", "HardSigmoid"])
def test_fused_convolutions_are_taken_apart(activation: str) -> None:
    """FusedConv becomes Conv, Add and activation under its name, equal to rounding before it is quantised."""
    params = {"LeakyRelu": [0.3], "Clip": [-0.5, 0.5], "HardSigmoid": [0.2, 0.6]}.get(activation, [])
    extra = {"activation_params": params} if params else {}
    fused = helper.make_node("FusedConv", ["x", "w", "b", "x"], ["y"], domain="com.microsoft", pads=[1, 1, 1, 1],
                             activation=activation, **extra)
    model = built([fused], {"w": noise(2, 2, 3, 3), "b": noise(2)}, [1, 2, 6, 6], opset=11)
    feed = {"x": noise(1, 2, 6, 6)}
    result = int8(model, feed)
    assert result.nodes == ("y/conv",)
    assert node_of(result.model, "y").op == activation
    assert result.model.opsets[""] == 13
    check_sound(model, result.model)
    assert close(outputs_of(result.model, feed)["y"], outputs_of(model, feed)["y"], 0.03)
    kept = built([fused, helper.make_node("Conv", ["y", "w"], ["z"])], {"w": noise(2, 2, 3, 3), "b": noise(2)},
                 [1, 2, 6, 6], ["z"])
    assert node_of(int8(kept, feed, y="fp32").model, "y").op == "com.microsoft::FusedConv"


def test_a_computed_weight_is_quantised_as_a_weight() -> None:
    """Constant nodes and transposed initializers give INT8 weights per channel, not rounded activations."""
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(noise(2, 2, 1, 1)))
    nodes = [constant, helper.make_node("Conv", ["x", "w"], ["c"]),
             helper.make_node("Transpose", ["m"], ["mt"], perm=[1, 0]), helper.make_node("MatMul", ["c", "mt"], ["y"])]
    model, feed = built(nodes, {"m": noise(5, 4)}, [1, 2, 3, 4]), {"x": noise(1, 2, 3, 4)}
    variant = int8(model, feed).model
    check_channels(variant)
    assert {n for n in variant.graph.initializers if n.endswith("_quantized")} == {"w_quantized", "mt_quantized"}


@pytest.mark.parametrize("node", [
    helper.make_node("Relu", ["c"], ["y"]), helper.make_node("Upsample", ["c", "s"], ["y"], mode="linear"),
], ids=["Relu", "Upsample"])
def test_an_old_model_is_raised_where_that_changes_nothing(node: NodeProto) -> None:
    """Opset 9 rises to 13, also with Upsample, whose meaning onnx's converter alone would change."""
    weights = {"w": noise(2, 2, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)}
    model = built([helper.make_node("Conv", ["x", "w"], ["c"]), node], weights, [1, 2, 4, 4], opset=9)
    feed = {"x": noise(1, 2, 4, 4)}
    result = int8(model, feed)
    assert (result.model.opsets[""], result.notes) == (13, ())
    assert close(outputs_of(result.model, feed)["y"], outputs_of(model, feed)["y"], 0.03)


def test_a_model_that_cannot_be_raised_has_one_scale_a_weight_or_is_refused() -> None:
    """The converter changes what Hardmax does: Q/DQ by channel is given up, and Q/DQ of FP16 altogether."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Hardmax", ["c"], ["y"])]
    weight, x = noise(2, 2, 1, 1), noise(1, 2, 4, 4)
    result = int8(built(nodes, {"w": weight}, [1, 2, 4, 4], opset=9), {"x": x})
    assert result.model.opsets[""] == 10
    assert "Weights have one scale each, since per-channel needs opset ≥ 13." in result.notes
    assert result.model.weight("w_scale").shape == ()
    half = built(nodes, {"w": weight.astype(np.float16)}, [1, 2, 4, 4], opset=9)
    for value in (*half.proto.graph.input, *half.proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(UsageError, match="needs opset ≥ 19"):
        int8(Model.from_proto(half.proto), {"x": x.astype(np.float16)})


def test_half_weights_that_no_half_scale_stands_for_are_named() -> None:
    """A channel of at most 127 × 2⁻¹⁴ becomes 0 in an FP16 model, and the notes say so."""
    weight = np.array([[1, 1], [1e-3, 1e-3]], np.float16)[:, :, None, None]
    model = built([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight}, [1, 2, 4, 4], opset=19)
    for value in (*model.proto.graph.input, *model.proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    feed = {"x": noise(1, 2, 4, 4).astype(np.float16)}
    result = int8(Model.from_proto(model.proto), feed)
    assert result.notes == ("Weight w becomes 0 in 1 of 2 channels, too small for an FP16 scale.",)
    found = outputs_of(result.model, feed)["y"]
    assert found[0, 0].any()
    assert not found[0, 1].any()


def test_fewer_bits_keep_16_bit_sums_from_saturating() -> None:
    """With reduce_range the weights stay within ±64."""
    model, feed = two_readers()
    variant = int8(model, feed, QuantizeSettings(reduce_range=True)).model
    assert np.abs(variant.weight("w_quantized").astype(int)).max() == 64


def test_what_cannot_be_quantised_is_said_in_one_line() -> None:
    """Nothing of the kind, nothing left by the plan, values that are no numbers."""
    relu = built([helper.make_node("Relu", ["x"], ["y"])], {}, [2])
    with pytest.raises(UsageError, match="nothing to quantise: no Conv"):
        int8(relu, {"x": noise(2)})
    model, feed = two_readers()
    with pytest.raises(UsageError, match="none of the 2 nodes"):
        int8(model, feed, a="fp32", c="fp16")
    with pytest.raises(UsageError, match="Inf or NaN"):
        int8(model, {"x": np.full((1, 2, 6, 6), np.inf, np.float32)})


def test_a_node_that_overflows_is_left_out_and_named() -> None:
    """An infinite activation has no scale: its reader stays FP32, the others are quantised."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Exp", ["a"], ["e"]),
             helper.make_node("Conv", ["e", "w"], ["y"], "last")]
    model = built(nodes, {"w": np.full((2, 2, 1, 1), 50, np.float32)}, [1, 2, 4, 4])
    result = int8(model, {"x": np.ones((1, 2, 4, 4), np.float32)})
    assert result.nodes == ("a",)
    assert result.notes == ("last stays as it is: its inputs or weights reach Inf or NaN.",)
    assert node_of(result.model, "y").inputs == ("e", "w")


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_depend_on_the_samples_alone(method: Method) -> None:
    """Not on their order, nor on how few tensors the memory holds at a time; and they lie within least and greatest."""
    model, _ = two_readers()
    feeds = [{"x": noise(1, 2, 6, 6) * s} for s in (1e-3, 1.0, 5.0, 0.0)]
    facts = first_run(model, feeds[1], ["x", "a"]).facts
    settings = RangeSettings(method, percentile=99.0, entropy_bins=192)
    found = observe(model, Calibration.of_feeds(model, feeds), facts, settings)
    other = observe(model, Calibration.of_feeds(model, feeds[::-1]), facts, replace(settings, memory=1))
    assert found == other
    stacked = np.concatenate([f["x"] for f in feeds])
    assert stacked.min() <= found["x"].lowest <= 0 <= found["x"].highest <= stacked.max()
    if method == "minmax":
        assert (found["x"].lowest, found["x"].highest) == (stacked.min(), stacked.max())
    if method == "percentile":
        kept = np.quantile(np.abs(stacked), 0.99, method="inverted_cdf")
        bin_width = np.abs(stacked).max() / settings.percentile_bins
        assert kept - bin_width <= found["x"].highest <= kept


def test_entropy_clips_an_outlier() -> None:
    """One value 4 times beyond all others is cut off, but not with ONNX Runtime's default number of bins."""
    model = built([helper.make_node("Relu", ["x"], ["y"])], {}, [1, 2, 60, 60])
    x = np.clip(noise(1, 2, 60, 60), -3, 3)
    x[0, 0, 0, 0] = 12
    facts = first_run(model, {"x": x}, ["x"]).facts
    calibration = Calibration.of_feeds(model, [{"x": x}])
    assert observe(model, calibration, facts, RangeSettings("minmax"))["x"].highest == 12
    assert observe(model, calibration, facts, RangeSettings("entropy"))["x"].highest < 9
    assert observe(model, calibration, facts, RangeSettings("entropy", entropy_bins=128))["x"].highest == 12



def test_a_dead_channel_leaves_room_for_its_bias() -> None:
    """The scale of a channel of tiny weights is wide enough that its bias fits an int32 accumulator."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight[1] *= np.float32(1e-12)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full(4, 0.5, np.float32), "b")])
    model = Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    feed = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    made = quantize(model, plan_for(model, "int8"), Calibration.of_feeds(model, [feed])).model
    scales = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer if t.name.endswith("_scale")}
    data, weights = (next(s for n, s in scales.items() if n.startswith(prefix)) for prefix in ("x", "w"))
    assert np.all(0.5 / (data * weights.astype(np.float64)) <= 2.0**30 * (1 + 1e-6))
