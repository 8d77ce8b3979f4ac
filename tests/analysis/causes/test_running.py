"""What another run of the candidate tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parity.analysis.diagnose import Evidence, diagnose
from parity.contenders import Contender
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from tests.builders import chain, declared, node, proto_of
from tests.causes import ORT, diagnosed, gather

MODEL = Model.from_proto(proto_of([node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                  [declared("x", (4, 8))], weights={"w": np.eye(8, dtype=np.float32)}))


def test_an_operator_that_draws_numbers() -> None:
    """Two runs differ by as much as the candidate does from the reference."""
    other = proto_of([node("MatMul", ["x", "w"], ["p"]), node("RandomNormalLike", ["p"], ["n"], scale=0.1),
                      node("Add", ["p", "n"], ["t"]), node("Relu", ["t"], ["y"])],
                     [declared("x", (4, 8))], weights={"w": np.eye(8, dtype=np.float32)})
    found = diagnosed(MODEL, other)
    assert [d.cause for d in found] == ["nondeterminism"]
    assert found[0].evidence["between_runs"] > 0.3 * found[0].evidence["error"]


def test_a_lesser_unsteadiness_is_said_last() -> None:
    """Noise of a tenth of the error is told only where nothing explains the rest."""
    evidence = unwatched(1.5, 1.5)
    noisy = {n: v * np.float32(1.05) for n, v in evidence.candidate_outputs.items()}
    said = diagnose(replace(evidence, again=lambda: noisy))
    assert [d.cause for d in said] == ["weights-differ"]
    hidden = replace(evidence, again=lambda: noisy, shown={}, unoptimised=None)
    assert [d.cause for d in diagnose(hidden)] == ["nondeterminism"]


def unwatched(gain: float, plain: float = 1.0) -> Evidence:
    """A candidate whose weights are off by one factor where it is watched, and by another where it is not."""
    watched, deployed = (Model.from_proto(proto_of(
        [node("MatMul", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])], [declared("x", (4, 8))],
        weights={"w": np.eye(8, dtype=np.float32) * np.float32(g)})) for g in (gain, plain))
    feed, _ = seeded_feed(MODEL, 0)
    return gather(MODEL, Contender(ORT, watched), feed, plain=deployed)


def test_an_optimisation_that_watching_undoes() -> None:
    """The unwatched outputs are off, and right with the optimisation off."""
    evidence = unwatched(1.0, 1.5)
    found = diagnose(evidence)
    assert [d.cause for d in found] == ["optimisation"]
    assert found[0].evidence["error"] == pytest.approx(0.5)
    assert found[0].evidence["unoptimised"] < 1e-6
    assert found[0].evidence["moved"] == pytest.approx(1 / 3, rel=0.01)


def test_without_a_second_run_watching_alone_tells() -> None:
    """Where nothing can be run without optimisation, that watching moves the outputs as far must do."""
    evidence = replace(unwatched(1.0, 1.5), unoptimised=None)
    assert [d.cause for d in diagnose(evidence)] == ["optimisation"]
    assert diagnose(replace(evidence, moved=None)) == ()


def test_an_error_that_stays_is_no_optimisation() -> None:
    """The same weights are wrong with the optimisation off: the weights are named."""
    assert [d.cause for d in diagnose(unwatched(1.5, 1.5))] == ["weights-differ"]


def test_nothing_is_said_of_a_candidate_that_agrees() -> None:
    """No run is made of it, either."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    evidence = gather(model, Contender(ORT), feed)

    def never() -> dict[str, np.ndarray]:
        raise AssertionError("a clean candidate was run again")

    assert diagnose(replace(evidence, again=never, unoptimised=never)) == ()
