"""Which TensorRT is used, and why not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from parity.backends.trt.driver import Device
from parity.backends.trt.library import capability_name, library
from parity.errors import BackendUnavailable
from tests.backends.trt.standin import DEVICE, rtx


@pytest.mark.tensorrt
def test_the_library_says_what_it_is() -> None:
    """Name and version, as people know them."""
    found = rtx()
    assert found.title == f"TensorRT-RTX {found.version}"
    assert found is rtx()


@pytest.mark.tensorrt
@pytest.mark.parametrize(("capability", "known"), [((8, 0), True), ((8, 9), True), ((12, 0), True), ((9, 0), False),
                                                   ((7, 0), False)])
def test_gpus_that_it_supports(capability: tuple[int, int], known: bool) -> None:
    """A GPU that the library does not know is unavailable, and those that it knows are listed."""
    device = Device(0, "NVIDIA H100", capability, 0, (13, 0))
    if known:
        rtx().check(device)
        return
    with pytest.raises(BackendUnavailable, match=r"does not support NVIDIA H100 \(compute capability") as caught:
        rtx().check(device)
    assert capability_name(DEVICE.capability) in caught.value.hint


@pytest.mark.tensorrt
def test_one_process_one_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polygraphy is bound to one of them; the other is unavailable in the same process, or is not installed at all."""
    rtx()
    import polygraphy.backend.trt  # noqa: F401 - from here on it is bound

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0"))
    with pytest.raises(BackendUnavailable, match="another TensorRT already"):
        library("tensorrt")
    assert rtx().name == "tensorrt_rtx"


@pytest.mark.parametrize(("module", "reason"), [
    (None, r"tensorrt cannot be imported"), (SimpleNamespace(__version__="8.6.1"), r"8\.6\.1 is too old.*10\.16"),
])
def test_a_library_that_does_not_serve(module: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, or too old: the reason, and the command that mends it."""
    pytest.importorskip("polygraphy")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        library("tensorrt")
    assert "pip install" in caught.value.hint


@pytest.mark.tensorrt
def test_last_words_are_the_first_error() -> None:
    """Of several errors the first is the cause; warnings are none; without any, that is said."""
    found = rtx()
    with found.listening() as said:
        assert found.last_words() == "it gives no reason"
        said += [("WARNING", "mind"), ("ERROR", "this\n  broke"), ("INTERNAL_ERROR", "so did that")]
    assert found.last_words() == "this broke"
