"""What can run here, and what the rest lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from parity import environment
from parity.backends.base import RunOptions
from parity.backends.trt import driver
from parity.backends.trt.driver import Device
from parity.environment import Place, places
from parity.errors import BackendUnavailable
from tests.builders import CommandLine
from tests.conftest import gpu_runs
from tests.models import ROOT

GPU = Device(0, "NVIDIA A10", (8, 6), 24 * 2**30, (13, 0))
TARGETS = ["pytorch@cpu", "pytorch@cuda", "onnxruntime@cpu", "onnxruntime@cuda", "onnxruntime@tensorrt", "tensorrt",
           "tensorrt-rtx"]


def no_driver() -> tuple[Device, ...]:
    """As on a machine without one."""
    raise BackendUnavailable("there is no NVIDIA driver here", "Install the driver.")


def by_target() -> dict[str, Place]:
    """Every place by its target."""
    return {place.target: place for place in places()}


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have the package metadata say that these are installed, and nothing else."""
    def version(package: str) -> str:
        if package.replace("-", "_") not in versions:
            raise PackageNotFoundError(package)
        return versions[package.replace("-", "_")]

    monkeypatch.setattr(environment, "version", version)


def test_the_command_lists_every_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    """`parity backends` has a line for each target, says yes or no, and is no failure where most cannot run."""
    outcome = CommandLine(tmp_path, monkeypatch, capsys)("backends")
    assert outcome.status == 0
    rows = [line for line in outcome.out.splitlines() if line[0] in "✓✗"]
    assert [row.split()[1] for row in rows][:len(TARGETS)] == TARGETS
    assert next(row for row in rows if "pytorch@cpu" in row).startswith("✓")


def test_what_cannot_run_says_why_and_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place that cannot run has a reason, and a remedy for each thing that it lacks."""
    monkeypatch.setattr(driver, "devices", no_driver)
    installed(monkeypatch, torch="2.13.0", onnxruntime="1.31.1", tensorrt_rtx_cu13="1.7.1", polygraphy="0.53.6")
    found = by_target()
    assert list(found)[:len(TARGETS)] == TARGETS
    assert [t for t, place in found.items() if not place.reason][:2] == ["pytorch@cpu", "onnxruntime@cpu"]
    assert found["tensorrt"].reason == "tensorrt not installed; there is no NVIDIA driver here"
    assert found["tensorrt"].remedies == ("pip install 'tensorrt>=10.16' polygraphy", "Install the driver.")
    assert found["tensorrt-rtx"].version == "tensorrt-rtx 1.7.1"
    assert found["tensorrt-rtx"].reason == "there is no NVIDIA driver here"
    assert found["tensorrt-rtx"].remedies == ("Install the driver.",)
    for place in found.values():
        assert bool(place.reason) == bool(place.remedies)


def test_a_missing_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime its CPU target has the command that installs it."""
    monkeypatch.setattr(driver, "devices", no_driver)
    installed(monkeypatch, torch="2.13.0")
    assert by_target()["onnxruntime@cpu"] == Place(
        "onnxruntime@cpu", "", "", "onnxruntime is not installed", ("pip install onnxruntime",))


@pytest.mark.parametrize("works", [True, False])
def test_where_there_is_a_gpu_it_is_tried(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only opening a model can tell is found by opening one: that a library does not load, say."""
    tried: list[Any] = []

    class Backend:
        """Opens what it is given, or cannot."""

        def open(self, model: Any, flat: Any, target: Any, options: Any) -> None:
            """Remembers what it was asked for."""
            tried.append((str(target), [n.proto.op_type for n in model.graph.nodes]))
            if not works:
                raise BackendUnavailable("libnvinfer.so.11: cannot open", "Install it.")

    monkeypatch.setattr(driver, "devices", lambda: (GPU,))
    monkeypatch.setattr(environment, "backend_of", lambda target: Backend())
    installed(monkeypatch, torch="2", onnxruntime="1", tensorrt_cu13="11.4", polygraphy="0.53")
    found = by_target()["tensorrt"]
    assert ("tensorrt", ["Relu"]) in tried
    expected = ("NVIDIA A10 (compute capability 8.6)", "", ()) if works else (
        "", "libnvinfer.so.11: cannot open", ("Install it.",))
    assert (found.device, found.reason, found.remedies) == expected


def test_a_report_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a report holds the GPU and its driver where there is one, and neither where not."""
    monkeypatch.setattr(driver, "devices", lambda: (GPU,))
    found = environment.environment(RunOptions(threads=3))
    assert (found["gpu"], found["driver"]) == ("NVIDIA A10 (compute capability 8.6)", "CUDA 13.0")
    assert found["threads"] == "3"
    monkeypatch.setattr(driver, "devices", no_driver)
    assert not {"gpu", "driver"} & environment.environment(RunOptions()).keys()


def test_it_is_told_without_loading_the_runtimes() -> None:
    """Where nothing has to be tried, neither torch nor ONNX Runtime nor TensorRT is imported."""
    code = ("import json, sys\nfrom parity import environment\nfrom parity.backends.trt import driver\n"
            "driver._LIBRARY = 'no-such-library.so'\nfound = list(environment.places())\n"
            "assert sum('no-such-library' in place.reason for place in found) == 5\n"
            "print(json.dumps([n for n in ('torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx') if n in sys.modules]))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(found.stdout.splitlines()[-1]) == []


@pytest.mark.skipif(gpu_runs(), reason="there is a GPU here")
def test_the_script_for_gpus_needs_one() -> None:
    """Without a GPU scripts/gpu installs and writes nothing, says what is missing, and exits with 2."""
    found = subprocess.run([sys.executable, ROOT / "scripts" / "gpu"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("scripts/gpu: ")
    assert "driver" in found.stderr
