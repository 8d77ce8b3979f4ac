"""Options that several commands share, as what they mean to the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from parity.backends.base import TensorRtOptions
from parity.commands.options import check_tensorrt, targets_for, tensorrt_options
from parity.errors import UsageError
from parity.graph.shapes import ShapeRange
from tests.builders import CommandLine
from tests.models import RealModel


def test_tensorrts_options() -> None:
    """Megabytes become bytes, and only ranges of shapes are the engine's."""
    found = tensorrt_options("debug", tf32=True, engine=Path("a.plan"), workspace=3, builder_level=2,
                             timing_cache=Path("t"), shapes=("x=1x2", "y=1/2/4"))
    assert found == TensorRtOptions("debug", tf32=True, workspace=3 * 2**20, builder_level=2, timing_cache=Path("t"),
                                    engine=Path("a.plan"), profiles={"y": ShapeRange((1,), (2,), (4,))})
    plain = tensorrt_options("outputs", tf32=False, engine=None, workspace=None, builder_level=None, timing_cache=None,
                             shapes=())
    assert plain == TensorRtOptions()


@pytest.mark.parametrize(("engine", "targets", "expected"), [
    (None, (), ()), (None, ("onnxruntime", "tensorrt"), ("onnxruntime", "tensorrt")), ("a.plan", (), ("tensorrt",)),
    ("a.plan", ("tensorrt-rtx:fp16",), ("tensorrt-rtx:fp16",)), ("a.plan", ("onnxruntime",), None),
    ("a.plan", ("tensorrt", "tensorrt:fp16"), None),
])
def test_an_engine_is_one_candidate(engine: str | None, targets: Sequence[str], expected: Sequence[str] | None) -> None:
    """On TensorRT, whichever; beside others or elsewhere it makes no sense."""
    given = None if engine is None else Path(engine)
    if expected is None:
        with pytest.raises(UsageError, match="--engine"):
            targets_for(given, targets)
    else:
        assert targets_for(given, targets) == expected


@pytest.mark.parametrize(("options", "words"), [
    (TensorRtOptions(engine=Path("absent.plan")), "no engine file at absent.plan"),
    (TensorRtOptions(timing_cache=Path("absent/cache")), "cannot be kept at absent/cache"),
    (TensorRtOptions(timing_cache=Path("/")), "cannot be kept at /"),
])
def test_files_that_are_not_there_are_told_at_once(options: TensorRtOptions, words: str) -> None:
    """Not after a reference run, and not only where a GPU is."""
    with pytest.raises(UsageError, match=words):
        check_tensorrt(options, ["pytorch", "tensorrt"])


@pytest.mark.parametrize(("options", "name"), [
    (TensorRtOptions(watch="debug"), "--watch"), (TensorRtOptions(tf32=True), "--tf32"),
    (TensorRtOptions(workspace=1), "--workspace"), (TensorRtOptions(builder_level=3), "--builder-level"),
    (TensorRtOptions(timing_cache=Path("cache")), "--timing-cache"),
    (TensorRtOptions(profiles={"x": ShapeRange((1,), (2,), (4,))}), "--shape NAME=MIN/OPT/MAX"),
])
def test_options_that_no_target_heeds_are_refused(options: TensorRtOptions, name: str) -> None:
    """Where no target is named, or one is on TensorRT, they may count."""
    with pytest.raises(UsageError, match=f"^{name} is for TensorRT, on which no target runs"):
        check_tensorrt(options, ["pytorch", "onnxruntime:fp16"])
    for targets in (["pytorch"], ["pytorch", "onnxruntime", "tensorrt-rtx:fp16"], ["tensorrt", "onnxruntime"]):
        check_tensorrt(options, targets)
    check_tensorrt(TensorRtOptions(tf32=True), ["pytorch", "onnxruntime@cuda"])
    check_tensorrt(TensorRtOptions(), ["pytorch", "onnxruntime"])


def test_without_a_gpu_the_row_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str], fixture_model: RealModel) -> None:
    """TensorRT's options are taken, and where it cannot run the row has the reason, the others go on."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = CommandLine(tmp_path, monkeypatch, capsys)
    outcome = command.compare(fixture_model.path, "-c", "onnxruntime", "-c", "tensorrt-rtx:fp16", "--watch", "unfused",
                              "--shape", "image=1x1x8x8/2x1x8x8/4x1x8x8", "--workspace", 64, "--builder-level", 1,
                              "--timing-cache", tmp_path / "timings", "--tf32", "--no-fixes")
    assert outcome.status == 2
    assert [c.status for c in outcome.report.candidates] == ["ok", "unavailable"]
    assert "NVIDIA driver" in outcome.report.candidates[1].reason
    assert outcome.report.inputs[0].shape == (2, 1, 8, 8)
