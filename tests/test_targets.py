"""Targets as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import UsageError
from parity.targets import PRECISIONS, Target


@pytest.mark.parametrize(("text", "expected"), [
    ("onnxruntime", Target("onnxruntime")), ("onnxruntime@cuda", Target("onnxruntime", "cuda")),
    ("onnxruntime:int8", Target("onnxruntime", "", "int8")), ("pytorch:fp64", Target("pytorch", "", "fp64")),
    ("onnxruntime@cuda:1:fp16", Target("onnxruntime", "cuda:1", "fp16")), ("my-own.backend", Target("my-own.backend")),
    ("tensorrt@cuda:0", Target("tensorrt", "cuda:0")), ("tensorrt-rtx:int8", Target("tensorrt-rtx", "", "int8")),
    ("pytorch:fp32", Target("pytorch")),
])
def test_what_users_write(text: str, expected: Target) -> None:
    """Backend, device and precision, the last two if wanted; a device may have a number."""
    assert Target.parse(text) == expected


@pytest.mark.parametrize("text", ["", " ", "A", "onnxruntime@", "onnxruntime:", "@cuda", ":fp16", "a b", "pytorch:fp99",
                                  "pytorch:FP16", "pytorch::fp16", "pytorch:0",
                                  "tensorrt@cuda:0:1", "pytorch@@cpu", "pytorch\n", "-c"])
def test_nonsense_is_refused(text: str) -> None:
    """The message quotes it, the hint gives examples."""
    with pytest.raises(UsageError) as caught:
        Target.parse(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["faulty.onnx", "dump.npz", "./dump", "a\\b", "results.json:trt-runner"])
def test_a_file_in_place_of_a_target_is_told(text: str) -> None:
    """The hint says how files are compared."""
    with pytest.raises(UsageError, match="is a file, and a target is wanted") as caught:
        Target.parse(text)
    assert "Leave out -c" in caught.value.hint


@given(st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True), st.sampled_from(["", "cpu", "cuda", "cuda.1", "cuda:1"]),
       st.sampled_from(PRECISIONS))
def test_what_is_shown_can_be_typed(backend: str, device: str, precision: str) -> None:
    """The text of a target reads back as the target."""
    target = Target(backend, device, precision)
    assert Target.parse(str(target)) == target
