"""The files of a repro, run in a fresh process that knows nothing of parity."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from parity.reduce.trials import Shown, kind_of

_PATIENCE = 600.0  # seconds


@dataclass(frozen=True)
class Verified:
    """What the test did.

    Attributes:
        shown: it fails on repro.onnx, in the way that was seen before.
        said: its last words.
        clean: it passes on reference.onnx; None where there is none.
        runs: of the target.
    """

    shown: bool
    said: str
    clean: bool | None
    runs: int


def verify(folder: Path, shown: Shown, *, ran_reference: bool) -> Verified:
    """Run test_repro.py as its reader will.

    Args:
        folder: of the files.
        shown: what was seen before.
        ran_reference: whether there is a reference.onnx to run too.
    """
    status, said = _run(folder, "repro.onnx")
    again = _fails_alike(status, said, shown.failure) if shown.failure else "WRONG: " in said
    clean = _run(folder, "reference.onnx")[0] == 0 if ran_reference else None
    return Verified(again, said or f"status {status}", clean, 1 + ran_reference)


def _fails_alike(status: int | None, said: str, failure: str) -> bool:
    """Whether a process ended, or complained, as the target did before."""
    if status is None or status < 0:
        end = "gave no answer" if status is None else f"died of {signal.Signals(-status).name}"
        return kind_of(failure) == end
    return status > 0 and "WRONG: " not in said and kind_of(failure) in (kind_of(said), f"exited with status {status}")


def _run(folder: Path, model: str) -> tuple[int | None, str]:
    """The status, None where it gave no answer, and the last line on standard error."""
    environment = {**os.environ, "REPRO_MODEL": str(folder.resolve() / model)}
    try:
        done = subprocess.run([sys.executable, "test_repro.py"], cwd=folder, env=environment,
                              capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_PATIENCE:g} s"
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1] if lines else ""
