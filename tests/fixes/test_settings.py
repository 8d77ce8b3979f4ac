"""Tests of other ways to find INT8 ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity.fixes.attempt import Attempt, variant_of
from parity.fixes.settings import calibrations, seven_bits
from parity.graph.model import Model
from parity.precision.quantize import QuantizeSettings
from tests.fixes.cases import INT8, outlier, problem

BASE = Attempt("", "", Model.from_proto(outlier()))


def levels(attempt: Attempt) -> int:
    """The largest magnitude of a quantised weight."""
    model = variant_of(problem(attempt.model, INT8, Path()), attempt).model
    return max(int(np.abs(model.weight(t.name).astype(np.int64)).max()) for t in model.weights()
               if t.name.endswith("_quantized"))


def test_seven_bits_are_seven() -> None:
    """Weights reach 127 by default, and 64 with a reduced range, which the attempt says."""
    reduced = seven_bits(BASE)
    assert (levels(BASE), levels(reduced)) == (127, 64)
    assert (reduced.strategy, reduced.settings.reduce_range) == ("reduce-range", True)
    assert reduced.message


def test_other_ranges_keep_what_was_changed_before() -> None:
    """Each calibration is another one, keeps the base's bits and model, and is named beside what the base is."""
    for base in (BASE, seven_bits(BASE)):
        found = list(calibrations(base))
        assert len({repr(a.settings) for a in (base, *found)}) == 1 + len(found) == 3
        assert {a.settings.reduce_range for a in found} == {base.settings.reduce_range}
        assert {a.settings.ranges.method for a in found} == {"percentile", "entropy"}
        assert {a.strategy for a in found} == {"+".join(filter(None, (base.strategy, "calibration")))}
        assert all(a.message.startswith(base.message) and a.model is base.model for a in found)
    assert QuantizeSettings() == BASE.settings
