"""INT8 as Q/DQ edits: ONNX Runtime's quantiser decides scales and places, the graph around them stays as it was.

ONNX Runtime's tool is shown only the nodes that are to be quantised, and only what it adds is taken over. On a whole
model it would also quantise what other nodes read, rename graph outputs, and set the beta of a Gemm to 1.

The settings are those that TensorRT parses: signed, zero point 0, no quantised bias, weights by output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from parity.errors import BackendUnavailable, UsageError
from parity.graph.flatten import inline_functions
from parity.graph.graph import Node, subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.precision.calibration import Calibration
from parity.precision.plan import PrecisionPlan
from parity.precision.prepare import (
    FUSED_CONV,
    HALF_OPSET,
    PER_CHANNEL_OPSET,
    QDQ_OPSET,
    prepare,
    with_least_ir,
)
from parity.precision.ranges import RangeSettings, TensorRange, facts_of, observe

# The operators with weights: what INT8 hardware speeds up. Their third input, a bias, stays as it is.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZABLE = (np.dtype(np.float32), np.dtype(np.float16))
_INT8_OPS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class QuantizeSettings:
    """How a model is quantised.

    Attributes:
        ranges: how the ranges of activations are found.
        per_channel: one scale for each output channel of a weight (needs opset 13).
        outputs: quantise what the nodes make, too, for every reader (graph outputs excepted).
        ops: operator types whose nodes are quantised.
    """

    ranges: RangeSettings = field(default_factory=RangeSettings)
    per_channel: bool = True
    outputs: bool = False
    ops: tuple[str, ...] = WEIGHTED


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
    model = inline_functions(model)
    chosen = _chosen(model, plan, settings)
    feed = next(iter(calibration))
    seen = {n for node in chosen for n in (*_operands(node), *(node.outputs if settings.outputs else ()))}
    facts = facts_of(model, feed, seen - model.graph.initializers.keys())
    notes: list[str] = []
    nodes = [n for n in chosen if all(facts[i].dtype in _QUANTIZABLE and facts[i].nbytes
                                      for i in _operands(n) if i in facts)]
    half = any(facts[i].dtype == np.float16 for n in nodes for i in _operands(n) if i in facts)
    wanted = HALF_OPSET if half else PER_CHANNEL_OPSET if settings.per_channel else QDQ_OPSET
    prepared = prepare(model, [n.outputs[0] for n in nodes], wanted, feed)
    opset = prepared.model.opsets.get("", 1)
    _refuse_old(model, opset, HALF_OPSET if half else QDQ_OPSET, prepared.notes)
    if settings.per_channel and opset < PER_CHANNEL_OPSET:
        notes.append(f"Weights have one scale each, since per-channel needs opset ≥ {PER_CHANNEL_OPSET}.")
    shown = prepared.model.graph
    nodes = [n for n in shown.nodes if n.outputs and n.outputs[0] in prepared.nodes]
    needed = {n for node in nodes for n in (*_operands(node), *(node.outputs if settings.outputs else ()))}
    ranges = observe(prepared.model, calibration, {n: facts[n] for n in sorted(needed & facts.keys())
                                                   if n not in shown.initializers}, settings.ranges)
    finite = [n for n in nodes if _finite(prepared.model, n, ranges)]
    notes.extend(f"{n.label} stays as it is: its inputs or weights reach Inf or NaN." for n in nodes if n not in finite)
    if not finite:
        raise UsageError(f"nothing in {model.name} can be quantised: its tensors are not finite FP32 or FP16",
                         "Check the calibration data; see where it becomes NaN with `parity compare`.")
    per_channel = settings.per_channel and opset >= PER_CHANNEL_OPSET
    additions = _run_quantizer(prepared.model, finite, ranges, settings, per_channel=per_channel)
    proto = _graft(prepared.model, finite, additions, outputs=settings.outputs)
    return Quantized(Model.from_proto(proto, model.folder), tuple(n.outputs[0] for n in finite),
                     (*prepared.notes, *notes))


def _operands(node: Node) -> tuple[str, ...]:
    """The inputs that are quantised: not the bias of an operator with weights."""
    inputs = node.inputs[:2] if node.op in (*WEIGHTED, FUSED_CONV) else node.inputs
    return tuple(n for n in inputs if n)


def _chosen(model: Model, plan: PrecisionPlan, settings: QuantizeSettings) -> list[Node]:
    """The nodes to quantise.

    Raises:
        UsageError: there are none, or some are quantised already.
    """
    nodes = model.graph.nodes
    if any(n.op in _INT8_OPS or n.op.startswith("QLinear") for n in nodes):
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


def _refuse_old(model: Model, opset: int, needed: int, notes: Iterable[str]) -> None:
    if opset < needed:
        why = " ".join(notes).rstrip(".")
        raise UsageError(f"{model.name} cannot be quantised, which needs opset ≥ {needed}. {why}",
                         "Export it again at a later opset.")


def _finite(model: Model, node: Node, ranges: Mapping[str, TensorRange]) -> bool:
    weights = [n for n in _operands(node) if n in model.graph.initializers]
    return all(ranges[n].usable for n in _operands(node) if n in ranges) and all(
        bool(np.isfinite(model.weight(n).astype(np.float32)).all()) for n in weights)


def _run_quantizer(model: Model, nodes: Sequence[Node], ranges: Mapping[str, TensorRange], settings: QuantizeSettings,
                   *, per_channel: bool) -> ModelProto:
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
        n: TensorData(lowest=r.dtype.type(r.lowest), highest=r.dtype.type(r.highest)) for n, r in ranges.items()})
    options = {
        "ActivationSymmetric": True, "WeightSymmetric": True,
        "QuantizeBias": False, "QDQDisableWeightAdjustForInt32Bias": True,
        "OpTypesToExcludeOutputQuantization": [] if settings.outputs else list(settings.ops),
        "TensorQuantOverrides": {n: [{"axis": axis} if axis is not None else {"symmetric": True}]
                                 for n, axis in _axes(model, nodes).items()} if per_channel else {},
    }
    quantizer = QDQQuantizer(_alone(model, nodes, ranges), per_channel, False, QuantType.QInt8, QuantType.QInt8,
                             observed, [], [], list(settings.ops), options)
    quantized: ModelProto = quantizer.quantize_model()
    return quantized


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


def _alone(model: Model, nodes: Sequence[Node], ranges: Mapping[str, TensorRange]) -> ModelProto:
    """A model of these nodes, without biases, in which each is named by its first output."""
    graph = model.graph
    kept = [helper.make_node(n.proto.op_type, n.inputs[:2] if n.op in WEIGHTED else n.inputs, n.proto.output,
                             n.outputs[0]) for n in nodes]
    for proto, node in zip(kept, nodes, strict=True):
        proto.attribute.extend(node.proto.attribute)
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(r.dtype), None)
              for n, r in ranges.items()]
    weights = [numpy_helper.from_array(np.ascontiguousarray(model.weight(n)), n)
               for n in dict.fromkeys(i for node in nodes for i in _operands(node)) if n in graph.initializers]
    skeleton = helper.make_model(
        helper.make_graph(kept, "quantised", values, [], weights),
        opset_imports=[helper.make_opsetid("", model.opsets[""])], ir_version=model.proto.ir_version)
    # Types are declared, so there is nothing to infer: the mark that ONNX Runtime leaves after doing so.
    skeleton.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    return skeleton


def _graft(model: Model, nodes: Sequence[Node], quantized: ModelProto, *, outputs: bool) -> ModelProto:
    """The model with the Q/DQ nodes of a quantised part of it.

    Args:
        model: the whole model.
        nodes: the nodes that the part consists of.
        quantized: the part after the quantiser.
        outputs: whether every reader of what the nodes make takes the dequantised tensor.
    """
    renamed = _free_names(model, quantized)
    added = {renamed(n.output[0]): n for n in quantized.graph.node if n.op_type in _INT8_OPS}
    rewired = {n.name: [renamed(i) for i in n.input] for n in quantized.graph.node if n.op_type not in _INT8_OPS}
    dequantized = {q.input[0]: output for output, q in _pairs(added).items()} if outputs else {}
    made = {o for n in nodes for o in n.outputs}
    proto = shallow_copy(model.proto)
    del proto.graph.node[:]
    placed: set[str] = set()
    for node in model.graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        inputs = rewired.get(node.outputs[0], []) if node.outputs else []
        rest = [dequantized.get(n, n) if n in made else n for n in node.inputs[len(inputs):]]
        copy.input[:] = [*inputs, *rest]
        proto.graph.node.extend([*_needed(copy.input, added, placed, renamed), copy])
    scales = {renamed(t.name): t for t in quantized.graph.initializer if t.name not in model.graph.initializers}
    _replace_initializers(proto, scales)
    with_least_ir(proto)
    return proto


def _pairs(added: Mapping[str, NodeProto]) -> dict[str, NodeProto]:
    """For each dequantised activation, the QuantizeLinear before it."""
    by_output = {n.output[0]: n for n in added.values()}
    return {output: by_output[n.input[0]] for output, n in added.items()
            if n.op_type == "DequantizeLinear" and n.input[0] in by_output}


def _free_names(model: Model, quantized: ModelProto) -> Callable[[str], str]:
    """How to call what the quantiser has added, where the model has a tensor of that name already."""
    ours = {o for g in subgraph_protos(model.proto.graph) for n in g.node for o in n.output}
    ours |= {t.name for t in model.weights()} | {i.name for i in model.proto.graph.input}
    news = {n.output[0] for n in quantized.graph.node if n.op_type in _INT8_OPS}
    news |= {t.name for t in quantized.graph.initializer if t.name not in model.graph.initializers}
    taken = {n: f"{n}/int8" for n in news & ours}
    return lambda name: taken.get(name, name)


def _needed(names: Iterable[str], added: Mapping[str, NodeProto], placed: set[str],
            renamed: Callable[[str], str]) -> list[NodeProto]:
    """The Q/DQ nodes that make these tensors and are not in the graph yet, in order."""
    found: list[NodeProto] = []
    for name in names:
        if name not in added or name in placed:
            continue
        placed.add(name)
        copy = NodeProto()
        copy.CopyFrom(added[name])
        copy.input[:] = [renamed(i) for i in copy.input]
        copy.output[:] = [name]
        found.extend([*_needed(copy.input, added, placed, renamed), copy])
    return found


def _replace_initializers(proto: ModelProto, news: Mapping[str, TensorProto]) -> None:
    """Add what is new, and drop what nothing reads any more (a dropped one must not become an input)."""
    read = {i for g in subgraph_protos(proto.graph) for n in g.node for i in n.input}
    read |= {o.name for g in subgraph_protos(proto.graph) for o in g.output}
    dropped = {t.name for t in proto.graph.initializer} - read
    kept = [t for t in proto.graph.initializer if t.name in read]
    inputs = [i for i in proto.graph.input if i.name not in dropped]
    del proto.graph.initializer[:], proto.graph.input[:]
    proto.graph.initializer.extend(kept)
    proto.graph.input.extend(inputs)
    for name, tensor in news.items():
        if name in read:
            proto.graph.initializer.add().CopyFrom(tensor)
            proto.graph.initializer[-1].name = name


