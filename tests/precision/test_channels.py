"""Tests of weights quantised all channels at once, against ONNX Runtime's own arithmetic one channel at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType, quantize_nparray

from parity.graph.feeds import Feed
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.channels import by_channel, stand_in
from parity.precision.plan import plan_for
from parity.precision.quantize import QuantizeSettings, quantize
from tests.builders import declared, node, proto_of

INT8 = TensorProto.INT8


def one_channel(values: np.ndarray, *, reduced: bool) -> tuple[np.ndarray, Any]:
    """Levels and scale of one channel, as ONNX Runtime's quantiser finds them."""
    least, most = get_qmin_qmax_for_qType(INT8, reduce_range=reduced, symmetric=True)
    zero, scale = compute_scale_zp(values.min(), values.max(), least, most, symmetric=True)
    return quantize_nparray(INT8, values, scale, zero), scale


@st.composite
def channels(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A finite weight and the axis of its channels, some of them zero, subnormal or next to the largest number."""
    dtype: Any = draw(st.sampled_from([np.float32, np.float16]))
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=4, max_side=4))
    axis = draw(st.integers(0, len(shape) - 1))
    weight = draw(arrays.arrays(dtype, shape, elements=st.floats(-4, 4, width=16)))
    scales = draw(st.lists(st.sampled_from([0.0, 1.0, float(np.finfo(dtype).smallest_subnormal), float(
        np.finfo(dtype).tiny), float(np.finfo(dtype).max) / 8, 127.0]), min_size=shape[axis], max_size=shape[axis]))
    along = np.array(scales, dtype).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return (weight * along).astype(dtype), axis


@settings(deadline=None, max_examples=300)
@given(channels(), st.booleans())
def test_every_channel_is_onnx_runtimes(drawn: tuple[np.ndarray, int], reduced: bool) -> None:
    """Scale and levels are bit by bit those of ONNX Runtime, in 8 and 7 bits, in FP32 and FP16."""
    weight, axis = drawn
    levels, scale = by_channel(weight, axis, 64 if reduced else 127)
    assert (levels.dtype.name, scale.dtype) == ("int8", weight.dtype)
    assert (levels.shape, scale.shape) == (weight.shape, (weight.shape[axis],))
    for i in range(weight.shape[axis]):
        right, right_scale = one_channel(weight.take(i, axis), reduced=reduced)
        np.testing.assert_array_equal(scale[i], right_scale)
        np.testing.assert_array_equal(levels.take(i, axis), right)


@settings(deadline=None)
@given(channels())
def test_the_stand_in_spans_the_weight(drawn: tuple[np.ndarray, int]) -> None:
    """One number of the weight's type, one of its values, of which none is larger."""
    weight, _ = drawn
    number = stand_in(weight)
    assert (number.shape, number.dtype) == ((1,), weight.dtype)
    assert number[0] in weight
    assert abs(number[0]) == np.abs(weight).max()


def test_an_empty_weight_has_a_stand_in() -> None:
    """A weight without elements stands as 0."""
    np.testing.assert_array_equal(stand_in(np.zeros((0, 3), np.float32)), [0])


def quantized(weight: np.ndarray, op: str, feed: Feed, *, reduced: bool, **attributes: Any) -> dict[str, np.ndarray]:
    """The weight of a one-node model as the quantiser leaves it: its levels and its scale."""
    proto = proto_of([node(op, ["x", "w"], ["y"], **attributes)], [declared("x", feed["x"].shape)],
                     [declared("y", None)], {"w": weight})
    model = Model.from_proto(proto)
    made = quantize(model, plan_for(model, "int8"), Calibration.of_feeds(model, [feed]),
                    QuantizeSettings(reduce_range=reduced)).model
    (reader,) = (n for n in made.graph.nodes if n.op == "DequantizeLinear" and n.inputs[0] in made.graph.initializers)
    axis = next(a.i for a in reader.proto.attribute if a.name == "axis")
    return {"levels": made.weight(reader.inputs[0]), "scale": made.weight(reader.inputs[1]), "axis": np.array(axis)}


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(("op", "shape", "axis", "attributes"), [
    ("MatMul", (6, 5), 1, {}), ("Gemm", (6, 5), 1, {}), ("Gemm", (5, 6), 0, {"transB": 1}),
    ("Conv", (5, 6, 3, 3), 0, {}), ("ConvTranspose", (6, 5, 3, 3), 1, {})])
def test_the_variant_holds_them(op: str, shape: tuple[int, ...], axis: int, attributes: dict[str, int],
                                reduced: bool) -> None:
    """What stands in the model is the levels and scales of every output channel, along the operator's own axis."""
    random = np.random.default_rng(0)
    weight = random.normal(size=shape).astype(np.float32)
    weight[(slice(None),) * axis + (2,)] = 0
    feed = {"x": random.normal(size=(2, 6, 8, 8) if len(shape) == 4 else (2, 6)).astype(np.float32)}
    found = quantized(weight, op, feed, reduced=reduced, **attributes)
    assert found["axis"] == axis
    levels, scale = by_channel(weight, axis, 64 if reduced else 127)
    np.testing.assert_array_equal(found["levels"], levels)
    np.testing.assert_array_equal(found["scale"], scale)
