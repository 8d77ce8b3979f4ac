"""INT8 as Q/DQ edits: ONNX Runtime's quantiser decides scales and places, the graph around them stays as it was.

ONNX Runtime's tool is shown only the nodes that are to be quantised, and only what it adds is taken over. On a whole
model it would also quantise what other nodes read, rename graph outputs, and set the beta of a Gemm to 1.

The settings are those that TensorRT parses: signed, zero point 0, no quantised bias, weights by output channel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from parity.errors import BackendUnavailable, UsageError
from parity.graph.flatten import inline_functions
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.channels import stand_in, widen
from parity.precision.graft import MARK, QDQ_OPS, graft
from parity.precision.plan import PrecisionPlan
from parity.precision.prepare import FUSED_CONV, HALF_OPSET, PER_CHANNEL_OPSET, QDQ_OPSET, prepare
from parity.precision.ranges import RangeSettings, TensorFacts, TensorRange, first_run, observe

# The operators with weights: what INT8 hardware speeds up. Their third input, a bias, stays as it is.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WITH_WEIGHTS = (*WEIGHTED, FUSED_CONV)
# Largest magnitudes of a weight in 8 and, as ONNX Runtime reduces it, in 7 bits.
_FULL, _REDUCED = 127, 64
_QUANTIZABLE = (np.dtype(np.float32), np.dtype(np.float16))


@dataclass(frozen=True)
class QuantizeSettings:
    """How a model is quantised.

    Attributes:
        ranges: how the ranges of activations are found.
        per_channel: one scale for each output channel of a weight (needs opset 13).
        outputs: quantise what the nodes make, too, for every reader (graph outputs excepted).
        ops: operator types whose nodes are quantised.
        reduce_range: weights in 7 bits. ONNX Runtime's INT8 kernels add pairs of products in 16 bits on x86 CPUs
            without VNNI, where full weights saturate.
    """

    ranges: RangeSettings = field(default_factory=RangeSettings)
    per_channel: bool = True
    outputs: bool = False
    ops: tuple[str, ...] = WEIGHTED
    reduce_range: bool = False


@dataclass(frozen=True)
class Quantized:
    """A model with Q/DQ.

    Attributes:
        model: all tensors of the original under their names; new ones end in _QuantizeLinear_Output and
            _DequantizeLinear_Output.
        nodes: first outputs of the nodes that are quantised.
        notes: what was left out or done otherwise, for the report.
    """

    model: Model
    nodes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def quantize(model: Model, plan: PrecisionPlan, calibration: Calibration,
             settings: QuantizeSettings = QuantizeSettings()) -> Quantized:
    """Put Q/DQ before the inputs of every node that the plan runs in INT8.

    Args:
        model: flat, or what is inside its If, Loop and Scan bodies stays as it is.
        plan: which nodes; those of other operator types than `settings.ops` stay as they are.
        calibration: samples to find the ranges of activations on.
        settings: how.

    Raises:
        UsageError: nothing to quantise, or a model that is quantised already.
        FeedError: a calibration sample does not fit the model.
        BackendUnavailable: there is no ONNX Runtime.
        BackendFailed: ONNX Runtime cannot run the model.
        ModelError: the model does not run on the first sample.
    """
    ready = _ready(inline_functions(model), plan, calibration, settings)
    ranges = observe(ready.model, calibration, ready.observed, settings.ranges)
    nodes = [n for n in ready.nodes if _finite(ready.model, n, ranges)]
    left = [f"{n.label} stays as it is: its inputs or weights reach Inf or NaN." for n in ready.nodes if n not in nodes]
    if not nodes:
        raise UsageError(f"nothing in {model.name} can be quantised: its tensors reach Inf or NaN",
                         "See where with `parity compare`, and check the calibration data.")
    per_channel = settings.per_channel and ready.model.opsets[""] >= PER_CHANNEL_OPSET
    quantized = _run_quantizer(ready, nodes, ranges, settings, per_channel=per_channel)
    _make_room_for_biases(ready.model, nodes, quantized)
    proto = graft(ready.model, nodes, quantized, outputs=settings.outputs)
    return Quantized(Model.from_proto(proto, model.folder), tuple(n.outputs[0] for n in nodes), (*ready.notes, *left))


@dataclass(frozen=True)
class _Ready:
    """A model that the quantiser can take, the nodes that it is to quantise, and what they read and make."""

    model: Model
    nodes: Sequence[Node]
    facts: Mapping[str, TensorFacts]
    notes: tuple[str, ...]

    @property
    def observed(self) -> dict[str, TensorFacts]:
        """The tensors that need a range."""
        return {n: f for n, f in self.facts.items() if f.dtype in _QUANTIZABLE and f.nbytes}


def _ready(model: Model, plan: PrecisionPlan, calibration: Calibration, settings: QuantizeSettings) -> _Ready:
    chosen = _chosen(model, plan, settings)
    feed = next(iter(calibration))
    seen = {n for node in chosen for n in (*_operands(node), *(node.outputs if settings.outputs else ()))}
    run = first_run(model, feed, seen - model.graph.initializers.keys())
    facts = run.facts
    fit = [n for n in chosen if _fits(n, facts)]
    if not fit:
        raise UsageError(f"nothing in {model.name} can be quantised: its tensors are empty, or not FP32 or FP16",
                         "Check the calibration data.")
    half = any(facts[i].dtype == np.float16 for n in fit for i in _operands(n) if i in facts)
    wanted = HALF_OPSET if half else PER_CHANNEL_OPSET if settings.per_channel else QDQ_OPSET
    prepared = prepare(model, [n.outputs[0] for n in fit], wanted, feed, run.outputs)
    opset, notes = prepared.model.opsets.get("", 1), list(prepared.notes)
    if opset < (HALF_OPSET if half else QDQ_OPSET):
        why = " ".join(notes).rstrip(".")
        raise UsageError(f"{model.name} cannot be quantised, which needs opset ≥ {HALF_OPSET if half else QDQ_OPSET}. "
                         f"{why}", "Export it again at a later opset.")
    if settings.per_channel and opset < PER_CHANNEL_OPSET:
        notes.append(f"Weights have one scale each, since per-channel needs opset ≥ {PER_CHANNEL_OPSET}.")
    graph = prepared.model.graph
    nodes = [n for n in graph.nodes if n.outputs and n.outputs[0] in prepared.nodes]
    needed = {n for node in nodes for n in (*_operands(node), *node.outputs)} - graph.initializers.keys()
    notes.extend(_vanishing(prepared.model, nodes) if half else ())
    return _Ready(prepared.model, nodes, {n: facts[n] for n in sorted(needed & facts.keys())}, tuple(notes))


def _fits(node: Node, facts: Mapping[str, TensorFacts]) -> bool:
    """Whether its activations can be quantised: both of an operator with weights, any of another."""
    fit = [facts[i].dtype in _QUANTIZABLE and facts[i].nbytes > 0 for i in _operands(node) if i in facts]
    return all(fit) if node.op in _WITH_WEIGHTS else any(fit)


def _vanishing(model: Model, nodes: Iterable[Node]) -> Iterator[str]:
    """Notes on FP16 weights whose scale, greatest magnitude / 127, FP16 does not hold: the quantiser makes them 0."""
    least = 127 * float(np.finfo(np.float16).tiny)
    for name, axis in _axes(model, nodes).items():
        weight = model.weight(name)
        others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.max(np.abs(weight), axis=others, initial=0)
        lost = int(np.sum((largest > 0) & (largest < least)))
        if weight.dtype == np.float16 and lost:
            yield f"Weight {name} becomes 0 in {lost} of {largest.size} channels, too small for an FP16 scale."


def _operands(node: Node) -> tuple[str, ...]:
    """The inputs that are quantised: not the bias of an operator with weights."""
    inputs = node.inputs[:2] if node.op in _WITH_WEIGHTS else node.inputs
    return tuple(n for n in inputs if n)


def _chosen(model: Model, plan: PrecisionPlan, settings: QuantizeSettings) -> list[Node]:
    """The nodes to quantise.

    Raises:
        UsageError: there are none, or some are quantised already.
    """
    nodes = model.graph.nodes
    if any(n.op in QDQ_OPS or n.op.startswith("QLinear") for n in nodes):
        raise UsageError(f"{model.name} is quantised already", "Give it as it is, as a candidate file.")
    ops = {*settings.ops, *((FUSED_CONV,) if "Conv" in settings.ops else ())}
    known = [n for n in nodes if n.op in ops and not model.constants.issuperset(n.outputs)]
    if not known:
        inner = any(n.subgraphs for n in nodes)
        raise UsageError(f"{model.name} has nothing to quantise: no {', '.join(settings.ops)} in its main graph",
                         "What is inside If, Loop or Scan is not quantised; export the model without them."
                         if inner else "Choose another precision.")
    chosen = [n for n in known if plan.of(n) == "int8"]
    if not chosen:
        raise UsageError(f"the plan runs none of the {len(known)} nodes of {model.name} that can be quantised in int8",
                         "Let it name at least one.")
    return chosen


def _finite(model: Model, node: Node, ranges: Mapping[str, TensorRange]) -> bool:
    weights = [n for n in _operands(node) if n in model.graph.initializers]
    return all(ranges[n].usable for n in _operands(node) if n in ranges) and all(
        bool(np.isfinite(model.weight(n).astype(np.float32)).all()) for n in weights)


def _run_quantizer(ready: _Ready, nodes: Sequence[Node], ranges: Mapping[str, TensorRange],
                   settings: QuantizeSettings, *, per_channel: bool) -> ModelProto:
    """What ONNX Runtime's quantiser makes of a model of these nodes alone."""
    try:
        # It is the library that quantises here; the backend of the same name runs models.
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import QuantType
    except ImportError as error:
        raise BackendUnavailable(f"INT8 needs ONNX Runtime's quantiser, which cannot be imported ({error})",
                                 "pip install 'parity[cpu]'") from error
    observed = TensorsData(CalibrationMethod.MinMax, {
        n + MARK: TensorData(lowest=r.dtype.type(r.lowest), highest=r.dtype.type(r.highest))
        for n, r in ranges.items()})
    options = {
        "ActivationSymmetric": True, "WeightSymmetric": True,
        "QuantizeBias": False, "QDQDisableWeightAdjustForInt32Bias": True,
        "OpTypesToExcludeOutputQuantization": [] if settings.outputs else list(settings.ops),
    }
    axes = {n: axis for n, axis in _axes(ready.model, nodes).items() if axis is not None} if per_channel else {}
    quantizer = QDQQuantizer(_alone(ready, nodes, axes), False, settings.reduce_range, QuantType.QInt8,
                             QuantType.QInt8, observed, [], [], list(settings.ops), options)
    quantized: ModelProto = quantizer.quantize_model()
    widen(quantized, ready.model, axes, _REDUCED if settings.reduce_range else _FULL)
    return quantized


# Half of what an int32 accumulator holds, so that products still fit beside the bias.
_LARGEST_BIAS = 2.0**30


def _make_room_for_biases(model: Model, nodes: Iterable[Node], quantized: ModelProto) -> None:
    """Widen the scale of weight channels so small that their bias would not fit the accumulator.

    A runtime adds the bias in int32 at the product of the two scales. Where a channel is dead, its weights near 0, that
    product is so small that the bias saturates; a wider scale loses nothing there.
    """
    tensors = {t.name: t for t in quantized.graph.initializer}
    for node in nodes:
        if len(node.inputs) < 3 or node.op == "MatMul" or node.inputs[2] not in model.graph.initializers:
            continue
        data, weight = (f"{n}{MARK}" for n in node.inputs[:2])
        found = [tensors.get(n) for n in (f"{data}_scale", f"{weight}_scale", f"{weight}_quantized")]
        if any(t is None for t in found):
            continue
        step, scale, levels = (numpy_helper.to_array(t) for t in found if t is not None)
        bias = np.abs(model.weight(node.inputs[2]).astype(np.float64)).ravel()
        least = bias / (step.astype(np.float64) * _LARGEST_BIAS)
        if scale.ndim == 0 or scale.size != least.size or (scale >= least).all():
            continue
        wide = np.maximum(scale, least.astype(scale.dtype))
        axis = _axis(node, 1, levels.ndim) or 0
        along = [-1 if i == axis else 1 for i in range(levels.ndim)]
        values = model.weight(node.inputs[1]).astype(np.float64) / wide.astype(np.float64).reshape(along)
        tensors[f"{weight}_scale"].CopyFrom(numpy_helper.from_array(wide, f"{weight}_scale"))
        rounded = np.clip(np.rint(values), -127, 127).astype(levels.dtype)
        tensors[f"{weight}_quantized"].CopyFrom(numpy_helper.from_array(rounded, f"{weight}_quantized"))


def _axes(model: Model, nodes: Iterable[Node]) -> dict[str, int | None]:
    """The axis of each weight along which the output channels lie; None where there is none, or two readers differ."""
    axes: dict[str, int | None] = {}
    for node in nodes:
        for position, name in enumerate(_operands(node)):
            if name in model.graph.initializers:
                axis = _axis(node, position, len(model.graph.initializers[name].dims))
                axes[name] = axis if axes.get(name, axis) == axis else None
    return axes


def _axis(node: Node, position: int, rank: int) -> int | None:
    if position != 1 or rank < 2:
        return None
    if node.op == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.proto.attribute)
        return 0 if transposed else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op)


def _alone(ready: _Ready, nodes: Sequence[Node], by_channel: Collection[str]) -> ModelProto:
    """A model of these nodes, without biases, in the names that `graft` takes; some weights by stand-ins."""
    model = ready.model
    kept = []
    for node in nodes:
        inputs = node.inputs[:2] if node.op in WEIGHTED else node.inputs
        proto = helper.make_node(node.proto.op_type, _marked(inputs), _marked(node.proto.output), node.outputs[0])
        proto.attribute.extend(node.proto.attribute)
        kept.append(proto)
    values = [helper.make_tensor_value_info(n + MARK, helper.np_dtype_to_tensor_dtype(f.dtype), None)
              for n, f in ready.facts.items()]
    operands = dict.fromkeys(i for node in nodes for i in _operands(node))
    weights = [numpy_helper.from_array(np.ascontiguousarray(
        stand_in(model.weight(n)) if n in by_channel else model.weight(n)), n + MARK)
        for n in operands if n in model.graph.initializers]
    skeleton = helper.make_model(
        helper.make_graph(kept, "quantised", values, [], weights),
        opset_imports=[helper.make_opsetid("", model.opsets[""])], ir_version=model.proto.ir_version)
    # Types are declared, so there is nothing to infer: the mark that ONNX Runtime leaves after doing so.
    skeleton.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    return skeleton


def _marked(names: Iterable[str]) -> list[str]:
    return [n and n + MARK for n in names]
