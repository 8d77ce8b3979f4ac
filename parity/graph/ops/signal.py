"""Signal processing on torch: DFT, STFT and window functions."""

from __future__ import annotations

from math import pi

import torch

from parity.graph.ops.call import Call, Tensor, kernel


def _complex(x: Tensor) -> Tensor:
    """A signal [..., 1] or [..., 2], the last axis real and imaginary part, without that axis."""
    parts: Tensor = x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    return parts


@kernel("DFT")
def dft(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """Discrete Fourier transform along one axis; onesided keeps, or when inverse expects, the first half."""
    dim = int(axis) if axis is not None else call.integer("axis", 1) if call.opset < 20 else -2
    dim %= x.ndim
    inverse, onesided = bool(call.integer("inverse")), bool(call.integer("onesided"))
    signal, n = _complex(x), None if length is None else int(length)
    if inverse and onesided:
        back: Tensor = torch.fft.irfft(signal, n, dim)
        return back.unsqueeze(-1)
    result = torch.fft.ifft(signal, n, dim) if inverse else torch.fft.fft(signal, n, dim)
    if onesided:
        result = result.narrow(dim, 0, result.shape[dim] // 2 + 1)
    return torch.view_as_real(result.resolve_conj())


@kernel("STFT")
def stft(call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """Short-time Fourier transform of signals [batch, time, 1 or 2] → [batch, frames, frequencies, 2]."""
    size = int(length) if length is not None else window.shape[0] if window is not None else x.shape[1]
    frames = _complex(x).unfold(1, size, int(step))
    frames = frames if window is None else frames * window
    real = not frames.is_complex()
    result = torch.fft.rfft(frames) if real and call.integer("onesided", 1) else torch.fft.fft(frames)
    if call.integer("onesided", 1):
        result = result[..., :size // 2 + 1]
    return torch.view_as_real(result)


# a0, a1, a2 of a0 - a1·cos(2πn/N) + a2·cos(4πn/N), as the ONNX standard gives them
_WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@kernel(*_WINDOWS)
def window(call: Call, size: Tensor) -> Tensor:
    """A window function: a sum of cosines over a period of `size`, or `size` - 1 when symmetric."""
    a0, a1, a2 = _WINDOWS[call.node.proto.op_type]
    n = int(size)
    period = n if call.integer("periodic", 1) else n - 1
    phase = torch.arange(n, dtype=torch.float64) * (2 * pi / max(period, 1))
    return (a0 - a1 * phase.cos() + a2 * (2 * phase).cos()).to(call.dtype(call.integer("output_datatype", 1)))


@kernel("MelWeightMatrix")
def mel_weight_matrix(call: Call, bins: Tensor, length: Tensor, rate: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Triangular filters from a spectrum of `length` // 2 + 1 bins to the mel scale 2595·log10(1 + f/700)."""
    count, n = int(bins), int(length)
    low, high = (2595 * torch.log10(1 + edge.double() / 700) for edge in (lower, upper))
    mels = low + torch.arange(count + 2, dtype=torch.float64) * (high - low) / (count + 2)
    edges = ((n + 1) * 700 * (10 ** (mels / 2595) - 1)).div(int(rate), rounding_mode="floor").long()
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    at = torch.arange(n // 2 + 1)[:, None]
    rising = torch.where(centre > left, (at - left) / (centre - left).clamp(min=1), 1.0)
    falling = (right - at) / (right - centre).clamp(min=1)
    matrix = torch.where((at >= left) & (at <= centre), rising, 0.0)
    matrix = torch.where((at >= centre) & (at < right), falling, matrix)
    return matrix.to(call.dtype(call.integer("output_datatype", 1)))
