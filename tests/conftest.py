"""What all tests share: the real models, and a visible count of the tests that this machine cannot run."""

from __future__ import annotations

import pytest

from tests.models import REAL_MODELS, SHARED, RealModel

_ABSENT: list[str] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `real_model` once for each model."""
    if "real_model" in metafunc.fixturenames:
        metafunc.parametrize("real_model", REAL_MODELS or [None], ids=lambda m: m.name if m else "absent")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests on real models where there are none."""
    if REAL_MODELS:
        return
    absent = [item for item in items if item.get_closest_marker("models")]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]
        _ABSENT.extend(item.nodeid for item in absent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and what they lack."""
    if _ABSENT:
        terminalreporter.write_line(
            f"{len(_ABSENT)} tests on real models deselected: there are none at {SHARED} (set PARITY_MODELS)")


@pytest.fixture
def fixture_model() -> RealModel:
    """The convolutional fixture, which is always there."""
    from tests.models import FIXTURES

    return RealModel(FIXTURES / "digits_cnn")
