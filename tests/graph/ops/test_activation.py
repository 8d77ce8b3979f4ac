"""Activation functions against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.graph.ops.call import Arithmetic
from tests.graph.ops.one_node import check, gradcheck, normal, on_torch

PLAIN = [
    ("Celu", 12, {}), ("Celu", 12, {"alpha": 2.5}), ("Elu", 7, {}), ("Elu", 7, {"alpha": 0.7}),
    ("HardSigmoid", 7, {}), ("HardSigmoid", 7, {"alpha": 0.4, "beta": 0.3}), ("HardSwish", 14, {}),
    ("LeakyRelu", 7, {}), ("LeakyRelu", 16, {"alpha": 0.3}), ("Mish", 18, {}), ("Relu", 7, {}), ("Relu", 14, {}),
    ("Selu", 7, {}), ("Selu", 7, {"alpha": 1.1, "gamma": 1.2}), ("Sigmoid", 13, {}), ("Softplus", 7, {}),
    ("Softsign", 7, {}), ("Shrink", 9, {}), ("Shrink", 9, {"bias": 0.2, "lambd": 0.9}), ("Swish", 24, {}),
    ("Swish", 24, {"alpha": 1.7}), ("ThresholdedRelu", 10, {}), ("ThresholdedRelu", 10, {"alpha": 0.4}),
    ("Gelu", 20, {}), ("Gelu", 20, {"approximate": "tanh"}),
]


@pytest.mark.parametrize(("op", "opset", "attributes"), PLAIN)
def test_activation(op: str, opset: int, attributes: dict[str, Any]) -> None:
    """Default and given parameters, small and large arguments, no elements at all."""
    check(op, [normal(4, 5)], opset, **attributes)
    check(op, [normal(4, 5) * np.float32(30)], opset, **attributes)
    check(op, [normal(0, 3)], opset, **attributes)


@pytest.mark.parametrize(("op", "opset", "attributes"), PLAIN)
def test_activation_is_differentiable(op: str, opset: int, attributes: dict[str, Any]) -> None:
    """Autograd agrees with numerical gradients, and large arguments do not overflow on the way back."""
    gradcheck(op, [normal(2, 3)], opset, **attributes)
    gradcheck(op, [np.array([-80.0, 90.0], np.float32)], opset, **attributes)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8])
def test_activations_of_integers(dtype: type[np.generic]) -> None:
    """Relu and Shrink keep an integer type."""
    x = np.array([0, 1, 5, 120]).astype(dtype)
    check("Shrink", [x], 9, bias=1.5, lambd=2.0)
    if dtype is not np.uint8:
        check("Relu", [x - dtype(3)], 14)


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (5,), (4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("opset", [7, 16])
def test_prelu(slope: tuple[int, ...], opset: int) -> None:
    """Slopes broadcast to the input."""
    check("PRelu", [normal(2, 3, 4, 5), normal(*slope)], opset)
    gradcheck("PRelu", [normal(1, 3), normal(3, seed=1)], opset)


def test_softplus_is_exact_in_double() -> None:
    """No threshold above which the function is taken to be linear."""
    x = np.array([21.0, 25.0])
    [got] = on_torch("Softplus", [x], 7, {}, arithmetic=Arithmetic.DOUBLE)
    np.testing.assert_allclose(got - x, np.log1p(np.exp(-x)), rtol=0, atol=4e-15)


def test_swiglu() -> None:
    """Swish of the gate times the value."""
    gate, value = normal(2, 3), normal(2, 3, seed=1)
    [got] = on_torch("SwiGLU", [gate, value], 28, {"alpha": 1.5})
    np.testing.assert_allclose(got, gate / (1 + np.exp(-1.5 * gate)) * value, rtol=1e-5)
