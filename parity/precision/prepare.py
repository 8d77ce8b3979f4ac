"""Bring a model into a form whose operators can be quantised: a recent opset, no fused convolutions, plain weights.

None of these edits renames a tensor: a weight that was computed becomes an initializer of the same name, and the
parts of a fused operator get names beside the one that it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.graph import Node, subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import to_numpy

FUSED_CONV = "com.microsoft::FusedConv"
# QuantizeLinear exists from opset 10 on, knows channels from 13 on, and FP16 from 19 on.
QDQ_OPSET, PER_CHANNEL_OPSET, HALF_OPSET = 10, 13, 19
_CLIP_INPUTS_OPSET = _RESIZE_MODES_OPSET = 11
# What a raised opset may change, relative to the largest value: nothing but summation order.
_SAME = 1e-5
_ACTIVATION_PARAMS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for the quantiser.

    Attributes:
        model: the model.
        nodes: first outputs of the nodes to quantise.
        notes: what could not be done, for the report.
    """

    model: Model
    nodes: frozenset[str]
    notes: tuple[str, ...] = ()


def prepare(model: Model, nodes: Collection[str], opset: int, feed: Feed,
            outputs: Mapping[str, np.ndarray]) -> Prepared:
    """Make some nodes fit to be quantised.

    Args:
        model: its local functions are inlined.
        nodes: first outputs of the nodes to quantise.
        opset: the one that is wanted; where the model cannot be raised to it, the least that has Q/DQ.
        feed: to make sure that raising the opset changes nothing.
        outputs: what the model gives for it.
    """
    notes: list[str] = []
    for target in (opset, QDQ_OPSET):
        if model.opsets.get("", 1) >= target:
            break
        try:
            model = _raised(model, target, feed, outputs)
        except ModelError as error:
            notes.append(f"The model is not raised to opset {target}: {error.message.rstrip('.')}.")
    chosen = frozenset(nodes)
    if model.opsets.get("", 1) >= _CLIP_INPUTS_OPSET:
        model, chosen = _unfused(model, chosen)
    proto = shallow_copy(_with_plain_weights(model, chosen).proto)
    drop_unread(proto)
    return Prepared(replace(model, proto=proto), chosen, tuple(notes))


def _raised(model: Model, opset: int, feed: Feed, outputs: Mapping[str, np.ndarray]) -> Model:
    """The model at a later opset.

    Raises:
        ModelError: onnx cannot convert it, or the result is not the same model.
    """
    try:
        proto = version_converter.convert_version(_modern(model).proto, opset)
    except (RuntimeError, ValueError, IndexError, version_converter.ConvertError) as error:
        raise ModelError(f"onnx cannot convert it to opset {opset} ({str(error).splitlines()[0]})") from error
    if model.opsets.get("", 1) < _RESIZE_MODES_OPSET <= opset:
        _keep_resizing(proto)
    raised = Model.from_proto(proto, model.folder)
    known = raised.graph.producer.keys() | raised.graph.initializers.keys()
    lost = [o for node in model.graph.nodes for o in node.outputs if o not in known]
    if lost:
        raise ModelError(f"onnx's conversion to opset {opset} loses tensor {lost[0]!r}")
    after = Executor(raised).run(feed)
    for name, before in outputs.items():
        if not _same(before, to_numpy(after[name])):
            raise ModelError(f"onnx's conversion to opset {opset} changes output {name!r}")
    return raised


def _keep_resizing(proto: onnx.ModelProto) -> None:
    """Say, in place, what Upsample and the first Resize did without saying; onnx leaves the later default instead."""
    for node in (n for g in subgraph_protos(proto.graph) for n in g.node if n.op_type == "Resize"):
        stated = {a.name for a in node.attribute}
        for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            if name not in stated:
                node.attribute.append(helper.make_attribute(name, value))


def _same(before: np.ndarray, after: np.ndarray) -> bool:
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    if before.dtype.kind not in "fV":
        return bool(np.array_equal(before, after))
    wide, other = before.astype(np.float64), after.astype(np.float64)
    largest = float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0.0))
    return bool(np.allclose(wide, other, rtol=0.0, atol=_SAME * largest, equal_nan=True))


def _modern(model: Model) -> Model:
    """From IR 4 on weights need not be inputs, and those that are may be overridden, so that no runtime folds them."""
    if model.proto.ir_version > 3:
        return model
    proto = shallow_copy(model.proto)
    inputs = [i for i in proto.graph.input if i.name not in model.graph.initializers]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = 7  # that of opset 12, the least that every reader of Q/DQ models knows
    return replace(model, proto=proto)


def unfused(model: Model) -> Model:
    """The same model without ONNX Runtime's FusedConv: each is taken apart, where the opset has what it is made of."""
    if model.opsets.get("", 1) < _CLIP_INPUTS_OPSET:
        return model
    return _unfused(model, frozenset(n.outputs[0] for n in model.graph.nodes if n.op == FUSED_CONV))[0]


def _unfused(model: Model, chosen: frozenset[str]) -> tuple[Model, frozenset[str]]:
    """The model with ONNX Runtime's FusedConv taken apart where it is to be quantised."""
    fused = [n for n in model.graph.nodes if n.op == FUSED_CONV and n.outputs[0] in chosen]
    if not fused:
        return model, chosen
    proto = shallow_copy(model.proto)
    del proto.graph.node[:]
    for node in model.graph.nodes:
        proto.graph.node.extend(_parts(node, proto.graph.initializer) if node in fused else [node.proto])
    convolutions = {n.outputs[0]: f"{n.outputs[0]}/conv" for n in fused}
    return replace(model, proto=proto), frozenset(convolutions.get(n, n) for n in chosen)


def _parts(node: Node, initializers: Sequence[TensorProto]) -> list[NodeProto]:
    """FusedConv is activation(Conv(x, w, bias) + z), by ONNX Runtime's ContribOperators.md."""
    values = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
    activation = values.pop("activation", b"").decode()
    params = values.pop("activation_params", ())
    output, name = node.outputs[0], node.label
    current = f"{output}/conv"
    parts = [helper.make_node("Conv", node.inputs[:3], [current], f"{name}/conv", **values)]
    if len(node.inputs) > 3 and node.inputs[3]:
        parts.append(helper.make_node("Add", [current, node.inputs[3]], [f"{output}/sum"], f"{name}/sum"))
        current = f"{output}/sum"
    if activation == "Clip":
        bounds = [f"{output}/{end}" for end in ("min", "max")]
        initializers.extend(  # type: ignore[attr-defined]
            numpy_helper.from_array(np.float32(v), n) for n, v in zip(bounds, params, strict=True))
        parts.append(helper.make_node("Clip", [current, *bounds], [output], name))
    else:
        attributes = dict(zip(_ACTIVATION_PARAMS.get(activation, ()), params, strict=False))
        parts.append(helper.make_node(activation or "Identity", [current], [output], name, **attributes))
    return parts


def _with_plain_weights(model: Model, chosen: frozenset[str]) -> Model:
    """The model with what is constant among the inputs of these nodes, but computed, made an initializer."""
    graph = model.graph
    results = {o.name for o in graph.outputs}
    read = {name for n in graph.nodes if n.outputs and n.outputs[0] in chosen for name in n.inputs[:2]}
    makers = {graph.producer[n].index: graph.producer[n]
              for n in read & model.constants & graph.producer.keys() if results.isdisjoint(graph.producer[n].outputs)}
    if not makers:
        return model
    values = _evaluated(model, [o for node in makers.values() for o in node.outputs])
    proto = shallow_copy(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(n.proto for n in graph.nodes if n.index not in makers)
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    return replace(model, proto=proto)


def _evaluated(model: Model, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    values = Executor(model.between({}, names)).run({})
    return {n: np.asarray(to_numpy(values[n]), order="C") for n in names}


def drop_unread(proto: onnx.ModelProto) -> None:
    """Take out, in place, the initializers that nothing reads, and the inputs that stood for them."""
    graphs = list(subgraph_protos(proto.graph))
    read = {i for g in graphs for n in g.node for i in n.input} | {o.name for g in graphs for o in g.output}
    unread = {t.name for t in proto.graph.initializer} - read
    for listed in (proto.graph.initializer, proto.graph.input):
        for index in reversed(range(len(listed))):
            if listed[index].name in unread:
                del listed[index]


def with_least_ir(proto: onnx.ModelProto) -> None:
    """Raise a model's IR version to the one that its opset came with, in place."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
    wanted = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    proto.ir_version = max(proto.ir_version, wanted)
