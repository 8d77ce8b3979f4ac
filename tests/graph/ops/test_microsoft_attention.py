"""Contrib attention operators against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import Attribute, Case, Draw, assert_differentiable, assert_matches, run_parity, scalar

_DRAW = Draw(4)
_HEADS, _SIZE = 3, 8
_HIDDEN = _HEADS * _SIZE
_X, _W, _B = _DRAW.real(2, 5, 12), _DRAW.real(12, 3 * _HIDDEN), _DRAW.real(3 * _HIDDEN)
_PAST = _DRAW.real(2, 2, _HEADS, 4, _SIZE)


def visible(*shape: int) -> np.ndarray:
    """A mask of zeros and ones whose first column is ones."""
    mask = _DRAW.whole(np.int32, *shape, limit=1) ** 2
    mask[..., 0] = 1
    return mask


def int32(*values: int) -> np.ndarray:
    """A vector of int32."""
    return np.array(values, np.int32)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize(("mask", "past", "bias"), [
    (None, None, None), (int32(3, 5), None, None), (int32(3, 5, 1, 0), None, None), (visible(2, 5), None, None),
    (visible(2, 5, 5), None, None), (None, _PAST, None), (visible(2, 9), _PAST, None),
    (None, None, _DRAW.real(2, _HEADS, 5, 5)), (visible(2, 5), None, _DRAW.real(1, 1, 5, 5))])
def test_attention(unidirectional: int, mask: np.ndarray | None, past: np.ndarray | None,
                   bias: np.ndarray | None) -> None:
    """Attention with every form of mask, a past, and a bias on the scores."""
    case = Case("Attention", (_X, _W, _B, mask, past, bias), {"num_heads": _HEADS, "unidirectional": unidirectional},
                outputs=2)
    assert_matches(case, atol=1e-5)


def test_attention_options() -> None:
    """Attention with its own scale, a smaller value size, and its own mask filter."""
    attributes: dict[str, Attribute] = {"num_heads": _HEADS, "scale": 0.3, "mask_filter_value": -5.0,
                                        "qkv_hidden_sizes": [24, 24, 12]}
    assert_matches(Case("Attention", (_X, _W[:, :60], _B[:60], visible(2, 5)), attributes), atol=1e-5)
    assert_differentiable(Case("Attention", (_X, _W, _B, visible(2, 5)), {"num_heads": _HEADS, "unidirectional": 1}))


@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention_all_masked(unidirectional: int) -> None:
    """Where all keys are hidden the filter cancels; at −10,000 FP32 has a resolution of 1e-3."""
    case = Case("Attention", (_X, _W, _B, np.zeros((2, 5), np.int32)),
                {"num_heads": _HEADS, "unidirectional": unidirectional})
    assert_matches(case, atol=1e-5, double_atol=5e-3)


@pytest.mark.parametrize(("w_scale", "mask", "past"), [
    (scalar(0.01), None, None), (_DRAW.scale(72) / 8, int32(3, 5), None), (scalar(0.01), None, _PAST)])
def test_quantized_attention(w_scale: np.ndarray, mask: np.ndarray | None, past: np.ndarray | None) -> None:
    """QAttention projects with integers."""
    x, w = _DRAW.whole(np.uint8, 2, 5, 12), _DRAW.whole(np.int8, 12, 72, limit=63)
    zero_point = np.zeros(w_scale.shape, np.int8)
    inputs = x, w, _B, scalar(0.0217), w_scale, mask, scalar(99, np.uint8), zero_point, past
    assert_matches(Case("QAttention", inputs, {"num_heads": _HEADS}, outputs=2), atol=1e-5)


_Q, _K, _V = _DRAW.real(2, 5, 24), _DRAW.real(2, 7, 24), _DRAW.real(2, 7, 36)
_BNSH = _DRAW.real(2, _HEADS, 7, _SIZE), _DRAW.real(2, _HEADS, 7, _SIZE)
_CACHE = _DRAW.real(2, _HEADS, 4, _SIZE), _DRAW.real(2, _HEADS, 4, _SIZE)
_SELF = _Q, _DRAW.real(2, 5, 24), _DRAW.real(2, 5, 24)


@pytest.mark.parametrize(("inputs", "unidirectional"), [
    ((_Q, _K, _V), 0), ((_Q, _K, _V, _DRAW.real(84)), 0), ((_Q, _K, _V, None, int32(3, 7)), 0),
    ((_Q, _K, _V, None, visible(2, 7)), 0), ((_Q, _K, _V, None, visible(2, 5, 7)), 0),
    ((_Q, _K, _V, None, None, _DRAW.real(1, 1, 5, 7)), 0), (_SELF, 1), ((*_SELF, _B, None, None, *_CACHE), 0),
    ((*_SELF, _B, None, None, *_CACHE), 1), ((_Q, *_BNSH), 0), ((_Q, *_BNSH, _B), 0)])
def test_multi_head_attention(inputs: tuple[np.ndarray | None, ...], unidirectional: int) -> None:
    """MultiHeadAttention with separate or split keys, biases, masks and a past."""
    case = Case("MultiHeadAttention", inputs, {"num_heads": _HEADS, "unidirectional": unidirectional}, outputs=3)
    assert_matches(case)


def test_multi_head_attention_packed() -> None:
    """Packed inputs, which ONNX Runtime's CPU lacks, give what separate ones give."""
    q, k, v = (_DRAW.real(2, 5, _HIDDEN) for _ in range(3))
    expected = run_parity(Case("MultiHeadAttention", (q, k, v, _B), {"num_heads": _HEADS}))[0]
    q5, k5, v5 = (x.reshape(2, 5, _HEADS, 1, _SIZE) for x in (q, k, v))
    for inputs in ((np.concatenate([q5, k5, v5], 3), None, None, _B), (q, np.concatenate([k5, v5], 3), None, _B)):
        found = run_parity(Case("MultiHeadAttention", inputs, {"num_heads": _HEADS}))[0]
        np.testing.assert_array_equal(found, expected)


_POSITIONS = np.abs(_DRAW.whole(np.int64, 2, 5, limit=19))
_HALF, _QUARTER = (_DRAW.real(20, 4), _DRAW.real(20, 4)), (_DRAW.real(20, 2), _DRAW.real(20, 2))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("x", "positions", "cache", "attributes"), [
    (_Q, _POSITIONS, _HALF, {}), (_Q, np.array([3]), _HALF, {}), (_BNSH[0][:, :, :5], _POSITIONS, _HALF, {}),
    (_Q, _POSITIONS, _QUARTER, {"num_heads": 3, "rotary_embedding_dim": 4}),
    (_BNSH[0][:, :, :5], _POSITIONS, _QUARTER, {"num_heads": 3, "rotary_embedding_dim": 4})])
def test_rotary_embedding(interleaved: int, x: np.ndarray, positions: np.ndarray, cache: tuple[np.ndarray, np.ndarray],
                          attributes: dict[str, Attribute]) -> None:
    """RotaryEmbedding in both layouts and pairings, of the whole head or a part."""
    case = Case("RotaryEmbedding", (np.ascontiguousarray(x), positions, *cache),
                {"interleaved": interleaved, **attributes})
    assert_matches(case)
    assert_differentiable(case)
