"""The executor as a backend: precisions, devices, sub-graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.backends.base import RunOptions
from parity.backends.pytorch import PyTorch
from parity.errors import BackendUnavailable
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.builders import CHAIN, chain


def test_fp64_is_computed_in_fp64() -> None:
    """pytorch:fp64 returns FP64 tensors, nearer to the truth than FP32's, under the same names."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    flat = survey(model, feed).flat
    found = {}
    for precision in ("fp32", "fp64"):
        session = PyTorch().open(model, flat, Target("pytorch", "", precision), RunOptions())
        found[precision] = {n: v for chunk in session.watch(feed, CHAIN, {}) for n, v in chunk.items()}
        assert session.run(feed).outputs["y"].dtype == found[precision]["y"].dtype
    weight = model.weight("w0").astype(np.float64)
    exact = feed["x"].astype(np.float64) @ weight
    assert {v.dtype.name for v in found["fp64"].values()} == {"float64"}
    assert {v.dtype.name for v in found["fp32"].values()} == {"float32"}
    np.testing.assert_allclose(found["fp64"]["a"], exact, rtol=1e-14, atol=1e-14)
    assert np.abs(found["fp32"]["a"] - exact).max() > 0


def test_it_runs_on_the_cpu_alone() -> None:
    """The ruler stays where its arithmetic is known."""
    model = Model.from_proto(chain())
    assert PyTorch().devices() == ["cpu"]
    with pytest.raises(BackendUnavailable, match="cpu only"):
        PyTorch().open(model, model, Target("pytorch", "cuda"), RunOptions())


def test_the_threads_are_set() -> None:
    """--threads holds for torch too."""
    before = torch.get_num_threads()
    model = Model.from_proto(chain())
    try:
        PyTorch().open(model, model, Target("pytorch"), RunOptions(threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_node_at_a_time() -> None:
    """A watched run shows each tensor as soon as its node has run, so that memory stays near the plain run's."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    session = PyTorch().open(model, model, Target("pytorch"), RunOptions())
    assert [list(chunk) for chunk in session.watch(feed, CHAIN, {})] == [[n] for n in CHAIN]
