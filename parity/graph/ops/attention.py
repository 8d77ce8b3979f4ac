"""Attention and rotary embedding on torch, each as one operator: half precision is rounded at its end only."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Tensor, kernel


def _heads(x: Tensor, count: int) -> Tensor:
    """[batch, time, heads·size] → [batch, heads, time, size]; four axes stay as they are."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _bias(call: Call, scores: Tensor, mask: Tensor | None, past: int, valid: Tensor | None) -> Tensor:
    """What to add to the scores [batch, heads, queries, keys]: the mask, and -∞ where attention may not look."""
    queries, keys = scores.shape[-2:]
    bias = scores.new_zeros(queries, keys)
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.where(F.pad(mask, (0, keys - mask.shape[-1])), bias, -torch.inf)
    elif mask is not None:
        bias = bias + F.pad(mask, (0, keys - mask.shape[-1]), value=-torch.inf)
    # how far behind the query a key lies; the last query sits on the last valid key of a cache
    offset = torch.tensor(past) if valid is None else (valid - queries).reshape(-1, 1, 1, 1)
    behind = torch.arange(queries)[:, None] + offset - torch.arange(keys)
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    allowed = torch.ones_like(behind, dtype=torch.bool)
    if call.integer("is_causal"):
        allowed = allowed & (behind >= 0)
    if left >= 0:
        allowed = allowed & (behind <= left)
    if right >= 0:
        allowed = allowed & (-behind <= right)
    if valid is not None:
        allowed = allowed & (torch.arange(keys) < valid.reshape(-1, 1, 1, 1))
    return torch.where(allowed, bias, -torch.inf)


@kernel("Attention")
def attention(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
              past_key: Tensor | None = None, past_value: Tensor | None = None, valid: Tensor | None = None,
              ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled dot-product attention; also the keys and values seen so far, and the scores at the stage asked for.

    A query that may look nowhere gets zeros.
    """
    mode, softcap = call.integer("qk_matmul_output_mode"), call.number("softcap")
    if mode == 0 and softcap and call.wants(3):
        raise NotImplementedError("scores before the soft cap")  # left to the operator's definition
    flat = q.ndim == 3
    q = _heads(q, call.integer("q_num_heads"))
    k, v = _heads(k, call.integer("kv_num_heads")), _heads(v, call.integer("kv_num_heads"))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present_key, present_value = k, v
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    root = call.number("scale", q.shape[-1] ** -0.5) ** 0.5
    scores = (q * root) @ (k * root).transpose(-1, -2)
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    bias = _bias(call, scores, mask, 0 if past_key is None else past_key.shape[2], valid)
    biased = scores + bias
    blind = (bias == -torch.inf).all(-1, keepdim=True)
    weights = torch.where(blind, 0.0, torch.where(blind, 0.0, biased).softmax(-1))
    y = weights @ v
    stages = (scores, scores, biased, weights)
    return y.transpose(1, 2).flatten(2) if flat else y, present_key, present_value, stages[mode]


@kernel("RotaryEmbedding")
def rotary_embedding(call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """Turn pairs of the first features of each head by the angle of its position."""
    heads = _heads(x, call.integer("num_heads"))
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # [batch, 1, time, half]
    size = call.integer("rotary_embedding_dim") or heads.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    interleaved = bool(call.integer("interleaved"))
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (cos * a - sin * b, sin * a + cos * b)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).flatten(2) if x.ndim == 3 else y
