"""How far rounding moves each tensor of a deployed model."""

from __future__ import annotations

import numpy as np
import pytest

import parity
from parity.backends.base import Feed
from parity.baseline.drift import MARGIN, SHARE
from parity.baseline.noise import layer_noise
from parity.graph.feeds import load_feed, seeded_feed
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import chain, declared, node, proto_of
from tests.models import FIXTURES


def fixture() -> tuple[Model, Feed]:
    """The convolutional fixture with its inputs."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    return model, load_feed(model, [str(FIXTURES / "digits_cnn" / "inputs.npz")])[0]


def test_each_tensor_moves_by_what_its_format_rounds() -> None:
    """About a unit in FP32, thousands of times that in FP16; what only moves data inherits."""
    model, feed = fixture()
    single, half = (layer_noise(model, Target("onnxruntime", "", p), feed) for p in ("fp32", "fp16"))
    assert 1e-8 < single["conv2d"] < 1e-6
    assert 1e-5 < half["logits"] < 1e-2
    assert 0 < single["relu"] <= 1.5 * single["getitem"]


def test_more_runs_only_add_and_a_seed_repeats() -> None:
    """The noise is the largest over the runs, the same for the same seed."""
    model = Model.from_proto(chain())
    feed = seeded_feed(model, 0)[0]
    one, three = (layer_noise(model, Target("onnxruntime"), feed, runs=runs) for runs in (1, 3))
    assert one == layer_noise(model, Target("onnxruntime"), feed, runs=1)
    assert all(one[name] <= three[name] for name in one)


def test_whole_numbers_do_not_move() -> None:
    """Sizes and indices are exact in every runtime."""
    model = Model.from_proto(proto_of([node("ArgMax", ["x"], ["y"])], [declared("x", (2, 3))]))
    assert layer_noise(model, Target("onnxruntime"), {"x": np.eye(2, 3, dtype=np.float32)}) == {"y": 0.0}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_other_optimisation_stays_within_it(precision: str) -> None:
    """What a runtime may do otherwise is no drift: every tensor's error, in every precision."""
    model, feed = fixture()
    target = Target("onnxruntime", "", precision)
    noise = layer_noise(model, target, feed)
    runs = [parity.compare(model, feed, candidates=[str(target)], optimization=level).candidates[0]
            for level in ("all", "off")]
    for rows in zip(*(run.tensors for run in runs), strict=True):
        errors = [row.accumulated.rel_l2 for row in rows if row.accumulated is not None]
        assert not errors or errors[1] <= errors[0] * (1 + SHARE) + MARGIN * noise.get(rows[0].tensor, 0.0)
