"""Contrib operators on quantised tensors against ONNX Runtime.

Scales are such that no value lies on a tie, where ONNX Runtime's tables and reciprocals round either way.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import Attribute, Case, Draw, assert_differentiable, assert_matches, run_parity, scalar

_DRAW = Draw(3)
TYPES = pytest.mark.parametrize("dtype", [np.uint8, np.int8])


def operand(dtype: type[np.integer], scale: float, zero_point: int, *shape: int) -> tuple[np.ndarray, ...]:
    """A tensor over the whole of its type, its scale and its zero point (given as of uint8)."""
    return _DRAW.whole(dtype, *shape), *parameters(dtype, scale, zero_point)


def parameters(dtype: type[np.integer], scale: float, zero_point: int) -> tuple[np.ndarray, np.ndarray]:
    """A scale and a zero point (given as of uint8)."""
    return scalar(scale), scalar(zero_point + np.iinfo(dtype).min, dtype)


@TYPES
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op: str, dtype: type[np.integer]) -> None:
    """Addition and multiplication with broadcasting."""
    a, b = operand(dtype, 0.0217, 9, 3, 40), operand(dtype, 0.0313, 30, 40)
    assert_matches(Case(op, (*a, *b, *parameters(dtype, 0.0411, 100))))


@TYPES
def test_unary(dtype: type[np.integer]) -> None:
    """Sigmoid and LeakyRelu, its default slope included."""
    x = operand(dtype, 0.0411, 99, 30, 40)
    assert_matches(Case("QLinearSigmoid", (*x, *parameters(dtype, 1 / 256, 0))))
    assert_matches(Case("QLinearLeakyRelu", (*x, *parameters(dtype, 0.0357, 50))))
    assert_matches(Case("QLinearLeakyRelu", (*x, *parameters(dtype, 0.0357, 50)), {"alpha": 0.1}))


@TYPES
@pytest.mark.parametrize(("opset", "axis"), [(13, -1), (13, 1), (12, 1), (12, 2)])
def test_softmax(dtype: type[np.integer], opset: int, axis: int) -> None:
    """Softmax along one axis, or flattened before opset 13."""
    inputs = *operand(dtype, 0.0411, 99, 4, 5, 6), *parameters(dtype, 1 / 256, 0)
    assert_matches(Case("QLinearSoftmax", inputs, {"opset": opset, "axis": axis}))


@TYPES
@pytest.mark.parametrize("channels_last", [0, 1])
def test_pooling(dtype: type[np.integer], channels_last: int) -> None:
    """Global and local average pooling in both layouts."""
    inputs = *operand(dtype, 0.0411, 99, 2, 15, 16, 7), *parameters(dtype, 0.0107, 80)
    assert_matches(Case("QLinearGlobalAveragePool", inputs, {"channels_last": channels_last}))
    window: dict[str, Attribute] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    for option in ("count_include_pad", "ceil_mode"):
        attributes = {**window, option: 1, "channels_last": channels_last}
        assert_matches(Case("QLinearAveragePool", inputs, attributes))


@TYPES
def test_concat(dtype: type[np.integer]) -> None:
    """Concatenation requantises each part."""
    parts = *operand(dtype, 0.0217, 9, 3, 40), *operand(dtype, 0.0511, 77, 3, 10)
    assert_matches(Case("QLinearConcat", (*parameters(dtype, 0.0511, 77), *parts), {"axis": -1}))


@TYPES
def test_where(dtype: type[np.integer]) -> None:
    """Selection between two scales."""
    x, y = operand(dtype, 0.0217, 9, 3, 40), operand(dtype, 0.0313, 30, 40)
    condition = _DRAW.real(3, 40) > 0
    assert_matches(Case("QLinearWhere", (condition, *x, *y, *parameters(dtype, 0.0411, 100))))


def test_reduce_mean() -> None:
    """QLinearReduceMean, which ONNX Runtime's CPU lacks: dequantise, average, quantise."""
    x, scale, zero_point = operand(np.uint8, 0.0217, 9, 3, 40)
    found = run_parity(Case("QLinearReduceMean", (x, scale, zero_point, *parameters(np.uint8, 0.0107, 80)),
                            {"axes": [1], "keepdims": 0}))[0]
    mean = ((x.astype(float) - 9) * float(scale)).mean(1) / float(np.float32(0.0107))
    np.testing.assert_array_equal(found, np.clip(np.round(mean) + 80, 0, 255))


def test_mul_integer() -> None:
    """MulInteger, which ONNX Runtime's CPU lacks, multiplies centred integers."""
    a, b = _DRAW.whole(np.uint8, 3, 4), _DRAW.whole(np.uint8, 4)
    found = run_parity(Case("MulInteger", (a, scalar(9, np.uint8), b, scalar(30, np.uint8))))[0]
    np.testing.assert_array_equal(found, (a.astype(int) - 9) * (b.astype(int) - 30))


_N, _K, _BLOCK, _BLOCKS = 24, 70, 32, 3


@pytest.mark.parametrize(("bits", "zeros"), [  # ONNX Runtime's CPU has no 8-bit weights with real zero points
    (2, "none"), (4, "none"), (8, "none"), (2, "packed"), (4, "packed"), (8, "packed"), (2, "real"), (4, "real")])
def test_matmul_nbits(bits: int, zeros: str) -> None:
    """MatMulNBits with a last block that is cut short, and every form of zero points."""
    weight = _DRAW.whole(np.uint8, _N, _BLOCKS, _BLOCK * bits // 8)
    zero_points = {"none": None, "packed": _DRAW.whole(np.uint8, _N, -(-_BLOCKS * bits // 8)),
                   "real": np.float32(2**bits) * _DRAW.scale(_N, _BLOCKS)}[zeros]
    inputs = _DRAW.real(2, 3, _K), weight, _DRAW.scale(_N, _BLOCKS) * np.float32(2.0 ** (2 - bits)), zero_points, None
    case = Case("MatMulNBits", inputs, {"N": _N, "K": _K, "bits": bits, "block_size": _BLOCK})
    assert_matches(case, atol=1e-5)
    if zeros == "none":
        assert_differentiable(case)


def test_matmul_nbits_bias() -> None:
    """MatMulNBits adds a bias."""
    inputs = _DRAW.real(3, _K), _DRAW.whole(np.uint8, _N, _BLOCKS, _BLOCK // 2), _DRAW.scale(_N, _BLOCKS)
    attributes = {"N": _N, "K": _K, "bits": 4, "block_size": _BLOCK}
    assert_matches(Case("MatMulNBits", (*inputs, None, None, _DRAW.real(_N)), dict(attributes)), atol=1e-5)
