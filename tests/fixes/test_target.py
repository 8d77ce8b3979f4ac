"""Tests of runs of the target: counted, unwatched, and judged as `parity compare` judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed
from parity.compare import Options, compare
from parity.contenders import Contender
from parity.fixes.attempt import Attempt, variant_of
from parity.fixes.problem import allowing_for_noise
from parity.fixes.target import Ran, TargetRuns, judged
from parity.graph.model import Model
from parity.targets import Target
from tests.fixes.cases import FP16, INT8, cancelling, outlier, problem, rows


def deployed(model: Model, feed: Feed) -> np.ndarray:
    """What ONNX Runtime makes of a model, run here by its own interface."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], dict(feed))[0]
    return found


@pytest.mark.parametrize("target", [FP16, INT8])
def test_the_worst_feed_decides(target: Target) -> None:
    """The error is the worst over all feeds, from runs of the very model; every call is one run."""
    made = problem(outlier(), target, Path(), [rows(4, seed) for seed in range(3)])
    runs = TargetRuns(made)
    model = variant_of(made, Attempt("", "", made.model)).model
    ran = runs.run(model)
    errors = [goal.error({"y": deployed(model, feed)}) for feed, goal in made.judged]
    assert ran.error == max(errors)
    for outputs, (feed, _) in zip(ran.outputs, made.judged, strict=True):
        np.testing.assert_array_equal(outputs["y"], deployed(model, feed))
    assert runs.count == 1
    assert runs.run(made.model).error < 1e-2
    assert runs.count == 2


@pytest.mark.parametrize("limit", [1e-4, 1e-2, 0.5, 2.0])
def test_it_passes_where_compare_finds_parity(limit: float) -> None:
    """At most 1 is parity and more is divergence, by `parity compare` of the same variant on the same input."""
    tolerance = Tolerance({"rel_l2": limit})
    made = allowing_for_noise(problem(cancelling(), FP16, Path(), tolerance=tolerance))
    error = TargetRuns(made).run(variant_of(made, Attempt("", "", made.model)).model).error
    report = compare(made.model, [Contender(FP16)], [made.judged[0][0]], [],
                     options=Options(made.options, tolerance=tolerance))
    assert (error <= 1) == (report.verdict == "parity")


@pytest.mark.parametrize("target", [FP16, INT8])
def test_what_is_held_out_is_run_on_the_target(target: Target) -> None:
    """The error on unseen samples is the runtime's own; where there are none, there is no such error."""
    made = problem(outlier(), target, Path())
    model = variant_of(made, Attempt("", "", made.model)).model
    runs = TargetRuns(made)
    assert runs.held_out(runs.run(model)) == max(g.error({"y": deployed(model, f)}) for f, g in made.held_out)
    few = TargetRuns(problem(outlier(), target, Path(), [rows(4)]))
    assert few.held_out(few.run(model)) is None


def test_the_change_is_told_in_figures() -> None:
    """The worst figure before and after stands in one phrase, of either run over its own feeds, as its error is."""
    made = problem(cancelling(), FP16, Path(), [rows(4, seed) for seed in range(2)])
    runs = TargetRuns(made)
    session = runs.run(made.model).session
    right = [goal.reference["y"] for _, goal in made.judged]

    def ran(*factors: float) -> Ran:
        return judged(made, [{"y": r * np.float32(f)} for r, f in zip(right, factors, strict=True)], session)

    before = ran(1.25, 1.5)
    assert runs.said(before) == "rel_l2 of y 0.5"
    assert runs.change(before, ran(2, 1.25)) == "rel_l2 of y 0.5 → 1"
    judging = replace(made, judged=[(f, replace(g, tolerance=Tolerance({"max_abs": 0.1}))) for f, g in made.judged])
    largest = 0.5 * max(float(np.abs(r).max()) for r in right)
    assert TargetRuns(judging).said(ran(1.5, 1.5)) == f"max_abs of y {largest:.3g}"
    assert runs.change(judged(made, [{}, {}], session), before) == ""
