"""The driver's answers, from libraries that are compiled here and answer as drivers do."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.backends.trt import driver
from parity.backends.trt.driver import Device, device_at, devices, use
from parity.errors import BackendUnavailable

SOURCE = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device ? "NVIDIA T4" : "NVIDIA GeForce RTX 4090", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device ? 7 : 8) : attribute == 76 ? (device ? 5 : 9) : -1; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuGetErrorString(int status, const char **text) { *text = "initialization error"; return status == 3 ? 0 : 1; }
static int current;
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &current; current = device; return RETAIN; }
int cuCtxSetCurrent(void *context) { return context == &current ? 0 : 1; }
"""
Driver = Callable[..., None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Installs a driver that answers as told."""
    def install(start: int = 0, count: int = 2, retain: int = 0) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        assert compiler is not None
        library = tmp_path / "libcuda.so"
        subprocess.run([compiler, "-x", "c", "-", "-shared", "-fPIC", "-o", library, f"-DINIT={start}",
                        f"-DCOUNT={count}", f"-DRETAIN={retain}"], input=SOURCE, text=True, check=True)
        monkeypatch.setattr(driver, "_LIBRARY", str(library))

    return install


def test_what_the_driver_tells(installed: Driver) -> None:
    """Name, compute capability, memory and driver of every GPU."""
    installed()
    assert devices() == (Device(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 * 2**30, (13, 1)),
                         Device(1, "NVIDIA T4", (7, 5), 24 * 2**30, (13, 1)))
    assert str(devices()[0]) == "NVIDIA GeForce RTX 4090 (compute capability 8.9)"
    use(devices()[1])


@pytest.mark.parametrize(("name", "index"), [("", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_by_name(installed: Driver, name: str, index: int) -> None:
    """The first where no number is given."""
    installed()
    assert device_at(name).index == index


@pytest.mark.parametrize(("name", "reason"), [("cpu", "no device 'cpu'"), ("cuda:2", "shows 2"), ("cuda:x", "cuda:x")])
def test_a_device_that_is_not_there(installed: Driver, name: str, reason: str) -> None:
    """The message quotes it, the hint says which there are."""
    installed()
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        device_at(name)
    assert "cuda:0" in caught.value.hint


@pytest.mark.parametrize(("start", "count", "reason"), [
    (100, 0, "shows no GPU"), (0, 0, "shows no GPU"), (3, 0, "cuInit says 3, initialization error"),
    (802, 0, "cuInit says 802"),
])
def test_a_driver_that_does_not_serve(installed: Driver, start: int, count: int, reason: str) -> None:
    """No GPU, or an error in the driver's own words."""
    installed(start, count)
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        devices()
    assert "nvidia-smi" in caught.value.hint


def test_a_gpu_that_another_process_has(installed: Driver) -> None:
    """What the driver says when the GPU is to be used is told."""
    installed(retain=46)
    with pytest.raises(BackendUnavailable, match="cuDevicePrimaryCtxRetain says 46"):
        use(devices()[0])


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver the reason is the loader's."""
    monkeypatch.setattr(driver, "_LIBRARY", "libcuda-that-is-not-there.so")
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA driver here .*libcuda-that-is-not-there"):
        devices()
