"""NVIDIA's driver, asked before TensorRT is: without one, TensorRT's calls fail in ways that no `except` catches."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from parity.errors import BackendUnavailable

# Of the driver API's cuda.h.
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        index: by which CUDA counts it.
        name: as its maker calls it.
        capability: its compute capability, e.g. (8, 6).
        memory: bytes that it has.
        driver: the newest CUDA that the driver runs, e.g. (13, 0).
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory: int
    driver: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def devices() -> tuple[Device, ...]:
    """Every GPU that the driver shows.

    Raises:
        BackendUnavailable: there is no driver, it does not start, or it shows no GPU.
    """
    cuda = _loaded(_LIBRARY)
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise BackendUnavailable("the NVIDIA driver shows no GPU", "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES.")
    driver = (version.value // 1000, version.value % 1000 // 10)
    return tuple(_device(cuda, index, driver) for index in range(count.value))


def device_at(name: str) -> Device:
    """The GPU that a target's device names: "", "cuda" or "cuda:1".

    Raises:
        BackendUnavailable: there is none of that name, or none at all.
    """
    kind, _, number = name.partition(":")
    if kind not in ("", "cuda") or not (number or "0").isdecimal():
        raise BackendUnavailable(f"TensorRT has no device {name!r}", "Known: cuda, cuda:0, cuda:1, and so on.")
    found = devices()
    index = int(number or 0)
    if index >= len(found):
        raise BackendUnavailable(f"there is no device {name!r}: the driver shows {len(found)}",
                                 f"Known: {', '.join(f'cuda:{d.index} ({d.name})' for d in found)}.")
    return found[index]


def use(device: Device) -> None:
    """Have this thread work on a GPU: its primary context becomes the current one.

    Raises:
        BackendUnavailable: it cannot be used, because another process has it for itself, say.
    """
    cuda = _loaded(_LIBRARY)
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _call(cuda, "cuDeviceGet", ctypes.byref(handle), device.index)
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    _call(cuda, "cuCtxSetCurrent", context)


def _loaded(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise BackendUnavailable(f"there is no NVIDIA driver here ({error})",
                                 "Install the driver, or start the container with --gpus all.") from error


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(cuda, function)(*arguments)
    if status == _NO_DEVICE:
        raise BackendUnavailable("the NVIDIA driver shows no GPU", "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES.")
    if status != 0:
        raise BackendUnavailable(f"the NVIDIA driver does not start: {function} says {_words(cuda, status)}",
                                 "Check `nvidia-smi`; after an update of the driver, restart the machine.")


def _words(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    known = cuda.cuGetErrorString(status, ctypes.byref(text)) == 0
    return f"{status}, {text.value.decode()}" if known and text.value else str(status)


def _device(cuda: ctypes.CDLL, index: int, driver: tuple[int, int]) -> Device:
    handle, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGet", ctypes.byref(handle), index)
    _call(cuda, "cuDeviceGetName", name, len(name), handle)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, handle)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, handle)
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    return Device(index, name.value.decode(), (major.value, minor.value), memory.value, driver)
