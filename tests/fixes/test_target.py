"""Tests of runs of the target: counted, unwatched, and judged as `parity compare` judges."""

from __future__ import annotations

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
from parity.fixes.target import TargetRuns
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
    error, _, outputs = runs.error(model)
    assert error == max(goal.error({"y": deployed(model, feed)}) for feed, goal in made.judged)
    np.testing.assert_array_equal(outputs["y"], deployed(model, made.judged[0][0]))
    assert runs.count == 1
    assert runs.error(made.model)[0] < 1e-2
    assert runs.count == 2


@pytest.mark.parametrize("limit", [1e-4, 1e-2, 0.5, 2.0])
def test_it_passes_where_compare_finds_parity(limit: float) -> None:
    """At most 1 is parity and more is divergence, by `parity compare` of the same variant on the same input."""
    tolerance = Tolerance({"rel_l2": limit})
    made = allowing_for_noise(problem(cancelling(), FP16, Path(), tolerance=tolerance))
    error, session, _ = TargetRuns(made).error(variant_of(made, Attempt("", "", made.model)).model)
    report = compare(made.model, [Contender(FP16)], [made.judged[0][0]], [],
                     options=Options(made.options, tolerance=tolerance))
    assert (error <= 1) == (report.verdict == "parity")
    assert session is not None


def test_the_change_is_told_in_figures() -> None:
    """The worst output's relative L2 error before and after stands in one phrase."""
    made = problem(cancelling(), FP16, Path())
    runs = TargetRuns(made)
    right = made.judged[0][1].reference["y"]
    assert runs.change({"y": right * 1.5}, {"y": right * 1.25}) == "rel_l2 of y 0.5 → 0.25"
    assert runs.change({}, {"y": right}) == ""
