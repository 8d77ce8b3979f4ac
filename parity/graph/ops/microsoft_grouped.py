"""ONNX Runtime's GroupQueryAttention, the attention of its language models.

Shapes: B batch, N query heads, G key and value heads, S query length, T total key length, H head size.
"""

from __future__ import annotations

import torch

from parity.graph.ops.call import Call, Tensor, kernel
from parity.graph.ops.microsoft import DOMAIN
from parity.graph.ops.microsoft_attention import merge_heads, rotate, split_heads


@kernel("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(call: Call, query: Tensor, key: Tensor | None, value: Tensor | None,
                          past_key: Tensor | None, past_value: Tensor | None, lengths: Tensor, total: Tensor,
                          cos: Tensor | None = None, sin: Tensor | None = None, positions: Tensor | None = None,
                          bias: Tensor | None = None, sink: Tensor | None = None,
                          *further: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """GroupQueryAttention with a cache in floating point.

    The new keys and values of a sequence come behind its past ones: `lengths` holds the last position of each.
    """
    unsupported = call.integer("sliding_window_cache") or call.integer("qk_output") or any(
        x is not None for x in further)
    if unsupported:
        raise NotImplementedError("quantised or windowed cache, query norm or scores of GroupQueryAttention")
    q, k, v = _separated(call, query, key, value)
    length, whole = q.shape[2], int(total)
    starts = torch.zeros_like(lengths) if length == whole else lengths + 1 - length
    if call.integer("do_rotary") and cos is not None and sin is not None:
        places = starts[:, None] + torch.arange(length) if positions is None or length == whole else positions
        q, k = (rotate(x, cos[places], sin[places], interleaved=bool(call.integer("rotary_interleaved")))
                for x in (q, k))
    keys, values = _appended(past_key, k, starts, whole), _appended(past_value, v, starts, whole)
    rows = []
    for b, (start, last) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        term = None if bias is None else bias[b % len(bias), ..., :last + 1]
        rows.append(_attend(call, q[b], keys[b, :, :last + 1], values[b, :, :last + 1], start, term, sink))
    return merge_heads(torch.stack(rows)), keys, values


def _separated(call: Call, query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    if key is not None and value is not None:
        return split_heads(query, heads), split_heads(key, groups), split_heads(value, groups)
    merged = split_heads(query, heads + 2 * groups)
    q, k, v = torch.split(merged, [heads, groups, groups], 1)
    return q, k, v


def _appended(past: Tensor | None, new: Tensor, starts: Tensor, total: int) -> Tensor:
    """The cache (B, G, ≥ T, H): past rows up to the start of each sequence, its new rows, then zeros."""
    batch, groups, length, size = new.shape
    room = max(total, 0 if past is None else past.shape[2])
    cache = new.new_zeros(batch, groups, room, size)
    if past is not None:
        kept = (torch.arange(past.shape[2]) < starts[:, None])[:, None, :, None]
        cache = torch.cat([past.where(kept, 0), cache[:, :, past.shape[2]:]], 2)
    places = (starts[:, None] + torch.arange(length)).long()[:, None, :, None].expand_as(new)
    return cache.scatter(2, places, new)


def _attend(call: Call, q: Tensor, k: Tensor, v: Tensor, start: int, bias: Tensor | None,
            sink: Tensor | None) -> Tensor:
    """One sequence: q (N, S, H), k and v (G, T, H), its first query at position `start`."""
    heads, length, size = q.shape
    k, v = (x.repeat_interleave(heads // len(x), 0) for x in (k, v))
    scores = torch.matmul(q, k.mT) * (call.number("scale") or size**-0.5)
    softcap = call.number("softcap")
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~_visible(call, start, length, k.shape[1]), -torch.inf)
    if sink is None and call.integer("smooth_softmax", -1) == 1:
        sink = scores.new_zeros(heads)
    if sink is not None:  # one more key, of value zero
        scores = torch.cat([scores, sink.reshape(-1, 1, 1).expand(heads, length, 1)], -1)
        return torch.matmul(scores.softmax(-1)[..., :-1], v)
    return torch.matmul(scores.softmax(-1), v)


def _visible(call: Call, start: int, length: int, total: int) -> Tensor:
    """Which keys each query may see, (S, T)."""
    query, key = torch.arange(start, start + length).unsqueeze(-1), torch.arange(total)
    if not call.integer("causal", 1):
        return torch.ones(length, total, dtype=torch.bool)
    window = call.integer("local_window_size", -1)
    seen = key <= query
    return seen & (key > query - window) if window > 0 else seen
