"""TensorRT as targets name it: in a process of its own, which it may bring down and whose memory it may keep."""

from __future__ import annotations

from parity.backends.base import Backend
from parity.backends.isolate import isolated

_SESSION = "parity.backends.trt.session"


def tensorrt() -> Backend:
    """NVIDIA's TensorRT."""
    return isolated(f"{_SESSION}:TensorRt", "tensorrt")


def tensorrt_rtx() -> Backend:
    """TensorRT for RTX."""
    return isolated(f"{_SESSION}:TensorRtRtx", "tensorrt-rtx")
