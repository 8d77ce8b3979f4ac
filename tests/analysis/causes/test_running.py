"""What another run of the candidate tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, numpy_helper

from parity.analysis.causes.running import nondeterminism, optimisation
from parity.analysis.diagnose import Evidence, diagnose
from parity.contenders import Contender
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.targets import Target
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


def drawing(op: str, name: str, between: Sequence[NodeProto], **attributes: Any) -> Model:
    """A model with random numbers, which decide most of its output."""
    weights = {"w": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), "half": np.float32(0.5),
               "on": np.bool_(True), "off": np.bool_(False)}
    return Model.from_proto(proto_of(
        [node(op, ["x", "half", name] if name else ["x"], ["n"], **attributes), *between,
         node("MatMul", ["u", "w"], ["y"])], [declared("x", (16, 8))], weights=weights))


DRAWING = (drawing("RandomNormalLike", "", [node("Add", ["x", "n"], ["u"])]),
           drawing("RandomUniformLike", "", [node("Mul", ["x", "n"], ["u"])], seed=3.0),
           drawing("Dropout", "on", [node("Relu", ["n"], ["u"])]))


@pytest.mark.parametrize("model", DRAWING, ids=lambda m: m.graph.nodes[0].op)
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime:int8"])
def test_a_model_that_draws_numbers(model: Model, target: str) -> None:
    """The node that draws is named, and no other cause is made up, whatever the runtime draws."""
    feed, _ = seeded_feed(model, 0)
    evidence = replace(gather(model, Contender(Target.parse(target)), feed), diverged=True)
    found = diagnose(evidence)
    assert [(d.cause, d.tensor) for d in found] == [("nondeterminism", "n")]
    assert "random numbers" in found[0].message


def test_a_fault_beside_random_numbers_is_named_for_itself() -> None:
    """Weights that are wrong where the candidate's own inputs come in are wrong whatever was drawn before."""
    model = DRAWING[0]
    proto = model.proto.__class__()
    proto.CopyFrom(model.proto)
    weight = next(t for t in proto.graph.initializer if t.name == "w")
    weight.CopyFrom(numpy_helper.from_array(model.weight("w") * np.float32(1.5), "w"))
    assert [d.cause for d in diagnosed(model, proto)] == ["weights-differ"]


def test_a_little_noise_explains_no_large_error() -> None:
    """Where two draws are a thousandth apart and the error is a half, something else is the cause."""
    proto = proto_of([node("RandomNormalLike", ["x"], ["n"], scale=1e-3), node("Add", ["x", "n"], ["u"]),
                      node("Relu", ["u"], ["y"])], [declared("x", (16, 8))])
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    evidence = gather(model, Contender(ORT), feed)
    half = {n: v * np.float32(0.5) for n, v in evidence.candidate_outputs.items()}
    assert nondeterminism(replace(evidence, candidate_outputs=half, diverged=True, again=None)) == ()


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


def test_outputs_that_are_infinite_either_way_are_no_optimisation() -> None:
    """An infinite error that stays infinite has not gone."""
    evidence = unwatched(1.0, 1.5)
    infinite = {n: np.full_like(v, np.inf) for n, v in evidence.candidate_outputs.items()}
    odd = replace(evidence, candidate_outputs=infinite, unoptimised=lambda: infinite, again=None)
    assert optimisation(odd) == ()
    assert optimisation(evidence) != ()


def test_an_error_that_falls_well_within_the_tolerance_is_the_optimisations() -> None:
    """A third of it that is left counts as gone where half of what is accepted is more, and stays where it is less."""
    evidence = unwatched(1.0, 1.5)
    third = {n: v + (evidence.candidate_outputs[n] - v) / 3 for n, v in evidence.reference_outputs.items()}
    odd = replace(evidence, unoptimised=lambda: third, moved=0.0)
    assert [d.cause for d in optimisation(replace(odd, limit=0.4))] == ["optimisation"]
    assert optimisation(replace(odd, limit=0.2)) == ()
