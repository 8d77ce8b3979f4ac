"""The seam between parity and the runtimes: what a backend must do, and the table of those known."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from parity.errors import UsageError
from parity.graph.model import Model
from parity.targets import Target

Feed = Mapping[str, np.ndarray]
# Tensors of one stretch of the graph, by ONNX name.
Chunk = Mapping[str, np.ndarray]


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores


@dataclass(frozen=True)
class RunOptions:
    """How targets are run.

    Attributes:
        optimization: graph optimisation level of the runtime: "off", "basic", "extended" or "all".
        threads: intra-op threads; OMP_NUM_THREADS, else as many as this process may use cores, unless said otherwise.
        seed: for runtimes with random operators.
        memory: bytes of tensors that a watched run may hold at a time.
    """

    optimization: str = "all"
    threads: int = field(default_factory=_threads)
    seed: int = 0
    memory: int = 512 * 2**20


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
    raise UsageError(f"no backend is called {target.backend!r}", f"Known: {', '.join(backend_names())}.")
