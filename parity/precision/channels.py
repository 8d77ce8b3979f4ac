"""Quantise weights by output channel, all channels at once.

ONNX Runtime's quantiser does this one channel at a time in Python, which on a ResNet-50 takes longer than all else. It
is therefore shown each weight as the one number of largest magnitude; what it makes of that is replaced by what it
would have made of the weight: scale = 2·max|w| / (q_max − q_min) in FP64, rounded to the weight's type, 1 where that is
no normal number, and q = clip(round(w / scale)) with ties to even.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from parity.graph.model import Model
from parity.precision.graft import MARK


def stand_in(weight: np.ndarray) -> np.ndarray:
    """The number of largest magnitude in a weight; 0 where it is empty. [1], of the weight's dtype."""
    flat = weight.reshape(-1)
    return flat[[int(np.argmax(np.abs(flat)))]] if flat.size else np.zeros(1, weight.dtype)


def by_channel(weight: np.ndarray, axis: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The quantised weight (int8, of its shape), and the scale of each channel (of the weight's dtype).

    Args:
        weight: finite, FP32 or FP16.
        axis: of the channels.
        steps: the largest magnitude of a quantised value: 127, or 64 in 7 bits.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.max(np.abs(weight), axis=others, initial=0)
    exact = 2 * largest.astype(np.float64) / (2 * steps)
    scale = np.where(exact < np.finfo(weight.dtype).tiny, 1.0, exact).astype(weight.dtype)
    along = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    levels = np.rint(weight.astype(np.float32) / along)
    return np.clip(levels, -128, 127).astype(np.int8), scale


def widen(quantized: ModelProto, model: Model, axes: Mapping[str, int], steps: int) -> None:
    """Put the weights in place of their stand-ins.

    Args:
        quantized: the quantiser's model, edited in place.
        model: whose weights they are.
        axes: the channel axis of each.
        steps: as for `by_channel`.
    """
    tensors = {t.name: t for t in quantized.graph.initializer}
    readers = {n.input[0]: n for n in quantized.graph.node if n.op_type == "DequantizeLinear"}
    for name, axis in axes.items():
        stem = f"{name}{MARK}"
        if f"{stem}_quantized" not in tensors:
            continue
        levels, scale = by_channel(model.weight(name), axis, steps)
        zero = np.zeros(scale.shape, np.int8)
        for ending, value in (("_quantized", levels), ("_scale", scale), ("_zero_point", zero)):
            tensors[stem + ending].CopyFrom(_named(value, stem + ending))
        reader = readers[f"{stem}_quantized"]
        del reader.attribute[:]
        reader.attribute.append(helper.make_attribute("axis", axis))


def _named(value: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value), name)
