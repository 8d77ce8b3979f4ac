"""The verdict on the outputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from parity.analysis.outputs import (
    absence_notes,
    drawing_nodes,
    drawn_outputs,
    drawn_tensors,
    judge_outputs,
    noise_notes,
    random_notes,
    relative_limit,
    top1,
)
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.graph.model import Model
from tests.builders import declared, node, proto_of

FP32 = DEFAULTS["fp32"]
Y = np.array([3.0, 4.0], np.float32)


def passed(candidate: np.ndarray, expected: np.ndarray = Y, noise: float = 0.0, tolerance: Tolerance = FP32) -> bool:
    """Whether one output is within tolerance."""
    return judge_outputs({"y": expected}, {"y": candidate}, {"y": noise}, tolerance)[0].passed


def test_the_limit_counts() -> None:
    """1e-4 of the norm is the border in FP32."""
    assert passed(Y * np.float32(1 + 9e-5))
    assert not passed(Y * np.float32(1 + 1.1e-4))


def test_the_models_noise_raises_the_limit() -> None:
    """An error below ten times the noise passes, one above does not, and the limit is reported."""
    assert passed(Y * np.float32(1.009), noise=1e-3)
    assert not passed(Y * np.float32(1.011), noise=1e-3)
    found = judge_outputs({"y": Y}, {"y": Y}, {"y": 1e-3}, FP32)
    assert found[0].limit == pytest.approx(1e-2)
    assert found[0].noise == 1e-3
    notes = noise_notes(found, FP32)
    assert len(notes) == 1
    assert "'y'" in notes[0]
    assert "0.001" in notes[0]
    assert noise_notes(judge_outputs({"y": Y}, {"y": Y}, {"y": 1e-6}, FP32), FP32) == ()


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool])
def test_integers_must_be_equal(dtype: type) -> None:
    """One index that differs fails, unless the reference's own differs from FP64 or the model is quantised."""
    expected: np.ndarray = np.arange(1000).astype(dtype)
    other = expected.copy()
    other[-1] = not other[-1]
    assert passed(expected, expected)
    assert not passed(other, expected, tolerance=Tolerance({"rel_l2": 1e9}))
    assert passed(other, expected, noise=1.0)
    assert passed(other, expected, tolerance=Tolerance({"rel_l2": 1e9}, "int8"))


def test_text_must_be_equal() -> None:
    """Text is equal or not, and never comparable with numbers."""
    text = np.array(["a", "b"], object)
    assert passed(text.copy(), text)
    assert not passed(np.array(["a", "c"], object), text)
    assert not passed(text, Y)
    assert not passed(Y, text)


@pytest.mark.parametrize("candidate", [Y[:1], Y[None], np.float32(3), np.empty((0,), np.float32)])
def test_another_shape_fails(candidate: np.ndarray) -> None:
    """An output of another shape cannot be within tolerance."""
    found = judge_outputs({"y": Y}, {"y": np.asarray(candidate)}, {}, Tolerance({"rel_l2": 1e9}))[0]
    assert (found.passed, found.comparison, found.shape) == (False, None, np.shape(candidate))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_outputs(value: float) -> None:
    """The same NaN or Inf on both sides passes; on one side it never does."""
    other = np.array([3, value], np.float32)
    assert passed(other, other.copy())
    assert not passed(other)
    assert not passed(Y, other)
    assert not passed(other, tolerance=Tolerance({"rel_l2": 1e9}))


def test_zero_outputs() -> None:
    """All zeros against all zeros passes; against anything else it does not. Nothing against nothing passes."""
    zero = np.zeros(3, np.float32)
    assert passed(zero, zero.copy())
    assert not passed(zero + np.float32(1e-30), zero)
    assert passed(np.empty(0, np.float32), np.empty(0, np.float32))


def test_only_shown_outputs_are_judged() -> None:
    """What the candidate does not show has no row; a note says so."""
    found = judge_outputs({"a": Y, "y": Y}, {"y": Y, "z": Y}, {}, FP32)
    assert [f.name for f in found] == ["y"]
    assert absence_notes({"a": Y, "y": Y}, {"y": Y, "z": Y}) == (
        "The candidate does not show 'a': the verdict rests on the other outputs.",)
    assert absence_notes({"y": Y}, {"y": Y}) == ()
    assert "none" in absence_notes({"y": Y}, {})[0]
    assert absence_notes(list("abcdef"), ["f"])[0].startswith("The candidate does not show 'a', 'b', 'c', …:")


DRAWING = Model.from_proto(proto_of(
    [node("RandomNormalLike", ["x"], ["n"], name="noise"), node("Add", ["x", "n"], ["a"]),
     node("Dropout", ["x", "half", "on"], ["d"]), node("Relu", ["d"], ["b"]),
     node("Dropout", ["x", "half", "off"], ["e"]), node("Relu", ["e"], ["c"])],
    outputs=[declared(n, None) for n in "abc"],
    weights={"half": np.float32(0.5), "on": np.bool_(True), "off": np.bool_(False)}))


def test_who_draws_random_numbers() -> None:
    """Random operators and Dropout in training do, Dropout in inference does not; outputs know whom they depend on."""
    assert [n.outputs[0] for n in drawing_nodes(DRAWING)] == ["n", "d"]
    assert {n: found.outputs[0] for n, found in drawn_outputs(DRAWING).items()} == {"a": "n", "b": "d"}
    assert {n: found.outputs[0] for n, found in drawn_tensors(DRAWING).items()} == {
        "n": "n", "a": "n", "d": "d", "b": "d"}
    notes = random_notes(DRAWING)
    assert len(notes) == 2
    assert "'noise' (RandomNormalLike)" in notes[0]


def test_bodies_that_draw_random_numbers() -> None:
    """An If draws where one of its branches does."""
    branches = [helper.make_graph([made], "branch", [], [declared("r", None)]) for made in (
        node("RandomNormal", [], ["r"], shape=[2, 3]), node("Relu", ["x"], ["r"]))]
    model = Model.from_proto(proto_of([node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])],
                                      [declared("x"), declared("c", (), 9)]))
    assert [n.op for n in drawing_nodes(model)] == ["If"]


def test_noise_of_random_numbers_is_not_called_rounding() -> None:
    """The note names who draws them, and only for outputs that depend on it."""
    found = judge_outputs({"a": Y, "c": Y}, {"a": Y, "c": Y}, {"a": 1e-2, "c": 1e-3}, FP32)
    drawn, rounded = noise_notes(found, FP32, drawn_outputs(DRAWING))
    assert "RandomNormalLike 'noise'" in drawn
    assert "rounding" not in drawn
    assert "0.01" in drawn
    assert "amplifies rounding" in rounded


def test_a_limit_for_layers_where_the_outputs_have_another() -> None:
    """Their own limit where it is of relative L2, else the precision's default, or less than what fails."""
    right = {"y": np.ones(4, np.float32)}
    other = {"y": np.array([1, 1, 1, 1.02], np.float32)}
    own, absolute = Tolerance({"rel_l2": 0.3}), Tolerance({"max_abs": 0.01})
    assert relative_limit(judge_outputs(right, other, {}, own), own, "int8") == 0.3
    assert relative_limit(judge_outputs(right, other, {}, absolute), absolute, "int8") == pytest.approx(0.005, rel=1e-3)
    assert relative_limit(judge_outputs(right, right, {}, absolute), absolute, "int8") == 0.1
    assert relative_limit((), Tolerance({}), "fp16") == 0.01


@pytest.mark.parametrize(("scores", "expected"), [
    (np.eye(3), 1.0), (np.eye(3)[[0, 0, 0]], 1 / 3), (np.zeros((2, 3)), None), (np.zeros(3), None),
    (np.zeros((3, 1)), None), (np.zeros((3, 3, 3)), None),
])
def test_top1(scores: np.ndarray, expected: float | None) -> None:
    """The share of rows whose largest score is the label's; no figure for other shapes."""
    assert top1(scores, np.arange(3)) == expected
