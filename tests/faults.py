"""Known faults to plant in any flat model: what a runtime or an export may get wrong, one at a time.

Each generator looks at one node and yields the faults that can be planted there. Weights are changed through a private
copy, so that a weight shared with other nodes stays right there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from parity.backends.planted import Fault
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy

Values = Mapping[str, np.ndarray]
Edit = Callable[[ModelProto, NodeProto], None]

_WEIGHTED = {"Conv", "com.microsoft::FusedConv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"}
_SWAPS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "Relu": ("LeakyRelu", {"alpha": 0.01}), "Add": ("Sub", {}), "Sub": ("Add", {}), "Mul": ("Add", {}),
    "Sigmoid": ("HardSigmoid", {}), "Tanh": ("Softsign", {}), "Erf": ("Tanh", {}), "Sqrt": ("Abs", {}),
    "GlobalAveragePool": ("GlobalMaxPool", {}), "Exp": ("Softplus", {}), "Neg": ("Identity", {}),
}


def all_values(flat: Model, feed: Values) -> dict[str, np.ndarray]:
    """Every tensor of a clean FP32 run, weights and inputs included."""
    executor = Executor(flat)
    values = {n: to_numpy(v) for n, v in executor.scope(feed).items()}
    for step in executor.steps(feed):
        values.update({n: to_numpy(v) for n, v in step.values.items() if is_tensor(v)})
    return values


def faults_of(flat: Model, values: Values) -> Iterator[Fault]:
    """Every fault that can be planted in a model, in graph order.

    Args:
        flat: a model without If and local functions.
        values: every tensor of a clean run.
    """
    for node in flat.graph.nodes:
        if node.outputs and node.outputs[0] not in flat.constants and node.outputs[0] in values:
            for generate in (_weight_faults, _bias_faults, _attribute_faults, _swaps, _rounded):
                for kind, edit in generate(node, flat, values):
                    yield Fault(f"{node.op}: {kind}", node.outputs[0], partial(_apply, node.outputs[0], edit))


def variant_faults_of(variant: Model, values: Values) -> Iterator[Fault]:
    """Faults to plant in an FP16 or INT8 variant, in graph order: of weights, scales and zero points.

    Args:
        variant: a flat variant.
        values: every tensor of a clean run of it.
    """
    for node in variant.graph.nodes:
        if node.outputs and node.outputs[0] not in variant.constants and node.outputs[0] in values:
            for kind, edit in (*_scale_faults(node, variant, values), *_weight_faults(node, variant, values, 1.1)):
                yield Fault(f"{node.op}: {kind}", node.outputs[0], partial(_apply, node.outputs[0], edit))


def gains_of(flat: Model, values: Values, limit: float = 65504.0) -> Iterator[Fault]:
    """Gains of 10,000 that are taken back at once: harmless in FP32, beyond FP16.

    The tensor to name is the one after the gain.
    """
    for node in flat.graph.nodes:
        name = node.outputs[0] if node.outputs else ""
        if node.op not in _WEIGHTED or name not in values or values[name].dtype != np.float32 or name in flat.constants:
            continue
        if np.abs(values[name]).max() * 1e4 > limit:
            yield Fault(f"{node.op}: a gain of 10,000 taken back", f"{name}/gain", partial(_apply, name, _gain))


def movement(flat: Model, fault: Fault, values: Values) -> float:
    """How far a fault moves its own node's output (relative L2) at the clean inputs; inf where the shape changes."""
    faulty, node = fault.plant(flat), flat.graph.producer[fault.tensor]
    cut = faulty.between({n: values[n] for n in node.reads if n not in flat.constants}, [fault.tensor])
    moved = to_numpy(Executor(cut).run({s.name: values[s.name] for s in cut.graph.inputs})[fault.tensor])
    right = values[fault.tensor]
    if moved.shape != right.shape:
        return float("inf")
    gap, norm = (float(np.linalg.norm(x.astype(np.float64).ravel())) for x in (moved - right, right))
    return gap / norm if norm else float(gap > 0)


def _apply(tensor: str, edit: Edit, proto: ModelProto) -> None:
    edit(proto, next(n for n in proto.graph.node if tensor in n.output))


def _scale_faults(node: Node, variant: Model, values: Values) -> Iterator[tuple[str, Edit]]:
    if node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale = values[node.inputs[1]]
    yield "scale × 1.5", partial(_replace, 1, scale * scale.dtype.type(1.5))
    zero = values[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(scale.shape, np.int8)
    if len(node.inputs) > 2:
        yield "zero point + 8", partial(_replace, 2, zero + zero.dtype.type(8))


def _weight_faults(node: Node, flat: Model, values: Values, gain: float = 1.02) -> Iterator[tuple[str, Edit]]:
    constant = [i for i, n in enumerate(node.inputs) if n in flat.constants and values[n].dtype.kind == "f"]
    if node.op not in _WEIGHTED or not constant or values[node.inputs[constant[0]]].ndim < 2:
        return
    position = constant[0]
    weight = values[node.inputs[position]]
    yield f"weight scaled by {100 * gain - 100:.0f} %", partial(_replace, position, weight * weight.dtype.type(gain))
    channel = weight.copy()
    axis = 1 if node.op == "MatMul" and position == 1 else 0
    np.moveaxis(channel, axis, 0)[weight.shape[axis] // 2] = 0
    yield "a channel zeroed", partial(_replace, position, channel)
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
        yield "a square weight transposed", partial(_replace, position, np.ascontiguousarray(weight.T))


def _bias_faults(node: Node, flat: Model, values: Values) -> Iterator[tuple[str, Edit]]:
    position = {"Conv": 2, "com.microsoft::FusedConv": 2, "Gemm": 2, "BatchNormalization": 2,
                "LayerNormalization": 2, "LSTM": 3, "GRU": 3}.get(node.op)
    if node.op == "Add":
        position = next((i for i, n in enumerate(node.inputs) if n in flat.constants), None)
    if position is None or position >= len(node.inputs) or node.inputs[position] not in flat.constants:
        return
    bias = values[node.inputs[position]]
    if bias.dtype.kind == "f" and bias.size:
        shift = bias.dtype.type(0.05 * float(np.sqrt(np.mean(np.square(values[node.outputs[0]], dtype=np.float64)))))
        yield "bias shifted", partial(_replace, position, bias + shift)


def _attribute_faults(node: Node, flat: Model, values: Values) -> Iterator[tuple[str, Edit]]:
    out, first = values[node.outputs[0]], values.get(node.inputs[0]) if node.inputs else None
    given = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
    if node.op in ("BatchNormalization", "LayerNormalization", "InstanceNormalization"):
        yield "epsilon × 100", partial(_set, "epsilon", 100 * given.get("epsilon", 1e-5))
    if node.op in ("LeakyRelu", "Elu", "HardSigmoid", "Gemm"):
        default = {"HardSigmoid": 0.2, "LeakyRelu": 0.01}.get(node.op, 1.0)
        yield "alpha + 5 %", partial(_set, "alpha", 1.05 * given.get("alpha", default))
    if node.op in ("Softmax", "LogSoftmax") and out.ndim > 1:
        default = -1 if node.opset >= 13 else 1
        axis = given.get("axis", default) % out.ndim
        yield "axis changed", partial(_set, "axis", (axis - 1) % out.ndim)
    if node.op == "Concat" and out.ndim > 1:
        shapes = {values[n].shape for n in node.inputs if n in values}
        if len(shapes) == 1:
            yield "axis changed", partial(_set, "axis", (given["axis"] + 1) % out.ndim)
    pads = given.get("pads")
    if pads and node.op in ("Conv", "MaxPool", "AveragePool", "com.microsoft::FusedConv") and any(pads):
        half = len(pads) // 2
        moved = [p + 1 for p in pads[:half]] + [p - 1 for p in pads[half:]]
        if min(moved) >= 0:
            yield "pads moved by one", partial(_set, "pads", moved)
    if node.op == "Transpose" and first is not None and first.ndim > 1:
        perm = list(given.get("perm", range(first.ndim)[::-1]))
        yield "perm changed", partial(_set, "perm", [perm[1], perm[0], *perm[2:]])
    if node.op in ("Resize", "Upsample"):
        other = "linear" if given.get("mode", b"nearest") == b"nearest" else "nearest"
        yield "mode changed", partial(_set, "mode", other)
    if node.op == "ReduceMean" and "axes" in given and len(given["axes"]) == 1 and given.get("keepdims", 1):
        yield "axis changed", partial(_set, "axes", [(given["axes"][0] - 1) % out.ndim])


def _swaps(node: Node, flat: Model, values: Values) -> Iterator[tuple[str, Edit]]:
    swap = _SWAPS.get(node.op)
    if swap is not None and values[node.outputs[0]].dtype.kind == "f":
        yield f"swapped for {swap[0]}", partial(_swap, *swap)


def _rounded(node: Node, flat: Model, values: Values) -> Iterator[tuple[str, Edit]]:
    if values[node.outputs[0]].dtype == np.float32:
        yield "rounded to FP16", _round_output


def _replace(position: int, value: np.ndarray, proto: ModelProto, node: NodeProto) -> None:
    name = f"{node.output[0]}/planted"
    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    node.input[position] = name


def _set(name: str, value: object, proto: ModelProto, node: NodeProto) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _swap(op: str, attributes: Mapping[str, float], proto: ModelProto, node: NodeProto) -> None:
    node.op_type = op
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(n, v) for n, v in attributes.items())


def _round_output(proto: ModelProto, node: NodeProto) -> None:
    name = node.output[0]
    raw, half = f"{name}/unrounded", f"{name}/half"
    node.output[0] = raw
    place = list(proto.graph.node).index(node) + 1
    proto.graph.node.insert(place, helper.make_node("Cast", [raw], [half], to=TensorProto.FLOAT16))
    proto.graph.node.insert(place + 1, helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))


def _gain(proto: ModelProto, node: NodeProto) -> None:
    name = node.output[0]
    raw, gained = f"{name}/plain", f"{name}/gain"
    node.output[0] = raw
    for text, value in (("up", 1e4), ("down", 1e-4)):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), f"{name}/{text}"))
    place = list(proto.graph.node).index(node) + 1
    proto.graph.node.insert(place, helper.make_node("Mul", [raw, f"{name}/up"], [gained]))
    proto.graph.node.insert(place + 1, helper.make_node("Mul", [gained, f"{name}/down"], [name]))
