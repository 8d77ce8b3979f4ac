"""The numbers that `measure` is made of, of two tensors on one device other than the CPU, computed there by torch."""

from __future__ import annotations

import math

import torch

from parity.analysis.passes import EMPTY, Totals, together
from parity.graph.device import Lying, Placed

# Elements that temporaries are held for, some tens of bytes each; below 2**53, so that FP64 holds every index.
_CHUNK = 1 << 24
_EXACT_IN_FP64 = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int8, torch.int16, torch.int32,
    torch.uint8, torch.uint16, torch.uint32})


def placed_totals(reference: Lying, candidate: Lying) -> Totals | None:
    """The totals of two tensors of one shape; None unless both lie on one device, of types that FP64 holds exactly.

    All of it is computed there in FP64, and comes over at once.
    """
    if not (isinstance(reference, Placed) and isinstance(candidate, Placed)):
        return None
    r, c = reference.tensor.detach(), candidate.tensor.detach()
    if r.device != c.device or not {r.dtype, c.dtype} <= _EXACT_IN_FP64:
        return None
    if not r.numel():
        return EMPTY
    chunks = zip(torch.split(r.reshape(-1), _CHUNK), torch.split(c.reshape(-1), _CHUNK), strict=True)
    rows = torch.stack([_chunk_row(*sides) for sides in chunks]).tolist()
    return together([_totals(row, number * _CHUNK) for number, row in enumerate(rows)])


def _chunk_row(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """The fields of `Totals`, FP64, [16]; a mismatch is counted from the chunk's start."""
    sides = reference.double(), candidate.double()
    r, c = sides
    finite = r.isfinite() & c.isfinite()
    same = finite | (r == c) | (r.isnan() & c.isnan())
    left, right = (torch.where(finite, x, 0) for x in sides)
    gap = (right - left).abs()
    worst = gap.argmax()
    bounds = [bound for x in sides for bound in (torch.where(x.isnan(), math.inf, x).min(),
                                                 torch.where(x.isnan(), -math.inf, x).max())]
    counts = [is_it(x).sum() for is_it in (torch.isnan, torch.isinf) for x in sides]
    different = ~same
    row = [gap.sum(), *((x * x).sum() for x in (gap, left, right)), gap[worst], worst, *bounds, *counts,
           different.sum(), different.to(torch.uint8).argmax()]
    return torch.stack([number.double() for number in row])


def _totals(row: list[float], start: int) -> Totals:
    whole = [int(number) for number in row[10:]]
    first_mismatch = start + whole[5] if whole[4] else 0
    return Totals._make((*row[:5], start + int(row[5]), *row[6:10], *whole[:5], first_mismatch))
