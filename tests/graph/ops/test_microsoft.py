"""Contrib operators in floating point against ONNX Runtime, or against their definition where its CPU has none."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest

from tests.graph.ops.one_node import (
    Attribute,
    Case,
    Draw,
    assert_differentiable,
    assert_matches,
    run_ort,
    run_parity,
    scalar,
)

_DRAW = Draw(2)
_X = _DRAW.real(2, 4, 9, 8)
_W = _DRAW.real(6, 2, 3, 3)
_HIDDEN = _DRAW.real(2, 3, 32)
_GAMMA, _BETA, _BIAS = _DRAW.real(32), _DRAW.real(32), _DRAW.real(32)


@pytest.mark.parametrize(("activation", "params"), [
    ("Relu", []), ("Tanh", []), ("Sigmoid", []), ("HardSwish", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.7]),
    ("HardSigmoid", [0.3, 0.4])])
def test_fused_conv(activation: str, params: list[float]) -> None:
    """FusedConv applies every activation that ONNX Runtime fuses."""
    attributes: dict[str, Attribute] = {"activation": activation, "group": 2, "pads": [1, 0, 1, 2]}
    if params:
        attributes["activation_params"] = params
    assert_matches(Case("FusedConv", (_X, _W, _DRAW.real(6)), attributes), atol=4e-6)


def test_fused_conv_sum() -> None:
    """FusedConv adds its fourth input before it activates."""
    attributes: dict[str, Attribute] = {"activation": "Relu", "group": 2, "pads": [1, 1, 1, 1]}
    case = Case("FusedConv", (_X, _W, _DRAW.real(6), _DRAW.real(2, 6, 9, 8)), attributes)
    assert_matches(case, atol=4e-6)
    assert_differentiable(Case("FusedConv", (_X[:1, :, :3, :3], _W), {"activation": "Tanh", "group": 2}))


@pytest.mark.parametrize(("activation", "params"), [
    ("Relu", ()), ("Tanh", ()), ("Sigmoid", ()), ("Softplus", ()), ("Softsign", ()), ("LeakyRelu", (0.2,)),
    ("Elu", (0.7,)), ("ThresholdedRelu", (0.3,)), ("HardSigmoid", (0.3, 0.4))])
def test_fused_gemm(activation: str, params: tuple[float, ...]) -> None:
    """FusedGemm applies the activations that ONNX Runtime fuses to it, with named parameters."""
    named = {f"activation_{n}": p for n, p in zip(("alpha", "beta"), params, strict=False)}
    attributes: dict[str, Attribute] = {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    inputs = _DRAW.real(6, 5), _DRAW.real(7, 6), _DRAW.real(7)
    assert_matches(Case("FusedGemm", inputs, {**attributes, **named, "activation": activation}))


@pytest.mark.parametrize("op", ["FusedMatMul", "TransposeMatMul"])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_fused_matmul(op: str, transposed: tuple[int, int]) -> None:
    """FusedMatMul transposes either matrix and scales the product."""
    a = _DRAW.real(2, 3, *((5, 4) if transposed[0] else (4, 5)))
    b = _DRAW.real(2, 3, *((6, 5) if transposed[1] else (5, 6)))
    assert_matches(Case(op, (a, b), {"transA": transposed[0], "transB": transposed[1], "alpha": 0.3}))


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_fused_matmul_batch(transposed: tuple[int, int]) -> None:
    """FusedMatMul moves the first axis behind the other batch axes."""
    left, right = ((5, 2, 3, 4) if transposed[0] else (4, 2, 3, 5)), ((6, 2, 3, 5) if transposed[1] else (5, 2, 3, 6))
    attributes = {"transA": transposed[0], "transB": transposed[1], "transBatchA": 1, "transBatchB": 1}
    assert_matches(Case("FusedMatMul", (_DRAW.real(*left), _DRAW.real(*right)), dict(attributes)))


def test_fused_matmul_activation() -> None:
    """FusedMatMulActivation, which ONNX Runtime's CPU lacks, is the activation of FusedMatMul."""
    inputs = _DRAW.real(4, 5), _DRAW.real(6, 5)
    plain = run_parity(Case("FusedMatMul", inputs, {"transB": 1}))[0]
    fused = run_parity(Case("FusedMatMulActivation", inputs, {"transB": 1, "activation": "Relu"}))[0]
    np.testing.assert_array_equal(fused, np.maximum(plain, 0))


@pytest.mark.parametrize("case", [
    Case("Gelu", (_HIDDEN,)), Case("QuickGelu", (_HIDDEN,)), Case("QuickGelu", (_HIDDEN,), {"alpha": 1.0}),
    Case("FastGelu", (_HIDDEN,)), Case("FastGelu", (_HIDDEN, _BIAS)), Case("BiasGelu", (_HIDDEN, _BIAS))],
    ids=lambda c: c.op)
def test_gelu(case: Case) -> None:
    """The Gelu family."""
    assert_matches(case)
    assert_differentiable(case)


def test_diffusion() -> None:
    """BiasAdd and BiasSplitGelu, which ONNX Runtime's CPU lacks, follow their definitions."""
    found = run_parity(Case("BiasAdd", (_HIDDEN, _BIAS, 2 * _HIDDEN)))[0]
    np.testing.assert_allclose(found, 3 * _HIDDEN + _BIAS, rtol=1e-6, atol=1e-6)
    left, right = np.split((_HIDDEN + _BIAS).astype(np.float64), 2, -1)
    gelu = right * 0.5 * (1 + np.vectorize(erf)(right / 2**0.5))
    found = run_parity(Case("BiasSplitGelu", (_HIDDEN, _BIAS)))[0]
    np.testing.assert_allclose(found, left * gelu, rtol=1e-5, atol=1e-6)


def test_bias_softmax() -> None:
    """BiasSoftmax, which ONNX Runtime's CPU lacks, is one Softmax over all axes from `axis` on."""
    x, bias = _DRAW.real(2, 3, 4, 5), _DRAW.real(2, 1, 1, 5)
    exponent = np.exp((x + bias).astype(np.float64))
    for axis, axes in ((3, (3,)), (2, (2, 3))):
        found = run_parity(Case("BiasSoftmax", (x, bias), {"axis": axis, "is_inner_broadcast": 1}))[0]
        np.testing.assert_allclose(found, exponent / exponent.sum(axes, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("case", [
    Case("SimplifiedLayerNormalization", (_HIDDEN, _GAMMA), {"epsilon": 1e-5}, outputs=2, domain=""),
    Case("SimplifiedLayerNormalization", (_HIDDEN, _DRAW.real(3, 32)), {"axis": 1, "epsilon": 1e-3}, domain=""),
    Case("SkipLayerNormalization", (_HIDDEN, _DRAW.real(2, 3, 32), _GAMMA, _BETA, _BIAS), {"epsilon": 1e-5}, 4),
    Case("SkipLayerNormalization", (_HIDDEN, _DRAW.real(3, 32), _GAMMA)),
    Case("SkipLayerNormalization", (_HIDDEN, _DRAW.real(1, 3, 32), _GAMMA, _BETA)),
    Case("SkipSimplifiedLayerNormalization", (_HIDDEN, _DRAW.real(2, 3, 32), _GAMMA)),
    Case("SkipSimplifiedLayerNormalization", (_HIDDEN, _DRAW.real(2, 3, 32), _GAMMA, _BIAS), {"epsilon": 1e-5}),
], ids=lambda c: c.op)
def test_normalisation(case: Case) -> None:
    """The layer normalisations with residuals and biases."""
    assert_matches(case)


def test_normalisation_half() -> None:
    """FP16 is normalised in FP32 and rounded."""
    case = Case("SimplifiedLayerNormalization", (_HIDDEN.astype(np.float16), _GAMMA.astype(np.float16)), domain="")
    np.testing.assert_allclose(run_parity(case)[0], run_ort(case)[0], rtol=2**-10)


def test_normalisation_differentiable() -> None:
    """The residual normalisations have a derivative."""
    inputs = _HIDDEN[:1, :, :6], _HIDDEN[1:, :, :6], _GAMMA[:6]
    assert_differentiable(Case("SkipLayerNormalization", inputs, {"epsilon": 1e-5}))
    assert_differentiable(Case("SkipSimplifiedLayerNormalization", inputs, {"epsilon": 1e-5}))


@pytest.mark.parametrize("segmented", [True, False])
@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_embed_layer_norm(segmented: bool, placed: bool, masked: bool) -> None:
    """EmbedLayerNormalization with and without segments, positions and mask."""
    segments = (_DRAW.whole(np.int32, 2, 5, limit=1) ** 2, _DRAW.real(2, 32)) if segmented else (None, None)
    mask = np.array([[1, 0, 1, 0, 0], [1, 1, 1, 1, 2]], np.int32) if masked else None
    positions = np.array([[3, 2, 1, 0, 4]], np.int32) if placed else None
    inputs = (np.abs(_DRAW.whole(np.int32, 2, 5, limit=19)), segments[0], _DRAW.real(20, 32), _DRAW.real(9, 32),
              segments[1], _GAMMA, _BETA, mask, positions)
    assert_matches(Case("EmbedLayerNormalization", inputs, {"epsilon": 1e-6}, outputs=3))


_MATRICES = _DRAW.real(2, 4, 4) + 3 * np.eye(4, dtype=np.float32)
_IMAGE, _GRID = _DRAW.real(2, 3, 7, 8), _DRAW.real(2, 5, 6, 2)
_PADS = np.array([0, 1, 2, 0], np.int64)


@pytest.mark.parametrize("case", [
    Case("Inverse", (_MATRICES,)),
    Case("ExpandDims", (_MATRICES, scalar(1, np.int32))),
    Case("ExpandDims", (_MATRICES, scalar(-1, np.int32))),
    Case("CDist", (_DRAW.real(4, 5), _DRAW.real(6, 5))),
    Case("CDist", (_DRAW.real(4, 5), _DRAW.real(6, 5)), {"metric": "euclidean"}),
    Case("Unique", (np.array([2, 1, 1, 3, 4, 3], np.float32),), outputs=3),
    Case("NhwcMaxPool", (_DRAW.whole(np.uint8, 1, 7, 7, 3),), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1],
                                                               "strides": [2, 2]}),
    Case("GatherND", (_MATRICES, np.array([[0, 1], [1, 2]], np.int64))),
    Case("Trilu", (_MATRICES, scalar(1, np.int64)), {"upper": 0}),
    Case("Trilu", (_MATRICES,)),
    Case("Range", (scalar(1), scalar(9))),
    Case("Range", tuple(np.array([v], np.int64) for v in (1, 9, 3))),
    Case("Pad", (_MATRICES[0], _PADS, scalar(3))),
    Case("Pad", (_MATRICES[0], _PADS[None], np.ones(1, np.float32))),
    Case("Pad", (_MATRICES[0], _PADS), {"mode": "reflect"}),
    *(Case("GridSample", (_IMAGE, _GRID), {"mode": m, "padding_mode": p})
      for m in ("bilinear", "nearest", "bicubic") for p in ("zeros", "border", "reflection")),
    Case("ConvTransposeWithDynamicPads", (_DRAW.real(1, 4, 5, 5), _DRAW.real(4, 3, 3, 3),
                                          np.array([1, 0, 1, 2], np.int64), _DRAW.real(3)),
         {"strides": [2, 2], "output_padding": [1, 1]}),
], ids=lambda c: c.op)
def test_tensors(case: Case) -> None:
    """Operators on the layout of tensors, most of which ONNX took over later."""
    assert_matches(case, atol=5e-6)
