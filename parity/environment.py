"""The versions and the machine that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from parity.backends.base import RunOptions

_PACKAGES = ("parity", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy", "numba")


def environment(options: RunOptions) -> dict[str, str]:
    """What was installed where, and how targets were run: everything that is needed to do it again."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}",
             "machine": platform.machine(), "processor": _processor()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "optimization": options.optimization, "threads": str(options.threads)}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a pseudo-file
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
