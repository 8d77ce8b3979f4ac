"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from parity.graph.ops.call import Arithmetic
from tests.graph.ops.one_node import Case, Draw, assert_differentiable, assert_matches, run_ort, run_parity, scalar

_DRAW = Draw()
_X = 3 * _DRAW.real(4, 50)


def onnx(op: str, opset: int, *inputs: np.ndarray, outputs: int = 1, **attributes: int) -> Case:
    """A case of ONNX's own domain."""
    return Case(op, inputs, dict(attributes), outputs, domain="", opset=opset)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
def test_per_tensor(opset: int) -> None:
    """Every version quantises to uint8 and back with one scale, and with no zero point."""
    quantized = _DRAW.whole(np.uint8, 4, 50)
    for zero_point in ([], [scalar(100, np.uint8)]):
        assert_matches(onnx("QuantizeLinear", opset, _X, scalar(0.017), *zero_point))
        assert_matches(onnx("DequantizeLinear", opset, quantized, scalar(0.017), *zero_point))
    assert_matches(onnx("DequantizeLinear", opset, _DRAW.whole(np.int32, 5, 5), scalar(0.017)))


@pytest.mark.parametrize("opset", [13, 19, 21, 23])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis(opset: int, axis: int) -> None:
    """A vector of scales lies along the axis."""
    x = _DRAW.real(4, 5, 6)
    scale, zero_point = _DRAW.scale(x.shape[axis]), _DRAW.whole(np.int8, x.shape[axis])
    assert_matches(onnx("QuantizeLinear", opset, x, scale, zero_point, axis=axis))
    assert_matches(onnx("DequantizeLinear", opset, _DRAW.whole(np.int8, 4, 5, 6), scale, zero_point, axis=axis))


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_blocks(opset: int, dtype: type[np.integer]) -> None:
    """Blocks of four along an axis of ten: the last one is cut short."""
    x, scale, zero_point = _DRAW.real(4, 10), _DRAW.scale(4, 3), _DRAW.whole(dtype, 4, 3)
    assert_matches(onnx("QuantizeLinear", opset, x, scale, zero_point, axis=1, block_size=4))
    assert_matches(onnx("DequantizeLinear", opset, _DRAW.whole(dtype, 4, 10), scale, zero_point, axis=1, block_size=4))


@pytest.mark.parametrize("dtype", [TensorProto.INT8, TensorProto.INT16, TensorProto.UINT16])
def test_output_dtype(dtype: int) -> None:
    """Without a zero point the attribute gives the type."""
    assert_matches(onnx("QuantizeLinear", 21, _X, scalar(0.05), output_dtype=dtype))


@pytest.mark.parametrize("half", [np.float16])
def test_half_scale(half: type[np.floating]) -> None:
    """FP16 values and scales: computed in FP32, rounded to FP16."""
    assert_matches(onnx("QuantizeLinear", 19, _X.astype(half), scalar(0.017, half), scalar(100, np.uint8)))
    quantized = onnx("DequantizeLinear", 19, _DRAW.whole(np.uint8, 4, 50), scalar(0.017, half), scalar(9, np.uint8))
    np.testing.assert_array_equal(run_parity(quantized)[0], run_ort(quantized)[0])


def test_special_values() -> None:
    """Infinities saturate and NaN gives the least value, as in ONNX Runtime on x86."""
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30] * 8, np.float32)
    for zero_point in (scalar(100, np.uint8), scalar(10, np.int8)):
        assert_matches(onnx("QuantizeLinear", 13, x, scalar(0.017), zero_point))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    """Scalars and empty tensors keep their shape."""
    x = np.full(shape, 2.5, np.float32)
    assert_matches(onnx("QuantizeLinear", 13, x, scalar(0.5), scalar(3, np.uint8)))
    assert_matches(onnx("DequantizeLinear", 13, x.astype(np.uint8), scalar(0.5), scalar(3, np.uint8)))


def test_four_bits() -> None:
    """4-bit integers, which torch lacks, come as arrays and go back the way they came."""
    x = np.linspace(-6, 6, 25, dtype=np.float32)
    case = onnx("QuantizeLinear", 21, x, scalar(0.5), output_dtype=TensorProto.INT4)
    quantized = run_parity(case)[0]
    assert quantized.dtype == ml_dtypes.int4
    np.testing.assert_array_equal(quantized.astype(np.int32), np.clip(np.round(x / 0.5), -8, 7))
    real = run_parity(onnx("DequantizeLinear", 21, quantized, scalar(0.5)))[0]
    np.testing.assert_array_equal(real, np.clip(np.round(x / 0.5), -8, 7) * 0.5)


@given(st.floats(2**-10, 8, width=32), st.integers(0, 255), st.lists(st.floats(-9, 9, width=32), min_size=1))
def test_quantisation_error(scale: float, zero_point: int, values: list[float]) -> None:
    """Inside the range, quantising and dequantising moves a value by at most half a step."""
    x = np.array(values, np.float32)
    inside = (x >= (0 - zero_point) * scale) & (x <= (255 - zero_point) * scale)
    parameters = scalar(scale), scalar(zero_point, np.uint8)
    quantized = run_parity(onnx("QuantizeLinear", 13, x, *parameters), Arithmetic.DOUBLE)[0]
    back = run_parity(onnx("DequantizeLinear", 13, quantized, *parameters), Arithmetic.DOUBLE)[0]
    assert np.all(np.abs(back - x)[inside] <= 0.5 * scale * (1 + 1e-12))


@pytest.mark.parametrize("x", [_X, np.abs(_X), -np.abs(_X), 0 * _X, _X[:1, :1], _X[:0]])
def test_dynamic(x: np.ndarray) -> None:
    """DynamicQuantizeLinear on every kind of range, an empty one included."""
    assert_matches(onnx("DynamicQuantizeLinear", 11, x, outputs=3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_contrib(dtype: type[np.integer]) -> None:
    """The operators of com.microsoft take the same path, 16 bits included."""
    zero_point = scalar(100, dtype)
    assert_matches(Case("QuantizeLinear", (_X, scalar(0.017), zero_point)))
    assert_matches(Case("QuantizeLinear", (_X, _DRAW.scale(4), _DRAW.whole(dtype, 4)), {"axis": 0}))
    assert_matches(Case("DequantizeLinear", (_DRAW.whole(dtype, 4, 5), scalar(0.017), zero_point)))


def test_dequantize_differentiable() -> None:
    """DequantizeLinear has a derivative by its scale."""
    quantized, zero_point = _DRAW.whole(np.int8, 3, 4), _DRAW.whole(np.int8, 4)
    assert_differentiable(onnx("DequantizeLinear", 13, quantized, _DRAW.scale(4), zero_point, axis=1), 1)
