"""Which TensorRT: its bindings, its version, and what it says while it works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeAlias

from parity.backends.trt.driver import Device
from parity.errors import BackendUnavailable

Name: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
_INSTALL = {"tensorrt": "pip install 'tensorrt>=10.16'", "tensorrt_rtx": "pip install tensorrt-rtx-cu13"}
# How the builder's list of layers begins, among tens of thousands of lines that nobody needs.
_LAYERS = ("Layers:", "Engine Layer Information:")
# The first version whose networks may be strongly typed in all that parity asks for.
_OLDEST = {"tensorrt": (10, 16), "tensorrt_rtx": (1, 3)}


@dataclass(frozen=True)
class Library:
    """One TensorRT.

    Attributes:
        name: of its Python module.
        trt: the module.
        logger: the one logger of this process; TensorRT heeds the first that it is given.
        said: what the logger was told: severity and text.
    """

    name: Name
    trt: Any
    logger: Any
    said: list[tuple[str, str]] = field(default_factory=list)

    @property
    def version(self) -> str:
        """As the bindings give it."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        """The name and version to show people."""
        return f"{'TensorRT-RTX' if self.name == 'tensorrt_rtx' else 'TensorRT'} {self.version}"

    @contextmanager
    def listening(self) -> Iterator[list[tuple[str, str]]]:
        """Collect what TensorRT says in the meantime."""
        self.said.clear()
        yield self.said

    def last_words(self) -> str:
        """The first error said since listening began, in one line; it is the cause of those after it."""
        errors = [text for severity, text in self.said if severity in ("ERROR", "INTERNAL_ERROR")]
        return " ".join(errors[0].split()) if errors else "it gives no reason"

    def check(self, device: Device) -> None:
        """Make sure that engines can be built for a GPU.

        Raises:
            BackendUnavailable: this version does not know it.
        """
        if self.name == "tensorrt_rtx" and not hasattr(self.trt.ComputeCapability,
                                                               capability_name(device.capability)):
            known = sorted(n for n in dir(self.trt.ComputeCapability) if n.startswith("SM"))
            raise BackendUnavailable(f"{self.title} does not support {device}",
                                     f"It supports {', '.join(known)}. Use the target tensorrt.")


def capability_name(capability: tuple[int, int]) -> str:
    """A compute capability in TensorRT-RTX's words: SM86."""
    return f"SM{capability[0]}{capability[1]}"


@cache
def library(name: Name) -> Library:
    """Import a TensorRT, and have Polygraphy use it.

    Polygraphy binds to one TensorRT when it is imported, so a process can use one only.

    Raises:
        BackendUnavailable: it is not installed, cannot be loaded, is too old, or this process uses the other.
    """
    polygraphy = _import("polygraphy.config", "pip install polygraphy")
    trt = _import(name, _INSTALL[name])
    found = tuple(int(part) for part in str(trt.__version__).split(".")[:2])
    if found < _OLDEST[name]:
        raise BackendUnavailable(f"{name} {trt.__version__} is too old: parity needs "
                                 f"{'.'.join(map(str, _OLDEST[name]))}", _INSTALL[name])
    rtx = name == "tensorrt_rtx"
    if "polygraphy.backend.trt" in sys.modules and polygraphy.USE_TENSORRT_RTX != rtx:
        raise BackendUnavailable(f"this process runs another TensorRT already, and cannot run {name} too",
                                 "Run one of them at a time.")
    polygraphy.USE_TENSORRT_RTX = rtx
    chatter = import_module("polygraphy.logger").G_LOGGER
    chatter.module_severity = chatter.CRITICAL + 1  # it prints what it raises, and more
    said: list[tuple[str, str]] = []
    return Library(name, trt, _logger(trt, said), said)


def _import(name: str, install: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # a library that the loader does not find is an OSError
        reason = str(error).strip().splitlines()[0]
        raise BackendUnavailable(f"{name.partition('.')[0]} cannot be imported ({reason})", install) from error


def _logger(trt: Any, said: list[tuple[str, str]]) -> Any:
    class Logger(trt.ILogger):
        """Keeps what TensorRT says, for messages and for the list of layers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity.name not in ("VERBOSE", "INFO") or message.startswith(_LAYERS):
                said.append((severity.name, message))

    return Logger()
