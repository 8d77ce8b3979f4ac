"""Tests of what a fix is told as: every kept layer with its reason, and the curve of what was tried."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.fixes.account import Account
from parity.fixes.attempt import Attempt, Emulation
from tests.fixes.cases import FP16, WIDTH, cancelling, problem

PROBLEM = problem(cancelling(), FP16, Path())
EMULATION = Emulation(PROBLEM, Attempt("", "", PROBLEM.model))
ACCOUNT = Account.of(EMULATION, {"up": 0.25, "d": math.inf}, {"b": 7e4})
NAMES = [group.name for group in EMULATION.groups]


def test_every_kept_layer_says_why() -> None:
    """A tensor that overflows, a price, one that is not finite, and a layer that only hands on have their phrases."""
    kept = ACCOUNT.kept(EMULATION.groups, "fp32")
    assert [k.tensor for k in kept] == ["a", "b", "up", "down", "c", "d", "e", "y"]
    why = {k.tensor: k.why for k in kept}
    assert why["b"] == why["up"] == "'b' reaches 7e+04, which FP16 cannot hold"
    assert why["d"] == "alone in FP16 it makes the outputs non-finite"
    assert why["y"] == "it hands on what 'e' makes"
    assert why["c"] == "alone in FP16 it moves the outputs by 0 (relative L2)"
    assert {k.precision for k in kept} == {"fp32"}
    assert ACCOUNT.kept((), "fp32") == ()


def test_operations_are_those_of_one_trial() -> None:
    """Three MatMuls of 8 by 8 on 16 searched rows, and what the other layers do beside them."""
    matmuls = sum(ACCOUNT.costs[n].operations for n in ("a", "c", "e"))
    assert matmuls == 3 * 16 * WIDTH * WIDTH
    assert ACCOUNT.operations >= matmuls
    assert ACCOUNT.shares(EMULATION.mixture.layers) == pytest.approx((1, 1))


@settings(deadline=None)
@given(st.dictionaries(st.frozensets(st.sampled_from(NAMES)), st.floats(0, 9), max_size=20))
def test_the_curve_has_the_best_of_every_number(tried: dict[frozenset[str], float]) -> None:
    """One point for each number of layers that was tried, with the least error of all such sets, in rising order."""
    members = {group.name: group.layers for group in EMULATION.groups}
    sizes = {names: sum(len(members[n]) for n in names) for names in tried}
    curve = ACCOUNT.curve(tried)
    assert [p.kept for p in curve] == sorted(set(sizes.values()))
    for point in curve:
        assert point.error == min(error for names, error in tried.items() if sizes[names] == point.kept)
        assert 0 <= point.operations <= 1 + 1e-12
    assert np.all([p.operations == 0 for p in curve if p.kept == 0])
