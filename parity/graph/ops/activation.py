"""Elementwise activation functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Kernel, Tensor
from parity.graph.ops.delegate import single
from parity.graph.ops.dtypes import tensor_kernel


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))  # F.softplus is linear above a threshold


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "Mish": lambda x: x * torch.tanh(_softplus(x)),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + x.abs()),
}
_WITH_ALPHA: dict[str, tuple[float, Callable[[Tensor, float], Tensor]]] = {
    "Celu": (1.0, F.celu),
    "Elu": (1.0, F.elu),
    "LeakyRelu": (0.01, F.leaky_relu),
    "Swish": (1.0, lambda x, alpha: x * torch.sigmoid(alpha * x)),
    "ThresholdedRelu": (1.0, lambda x, alpha: torch.where(x > alpha, x, 0)),
}


def _plain(function: Callable[[Tensor], Tensor]) -> Kernel:
    return lambda _, x: function(x)


def _with_alpha(default: float, function: Callable[[Tensor, float], Tensor]) -> Kernel:
    return lambda call, x: function(x, call.number("alpha", single(default)))


for _name, _function in _PLAIN.items():
    tensor_kernel(_name)(_plain(_function))
for _name, (_default, _parametric) in _WITH_ALPHA.items():
    tensor_kernel(_name)(_with_alpha(_default, _parametric))


@tensor_kernel("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    """Scaled ELU."""
    return call.number("gamma", 1.05070102214813232421875) * F.elu(x, call.number("alpha", 1.67326319217681884765625))


@tensor_kernel("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """A straight line limited to [0, 1]."""
    return torch.clamp(call.number("alpha", single(0.2)) * x + call.number("beta", 0.5), 0, 1)


@tensor_kernel("PRelu")
def prelu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    """Leaky ReLU with a slope per element; `slope` broadcasts to the shape of `x`."""
    return torch.where(x < 0, slope * x, x)


@tensor_kernel("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    """GELU, exact or by its tanh approximation."""
    return F.gelu(x, approximate=call.text("approximate", "none"))


@tensor_kernel("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    """Zero within `lambd` of zero, moved towards zero by `bias` elsewhere."""
    bias, width = call.number("bias"), call.number("lambd", 0.5)
    exact = x if x.is_floating_point() else x.double()
    moved = torch.where(exact < -width, exact + bias, torch.where(exact > width, exact - bias, 0))
    return moved.to(x.dtype)


@tensor_kernel("SwiGLU")
def swiglu(call: Call, gate: Tensor, x: Tensor) -> Tensor:
    """Swish of the gate times the value."""
    return gate * torch.sigmoid(call.number("alpha", 1.0) * gate) * x
