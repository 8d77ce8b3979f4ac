"""GroupQueryAttention against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import Attribute, Case, Draw, assert_differentiable, assert_matches

_DRAW = Draw(5)
_HEADS, _GROUPS, _SIZE = 4, 2, 16


def grouped(length: int, last: list[int], *, past: int = 0, packed: bool = False, rotary: bool = False,
            bias: np.ndarray | None = None, sink: np.ndarray | None = None, positions: np.ndarray | None = None,
            **attributes: Attribute) -> Case:
    """A case of `len(last)` sequences, `length` new tokens each, `last` their last positions."""
    batch, size = len(last), _GROUPS * _SIZE
    query = _DRAW.real(batch, length, _HEADS * _SIZE + (2 * size if packed else 0))
    key, value = (None, None) if packed else (_DRAW.real(batch, length, size), _DRAW.real(batch, length, size))
    cache = tuple(_DRAW.real(batch, _GROUPS, past, _SIZE) if past else None for _ in range(2))
    angles = tuple(_DRAW.real(64, _SIZE // 2) if rotary else None for _ in range(2))
    counts = np.array(last, np.int32), np.array(max(last) + 1, np.int32)
    heads: dict[str, Attribute] = {"num_heads": _HEADS, "kv_num_heads": _GROUPS, "do_rotary": int(rotary)}
    return Case("GroupQueryAttention", (query, key, value, *cache, *counts, *angles, positions, bias, sink),
                {**heads, **attributes}, outputs=3)


@pytest.mark.parametrize("case", [
    grouped(5, [4, 4]), grouped(5, [4, 4], packed=True, rotary=True), grouped(5, [4, 4], past=12),
    grouped(5, [4, 4], rotary=True, rotary_interleaved=1), grouped(5, [4, 4], scale=0.3, softcap=2.0),
    grouped(5, [4, 4], softcap=2.0, bias=_DRAW.real(2, 1, 5, 5)), grouped(7, [6, 6], local_window_size=3),
    grouped(5, [4, 4], smooth_softmax=1), grouped(5, [4, 4], sink=_DRAW.real(_HEADS)), grouped(5, [4, 4], causal=0),
    grouped(5, [4, 2], rotary=True)])
def test_prompt(case: Case) -> None:
    """A first prompt: packed, rotated, capped, windowed, with a sink, ragged."""
    assert_matches(case)


@pytest.mark.parametrize("case", [
    grouped(1, [8, 8], past=8), grouped(1, [8, 8], past=8, rotary=True), grouped(1, [8, 5], past=12, rotary=True),
    grouped(1, [8, 8], past=8, local_window_size=3), grouped(1, [8, 8], past=12, packed=True, rotary=True),
    grouped(3, [10], past=8, rotary=True), grouped(3, [10], past=8, bias=_DRAW.real(1, 1, 3, 11)),
    grouped(3, [10], past=8, rotary=True, positions=np.array([[8, 9, 10]])), grouped(3, [10], past=8, causal=0)])
def test_continuation(case: Case) -> None:
    """One token or more after a past, in a cache that fits or has room to spare."""
    assert_matches(case)


def test_differentiable() -> None:
    """The output has a derivative by the query, through rotation and the cache."""
    assert_differentiable(grouped(2, [5], past=4, rotary=True))
