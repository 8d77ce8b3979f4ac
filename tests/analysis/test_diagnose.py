"""Planted causes are named, and nothing is said where nothing is off."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from parity.analysis import diagnose as table
from parity.analysis.diagnose import MOST, Diagnosis, Evidence, diagnose
from parity.contenders import Contender
from parity.errors import ModelError, ParityError
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import chain
from tests.causes import ORT, PLANTERS, Case, Ground, gather
from tests.causes_precision import PRECISION_PLANTERS
from tests.models import FIXTURE_FOLDERS, FIXTURES, RealModel
from tests.odd_models import ODD, kinds


@cache
def tried(folder: Path) -> tuple[tuple[Case, tuple[Diagnosis, ...]], ...]:
    """Every planted case of a model that shows, with what is said of it."""
    ground, found = Ground.load(folder, rows=4), []
    for planter in (*PLANTERS, *PRECISION_PLANTERS):
        for case in planter(ground):
            try:
                evidence = gather(case.model, case.contender, ground.feed, case.optimization, case.plain)
            except ParityError:
                continue  # the change makes no model that the runtime takes
            if evidence.diverged or evidence.blamed is not None:
                found.append((case, diagnose(evidence)))
    return tuple(found)


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_planted_causes_are_named(folder: Path) -> None:
    """The first diagnosis of every case is the planted cause."""
    wrong = [f"{case.kind} at {case.tensor}: {[d.message for d in said]}" for case, said in tried(folder)
             if not said or said[0].cause not in case.causes]
    assert wrong == []


def test_there_are_enough_causes() -> None:
    """The fixtures together take at least sixty cases, and every family of causes."""
    counted = Counter(cause for folder in FIXTURE_FOLDERS for _, said in tried(folder) for cause in {said[0].cause})
    assert sum(counted.values()) >= 60
    assert {"wrong-epsilon", "wrong-axis", "input-layout", "weights-differ", "wrong-operator", "reduced-precision",
            "nondeterminism", "optimisation", "fp16-overflow", "fp16-underflow", "cancellation", "int8-outliers",
            "clipped-calibration", "wrong-scale"} <= counted.keys()


def test_a_diagnosis_is_a_sentence_with_figures() -> None:
    """One sentence, numbers as evidence, a tensor of the reference, and not too many of them."""
    for case, said in tried(FIXTURES / "digits_cnn"):
        known = {o for n in case.model.graph.nodes for o in (*n.inputs, *n.outputs)}
        assert len(said) <= MOST
        for diagnosis in said:
            assert diagnosis.message.endswith(".")
            assert diagnosis.evidence
            assert all(isinstance(v, float) for v in diagnosis.evidence.values())
            assert diagnosis.tensor in known


@pytest.mark.parametrize("name", ODD)
def test_nothing_is_said_of_a_sound_model(name: str) -> None:
    """Models of every make, at parity."""
    model = Model.from_proto(kinds(name))
    feed, _ = seeded_feed(model, 0)
    assert diagnose(gather(model, Contender(ORT), feed)) == ()


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime:fp16", "pytorch:int8", "pytorch:bf16"])
@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_nothing_is_said_of_a_variant_that_passes(folder: Path, target: str) -> None:
    """The fixtures are within tolerance in every precision."""
    ground = Ground.load(folder, rows=4)
    evidence = gather(ground.model, Contender(Target.parse(target)), ground.feed)
    assert not evidence.diverged
    assert diagnose(evidence) == ()


def test_the_fixture_with_a_fault() -> None:
    """Its truth is written beside it: Keras' epsilon in a BatchNormalization."""
    ground = Ground.load(FIXTURES / "digits_cnn", rows=4)
    faulty = Model.load(FIXTURES / "digits_cnn_faulty" / "model.onnx")
    found, = diagnose(gather(ground.model, Contender(ORT, faulty), ground.feed))
    assert (found.cause, found.tensor) == ("wrong-epsilon", "getitem_12")
    assert found.evidence["other_epsilon"] == pytest.approx(1e-3)


def _evidence() -> Evidence:
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    return gather(model, Contender(ORT, Model.from_proto(chain("w1"))), feed)


def test_a_cause_that_cannot_be_tried_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model error in one is passed over; any other error is a bug and is not."""
    def odd(evidence: Evidence) -> tuple[Diagnosis, ...]:
        raise ModelError("an operator that nobody knows")

    monkeypatch.setattr(table, "CAUSES", (odd, *table.CAUSES))
    assert [d.cause for d in diagnose(_evidence())] == ["weights-differ"]

    def broken(evidence: Evidence) -> tuple[Diagnosis, ...]:
        raise ZeroDivisionError

    monkeypatch.setattr(table, "CAUSES", (broken,))
    with pytest.raises(ZeroDivisionError):
        diagnose(_evidence())


def test_a_candidate_that_hides_its_tensors_is_told_nothing_untrue() -> None:
    """Without any tensor but the blamed one, the whole graph before it is one unit, and is tried as one."""
    evidence = _evidence()
    blamed = evidence.blamed
    assert blamed is not None
    alone = replace(evidence, shown={blamed[0].tensor: evidence.shown[blamed[0].tensor]})
    assert {d.cause for d in diagnose(alone)} <= {"weights-differ"}
    assert diagnose(replace(evidence, shown={})) == ()


def test_the_same_evidence_says_the_same() -> None:
    """Nothing is drawn at random."""
    said = [diagnose(_evidence()) for _ in range(2)]
    assert said[0] == said[1]


@pytest.mark.models
def test_nothing_is_said_of_real_models(real_model: RealModel) -> None:
    """Real models on ONNX Runtime, optimised: at parity, and nothing is made up."""
    ground = Ground.load(real_model.folder)
    assert diagnose(gather(ground.model, Contender(ORT), ground.feed)) == ()


def test_figures_are_finite_where_the_values_are() -> None:
    """No figure is NaN."""
    for _, said in tried(FIXTURES / "digits_transformer"):
        assert all(not np.isnan(v) for d in said for v in d.evidence.values())
