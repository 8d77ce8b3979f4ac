"""A backend that comes to grief as its target's device says; run in a child process, never here."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from parity.backends.base import Capture, Chunk, Feed, RunOptions
from parity.errors import BackendUnavailable
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.targets import Target


def crash(how: str) -> None:
    """End, or fail to; "fine" returns."""
    if how == "segfault":
        sys.stderr.write("engine: about to read address 0\n")
        sys.stderr.flush()
        ctypes.string_at(0)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "hang":  # never back in Python, and the lock of the interpreter held
        ctypes.PyDLL(None).pause()
    elif how == "exit":
        os.write(2, b"license expired\n")
        os._exit(7)
    elif how == "raise":
        raise ZeroDivisionError("by the runtime\nin two lines")
    elif how == "refuse":
        raise BackendUnavailable("no such accelerator", "Buy one.")
    elif how == "orphan":  # what it started holds its end of the socket
        started = subprocess.Popen(["/bin/sleep", "1000"], close_fds=False)
        os.write(2, f"started {started.pid}".encode())
        os._exit(3)
    elif how == "memory":
        raise MemoryError("cannot allocate 1 TiB")


class Crashing:
    """Opens whatever it is given."""

    def devices(self) -> list[str]:
        """None that anybody has."""
        return ["abacus"]

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> CrashingSession:
        """Make ready to come to grief: in "open.HOW" at once, in "run.HOW" or "watch.HOW" later."""
        when, _, how = target.device.partition(".")
        if when == "open":
            crash(how)
        return CrashingSession(when, how, flat)


class CrashingSession:
    """Doubles its inputs, if it gets there."""

    def __init__(self, when: str, how: str, flat: Model) -> None:
        self.flat = flat
        self._when = when
        self._how = how
        self._folder = temporary_folder()
        (Path(self._folder.name) / "weights.bin").write_bytes(b"left behind?")

    def run(self, feed: Feed) -> Capture:
        """Twice what came in, and who and where this is."""
        if self._when == "run":
            crash(self._how)
        outputs = {n: v * 2 if v.dtype.kind == "f" else v for n, v in feed.items()}
        state = {"pid": np.array(os.getpid()), "folder": np.array(self._folder.name), "torch": np.array(
            "torch" in sys.modules), "nodes": np.array(len(self.flat.graph.nodes))}
        return Capture({**outputs, **state}, "1", "abacus", 0.0)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """The same, and the tensors asked for."""
        found = self.run(feed)
        return Capture({**found.outputs, **{n: np.zeros(1) for n in names}}, "1", "abacus", 0.0)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """One chunk of all names, and then the end, if it gets there."""
        yield {name: np.full(sizes.get(name, 8) // 8, i, np.float64) for i, name in enumerate(names)}
        if self._when == "watch":
            crash(self._how)
        yield {"last": np.ones(3)}
