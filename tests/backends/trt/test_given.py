"""Engines that a user built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.analysis.measure import measure
from parity.backends.base import RunOptions, TensorRtOptions
from parity.backends.trt.driver import devices
from parity.backends.trt.given import GivenEngine
from parity.backends.trt.session import TensorRtRtx
from parity.errors import BackendFailed
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.backends.trt.standin import DEVICE, rtx
from tests.builders import chain

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize(("content", "reason"), [
    (None, "cannot read"), (b"", "cannot load"), (b"vtrt junk", "cannot load")])
def test_a_file_that_is_no_engine(content: bytes | None, reason: str, tmp_path: Path) -> None:
    """Missing, empty or damaged: one line that says so."""
    path = tmp_path / "model.plan"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackendFailed, match=reason) as caught:
        GivenEngine(rtx(), DEVICE, path, Model.from_proto(chain()))
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.gpu
def test_a_given_engine_is_run(tmp_path: Path) -> None:
    """Its outputs are those of the engine that it is a copy of; inputs that the model lacks are named."""
    rtx().check(devices()[0])
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    target, options = Target("tensorrt-rtx"), RunOptions(tensorrt=TensorRtOptions(engines=tmp_path))
    expected = TensorRtRtx().open(model, model, target, options).run(feed).outputs["y"]
    engine = next(tmp_path.glob("*.plan"))
    given = TensorRtRtx().open(model, model, target, RunOptions(tensorrt=TensorRtOptions(engine=engine)))
    np.testing.assert_array_equal(given.run(feed).outputs["y"], expected)
    assert measure(survey(model, feed).outputs["y"], expected).rel_l2 < 1e-4
    assert {n for chunk in given.watch(feed, ("a", "y"), {}) for n in chunk} == {"y"}
    with pytest.raises(BackendFailed, match="wants an input 'x'"):
        given.run({})
