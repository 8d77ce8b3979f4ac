"""Divergences of known cause that come of a number format, planted in any model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from parity.contenders import Contender
from parity.errors import ParityError
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.precision.calibration import Calibration
from parity.precision.plan import PrecisionPlan
from parity.precision.quantize import QuantizeSettings
from parity.precision.variant import make_variant
from parity.targets import Target
from tests.causes import ORT, Case, Ground, after, spread
from tests.faults import gains_of

FP16 = Target("onnxruntime", "", "fp16")
EMULATED_FP16 = Target("pytorch", "", "fp16")
_CONVOLUTIONS = ("Conv", "com.microsoft::FusedConv")


def overflows(ground: Ground) -> Iterator[Case]:
    """A gain of 10,000 that is taken back: beyond FP16."""
    for fault in spread(list(gains_of(ground.flat, ground.values)), 2):
        yield Case("fp16 overflow", frozenset({"fp16-overflow"}), fault.tensor, fault.plant(ground.flat),
                   Contender(FP16))


def underflows(ground: Ground) -> Iterator[Case]:
    """A tensor scaled down by 1e-7 of its size and up again: below FP16."""
    for node in spread(others(ground), 2):
        name = node.outputs[0]
        size = float(np.sqrt(np.mean(ground.values[name].astype(np.float64)**2)))
        if size > 0:
            gain = 1e-7 / size
            model = after(ground.flat, name, [("Mul", f"{name}/small", gain), ("Mul", name, 1 / gain)])
            yield Case("fp16 underflow", frozenset({"fp16-underflow"}), f"{name}/small", model,
                       Contender(EMULATED_FP16))


def cancellations(ground: Ground) -> Iterator[Case]:
    """A large number added and subtracted again."""
    for node in spread(others(ground), 2):
        name = node.outputs[0]
        large = 500 * float(np.sqrt(np.mean(ground.values[name].astype(np.float64)**2)))
        if 0 < large < 3e4:
            model = after(ground.flat, name, [("Add", f"{name}/large", large), ("Sub", name, large)])
            yield Case("cancellation", frozenset({"cancellation"}), name, model,
                       Contender(EMULATED_FP16))


def others(ground: Ground) -> list[Node]:
    """Nodes without weights that make an FP32 tensor: no runtime folds a gain into them."""
    plain = ("Relu", "Add", "Sigmoid", "Tanh", "LayerNormalization", "Clip")
    return [n for n in ground.flat.graph.nodes if n.op in plain
            and n.outputs[0] not in ground.flat.constants and n.outputs[0] in ground.values
            and ground.values[n.outputs[0]].dtype == np.float32]


def tails(ground: Ground) -> Iterator[Case]:
    """The logarithm of a Softmax whose scores are far apart."""
    for node in ground.flat.graph.nodes:
        name = node.outputs[0] if node.outputs else ""
        value = ground.values.get(name)
        if node.op not in ("Gemm", "MatMul") or value is None or value.ndim != 2 or value.shape[1] < 2:
            continue
        if name not in {o.name for o in ground.flat.graph.outputs}:
            continue
        proto = shallow_copy(ground.flat.proto)
        gain = 20 / float(np.abs(value - value.max(axis=1, keepdims=True)).max() or 1)
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(gain), "tails/gain"))
        proto.graph.node.extend([helper.make_node("Mul", [name, "tails/gain"], ["tails/scores"]),
                                 helper.make_node("Softmax", ["tails/scores"], ["tails/p"], axis=-1),
                                 helper.make_node("Log", ["tails/p"], ["tails/log"])])
        proto.graph.output.append(helper.make_tensor_value_info("tails/log", TensorProto.FLOAT, None))
        yield Case("softmax tails", frozenset({"saturated-tails"}), "tails/p",
                   Model.from_proto(proto, ground.flat.folder), Contender(EMULATED_FP16))


@dataclass(frozen=True, eq=False)
class Stretch:
    """A node with parameters by channel, and those that read the channels.

    Attributes:
        maker: its parameters are multiplied.
        parameters: positions of those among its inputs, channels first.
        tensor: what the readers read.
        readers: their weights are divided.
        channels: how many.
    """

    maker: Node
    parameters: tuple[int, ...]
    tensor: str
    readers: tuple[Node, ...]
    channels: int


_PARAMETERS = {"Conv": (1, 2), "com.microsoft::FusedConv": (1, 2), "BatchNormalization": (1, 2),
               "LayerNormalization": (1, 2)}
_KEEP_CHANNELS = ("Relu", "MaxPool", "AveragePool", "LeakyRelu")


def stretches(ground: Ground) -> Iterator[Stretch]:
    """Where channels can be multiplied and divided again in the next weights."""
    graph = ground.flat.graph
    for node in graph.nodes:
        positions = [p for p in _PARAMETERS.get(node.op, ()) if p < len(node.inputs) and node.inputs[p]]
        relu = all(a.s == b"Relu" for a in node.proto.attribute if a.name == "activation")
        if not positions or not relu or any(node.inputs[p] not in graph.initializers for p in positions):
            continue
        tensor = node.outputs[0]
        while len(readers := graph.readers.get(tensor, ())) == 1 and readers[0].op in _KEEP_CHANNELS:
            tensor = readers[0].outputs[0]
        channels = graph.initializers[node.inputs[1]].dims[0]
        wanted = ("MatMul",) if node.op == "LayerNormalization" else _CONVOLUTIONS
        if readers and tensor not in {o.name for o in graph.outputs} and all(
                r.op in wanted and r.inputs[1] in graph.initializers
                and not any(a.name == "group" and a.i > 1 for a in r.proto.attribute) for r in readers):
            yield Stretch(node, tuple(positions), tensor, readers, channels)


def stretched(model: Model, place: Stretch, factors: np.ndarray) -> Model:
    """The model with channels multiplied by factors, and divided by them in the weights of what reads them."""
    proto = shallow_copy(model.proto)
    changed = {}
    for position in place.parameters:
        weight = model.weight(place.maker.inputs[position])
        changed[place.maker.outputs[0], position] = weight * factors.reshape(-1, *[1] * (weight.ndim - 1))
    for reader in place.readers:
        weight = model.weight(reader.inputs[1])
        axis = 0 if reader.op == "MatMul" else 1
        along = [-1 if i == axis else 1 for i in range(weight.ndim)]
        changed[reader.outputs[0], 1] = weight / factors.reshape(along)
    exchange(proto, changed)
    return Model.from_proto(proto, model.folder)


def outliers(ground: Ground) -> Iterator[Case]:
    """One channel ×60, taken back in the next layer."""
    for place in spread(list(stretches(ground)), 2):
        value = np.abs(ground.values[place.tensor])
        axis = value.ndim - 1 if place.maker.op == "LayerNormalization" else 1
        ranges = value.max(axis=tuple(i for i in range(value.ndim) if i != axis))
        factors = np.ones(len(ranges), np.float32)
        factors[int(np.argsort(ranges)[-1])] = 60
        yield Case("outlier channel", frozenset({"int8-outliers"}), place.tensor,
                   stretched(ground.flat, place, factors), Contender(Target("onnxruntime", "", "int8")),
                   optimization="off")


def shared_scales(ground: Ground) -> Iterator[Case]:
    """One scale for the weights of all channels, a quarter of which are 100 times as large."""
    graph = ground.flat.graph
    found = [n for n in graph.nodes if n.op == "Conv" and n.inputs[1] in graph.initializers and len(n.inputs) == 2
             and [r.op for r in graph.readers.get(n.outputs[0], ())] == ["BatchNormalization"]]
    for node in spread(found, 2):
        proto = shallow_copy(ground.flat.proto)
        normal, weight = graph.readers[node.outputs[0]][0], ground.flat.weight(node.inputs[1])
        factors = np.where(np.arange(len(weight)) % 4 == 0, 100.0, 1.0)
        changed = {(node.outputs[0], 1): weight * factors.reshape(-1, *[1] * (weight.ndim - 1)),
                   (normal.outputs[0], 3): ground.flat.weight(normal.inputs[3]) * factors,
                   (normal.outputs[0], 4): ground.flat.weight(normal.inputs[4]) * factors**2}
        exchange(proto, changed)
        model = Model.from_proto(proto, ground.flat.folder)
        variant = _variant(model, ground, QuantizeSettings(per_channel=False))
        if variant is not None:
            yield Case("per-tensor weights", frozenset({"per-tensor-weights"}), node.inputs[1], model,
                       Contender(ORT, variant), optimization="off")


def exchange(proto: ModelProto, weights: Mapping[tuple[str, int], np.ndarray]) -> None:
    """Give nodes, by output and operand, weights of their own."""
    for (output, position), value in weights.items():
        maker = next(n for n in proto.graph.node if output in n.output)
        name = f"{output}/exchanged{position}"
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        maker.input[position] = name


def _variant(model: Model, ground: Ground, settings: QuantizeSettings, plan: PrecisionPlan | None = None,
             ) -> Model | None:
    calibration = Calibration.of_feeds(model, [ground.feed])
    try:
        return make_variant(model, plan or "int8", calibration, settings).model
    except ParityError:
        return None


def rescaled(factor: float, kind: str, cause: str, count: int) -> Callable[[Ground], Iterator[Case]]:
    """A planter that multiplies the scale of one activation of the INT8 variant."""

    def plant(ground: Ground) -> Iterator[Case]:
        variant = _variant(ground.flat, ground, QuantizeSettings())
        if variant is None:
            return
        for node in spread([n for n in variant.graph.nodes if n.op == "QuantizeLinear"], count):
            proto = shallow_copy(variant.proto)
            scale = variant.weight(node.inputs[1])
            proto.graph.initializer.append(numpy_helper.from_array(
                (scale * np.float32(factor)).astype(scale.dtype), f"{node.inputs[0]}/scale"))
            for other in proto.graph.node:
                if other.op_type in ("QuantizeLinear", "DequantizeLinear") and (
                        node.outputs[0] in (*other.input, *other.output)):
                    other.input[1] = f"{node.inputs[0]}/scale"
            yield Case(kind, frozenset({cause}), node.inputs[0], ground.model,
                       Contender(ORT, Model.from_proto(proto, variant.folder)), optimization="off")

    return plant


def narrow_calibration(ground: Ground) -> Iterator[Case]:
    """Ranges observed on inputs a fifth as large, in all layers."""
    small = {n: (v * np.float32(0.2)).astype(v.dtype) if v.dtype.kind == "f" else v for n, v in ground.feed.items()}
    variant = _variant(ground.flat, Ground(ground.flat, small), QuantizeSettings())
    if variant is not None:
        yield Case("calibration on smaller inputs", frozenset({"clipped-calibration"}), "", ground.model,
                   Contender(ORT, variant), optimization="off")


PRECISION_PLANTERS: tuple[Callable[[Ground], Iterator[Case]], ...] = (
    overflows, underflows, cancellations, tails, outliers, shared_scales, narrow_calibration,
    rescaled(1 / 8, "clipped calibration", "clipped-calibration", 3),
    rescaled(24.0, "scale too wide", "wrong-scale", 2), rescaled(1e4, "dead scale", "dead-scale", 1))
