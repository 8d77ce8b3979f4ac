"""Integer matrix products and convolutions against ONNX Runtime.

Weights stay within ±63, where ONNX Runtime's 16-bit partial sums of uint8 by int8 do not saturate on x86 without VNNI.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import Case, Draw, assert_matches, run_parity, scalar

_DRAW = Draw(1)


def weights(*shape: int) -> np.ndarray:
    """Weights that saturate nowhere."""
    return _DRAW.whole(np.int8, *shape, limit=63)


def inputs(*shape: int) -> np.ndarray:
    """Activations over the whole of uint8."""
    return _DRAW.whole(np.uint8, *shape)


@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 40), (40,)])
@pytest.mark.parametrize("zero_points", [(), (scalar(9, np.uint8), scalar(3, np.int8)),
                                         (scalar(9, np.uint8), weights(5))])
def test_matmul_integer(shape: tuple[int, ...], zero_points: tuple[np.ndarray, ...]) -> None:
    """MatMulInteger with no, common and by-column zero points."""
    assert_matches(Case("MatMulInteger", (inputs(*shape), weights(40, 5), *zero_points), domain="", opset=10))


def test_matmul_integer_by_row() -> None:
    """A vector of zero points of the left matrix holds one for each row, which ONNX Runtime does not run."""
    a, b, zero_point = inputs(3, 40), weights(40, 5), inputs(3)
    found = run_parity(Case("MatMulInteger", (a, b, zero_point), domain="", opset=10))[0]
    np.testing.assert_array_equal(found, (a.astype(int) - zero_point[:, None]) @ b.astype(int))


def test_matmul_integer_wraps() -> None:
    """MatMulInteger16 sums modulo 2³²."""
    a, b = np.full((1, 4), -32768, np.int16), np.full((4, 1), -32768, np.int16)
    assert_matches(Case("MatMulInteger16", (a, b)))
    assert run_parity(Case("MatMulInteger16", (a, b)))[0].item() == 0


@pytest.mark.parametrize("attributes", [{"pads": [1, 1, 1, 1]}, {"group": 3, "strides": [2, 1], "pads": [0, 1, 2, 1]},
                                        {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"dilations": [2, 2]}])
@pytest.mark.parametrize("op", ["ConvInteger", "QLinearConv"])
def test_convolution(op: str, attributes: dict[str, int | list[int]]) -> None:
    """Convolutions pad with a real zero, requantise by channel and add an int32 bias."""
    channels = 1 if "group" in attributes else 3
    x, w = inputs(2, 3, 8, 9), np.abs(weights(6, channels, 3, 3)).astype(np.uint8)
    if op == "ConvInteger":
        case = Case(op, (x, w, scalar(9, np.uint8), scalar(3, np.uint8)), dict(attributes), domain="", opset=10)
    else:
        bias = _DRAW.whole(np.int32, 6, limit=9999)
        case = Case(op, (x, scalar(0.0217), scalar(9, np.uint8), weights(6, channels, 3, 3), _DRAW.scale(6),
                         np.zeros(6, np.int8), scalar(0.51), scalar(100, np.uint8), bias),
                    dict(attributes), domain="", opset=10)
    assert_matches(case)


def test_convolution_channels_last() -> None:
    """QLinearConv of com.microsoft takes channels last."""
    parameters = weights(4, 3, 3, 3), _DRAW.scale(4), np.zeros(4, np.int8), scalar(0.51), scalar(100, np.uint8)
    x = inputs(2, 8, 9, 3), scalar(0.0217), scalar(9, np.uint8)
    assert_matches(Case("QLinearConv", (*x, *parameters), {"channels_last": 1, "pads": [1, 1, 1, 1]}))


@pytest.mark.parametrize("opset", [10, 21])
@pytest.mark.parametrize("b_scale", [scalar(0.0313), _DRAW.scale(7)])
def test_qlinear_matmul(opset: int, b_scale: np.ndarray) -> None:
    """QLinearMatMul with common and by-column scales."""
    b = weights(40, 7), b_scale, np.zeros(b_scale.shape, np.int8)
    y = scalar(0.51), scalar(100, np.uint8)
    assert_matches(Case("QLinearMatMul", (inputs(2, 9, 40), scalar(0.0217), scalar(9, np.uint8), *b, *y),
                        domain="", opset=opset))


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_qgemm(transposed: tuple[int, int], quantized: bool) -> None:
    """QGemm, requantised or in floating point."""
    a = inputs(40, 9) if transposed[0] else inputs(9, 40)
    b = weights(7, 40) if transposed[1] else weights(40, 7)
    y = (scalar(0.51), scalar(100, np.uint8)) if quantized else ()
    bias = _DRAW.whole(np.int32, 7, limit=9999)
    assert_matches(Case("QGemm", (a, scalar(0.0217), scalar(9, np.uint8), b, _DRAW.scale(7), np.zeros(7, np.int8),
                                  bias, *y), {"transA": transposed[0], "transB": transposed[1], "alpha": 0.7}))


@pytest.mark.parametrize("optional", [(), (scalar(9, np.uint8), weights(5), _DRAW.real(5))])
def test_matmul_integer_to_float(optional: tuple[np.ndarray, ...]) -> None:
    """MatMulIntegerToFloat with and without zero points and bias."""
    a, b = inputs(3, 40), weights(40, 5)
    assert_matches(Case("MatMulIntegerToFloat", (a, b, scalar(0.0217), _DRAW.scale(5), *optional)))


@pytest.mark.parametrize("optional", [(), (weights(5), _DRAW.real(5))])
def test_dynamic_quantize_matmul(optional: tuple[np.ndarray, ...]) -> None:
    """DynamicQuantizeMatMul with and without zero points and bias."""
    assert_matches(Case("DynamicQuantizeMatMul", (_DRAW.real(2, 3, 40), weights(40, 5), _DRAW.scale(5), *optional)))
