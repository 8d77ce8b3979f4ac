"""The watched run where both sides lie on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch

import parity.analysis.placed
from parity.backends import pytorch
from parity.backends.base import RunOptions
from parity.compare import Options, compare
from parity.contenders import Contender
from parity.graph.device import Lying, Placed
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.report.record import Layer, Report
from parity.targets import Target
from tests.analysis.test_placed import assert_same
from tests.elsewhere import DEVICE, simulated_device
from tests.models import FIXTURES


def report(candidate: Target) -> Report:
    """A fixture's, with the reference on a GPU."""
    folder = FIXTURES / "digits_cnn"
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    return compare(model, [Contender(candidate)], [feed], [], reference=Target("pytorch", "cuda"),
                   options=Options(RunOptions(threads=1)))


def assert_same_layers(found: tuple[Layer, ...], expected: tuple[Layer, ...]) -> None:
    """Their figures agree to FP64's rounding, and all else is equal."""
    assert [layer.tensor for layer in found] == [layer.tensor for layer in expected]
    for mine, other in zip(found, expected, strict=True):
        for field in ("accumulated", "local"):
            one, two = getattr(mine, field), getattr(other, field)
            assert (one is None) == (two is None)
            if one is not None:
                assert_same(one, two)
        assert (mine.dtype, mine.shape, mine.passed) == (other.dtype, other.shape, other.passed)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_both_sides_on_one_device_are_measured_there(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of the watched run is brought to the CPU to be measured, and the report is the CPU's."""
    candidate = Target("pytorch", "cuda", precision)
    monkeypatch.setattr(pytorch, "_device_of", lambda name: torch.device("cpu"))
    expected = report(candidate).candidates[0]
    seen: list[bool] = []
    totals: Callable[[Lying, Lying], object] = parity.analysis.placed.placed_totals

    def noted(reference: Lying, other: Lying) -> object:
        seen.append(isinstance(reference, Placed) and isinstance(other, Placed))
        return totals(reference, other)

    monkeypatch.setattr(pytorch, "_device_of", lambda name: DEVICE)
    monkeypatch.setattr(parity.analysis.placed, "placed_totals", noted)
    with simulated_device():
        found = report(candidate).candidates[0]
    assert_same_layers(found.tensors, expected.tensors)
    assert_same_layers(found.outputs, expected.outputs)
    assert (found.verdict, found.first_bad, found.status) == (expected.verdict, expected.first_bad, "ok")
    assert sum(seen) >= 2 * len(found.tensors) - len(expected.outputs)


def test_one_side_elsewhere_is_measured_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU held against the CPU shows its tensors as numpy has them."""
    folder = FIXTURES / "digits_cnn"
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    monkeypatch.setattr(pytorch, "_device_of", lambda name: DEVICE if name != "cpu" else torch.device("cpu"))
    with simulated_device():
        found = compare(model, [Contender(Target("pytorch", "cuda"))], [feed], [],
                        options=Options(RunOptions(threads=1)))
    candidate = found.candidates[0]
    assert candidate.verdict == "parity"
    assert {asdict(layer)["accumulated"]["max_abs"] for layer in candidate.tensors} == {0.0}
    assert np.isfinite(candidate.outputs[0].accumulated.rel_l2 if candidate.outputs[0].accumulated else np.nan)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp64", "fp16", "int8"])
def test_a_gpu_is_measured_where_it_is(precision: str) -> None:
    """With the reference on the same GPU every tensor is found right, as it is with the CPU's."""
    found = report(Target("pytorch", "cuda", precision)).candidates[0]
    assert (found.status, found.verdict, found.first_bad) == ("ok", "parity", None)
    assert found.device.startswith("cuda")
    assert all(layer.accumulated is not None for layer in found.outputs)
