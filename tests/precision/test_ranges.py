"""Tests of observed ranges: nothing is observed twice, and a full disk is told."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import numpy as np
import pytest

from parity.errors import OutputError
from parity.graph.feeds import Feed
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.ranges import METHODS, RangeSettings, TensorFacts, observe
from tests.builders import X, node, proto_of

FEEDS = [{"x": np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)} for seed in range(3)]
FACTS = {name: TensorFacts(np.dtype(np.float32), 24) for name in ("x", "a", "y")}


class Counted:
    """Samples that count how often they were read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> Iterator[Feed]:
        """The feeds, from the first."""
        self.reads += 1
        return iter(FEEDS)


def scaled(factor: float) -> Model:
    """A chain with a weight."""
    nodes = [node("Mul", ["x", "k"], ["a"]), node("Tanh", ["a"], ["y"])]
    return Model.from_proto(proto_of(nodes, [X], weights={"k": np.float32(factor)}))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_observed_twice(method: str) -> None:
    """The same tensors of an equal model are known; another tensor, weight or method is observed, and rightly."""
    samples = Counted()
    calibration = Calibration(samples, len(FEEDS), "counted")
    settings = RangeSettings(method)  # type: ignore[arg-type]

    def found(factor: float, *names: str) -> dict[str, tuple[float, float]]:
        ranges = observe(scaled(factor), calibration, {n: FACTS[n] for n in names}, settings)
        return {n: (r.lowest, r.highest) for n, r in ranges.items()}

    first = found(2, "a", "y")
    reads = samples.reads
    assert found(2, "y", "a") == first
    assert samples.reads == reads
    more = found(2, "x", "a")
    assert more["a"] == first["a"]
    assert samples.reads > reads
    reads = samples.reads
    other = found(3, "a")
    assert samples.reads > reads
    fresh = Calibration.of_feeds(scaled(3), FEEDS)
    right = observe(scaled(3), fresh, {"a": FACTS["a"]}, settings)["a"]
    assert other["a"] == (right.lowest, right.highest) != first["a"]


def test_a_full_disk_is_told() -> None:
    """The folder of temporary files is named, with what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be put into .* for calibration .*TMPDIR"):
            observe(scaled(2), Calibration.of_feeds(scaled(2), FEEDS), {"a": FACTS["a"]}, RangeSettings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
