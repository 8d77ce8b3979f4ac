"""Signal operators against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.ops.one_node import check, gradcheck, normal


@pytest.mark.parametrize("length", [None, 8, 13])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [0, 1])
def test_dft(length: int | None, parts: int, inverse: int) -> None:
    """Real and complex signals, cut or padded to a length, forwards and back."""
    x = normal(2, 10, 3, parts)
    given = None if length is None else np.array(length)
    check("DFT", [x, given] if length else [x], 17, axis=1, inverse=inverse)
    check("DFT", [x, given, np.array(1)], 20, inverse=inverse)


@pytest.mark.parametrize("length", [9, 16])
def test_onesided_dft(length: int) -> None:
    """Half of the spectrum of a real signal."""
    check("DFT", [normal(2, length, 1)], 17, axis=1, onesided=1)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [True, False])
def test_stft(onesided: int, windowed: bool) -> None:
    """Frames of a signal, with and without a window."""
    window = np.hanning(16).astype(np.float32) if windowed else None
    check("STFT", [normal(2, 64, 1), np.array(8), window, np.array(16)], 17, onesided=onesided)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_window(op: str, periodic: int) -> None:
    """Window functions of either symmetry."""
    check(op, [np.array(10)], 17, periodic=periodic)


def test_mel_weight_matrix() -> None:
    """Triangular filters on the mel scale."""
    edges = [np.array(v, np.float32) for v in (20.0, 4000.0)]
    check("MelWeightMatrix", [np.array(8), np.array(64), np.array(8192), *edges], 17)


def test_dft_is_differentiable() -> None:
    """Autograd agrees with numerical gradients."""
    gradcheck("DFT", [normal(1, 5, 1)], 17, axis=1)
    gradcheck("STFT", [normal(1, 12, 1), np.array(4), normal(6)], 17)
