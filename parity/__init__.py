"""Find where a deployed network stops matching the one that was trained.

    report = parity.compare("model.onnx", inputs, candidates=["onnxruntime:int8"])
    report.raise_if_diverged()
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.api import compare
    from parity.errors import Diverged, ParityError
    from parity.report.record import Report

__all__ = ["Diverged", "ParityError", "Report", "compare"]

_HOMES = {"compare": "parity.api", "Diverged": "parity.errors", "ParityError": "parity.errors",
          "Report": "parity.report.record"}


def __getattr__(name: str) -> object:
    """Import what is asked for only then: the command line answers `--help` without it."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps `parity.compare` the function: importing the module of that name would put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
