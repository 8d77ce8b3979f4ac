"""What all tests share: the real models, and a visible count of the tests that this machine cannot run."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest
from hypothesis import settings

from tests.models import MINILM, REAL_MODELS, ROOT, SHARED, RealModel
from tests.report.browser.installed import browser_present

# A first call may compile, and others may use the machine: how long a case takes says nothing.
settings.register_profile("parity", deadline=None)
settings.load_profile("parity")

_ABSENT: Counter[str] = Counter()


def gpu_runs() -> bool:
    """Whether there is an NVIDIA GPU."""
    from parity.backends.trt.driver import devices
    from parity.errors import BackendUnavailable

    try:
        return bool(devices())
    except BackendUnavailable:
        return False


# What the tests of a marker lack where they cannot run.
LACKS = {
    "browser": "in a browser deselected: Playwright, Chromium or axe-core is not there (run scripts/browser --install)",
    "models": f"on real models deselected: there are none at {SHARED} (set PARITY_MODELS)",
    "minilm": f"on a trained sentence encoder deselected: its weights are not at {MINILM} (run scripts/minilm)",
    "tensorrt": "that build engines deselected: TensorRT-RTX is not installed (there are wheels for Linux on x86-64)",
    "bindings": "of TensorRT's names deselected: there are no bindings in .venv/bindings (run scripts/bindings)",
    "gpu": "that run engines deselected: there is no NVIDIA GPU here",
}


def lacking() -> set[str]:
    """Markers whose tests cannot run on this machine."""
    here = {"browser": browser_present(), "models": bool(REAL_MODELS),
            "minilm": (MINILM / "model.safetensors").is_file(),
            "tensorrt": find_spec("tensorrt_rtx") is not None,
            "gpu": gpu_runs(), "bindings": any((ROOT / ".venv" / "bindings").glob("*/tensorrt_bindings"))}
    return {marker for marker, present in here.items() if not present}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `real_model` once for each model."""
    if "real_model" in metafunc.fixturenames:
        metafunc.parametrize("real_model", REAL_MODELS or [None], ids=lambda m: m.name if m else "absent")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that this machine cannot run, and remember why."""
    missing = lacking()
    absent = {id(item): next(m for m in LACKS if m in missing and item.get_closest_marker(m)) for item in items
              if any(item.get_closest_marker(m) for m in missing)}
    if absent:
        config.hook.pytest_deselected(items=[item for item in items if id(item) in absent])
        items[:] = [item for item in items if id(item) not in absent]
        _ABSENT.update(absent.values())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and what they lack."""
    for marker, count in _ABSENT.items():
        terminalreporter.write_line(f"{count} tests {LACKS[marker]}")


@pytest.fixture
def fixture_model() -> RealModel:
    """The convolutional fixture, which is always there."""
    from tests.models import FIXTURES

    return RealModel(FIXTURES / "digits_cnn")
