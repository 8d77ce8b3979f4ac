"""Tests of what is to be fixed: which samples are searched and which are not seen, and what a trial depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.analysis.goal import Goal
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.backends.base import Feed
from parity.errors import ModelError, UsageError
from parity.fixes.problem import Demand, allowing_for_noise
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.precision.calibration import Calibration
from parity.targets import Target
from tests.fixes.cases import FP16, INT8, WIDTH, branching, cancelling, outlier, problem, rows

MODEL = Model.from_proto(outlier())
CALIBRATED = [rows(4, seed) for seed in range(100, 120)]


def lines(samples: Iterable[tuple[Feed, Goal]]) -> set[bytes]:
    """Every row that is fed."""
    return {row.tobytes() for feed, _ in samples for row in feed["x"]}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 80), st.integers(1, 20), st.integers(0, 20), st.booleans())
def test_no_row_is_searched_and_held_out(size: int, feeds: int, samples: int, shared: bool) -> None:
    """However inputs and calibration samples come, what is held out shares no row with what is searched."""
    given_feeds = [rows(size, seed) for seed in range(feeds)]
    folder = [*(given_feeds[:2] if shared else []), *CALIBRATED[:samples]]
    calibration = Calibration.of_feeds(MODEL, folder) if folder else None
    found = problem(MODEL, INT8, Path(), given_feeds, calibration=calibration)
    assert lines(found.searched)
    assert lines(found.searched).isdisjoint(lines(found.held_out))
    if feeds == 1 and size >= 8:
        assert lines(found.searched) | lines(found.held_out) <= lines(found.judged)
        assert abs(len(lines(found.searched)) - len(lines(found.held_out))) <= 1
    unseen = len(folder) - (min(2, len(folder), feeds) if shared else 0)
    assert bool(found.held_out) == (feeds >= 8 or (feeds == 1 and size >= 8) or (feeds + unseen >= 8 and unseen > 0))


@pytest.mark.parametrize(("inputs", "samples", "halves"), [
    (1, 16, (9, 8)), (1, 15, (8, 8)), (1, 7, (4, 4)), (1, 6, (7, 0)), (4, 4, (4, 4)), (7, 1, (7, 1))])
def test_calibration_samples_help_out_where_inputs_are_few(inputs: int, samples: int, halves: tuple[int, int]) -> None:
    """From eight samples in all on, half are searched and half are held out, none of them the user's inputs."""
    found = problem(MODEL, INT8, Path(), [rows(2, seed) for seed in range(inputs)],
                    calibration=Calibration.of_feeds(MODEL, CALIBRATED[:samples]))
    assert (len(found.searched), len(found.held_out)) == halves
    assert lines(found.judged).isdisjoint(lines(found.held_out))


def test_eight_samples_are_enough_to_hold_some_out() -> None:
    """Eight rows, or eight inputs, are searched and judged in halves of four; seven are all searched."""
    for feeds in ([rows(8)], [rows(1, seed) for seed in range(8)]):
        found = problem(MODEL, INT8, Path(), feeds)
        assert (len(lines(found.searched)), len(lines(found.held_out))) == (4, 4)
    for feeds in ([rows(7)], [rows(1, seed) for seed in range(7)]):
        assert not problem(MODEL, INT8, Path(), feeds).held_out


def test_samples_on_another_branch_are_left_out() -> None:
    """The flat model has one branch of each If: what takes the other is judged, by the model, and never searched."""
    proto = branching()
    for tensor in proto.graph.initializer:
        if tensor.name == "least":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(0), "least"))
    feeds = [{"x": np.full((2, WIDTH), value, np.float32)} for value in (1, -1, 2, -2, 3, -3, 4, -4)]
    found = problem(proto, FP16, Path(), feeds)
    assert {float(feed["x"][0, 0]) for feed, _ in (*found.searched, *found.held_out)} <= {1, 2, 3, 4}
    whole = Executor(found.model)
    for feed, goal in found.judged:
        np.testing.assert_array_equal(goal.reference["y"], to_numpy(whole.run(feed)["y"]))


def test_made_up_samples_are_not_searched() -> None:
    """Calibration samples that were made from a seed say nothing of the user's data, so nothing is judged on them."""
    made = Calibration.of_feeds(MODEL, CALIBRATED, indicative=True)
    assert len(problem(MODEL, INT8, Path(), [rows(2)], calibration=made).searched) == 1


def test_labels_go_with_their_rows() -> None:
    """Searched and held-out rows have their own labels; samples without labels are not judged by accuracy."""
    labels = np.arange(32)
    demand = Demand(Tolerance({}), ("accuracy",), {"accuracy": 0.9}, labels)
    images = {"x": np.repeat(labels[:, None], WIDTH, 1).astype(np.float32)}
    found = problem(MODEL, INT8, Path(), [images], demand=demand)
    for feed, goal in (*found.searched, *found.held_out):
        assert goal.labels is not None
        np.testing.assert_array_equal(goal.labels, feed["x"][:, 0])
        assert goal.task_limits == {"accuracy": 0.9}
    few = problem(MODEL, INT8, Path(), [rows(4)], calibration=Calibration.of_feeds(MODEL, CALIBRATED),
                  demand=replace(demand, labels=labels[:4]))
    assert [goal.task_limits for _, goal in few.held_out] == [{}] * len(few.held_out)
    assert few.judged[0][1].task_limits == {"accuracy": 0.9}


def test_the_tolerance_is_the_precisions_own() -> None:
    """Where none is given the default of the target's precision holds."""
    for target in (FP16, INT8):
        assert problem(MODEL, target, Path()).judged[0][1].tolerance == DEFAULTS[target.precision]


def test_the_flat_model_has_the_branch_that_is_taken() -> None:
    """An If is replaced by the branch that the first feed takes."""
    found = problem(branching(), FP16, Path())
    assert {"up", "down"} <= found.flat.graph.producer.keys()
    assert "neg" not in found.flat.graph.producer


def test_a_digest_says_what_a_trial_depends_on(tmp_path: Path) -> None:
    """The same problem has the same digest, in another folder too; every change that moves an error makes another."""
    def digest(target: Target = INT8, feeds: int = 1, seed: int = 1, **given: Any) -> str:
        return problem(MODEL, target, tmp_path, [rows(32, seed + i) for i in range(feeds)], **given).digest

    right = digest()
    assert problem(MODEL, INT8, tmp_path / "other", [rows(32)]).digest == right
    tasks: dict[str, Any] = {"judges": ("accuracy",), "task_limits": {"accuracy": 0.9}}
    others = [
        digest(FP16), digest(seed=2), digest(feeds=2), digest(tolerance=Tolerance({"rel_l2": 0.01})),
        digest(calibration=Calibration.of_feeds(MODEL, CALIBRATED[:1])),
        digest(demand=Demand(None, labels=np.zeros(32, int), **tasks)),
        digest(demand=Demand(None, labels=np.ones(32, int), **tasks)),
        problem(cancelling(), INT8, tmp_path).digest]
    assert len({right, *others}) == 1 + len(others)


def test_a_digest_knows_weights_in_other_files(tmp_path: Path) -> None:
    """A model file that stayed as it was while its external weights changed is another problem."""
    digests = []
    for scale in (1, 2):
        proto = outlier()
        for tensor in proto.graph.initializer:
            if tensor.name == "w3":
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * scale, "w3"))
        path = tmp_path / "model.onnx"
        (tmp_path / "w.bin").unlink(missing_ok=True)
        onnx.save(proto, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
        model = Model.load(path)
        digests.append((model.sha256, problem(model, INT8, tmp_path).digest))
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_noise_raises_the_limits_of_all_samples() -> None:
    """What correct FP32 runs may differ by is allowed for on judged, searched and held-out samples alike."""
    found = allowing_for_noise(problem(MODEL, INT8, Path()))
    spread = {id(goal.noise): goal.noise for _, goal in (*found.judged, *found.searched, *found.held_out)}
    assert [set(noise) for noise in spread.values()] == [{"y"}]
    assert 0 < next(iter(spread.values()))["y"] < 1e-5


@pytest.mark.parametrize("limit", [0.0, 1e-9])
def test_a_limit_that_fp32_noise_passes_is_refused(limit: float) -> None:
    """It is the user's own that is refused, with the measured floor; a default would be raised."""
    with pytest.raises(UsageError, match=r"up to [0-9.]+e-0[67] \(relative L2\) from FP64 in output 'y'"):
        allowing_for_noise(problem(MODEL, INT8, Path(), tolerance=Tolerance({"rel_l2": limit})))
    assert allowing_for_noise(problem(MODEL, INT8, Path(), tolerance=Tolerance({"rel_l2": limit}, "fp32")))


def test_a_model_that_does_not_run_is_refused() -> None:
    """A feed on which the model breaks is told before anything is searched."""
    with pytest.raises(ModelError):
        problem(MODEL, INT8, Path(), [{"x": np.zeros((3, WIDTH + 1), np.float32)}])
