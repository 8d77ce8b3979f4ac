"""The files of a repro, run in a fresh process that knows nothing of parity."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from parity.reduce.trials import Shown, kind_of

_PATIENCE = 600.0  # seconds
_WRONG = "WRONG: "  # what test_repro.py says of outputs that are off
# Every output is within its tolerance; one is not; or there were none to look at.
Outcome: TypeAlias = Literal["right", "wrong", "failed"]


@dataclass(frozen=True)
class Ending:
    """What the test came to on one model.

    Attributes:
        outcome: "failed" where the model could not be run: what it computes is then neither right nor wrong.
        status: of the process; None where it gave no answer, negative where a signal ended it.
        said: what was wrong, else its last words.
    """

    outcome: Outcome
    status: int | None
    said: str


@dataclass(frozen=True)
class Verified:
    """What the test did.

    Attributes:
        repro: on repro.onnx.
        shown: it fails there in the way that was seen before.
        reference: on reference.onnx; None where there is none.
    """

    repro: Ending
    shown: bool
    reference: Ending | None

    @property
    def runs(self) -> int:
        """Of the target."""
        return 1 if self.reference is None else 2


def verify(folder: Path, shown: Shown, *, ran_reference: bool) -> Verified:
    """Run test_repro.py as its reader will.

    Args:
        folder: of the files.
        shown: what was seen before.
        ran_reference: whether there is a reference.onnx to run too.
    """
    repro = _run(folder, "repro.onnx")
    again = _fails_alike(repro, shown.failure) if shown.failure else repro.outcome == "wrong"
    return Verified(repro, again, _run(folder, "reference.onnx") if ran_reference else None)


def _fails_alike(ending: Ending, failure: str) -> bool:
    """Whether a process ended, or complained, as the target did before."""
    if ending.status is None or ending.status < 0:
        end = "gave no answer" if ending.status is None else f"died of {signal.Signals(-ending.status).name}"
        return kind_of(failure) == end
    return ending.outcome == "failed" and kind_of(failure) in (
        kind_of(ending.said), f"exited with status {ending.status}")


def _run(folder: Path, model: str) -> Ending:
    """The test on one of the models; names of its folder, which is not where the files will be, are left out."""
    environment = {**os.environ, "REPRO_MODEL": str(folder.resolve() / model)}
    try:
        done = subprocess.run([sys.executable, "test_repro.py"], cwd=folder, env=environment,
                              capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return Ending("failed", None, f"no answer within {_PATIENCE:g} s")
    lines = done.stderr.replace(f"{folder.resolve()}{os.sep}", "").strip().splitlines()
    wrong = next((line for line in lines if line.startswith(_WRONG)), "")
    outcome: Outcome = "right" if done.returncode == 0 else "wrong" if wrong else "failed"
    return Ending(outcome, done.returncode, wrong or (lines[-1] if lines else f"status {done.returncode}"))
