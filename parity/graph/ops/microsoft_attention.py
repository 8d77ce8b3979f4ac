"""ONNX Runtime's contrib attention operators.

Shapes: B batch, N query heads, S query length, T total key length (past included), H head size.
"""

from __future__ import annotations

import torch

from parity.graph.ops.call import Call, Tensor, kernel
from parity.graph.ops.integer import product
from parity.graph.ops.microsoft import DOMAIN

_MASK_FILTER = -10000.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, S, N · H) → (B, N, S, H)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, N, S, H) → (B, S, N · H)."""
    return x.transpose(1, 2).flatten(2)


def attend(call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None,
           past: int = 0) -> tuple[Tensor, Tensor]:
    """softmax(q · kᵀ · scale + bias + mask) · v.

    Args:
        call: holds `scale`, by default 1 / √H, `unidirectional` and `mask_filter_value`.
        q: (B, N, S, H).
        k: (B, N, T, H).
        v: (B, N, T, H of v).
        bias: broadcastable to (B, N, S, T).
        mask: in any of the forms that `additive_mask` knows.
        past: position of the first query among the keys.

    Returns:
        The result (B, S, N · H of v), and the products before the softmax.
    """
    scores = torch.matmul(q, k.mT) * (call.number("scale") or q.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + additive_mask(mask, scores, call.number("mask_filter_value", _MASK_FILTER))
    if call.integer("unidirectional"):
        ahead = torch.arange(k.shape[2]) > torch.arange(past, past + q.shape[2]).unsqueeze(-1)
        scores = scores.masked_fill(ahead, torch.finfo(torch.float32).min)
    return merge_heads(torch.matmul(scores.softmax(-1), v)), scores


def additive_mask(mask: Tensor, scores: Tensor, filled: float) -> Tensor:
    """A mask as a term to add to the scores.

    Args:
        mask: zeros where a key is hidden, (B or 1, T), (B, S, T) or (B, 1, max, max); or the number of keys of each
            sequence, (B,); or their ends followed by their starts, (2 · B,).
        scores: (B, N, S, T).
        filled: what is added where a key is hidden.

    Raises:
        NotImplementedError: it has another form.
    """
    batch, _, length, total = scores.shape
    places = torch.arange(total)
    if mask.ndim == 1 and len(mask) in (batch, 2 * batch):
        visible = places < mask[:batch, None]
        if len(mask) == 2 * batch:
            visible = visible & (places >= mask[batch:, None])
        visible = visible[:, None, None]
    elif mask.ndim == 2:
        visible = mask[:, None, None] > 0
    elif mask.ndim == 3:
        visible = mask[:, None] > 0
    elif mask.ndim == 4:
        visible = mask[:, :, total - length:total, :total] > 0
    else:
        raise NotImplementedError(f"attention mask of shape {list(mask.shape)}")
    return torch.where(visible, 0.0, torch.tensor(filled, dtype=scores.dtype))


@kernel("Attention", domain=DOMAIN)
def attention(call: Call, x: Tensor, weights: Tensor, bias: Tensor | None = None, mask: Tensor | None = None,
              past: Tensor | None = None, attention_bias: Tensor | None = None,
              _past_length: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Attention: projects x to q, k and v by one merged weight, then attends."""
    projected = torch.matmul(x, weights)
    return _attend_projected(call, projected if bias is None else projected + bias, mask, past, attention_bias)


@kernel("QAttention", domain=DOMAIN)
def quantized_attention(call: Call, x: Tensor, weights: Tensor, bias: Tensor, x_scale: Tensor, w_scale: Tensor,
                        mask: Tensor | None = None, x_zero_point: Tensor | None = None,
                        w_zero_point: Tensor | None = None, past: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """QAttention: Attention whose projection is an integer product."""
    scale = x_scale * w_scale
    projected = product(x, weights, x_zero_point, w_zero_point).to(scale.dtype) * scale + bias
    return _attend_projected(call, projected, mask, past, None)


def _attend_projected(call: Call, projected: Tensor, mask: Tensor | None, past: Tensor | None,
                      bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if call.integer("do_rotary") or call.integer("past_present_share_buffer"):
        raise NotImplementedError("rotary embedding or a shared buffer in Attention")
    heads = call.integer("num_heads")
    sizes = call.integers("qkv_hidden_sizes") or [projected.shape[-1] // 3] * 3
    q, k, v = (split_heads(part, heads) for part in torch.split(projected, sizes, -1))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    y, _ = attend(call, q, k, v, bias, mask, 0 if past is None else past.shape[3])
    return y, torch.stack([k, v]) if call.wants(1) else None


@kernel("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(call: Call, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                         bias: Tensor | None = None, mask: Tensor | None = None, attention_bias: Tensor | None = None,
                         past_key: Tensor | None = None, past_value: Tensor | None = None,
                         past_length: Tensor | None = None,
                         indirection: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """MultiHeadAttention on separate or packed q, k and v, with the biases of their projections."""
    if past_length is not None or indirection is not None:
        raise NotImplementedError("a shared buffer in MultiHeadAttention")
    heads = call.integer("num_heads")
    q, k, v = _separated(query, key, value, heads)
    if bias is not None:
        size, v_size = heads * q.shape[-1], heads * v.shape[-1]
        q_bias, k_bias, v_bias = (b.reshape(heads, 1, -1) for b in torch.split(bias, [size, size, v_size]))
        q = q + q_bias
        if key is None or key.ndim != 4:
            k, v = k + k_bias, v + v_bias
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    y, scores = attend(call, q, k, v, attention_bias, mask, 0 if past_key is None else past_key.shape[2])
    return y, k, v, scores


def _separated(query: Tensor, key: Tensor | None, value: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as (B, N, S or T, H), whether they come packed, merged or split."""
    if key is None:  # (B, S, N, 3, H)
        q, k, v = query.permute(3, 0, 2, 1, 4)
        return q, k, v
    q = split_heads(query, heads)
    if value is None:  # (B, T, N, 2, H)
        k, v = key.permute(3, 0, 2, 1, 4)
        return q, k, v
    k, v = (x if x.ndim == 4 else split_heads(x, heads) for x in (key, value))
    return q, k, v


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotary position embedding of the first 2 · R of the last axis of x.

    Args:
        x: (B, N, S, H).
        cos: (B or 1, S, R).
        sin: likewise.
        interleaved: whether the pairs that rotate are neighbours; else they are R apart.
    """
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    real, imaginary = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = real * cos - imaginary * sin, real * sin + imaginary * cos
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned, rest], -1)


@kernel("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(call: Call, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RotaryEmbedding of (B, S, N · H) or (B, N, S, H); one position given is that of the first token."""
    if call.number("scale", 1.0) != 1.0 or call.integer("is_packed_batching"):
        raise NotImplementedError("scaled or packed RotaryEmbedding")
    heads = call.integer("num_heads") or (x.shape[-1] // (2 * cos.shape[-1]))
    split = x if x.ndim == 4 else split_heads(x, heads)
    places = positions + torch.arange(split.shape[2]) if positions.numel() == 1 else positions
    places = places.reshape(-1, split.shape[2])
    y = rotate(split, cos[places], sin[places], interleaved=bool(call.integer("interleaved")))
    return y if x.ndim == 4 else merge_heads(y)
