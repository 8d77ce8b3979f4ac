"""Where and in which precision a model runs: `backend[@device][:precision]`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from parity.errors import UsageError

PRECISIONS = ("fp64", "fp32", "fp16", "bf16", "int8")
# Those that are edits of the model: the same variant runs on every backend.
VARIANTS = ("fp16", "bf16", "int8")
_FORM = re.compile(r"(?P<backend>[a-z][\w.-]*)(@(?P<device>[\w.-]+(:\d+)?))?(:(?P<precision>[^\W\d]\w*))?")
# A file's name, and one of several runners in it.
_FILE = re.compile(r"[/\\]|\.(onnx|npz|npy|safetensors|json)(:|$)")


def looks_like_file(text: str) -> bool:
    """Whether a candidate's text is a path and no target: a folder without a slash would be one, so it needs one."""
    return _FILE.search(text) is not None


@dataclass(frozen=True)
class Target:
    """One place to run a model.

    Attributes:
        backend: name of a backend, e.g. "onnxruntime".
        device: "cpu", "cuda", "cuda:1", …; empty for the backend's own default.
        precision: one of PRECISIONS; "fp32" runs the model as it is.
    """

    backend: str
    device: str = ""
    precision: str = "fp32"

    @staticmethod
    def parse(text: str) -> Target:
        """Read "onnxruntime@cuda:fp16".

        Raises:
            UsageError: not of that form, or an unknown precision.
        """
        if looks_like_file(text):
            raise UsageError(f"{text!r} is a file, and a target is wanted",
                             f"Leave out -c: a file is compared as `parity compare MODEL {shlex.quote(text)}`.")
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(f"target {text!r} is not of the form backend[@device][:precision]",
                             "Try onnxruntime, onnxruntime@cuda, tensorrt:fp16 or pytorch:fp64.")
        precision = match["precision"] or "fp32"
        if precision not in PRECISIONS:
            raise UsageError(f"target {text!r}: unknown precision {precision!r}", f"Known: {', '.join(PRECISIONS)}.")
        return Target(match["backend"], match["device"] or "", precision)

    def __str__(self) -> str:
        device = f"@{self.device}" if self.device else ""
        return self.backend + device + ("" if self.precision == "fp32" else f":{self.precision}")
