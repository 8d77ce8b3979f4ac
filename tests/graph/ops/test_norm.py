"""Normalisations against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.graph.ops.call import Arithmetic
from tests.graph.ops.one_node import check, gradcheck, normal, on_torch


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(shape: tuple[int, ...], opset: int) -> None:
    """Inference with given statistics equals ONNX Runtime's in every version."""
    given = [normal(3, seed=i) for i in range(3)]
    check("BatchNormalization", [normal(*shape), *given, np.abs(normal(3))], opset, epsilon=1e-3)


def test_batch_normalization_in_training() -> None:
    """The batch's own statistics are used, and mixed into the running ones by the momentum."""
    given = [normal(3, seed=i) for i in range(3)]
    check("BatchNormalization", [normal(4, 3, 5, 5), *given, np.abs(normal(3))], 14, outputs=3,
          training_mode=1, momentum=0.8)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 1, 1), (2, 3, 4, 5)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    """Each channel of each sample is normalised, a single element included."""
    check("InstanceNormalization", [normal(*shape), normal(3), normal(3, seed=1)], 7, epsilon=1e-2)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_normalization(axis: int, biased: bool) -> None:
    """Values, mean and inverse deviation over the last axes equal ONNX Runtime's."""
    x = normal(3, 4, 5)
    scale = normal(*x.shape[axis:])
    check("LayerNormalization", [x, scale, normal(*scale.shape, seed=1) if biased else None], 17, outputs=3, axis=axis)


def test_layer_normalization_with_a_broadcast_scale() -> None:
    """A scale of fewer axes than are normalised is broadcast."""
    x, scale = normal(3, 4, 5).astype(np.float64), normal(5).astype(np.float64)
    [y] = on_torch("LayerNormalization", [x, scale], 17, {"axis": 1})
    centred = x - x.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(y, centred / np.sqrt(x.var((1, 2), keepdims=True) + np.float32(1e-5)) * scale,
                               rtol=1e-12)


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 6)])
def test_group_normalization(opset: int, size: int) -> None:
    """The scale is per group before opset 21, per channel after."""
    check("GroupNormalization", [normal(2, 6, 4, 3), normal(size), normal(size, seed=1)], opset, num_groups=2)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis: int) -> None:
    """The root mean square over the last axes is divided out."""
    x = normal(3, 4, 5)
    scale = normal(*x.shape[axis:])
    check("RMSNormalization", [x, scale], 23, axis=axis, epsilon=1e-3)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_lp_normalization(p: int, axis: int) -> None:
    """A vector of norm 0 stays 0."""
    x = normal(3, 4, 5)
    x[1], x[:, 2], x[..., 3] = 0, 0, 0
    check("LpNormalization", [x], 7, p=p, axis=axis)


@pytest.mark.parametrize("attributes", [{}, {"axes": [0, 1]}])
def test_mean_variance_normalization(attributes: dict[str, Any]) -> None:
    """Mean 0 and variance 1 over the given axes."""
    check("MeanVarianceNormalization", [normal(2, 3, 4, 5)], 9, **attributes)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn(size: int) -> None:
    """Windows over channels equal ONNX Runtime's."""
    check("LRN", [normal(2, 7, 3, 3)], 7, size=size, alpha=0.3, beta=0.6, bias=1.5)


def test_lrn_of_even_size() -> None:
    """An even window reaches one channel further forwards, as the standard says."""
    x = normal(1, 5, 1, 1).astype(np.float64)
    [y] = on_torch("LRN", [x], 13, {"size": 2, "alpha": 1.0, "beta": 1.0}, arithmetic=Arithmetic.DOUBLE)
    squares = np.append(x.ravel() ** 2, 0)
    np.testing.assert_allclose(y.ravel(), x.ravel() / (1 + (squares[:-1] + squares[1:]) / 2), rtol=1e-12)


def test_normalizations_are_differentiable() -> None:
    """Autograd agrees with numerical gradients, at a zero vector too where that is defined."""
    x, v = normal(2, 4, 3), normal(4)
    gradcheck("BatchNormalization", [x, v, v + 1, v - 1, np.abs(v) + 0.5], 15)
    gradcheck("LayerNormalization", [x, normal(3), normal(3, seed=1)], 17)
    gradcheck("GroupNormalization", [x, v, v + 1], 21, num_groups=2)
    gradcheck("RMSNormalization", [x, normal(3)], 23)
    gradcheck("LRN", [x], 13, size=3)
    gradcheck("MeanVarianceNormalization", [x], 13, axes=[0, 2])
