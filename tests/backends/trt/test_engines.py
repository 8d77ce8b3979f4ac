"""Every fixture and real model, in every precision: parsed and built into a real engine, with no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.precision.plan import Precision
from tests.backends.trt.standin import rtx
from tests.engines import EXPECTED, PRECISIONS, WAYS, Way, attempt, subject
from tests.models import FIXTURE_FOLDERS, REAL_MODELS, RealModel

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_fixtures_are_built_however_they_are_watched(folder: Path, way: Way, precision: Precision,
                                                     tmp_path: Path) -> None:
    """As deployed, and with every tensor marked in each way; all of them can be; nothing runs wider than asked."""
    model, feed = subject(folder, precision, tmp_path)
    found = attempt(rtx(), model, feed, tmp_path, way)
    assert found.reason == ""
    assert found.visible == found.tensors > 20
    assert found.wider == 0
    assert found.hidden == 0 if way == "outputs" else found.hidden > 0


@pytest.mark.models
@pytest.mark.parametrize("precision", PRECISIONS)
def test_real_models_are_built(real_model: RealModel, precision: Precision, tmp_path: Path) -> None:
    """A real engine comes out, or exactly the refusal that the table expects."""
    model, feed = subject(real_model.folder, precision, tmp_path)
    found = attempt(rtx(), model, feed, tmp_path)
    expected = EXPECTED.get((real_model.name, precision), "")
    assert bool(found.reason) == bool(expected), found.reason
    assert expected in found.reason
    assert found.reason or found.visible == found.tensors


@pytest.mark.models
def test_nearly_all_are_built() -> None:
    """Of model and precision, at least nine in ten."""
    every = [(f.name, p) for f in (*FIXTURE_FOLDERS, *(m.folder for m in REAL_MODELS)) for p in PRECISIONS]
    assert sum(pair not in EXPECTED for pair in every) >= 0.9 * len(every)
    assert EXPECTED.keys() <= set(every)
