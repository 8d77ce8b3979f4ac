"""What is known of a candidate, and what of its error comes by way of a tensor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from parity.analysis.causes.evidence import Diagnosis, Evidence, relative, that_reach
from parity.contenders import Contender
from parity.graph.model import Model
from parity.targets import Target
from tests.builders import declared, node, proto_of
from tests.causes import gather

X = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)


def two_ways() -> Evidence:
    """The evidence of y = ((x + 300) - 300) + 0.001·((x + 301) - 301), z = Relu(x), emulated in FP16."""
    model = Model.from_proto(proto_of(
        [node("Add", ["x", "c"], ["t"]), node("Sub", ["t", "c"], ["u"]), node("Add", ["x", "e"], ["v"]),
         node("Sub", ["v", "e"], ["w"]), node("Mul", ["w", "small"], ["p"]), node("Add", ["u", "p"], ["y"]),
         node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["z"])],
        [declared("x", X.shape)], [declared("y", None), declared("z", None)],
        {"c": np.float32(300), "e": np.float32(301), "small": np.float32(1e-3)}))
    return gather(model, Contender(Target("pytorch", "", "fp16")), {"x": X})


def test_what_comes_by_way_of_a_tensor() -> None:
    """All of the error by way of one summand, a thousandth by way of the other; an output's own is its error."""
    evidence = two_ways()
    assert evidence.brought("u") == pytest.approx(evidence.error, rel=0.1)
    assert evidence.brought("w") < 0.01 * evidence.error
    assert evidence.brought("y") == pytest.approx(relative(
        evidence.reference_outputs["y"], evidence.shown["y"]), rel=1e-4)


def test_of_what_is_not_shown_nothing_is_known() -> None:
    """A tensor that is hidden, or none of the reference's, may bring anything."""
    evidence = two_ways()
    assert evidence.brought("x") == math.inf
    assert evidence.brought("nowhere") == math.inf
    assert replace(evidence, shown={}).brought("u") == math.inf


def test_only_what_reaches_the_outputs_is_kept() -> None:
    """Of two diagnoses the one that a thousandth of the error comes by is dropped; of an infinite error none is."""
    evidence = two_ways()
    found = [Diagnosis("cancellation", n, "", {}) for n in ("u", "w")]
    assert that_reach(evidence, found) == found[:1]
    endless = {n: np.full_like(v, np.inf) for n, v in evidence.candidate_outputs.items()}
    infinite = replace(evidence, candidate_outputs=endless)
    assert that_reach(infinite, found) == found


def test_suspects_are_what_wrong_outputs_are_made_from() -> None:
    """The tensor that is named and what it is made from come first; what only a right output reads is none."""
    evidence = two_ways()
    assert evidence.blamed is not None
    names = [d.tensor for d in evidence.suspects()]
    assert set(names[:2]) == {"t", "u"}
    assert {"v", "w", "p", "y"} == set(names[2:])


def test_an_output_below_the_widest_limit_is_suspected_too() -> None:
    """Each output has its own limit, of which only the widest is known."""
    evidence = two_ways()
    assert evidence.suspects() == replace(evidence, limit=10 * evidence.error).suspects()
