"""What may stand for an operator and is none itself: other roundings, other forms of GELU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from parity.analysis.causes.unit import Stand
from parity.graph.graph import Node
from parity.graph.ops.call import Value


def other_roundings(node: Node) -> Iterator[tuple[str, Stand]]:
    """Roundings that a node may have done instead of its own, in words, and what then stands for it."""
    if node.op not in ("Round", "QuantizeLinear", "Cast", "Floor", "Ceil"):
        return
    for words, rounding in (("half away from zero", _half_away), ("toward zero", torch.trunc), ("down", torch.floor),
                            ("half up", lambda x: torch.floor(x + 0.5)), ("half to even", torch.round)):
        yield f"rounding {words}", _rounded(node, rounding)


def _rounded(node: Node, rounding: Callable[[torch.Tensor], torch.Tensor]) -> Stand:
    """A function that does what the node does, but rounds otherwise."""

    def stand(inputs: Sequence[Value]) -> list[Value]:
        x = inputs[0]
        if not isinstance(x, torch.Tensor) or not x.dtype.is_floating_point:
            return [None]
        if node.op != "QuantizeLinear":
            return [rounding(x.double())]
        scale = inputs[1]
        zero = inputs[2] if len(inputs) > 2 else torch.zeros((), dtype=torch.uint8)
        if not isinstance(scale, torch.Tensor) or not isinstance(zero, torch.Tensor) or scale.numel() > 1:
            return [None]
        limits = torch.iinfo(zero.dtype)
        steps = rounding(x.double() / scale.double().reshape(())) + zero.double().reshape(())
        return [steps.clamp(limits.min, limits.max).to(zero.dtype)]

    return stand


def _half_away(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def tanh_of_erf(inputs: Sequence[Value]) -> list[Value]:
    """What stands for erf(x/√2) where GELU is approximated by tanh (Hendrycks and Gimpel 2016)."""
    u = inputs[0]
    if not isinstance(u, torch.Tensor):
        return [None]
    x = u.double() * math.sqrt(2)
    return [torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))]


def quick_of_erf(inputs: Sequence[Value]) -> list[Value]:
    """What stands for erf(x/√2) where GELU is approximated by x·σ(1.702 x): 2σ(1.702 x) - 1."""
    u = inputs[0]
    return [torch.tanh(0.851 * u.double() * math.sqrt(2))] if isinstance(u, torch.Tensor) else [None]
