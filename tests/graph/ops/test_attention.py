"""Attention and rotary embedding against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal, on_torch

MASK = np.random.default_rng(0).random((5, 7)) < 0.7
MASK[:, 0] = True


@pytest.mark.parametrize("mask", [None, MASK, np.where(MASK, 0, -1e4).astype(np.float32)])
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"scale": 0.3}, {"softcap": 2.0}])
def test_attention(mask: np.ndarray | None, attributes: dict[str, Any]) -> None:
    """Grouped heads with boolean and additive masks equal ONNX Runtime's."""
    inputs = [normal(2, 6, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 4), mask]
    check("Attention", inputs[:3] if mask is None else inputs, 23, **attributes)


def test_attention_with_a_cache() -> None:
    """Earlier keys and values come first, and are returned with the new ones."""
    past = [normal(2, 2, 3, 8), normal(2, 2, 3, 8, seed=1)]
    check("Attention", [normal(2, 5, 32), normal(2, 5, 16), normal(2, 5, 16, seed=1), None, *past], 23, outputs=3,
          q_num_heads=4, kv_num_heads=2)


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    """A fully masked row is zero, not NaN."""
    mask = np.array([[True, True], [False, False]])
    [y] = on_torch("Attention", [normal(1, 1, 2, 4), normal(1, 1, 2, 4), normal(1, 1, 2, 4), mask], 24, {})
    assert np.isfinite(y).all()
    assert not y[0, 0, 1].any()
    assert y[0, 0, 0].any()


@pytest.mark.parametrize("attributes", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
@pytest.mark.parametrize("positioned", [True, False])
def test_rotary_embedding(attributes: dict[str, Any], positioned: bool) -> None:
    """Both layouts of pairs, whole or in part, with and without position ids."""
    half = attributes.get("rotary_embedding_dim", 8) // 2
    shape = (20, half) if positioned else (2, 5, half)
    positions = [np.arange(10).reshape(2, 5)] if positioned else []
    check("RotaryEmbedding", [normal(2, 3, 5, 8), normal(*shape), normal(*shape, seed=1), *positions], 23, **attributes)


def test_attention_is_differentiable() -> None:
    """Autograd agrees with numerical gradients, masked elements and rows included."""
    mask = np.array([[True, False, True], [False, False, False]])
    gradcheck("Attention", [normal(1, 2, 2, 3), normal(1, 1, 3, 3), normal(1, 1, 3, 2), mask], 24)
    gradcheck("RotaryEmbedding", [normal(1, 1, 3, 4), normal(1, 3, 2), normal(1, 3, 2, seed=1)], 23)
