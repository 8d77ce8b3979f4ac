"""The seam between parity and the runtimes: what a backend must do, and the table of those known."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from parity.errors import UsageError
from parity.graph.model import Model
from parity.graph.shapes import ShapeRange
from parity.targets import Target

if TYPE_CHECKING:
    import torch

    from parity.graph.device import Lying

Feed = Mapping[str, np.ndarray]
# Tensors of one stretch of the graph, by ONNX name.
Chunk = Mapping[str, np.ndarray]


def _patience() -> float:
    asked = os.environ.get("PARITY_PATIENCE", "")
    return float(asked) if asked.isdecimal() and int(asked) > 0 else 3600.0


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores


Watch: TypeAlias = Literal["outputs", "debug", "unfused"]


@dataclass(frozen=True)
class TensorRtOptions:
    """How engines are built and watched; other runtimes have no use for it.

    Attributes:
        watch: how tensors are made visible: "outputs" marks them as outputs, "debug" and "unfused" have them shown
            while the engine runs, those wanted or those that no fusion hides.
        tf32: whether FP32 may be computed with ten bits of mantissa.
        workspace: bytes of scratch memory that a layer may use; None for TensorRT's own limit.
        builder_level: how long to search for fast kernels, 0 to 5; None for what `RunOptions.optimization` says.
        timing_cache: a file of kernel timings to read and to add to.
        engine: a serialized engine to run instead of one built here.
        engines: the folder where engines are kept; None for the user's cache folder.
        profiles: smallest, usual and largest shape of inputs; others have those of the run.
    """

    watch: Watch = "outputs"
    tf32: bool = False
    workspace: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    engine: Path | None = None
    engines: Path | None = None
    profiles: Mapping[str, ShapeRange] = field(default_factory=dict)


@dataclass(frozen=True)
class RunOptions:
    """How targets are run.

    Attributes:
        optimization: graph optimisation level of the runtime: "off", "basic", "extended" or "all".
        threads: intra-op threads; OMP_NUM_THREADS, else as many as this process may use cores, unless said otherwise.
        seed: for runtimes with random operators.
        memory: bytes of tensors that a watched run may hold at a time.
        patience: seconds that a runtime in a process of its own may take to answer, building included;
            PARITY_PATIENCE, else an hour.
        tensorrt: what only TensorRT heeds.
    """

    optimization: str = "all"
    threads: int = field(default_factory=_threads)
    seed: int = 0
    memory: int = 512 * 2**20
    patience: float = field(default_factory=_patience)
    tensorrt: TensorRtOptions = TensorRtOptions()


@dataclass(frozen=True)
class Capture:
    """What one plain run showed.

    Attributes:
        outputs: graph outputs by name.
        version: of the runtime.
        device: that it ran on.
        seconds: wall time of the run, without loading; None for tensors taken elsewhere.
    """

    outputs: Mapping[str, np.ndarray]
    version: str
    device: str
    seconds: float | None


@dataclass(frozen=True)
class CompiledLayer:
    """One step of what a runtime made of the model.

    Attributes:
        name: as the runtime calls it.
        kind: the runtime's word for what it does.
        covers: first outputs of the ONNX nodes that it computes, or computes a part of.
        reads: element types of its inputs and weights, "fp32", "fp16", "bf16", "fp8", "int8", …; indices and shapes
            are left out.
        writes: element types of its outputs, likewise.
    """

    name: str
    kind: str
    covers: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What a runtime made of the model for the plain run.

    Attributes:
        layers: its steps, in its order; none where it does not say.
        notes: what a reader should know, in plain sentences: what was fused, or runs in another precision than asked.
    """

    layers: tuple[CompiledLayer, ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class Compiles(Protocol):
    """A session whose runtime compiles the model, and tells what came of it."""

    def compiled(self) -> Compiled:
        """What the last plain run ran."""


class Session(Protocol):
    """One model, ready to run on one target."""

    def run(self, feed: Feed) -> Capture:
        """Run as deployed, nothing watched."""

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Run with tensors made visible, a stretch of the graph at a time.

        Args:
            feed: the inputs.
            names: tensors wanted; those that the runtime cannot show are left out.
            sizes: bytes of each tensor where known, to keep a stretch within `RunOptions.memory`.
        """

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run as deployed, the whole model at once, with a few more of its tensors marked as outputs.

        Args:
            feed: the inputs.
            names: tensors wanted among the outputs; those that the runtime cannot show are left out.
        """


@runtime_checkable
class OnTorch(Protocol):
    """A session whose tensors are torch's, and can be computed with where they lie.

    Attributes:
        device: where that is; None for the CPU.
    """

    device: torch.device | None

    def watch_there(self, feed: Feed, names: Collection[str]) -> Iterator[Mapping[str, Lying]]:
        """What `Session.watch` shows, not brought to the CPU."""


def common_device(*sessions: Session) -> torch.device | None:
    """The device, other than the CPU, that the tensors of all sessions lie on; None where there is no such one."""
    devices = {session.device if isinstance(session, OnTorch) else None for session in sessions}
    return devices.pop() if len(devices) == 1 else None


def compiled_of(session: Session) -> Compiled:
    """What a session's runtime made of the model for its last plain run; nothing where it does not say."""
    return session.compiled() if isinstance(session, Compiles) else Compiled()


class Backend(Protocol):
    """A runtime."""

    def devices(self) -> list[str]:
        """The devices that it can run on here.

        Raises:
            BackendUnavailable: it cannot run at all, and why.
        """

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> Session:
        """Make a model ready to run.

        Args:
            model: as the user handed it in: the plain run's.
            flat: the same with control flow inlined: the watched run's.
            target: device and precision.
            options: how to run.

        Raises:
            BackendUnavailable: the target cannot run here.
            BackendFailed: the runtime refuses the model.
        """


_BUILT_IN = {
    "pytorch": "parity.backends.pytorch:PyTorch",
    "onnxruntime": "parity.backends.ort:OnnxRuntime",
    "tensorrt": "parity.backends.trt.apart:tensorrt",
    "tensorrt-rtx": "parity.backends.trt.apart:tensorrt_rtx",
}


def backend_names() -> tuple[str, ...]:
    """Every backend that can be named in a target, those of entry point `parity.backends` included."""
    return (*_BUILT_IN, *(e.name for e in entry_points(group="parity.backends") if e.name not in _BUILT_IN))


def backend_of(target: Target) -> Backend:
    """The backend that a target names; its runtime is not imported yet.

    Raises:
        UsageError: nobody knows this backend.
    """
    if target.backend in _BUILT_IN:
        module, _, name = _BUILT_IN[target.backend].partition(":")
        backend: Backend = getattr(import_module(module), name)()
        return backend
    for entry in entry_points(group="parity.backends", name=target.backend):
        third_party: Backend = entry.load()()
        return third_party
    hint = f"Known: {', '.join(backend_names())}."
    if Path(str(target)).exists():
        hint += f" A file or folder of that name is written ./{target}, and without -c."
    raise UsageError(f"no backend is called {target.backend!r}", hint)
