"""The executor as a backend: precisions, devices, sub-graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backends.base import RunOptions
from parity.backends.pytorch import PyTorch
from parity.errors import BackendUnavailable
from parity.graph.feeds import load_feed, seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.builders import CHAIN, chain
from tests.models import FIXTURE_FOLDERS


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


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so() -> None:
    """Where torch was built for the CPU, pytorch@cuda is unavailable with that reason and a command."""
    model = Model.from_proto(chain())
    assert PyTorch().devices() == ["cpu"]
    with pytest.raises(BackendUnavailable, match="built without CUDA") as caught:
        PyTorch().open(model, model, Target("pytorch", "cuda"), RunOptions())
    assert "pip install" in caught.value.hint


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU beyond those that torch sees is unavailable, with their number."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    model = Model.from_proto(chain())
    with pytest.raises(BackendUnavailable, match="torch sees 1 GPUs, so there is no 'cuda:1'"):
        PyTorch().open(model, model, Target("pytorch", "cuda:1"), RunOptions())


def test_a_few_tensors_can_be_shown() -> None:
    """`show` gives the outputs and the tensors asked for, as a watched run does."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    session = PyTorch().open(model, model, Target("pytorch"), RunOptions())
    watched = {n: v for chunk in session.watch(feed, CHAIN, {}) for n, v in chunk.items()}
    shown = session.show(feed, ["c"]).outputs
    assert list(shown) == ["y", "c"]
    for name, value in shown.items():
        np.testing.assert_array_equal(value, watched[name])


@pytest.mark.gpu
@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_a_gpu_agrees_with_the_cpu(folder: Path) -> None:
    """Without TF32, a GPU's FP32 outputs are within rounding of the CPU's FP64 ones."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    gold = PyTorch().open(model, model, Target("pytorch", "", "fp64"), RunOptions()).run(feed)
    found = PyTorch().open(model, model, Target("pytorch", "cuda"), RunOptions()).run(feed)
    assert found.device.startswith("cuda")
    for name, value in gold.outputs.items():
        np.testing.assert_allclose(found.outputs[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


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
