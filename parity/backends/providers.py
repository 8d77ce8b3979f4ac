"""ONNX Runtime's execution providers: how each is asked for, and why one did not come."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from parity.errors import BackendUnavailable

CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# As ONNX Runtime writes to standard error where a provider's library, or one that it needs, is not found.
_NOT_LOADED = re.compile(r"Failed to load library \S+ with error: (?P<reason>[^\n\x1b]+)")
# With which a line of its log begins: colour, time, severity and place.
_PREFIX = re.compile(r"^(\x1b\[[\d;]*m)?\d{4}-\d\d-\d\d \S+ \[\w:[^\]]*\] |\x1b\[[\d;]*m$")
_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
_INSTALL_TENSORRT = "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt"


def provider_of(device: str) -> str:
    """The provider of a target's device, e.g. of "cuda:1".

    Raises:
        BackendUnavailable: nobody knows this device.
    """
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or not (number or "0").isdecimal():
        raise BackendUnavailable(f"onnxruntime has no device {device!r}", f"Known: {', '.join(PROVIDERS)}.")
    return PROVIDERS[kind]


def requested(device: str, *, tf32: bool) -> list[tuple[str, dict[str, str]]]:
    """The providers to ask for, best first, with their options.

    Args:
        device: of a target.
        tf32: whether FP32 may be computed with ten bits of mantissa.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return [(CPU, {})]
    cuda = (PROVIDERS["cuda"], {"device_id": number or "0", "use_tf32": str(int(tf32))})
    # What TensorRT does not take goes to CUDA, as ONNX Runtime's documentation has it.
    return [(PROVIDERS["tensorrt"], {"device_id": number or "0"}), cuda] if kind == "tensorrt" else [cuda]


@contextmanager
def listening(lines: list[str]) -> Iterator[None]:
    """Collect what libraries write to standard error in the meantime: only there ONNX Runtime says what did not load.

    Args:
        lines: are added to in the end.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            lines.extend(said.read().decode(errors="replace").splitlines())


def cannot_load(lines: Sequence[str]) -> bool:
    """Whether ONNX Runtime says that a provider's library was not found."""
    return any(map(_NOT_LOADED.search, lines))


def absent(provider: str, running: str, lines: Sequence[str]) -> BackendUnavailable:
    """Why a provider does not run, in the loader's words or ONNX Runtime's own.

    Args:
        provider: that was asked for.
        running: what ONNX Runtime took instead, or what it raised.
        lines: what it wrote to standard error.
    """
    install = _INSTALL_TENSORRT if provider == PROVIDERS["tensorrt"] else _INSTALL
    found = _NOT_LOADED.search("\n".join(lines))
    if found is not None:
        return BackendUnavailable(f"onnxruntime cannot load {provider}: {found['reason'].strip()}", install)
    said = next((text for line in lines if (text := _PREFIX.sub("", line).strip())), "")
    reason = f": {said}" if said else ""
    return BackendUnavailable(f"onnxruntime fell back from {provider} to {running}{reason}",
                              f"Check `nvidia-smi`, and that its libraries are there: {_INSTALL}")


def placed(device: str, provider: str, counts: dict[str, int]) -> str:
    """The device in words, with how much of the model runs elsewhere.

    Args:
        device: of a target.
        provider: that was asked for.
        counts: nodes of the model by the provider that got them; none where this is not known.

    Raises:
        BackendUnavailable: the provider got no node.
    """
    elsewhere, total = counts.get(CPU, 0), sum(counts.values())
    if provider == CPU or not elsewhere:
        return device
    if elsewhere == total:
        raise BackendUnavailable(f"onnxruntime runs all {total} nodes of the model on the cpu, none on {provider}",
                                 "Use the target onnxruntime, or a model in another precision.")
    return f"{device} ({elsewhere} of {total} nodes on the cpu)"
