"""The versions and the machine that a result depends on, and what can run on it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from onnx import TensorProto, helper

from parity.backends.base import RunOptions, backend_names, backend_of
from parity.backends.trt import driver
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.model import Model
from parity.targets import Target

_PACKAGES = ("parity", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "polygraphy",
             "numpy", "numba")
_INSTALL_ORT = "pip install onnxruntime"
_INSTALL_ORT_GPU = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
_INSTALL_TENSORRT = {"tensorrt": "pip install 'tensorrt>=10.16' polygraphy",
                     "tensorrt-rtx": "pip install tensorrt-rtx-cu13 polygraphy"}


def environment(options: RunOptions) -> dict[str, str]:
    """What was installed where, and how targets were run: everything that is needed to do it again."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}",
             "machine": platform.machine(), "processor": _processor()}
    found.update((package, number) for package in _PACKAGES if (number := _version(package)))
    try:
        gpus = driver.devices()
    except BackendUnavailable:
        gpus = ()
    if gpus:
        found.update(gpu=", ".join(map(str, gpus)), driver="CUDA " + ".".join(map(str, gpus[0].driver)))
    return {**found, "optimization": options.optimization, "threads": str(options.threads)}


@dataclass(frozen=True)
class Place:
    """One target without its precision, and whether it can run here.

    Attributes:
        target: as on the command line, e.g. "onnxruntime@cuda".
        version: of the runtime; empty where it is not installed.
        device: that it runs on, in words.
        reason: why it cannot run; empty where it can.
        remedies: what would mend that, a command or a sentence each.
    """

    target: str
    version: str
    device: str = ""
    reason: str = ""
    remedies: tuple[str, ...] = ()


def places() -> Iterator[Place]:
    """Everything that can be named in a target, best known first. What metadata can tell is not imported."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = f"{_processor() or platform.machine()}, {cores} core{'s' * (cores > 1)}"
    torch, ort = _version("torch"), _version("onnxruntime-gpu") or _version("onnxruntime")
    yield Place("pytorch@cpu", f"torch {torch}", cpu)
    yield _on_gpu("pytorch@cuda", f"torch {torch}", _cuda_of_torch)
    yield (Place("onnxruntime@cpu", f"onnxruntime {ort}", cpu) if ort else
           Place("onnxruntime@cpu", "", "", "onnxruntime is not installed", (_INSTALL_ORT,)))
    for device in ("cuda", "tensorrt"):
        yield _on_gpu(f"onnxruntime@{device}", f"onnxruntime {ort}" if ort else "", _provider(device))
    for name, install in _INSTALL_TENSORRT.items():
        number = _version(*(f"{name}{suffix}" for suffix in ("", "-cu13", "-cu12")))
        yield _on_gpu(name, f"{name} {number}" if number else "", _library(name, number, install))
    for name in backend_names():
        if name not in ("pytorch", "onnxruntime", *_INSTALL_TENSORRT):
            yield from _third_party(name)


def _on_gpu(target: str, number: str, lacks: Callable[[], tuple[str, str]]) -> Place:
    """A target that needs the driver, and what else it lacks: a reason and a remedy, both empty where it is complete.

    What the driver is missing comes last: a machine without a GPU has no use for the other remedies.
    """
    reasons = [lacks()]
    device = ""
    try:
        device = ", ".join(map(str, driver.devices()))
    except BackendUnavailable as error:
        reasons.append((error.message, error.hint))
    else:
        if not reasons[0][0]:
            reasons.append(_tried(Target.parse(target)))
    said = [reason for reason in reasons if reason[0]]
    return Place(target, number, "" if said else device, "; ".join(reason for reason, _ in said),
                 tuple(dict.fromkeys(remedy for _, remedy in said if remedy)))


def _tried(target: Target) -> tuple[str, str]:
    """What comes of opening a model of one node: whether libraries load is known only then."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", [x], [y])
    model = Model.from_proto(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    try:
        backend_of(target).open(model, model, target, RunOptions(patience=60.0))
    except (BackendUnavailable, BackendFailed) as error:
        return error.message, error.hint
    return "", ""


def _cuda_of_torch() -> tuple[str, str]:
    """Whether torch was built for CUDA, by the file in which it says so."""
    spec = find_spec("torch")
    own = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if own is not None and own.exists() and re.search(r"^cuda\b.*=\s*'", own.read_text(encoding="utf-8"), re.MULTILINE):
        return "", ""
    return "this torch was built without CUDA", "pip install --force-reinstall torch"


def _provider(device: str) -> Callable[[], tuple[str, str]]:
    """Whether ONNX Runtime comes with the library of a device's provider."""
    def lacks() -> tuple[str, str]:
        spec = find_spec("onnxruntime")
        if spec is None or not spec.origin:
            return "onnxruntime is not installed", "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        held = list(Path(spec.origin).with_name("capi").glob(f"*onnxruntime_providers_{device}.*"))
        return ("", "") if held else ("this onnxruntime is built for the cpu alone", _INSTALL_ORT_GPU)

    return lacks


def _library(name: str, number: str, install: str) -> Callable[[], tuple[str, str]]:
    def lacks() -> tuple[str, str]:
        absent = [each for each, held in ((name, number), ("polygraphy", _version("polygraphy"))) if not held]
        return (f"{' and '.join(absent)} not installed", install) if absent else ("", "")

    return lacks


def _third_party(name: str) -> Iterator[Place]:
    try:
        for device in backend_of(Target(name)).devices():
            yield Place(f"{name}@{device}", "", device)
    except (BackendUnavailable, BackendFailed) as error:
        yield Place(name, "", "", error.message, (error.hint,))


def _version(*packages: str) -> str:
    """Of the first of these that is installed."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a pseudo-file
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
