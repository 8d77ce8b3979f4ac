"""Judges of outputs against plain definitions of their figures, at their edges, and on models."""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.analysis.boxes import iou_matrix
from parity.analysis.tasks import JUDGES, TaskFigure, judge_tasks, propose, task_limits, within
from parity.errors import UsageError
from parity.graph.executor import Executor
from parity.graph.feeds import load_arrays, load_feed
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from tests.models import FIXTURES, SHARED

Array = npt.NDArray[Any]

FINITE = st.floats(-50, 50, width=32)
SCORES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(6, 9)), elements=FINITE)


def figure(judge: str, right: Array, other: Array, labels: Array | None = None, name: str = "y") -> TaskFigure:
    """The judge's figure for a lone output."""
    found, = judge_tasks([judge], {name: right}, {name: other}, labels)
    return found


def rows(*values: list[float]) -> Array:
    """Class scores, float32."""
    return np.array(values, np.float32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Class scores on two sides, some of whose rows are equal and some of whose values tie."""
    right = draw(SCORES)
    other = draw(hnp.arrays(np.float32, right.shape, elements=FINITE))
    keep = draw(hnp.arrays(np.bool_, (len(right), 1)))
    return np.round(right), np.round(np.where(keep, right, other))


@given(pairs())
def test_leaders_are_what_a_sort_says(pair: tuple[Array, Array]) -> None:
    """Top-1 and top-5 agreement equal a plain count over sorted rows, the first of ties first."""
    right, other = pair
    for judge, count in (("top1", 1), ("top5", 5)):
        found = figure(judge, right, other)
        sets = [[set(sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:count])  # type: ignore[misc]
                 for row in side] for side in pair]
        shared = [len(a & b) / count for a, b in zip(*sets, strict=True)]
        assert found.value == pytest.approx(np.mean(shared))
        assert found.detail["disagreeing"] == sum(s < 1 for s in shared)
        margins = [sorted(row)[-count] - sorted(row)[-count - 1] for row in right]
        assert found.detail["median_margin"] == pytest.approx(np.median(margins), abs=1e-6)
        wide = max((m for m, s in zip(margins, shared, strict=True) if s < 1), default=None)
        assert found.detail.get("worst_margin") == (None if wide is None else pytest.approx(wide))
        assert found.detail["ties"] == sum(m == 0 for m in margins)


@settings(deadline=None)
@given(SCORES, st.integers(0, 3))
def test_a_side_agrees_with_itself(scores: Array, kind: int) -> None:
    """Every judge gives its perfect figure to identical outputs, in any float type, and accepts it as its limit."""
    dtype = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)[kind]
    same = {"y": scores.astype(dtype), "mask": scores.reshape(1, *scores.shape).astype(dtype),
            "boxes": np.abs(scores[:, :4]).astype(dtype), "scores": (np.abs(scores[:, 0]) / 50).astype(dtype)}
    names = ["top1:y", "top5:y", "kl:y", "iou", "boxes", *(["rank:y"] if len(scores) >= 3 else [])]
    for found in judge_tasks(names, same, same):
        assert found.value == pytest.approx(JUDGES[found.judge].perfect, abs=1e-12)
        assert within(found, JUDGES[found.judge].perfect + (1e-12 if found.judge == "kl" else -1e-12))


def test_every_judge_is_among_the_identical_ones() -> None:
    """The test above leaves out only accuracy, which is about labels."""
    assert set(JUDGES) == {"top1", "top5", "kl", "iou", "boxes", "rank", "accuracy"}


@given(pairs())
def test_divergence_is_the_textbooks(pair: tuple[Array, Array]) -> None:
    """KL from logits equals the sum of its definition, is never negative, and ignores a constant added to a row."""
    logs = [side.astype(np.float64) - side.max(axis=1, keepdims=True) for side in pair]
    logs = [side - np.log(np.exp(side).sum(axis=1, keepdims=True)) for side in logs]
    expected = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    found = figure("kl", pair[0] - 60, pair[1] - 60)
    assert found.detail["probabilities"] == 0
    assert found.value == pytest.approx(expected.mean(), rel=1e-6, abs=1e-12)
    assert found.detail["worst"] == pytest.approx(expected.max(), rel=1e-6, abs=1e-12)
    assert found.value >= 0
    assert found.value == pytest.approx(figure("kl", pair[0] - 70, pair[1] - 90).value, rel=1e-6, abs=1e-12)


def test_probabilities_are_not_put_through_softmax() -> None:
    """Rows that are ≥ 0 and sum to 1 are taken as they are; a class that the candidate loses costs its weight."""
    p, q = rows([0.5, 0.25, 0.25]), rows([0.25, 0.5, 0.25])
    found = figure("kl", p, q)
    assert found.detail["probabilities"] == 1
    assert found.value == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert found.detail["entropy"] == pytest.approx(1.5 * math.log(2), rel=1e-6)
    lost = figure("kl", p, rows([0.5, 0.5, 0.0])).value
    assert lost == pytest.approx(0.25 * (math.log(0.25) + 126 * math.log(2)) + 0.25 * math.log(0.5), rel=1e-6)
    assert figure("kl", np.exp(p), np.exp(q)).detail["probabilities"] == 0


def test_divergence_of_what_is_no_distribution() -> None:
    """A NaN or +Inf among logits, a NaN among probabilities make the figure NaN, which no limit accepts."""
    for bad in (math.nan, math.inf):
        found = figure("kl", rows([1, 2, 3], [1, 2, 3]), rows([1, 2, 3], [1, bad, 3]))
        assert math.isnan(found.value)
        assert not within(found, math.inf)
    assert math.isnan(figure("kl", rows([0.5, 0.5]), rows([0.5, math.nan])).value)


def test_a_masked_class_costs_nothing() -> None:
    """Logits of -Inf on both sides are a class that neither gives any weight; on one side they rule out an answer."""
    masked, open_ = rows([1, -math.inf, 3]), rows([1, 2, 3])
    assert figure("kl", masked, masked).value == 0
    assert figure("kl", open_, masked).value == math.inf
    share = math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(3))
    assert figure("kl", masked, open_).value == pytest.approx(-math.log(1 - share))


def test_margins_tell_close_calls_from_clear_ones() -> None:
    """The margin of a disagreement is the reference's gap; where nothing disagrees there is none."""
    right, other = rows([3, 2.5, 0], [9, 1, 0], [1, 1, 0]), rows([2.5, 3, 0], [9, 1, 0], [1, 1, 0])
    found = figure("top1", right, other)
    assert found.value == pytest.approx(2 / 3)
    assert dict(found.detail) == pytest.approx({"rows": 3, "disagreeing": 1, "worst_margin": 0.5, "mean_margin": 0.5,
                                                "median_margin": 0.5, "ties": 1})
    assert dict(figure("top1", right, right).detail) == {"rows": 3, "disagreeing": 0, "median_margin": 0.5, "ties": 1}


def test_a_nan_agrees_with_nothing() -> None:
    """A row with a NaN on either side is a disagreement, and is no right answer either."""
    whole, broken = rows([1, 2], [2, 1]), rows([1, math.nan], [2, 1])
    for sides in ((whole, broken), (broken, whole), (broken, broken)):
        assert figure("top1", *sides).value == 0.5
    found = figure("accuracy", whole, broken, np.array([1, 0]))
    assert (found.value, found.detail["reference"], found.detail["lost"]) == (0.5, 1.0, 0.5)


def test_empty_batches_and_batches_of_one() -> None:
    """No rows disagree in nothing; one row is judged like any other."""
    empty = np.zeros((0, 8), np.float32)
    assert [figure(j, empty, empty).value for j in ("top1", "top5", "kl")] == [1, 1, 0]
    assert math.isnan(figure("accuracy", empty, empty, np.zeros(0, np.int64)).value)
    assert figure("iou", np.zeros((0, 4, 4), np.float32), np.zeros((0, 4, 4), np.float32)).value == 1
    assert figure("top1", rows([1, 2]), rows([2, 1])).value == 0
    no_boxes = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
    assert judge_tasks(["boxes"], no_boxes, no_boxes)[0].value == 1


def test_classes_behind_axes_of_size_one() -> None:
    """[N, C, 1, 1] is read as [N, C], and [N, T, C] as a row a token."""
    scores = RANDOM.normal(size=(4, 7)).astype(np.float32)
    assert figure("top1", scores.reshape(4, 7, 1, 1), scores.reshape(4, 7, 1, 1)).detail["rows"] == 4
    assert figure("top1", scores.reshape(2, 2, 7), scores.reshape(2, 2, 7)).detail["rows"] == 4


RANDOM = np.random.default_rng(0)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(3, 7), st.integers(2, 5)), elements=st.floats(-5, 5, width=32)),
       st.integers(0, 2**32 - 1))
def test_rank_agreement_is_blind_to_rotation_and_scale(embeddings: Array, seed: int) -> None:
    """Who is near whom does not change when all embeddings are turned and stretched together."""
    embeddings = embeddings.astype(np.float64).round(1)
    # Similarities that all but tie could swap in rounding.
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-300)
    gaps = np.diff(np.sort((units @ units.T)[np.triu_indices(len(units), 1)]))
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(embeddings.shape[1],) * 2))[0]
    found = figure("rank", embeddings, 3 * embeddings @ turn)
    assert -1 <= found.detail["worst"] <= found.value <= 1
    if not ((gaps < 1e-9) & (gaps > 0)).any() and not (gaps == 0).any():
        assert found.value == pytest.approx(1)
        assert found.detail["neighbours"] == 1


def test_rank_agreement_by_hand() -> None:
    """Three rows give each two neighbours: one row whose nearer one changes turns its correlation from 1 to -1."""
    angles = np.array([0.0, 0.4, 1.0]), np.array([0.0, 0.4, 0.7])
    right, other = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in angles)
    found = figure("rank", right, other)  # the middle row: 0.4 against 0.6 becomes 0.4 against 0.3
    assert found.value == pytest.approx(1 / 3)
    assert found.detail["worst"] == pytest.approx(-1)
    assert found.detail["neighbours"] == pytest.approx(2 / 3)
    assert found.detail["cosine"] == pytest.approx(math.cos(0.3))


def test_rounding_does_not_break_ties() -> None:
    """Parallel embeddings tie, though their similarities differ in the last bit, whichever way they are turned."""
    for seed in range(5):
        source = np.random.default_rng(seed)
        lone = source.normal(size=(2, 6))
        right = np.concatenate([lone[:1], 3 * lone[:1], 0.7 * lone[:1], lone])
        turn = np.linalg.qr(source.normal(size=(6, 6)))[0]
        assert figure("rank", right, right @ turn).value == pytest.approx(1, abs=1e-12)


def test_rank_agreement_of_what_has_no_direction() -> None:
    """Zero vectors tie with all; a NaN or Inf makes the figure NaN; two rows are no order."""
    zeros = np.zeros((3, 4), np.float32)
    assert figure("rank", zeros, zeros).value == 1
    assert figure("rank", zeros, RANDOM.normal(size=(3, 4))).value == 0
    for bad in (math.nan, math.inf):
        assert math.isnan(figure("rank", zeros, np.full((3, 4), bad, np.float32)).value)
    huge = RANDOM.normal(size=(4, 3)) * 1e200
    assert figure("rank", huge, huge / 1e200).value == 1
    with pytest.raises(UsageError, match="rank fits no output"):
        figure("rank", zeros[:2], zeros[:2])


@given(hnp.arrays(np.bool_, (2, 5, 5)), hnp.arrays(np.bool_, (2, 5, 5)))
def test_foregrounds_are_compared_as_sets(right: Array, other: Array) -> None:
    """Booleans, probabilities and logits of one foreground give |A ∩ B| / |A ∪ B|."""
    sets = [set(zip(*np.nonzero(side), strict=True)) for side in (right, other)]
    expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] | sets[1] else 1.0
    shapes = [(2, 5, 5), (2, 1, 5, 5), (2, 5, 5, 1)]
    for shape in shapes:
        soft = [np.where(side, 0.7, 0.2).reshape(shape) for side in (right, other)]
        hard = [np.where(side, 3.0, -4.0).reshape(shape) for side in (right, other)]
        assert figure("iou", soft[0], soft[1]).value == pytest.approx(expected)
        if not right.all():
            assert figure("iou", hard[0], hard[1]).value == pytest.approx(expected)
    assert figure("iou", right, other).value == pytest.approx(expected)


@given(hnp.arrays(np.int64, (2, 4, 5), elements=st.integers(0, 3)),
       hnp.arrays(np.int64, (2, 4, 5), elements=st.integers(0, 3)))
def test_classes_are_averaged(right: Array, other: Array) -> None:
    """Class maps and the scores that they are the arg-max of give the mean over the classes that occur."""
    ious = [((right == k) & (other == k)).sum() / ((right == k) | (other == k)).sum()
            for k in range(4) if ((right == k) | (other == k)).any()]
    first = [np.moveaxis(np.eye(4, dtype=np.float32)[side], -1, 1) for side in (right, other)]
    last = [np.eye(4, dtype=np.float32)[side] for side in (right, other)]
    both: list[Array] = [right, other]
    for sides in (both, first):
        found = figure("iou", sides[0], sides[1])
        assert found.value == pytest.approx(np.mean(ious))
        assert found.detail["worst"] == pytest.approx(min(ious))
        assert found.detail["agreement"] == pytest.approx((right == other).mean())
    wide = [np.repeat(side, 2, axis=1) for side in last]  # now the classes are the shorter axis
    assert figure("iou", wide[0], wide[1]).value == pytest.approx(np.mean(ious))


def test_a_nan_in_a_mask_covers_nothing() -> None:
    """A NaN widens the union; a mask of nothing but NaN agrees with nothing, an empty one neither."""
    right = np.zeros((1, 4, 4), np.float32)
    right[0, 0] = 1
    hole = right.copy()
    hole[0, 0, 0] = math.nan
    assert figure("iou", right, hole).value == pytest.approx(3 / 4)
    beside = right.copy()
    beside[0, 3, 3] = math.nan
    assert figure("iou", right, beside).value == pytest.approx(4 / 5)
    assert figure("iou", np.zeros_like(right), np.full_like(right, math.nan)).value == 0
    assert figure("iou", np.zeros_like(right), np.zeros_like(right)).value == 1


CORNERS = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(0, 1))


@given(CORNERS, CORNERS)
def test_box_overlap_is_bounded_symmetric_and_exact(a: Array, b: Array) -> None:
    """IoU lies in [0, 1], does not depend on the order, and equals the plain formula."""
    a, b = (np.concatenate([np.minimum(x[:, :2], x[:, 2:]), np.maximum(x[:, :2], x[:, 2:])], axis=1) for x in (a, b))
    found = iou_matrix(a, b)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, iou_matrix(b, a).T)
    for i, (x1, y1, x2, y2) in enumerate(a):
        for j, (u1, v1, u2, v2) in enumerate(b):
            common = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
            if union > 0:
                assert found[i, j] == pytest.approx(common / union)


def detections(boxes: list[list[float]], scores: Any) -> dict[str, Array]:
    """Outputs of a detector."""
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "scores": np.array(scores, np.float32)}


UNIT, SHIFTED, FAR = [0.0, 0.0, 1.0, 1.0], [0.25, 0.0, 1.25, 1.0], [5.0, 5.0, 6.0, 6.0]


def boxes_figure(right: dict[str, Array], other: dict[str, Array]) -> TaskFigure:
    """The figure of the judge `boxes`."""
    found, = judge_tasks(["boxes"], right, other)
    return found


def test_boxes_that_move_match_and_say_how_far() -> None:
    """A box shifted by a quarter overlaps by 0.6; its IoU and score difference are told."""
    found = boxes_figure(detections([UNIT, FAR], [0.9, 0.8]), detections([SHIFTED, FAR], [0.7, 0.8]))
    assert found.value == 1
    assert found.detail["mean_iou"] == pytest.approx((0.75 / 1.25 + 1) / 2)
    assert found.detail["mean_score_difference"] == pytest.approx(0.1)
    assert found.detail["boxes"] == 2


def test_boxes_that_are_lost_or_made_up_count() -> None:
    """A lost box and a spurious one each lower the figure; they need not be on the same side."""
    both, one = detections([UNIT, FAR], [0.9, 0.8]), detections([UNIT], [0.9])
    assert boxes_figure(both, one).value == 0.5
    spurious = boxes_figure(one, both)
    assert (spurious.value, spurious.detail["found"], spurious.detail["spurious"]) == (0.5, 1.0, 1.0)
    assert boxes_figure(one, detections([UNIT, FAR], [0.9, 0.2])).value == 1  # nobody would report that one
    nothing = detections([], [])
    assert boxes_figure(nothing, one).value == 0
    assert boxes_figure(one, nothing).value == 0


def test_a_score_that_slips_across_the_threshold_is_no_lost_box() -> None:
    """0.31 against 0.29 is a score difference; 0.31 against 0.1 is a lost box."""
    sure = detections([UNIT, FAR], [0.9, 0.31])
    assert boxes_figure(sure, detections([UNIT, FAR], [0.9, 0.29])).value == 1
    assert boxes_figure(detections([UNIT, FAR], [0.9, 0.29]), sure).value == 1
    assert boxes_figure(sure, detections([UNIT, FAR], [0.9, 0.1])).value == 0.5


def test_one_box_matches_once_and_within_its_class() -> None:
    """Two boxes on one spot need two partners, of their own class."""
    right = detections([UNIT, UNIT], [[0.9, 0.0], [0.0, 0.8]])
    assert boxes_figure(right, right).value == 1
    assert boxes_figure(right, detections([UNIT, UNIT], [[0.9, 0.0], [0.8, 0.0]])).value == 0.5
    assert boxes_figure(detections([UNIT, UNIT], [0.9, 0.8]), detections([UNIT], [0.9])).value == 0.5


def test_background_is_not_a_detection() -> None:
    """Of rows that sum to 1 the class with most of the weight, first (SSD) or last (DETR), says "nothing here"."""
    weights = [[0.99, 0.01]] * 8 + [[0.1, 0.9]]
    places = [[float(i), 0.0, i + 0.9, 1.0] for i in range(9)]
    for columns in (slice(None), slice(None, None, -1)):
        scores = np.array(weights)[:, columns]
        found = boxes_figure(detections(places, scores), detections(places, scores))
        assert (found.value, found.detail["boxes"]) == (1, 1)


def test_centres_and_sizes_are_read_as_such() -> None:
    """Boxes that would be inside out as corners are centre and size, on both sides."""
    right = detections([[0.8, 0.8, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]], [0.9, 0.8])
    other = detections([[0.85, 0.8, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]], [0.9, 0.8])
    found = boxes_figure(right, other)
    assert found.detail["mean_iou"] == pytest.approx((0.15 / 0.25 + 1) / 2, rel=1e-5)


def test_without_sure_boxes_the_hundred_best_count() -> None:
    """Where no score reaches 0.3 the best hundred are compared; of many sure ones also a hundred at most."""
    places = [[float(i), 0.0, i + 0.9, 1.0] for i in range(150)]
    for low, high in ((0.01, 0.2), (0.4, 0.9)):
        side = detections(places, np.linspace(low, high, 150))
        found = boxes_figure(side, side)
        assert (found.value, found.detail["boxes"]) == (1, 100)


def test_boxes_with_nan_match_nothing() -> None:
    """A NaN in a coordinate or a score is a lost box."""
    right = detections([UNIT, FAR], [0.9, 0.8])
    assert boxes_figure(right, detections([[math.nan, 0, 1, 1], FAR], [0.9, 0.8])).value == 0.5
    assert boxes_figure(right, detections([UNIT, FAR], [math.nan, 0.8])).value == 0.5
    broken = detections([UNIT, *[FAR] * 4], [[0.1, 0.9], *[[0.9, 0.1]] * 3, [math.nan, 0.1]])
    assert boxes_figure(broken, broken).detail["boxes"] == 1


def test_logits_beside_boxes() -> None:
    """Of one class they are taken through the logistic function, of several they are refused."""
    logits = detections([UNIT, FAR], [2.0, -3.0])
    assert boxes_figure(logits, logits).detail["boxes"] == 1
    many = detections([UNIT, FAR], [[2.0, -3.0], [1.0, 0.0]])
    with pytest.raises(UsageError, match="Softmax or Sigmoid"):
        boxes_figure(many, many)


def test_boxes_of_several_images_stay_apart() -> None:
    """A box is not matched by one of another image."""
    right = {"boxes": np.array([[UNIT], [FAR]], np.float32), "scores": np.full((2, 1), 0.9, np.float32)}
    other = {"boxes": right["boxes"][::-1].copy(), "scores": right["scores"]}
    assert boxes_figure(right, right).value == 1
    assert boxes_figure(right, other).value == 0


def test_proposals_look_at_names_and_shapes() -> None:
    """What an output is called and shaped decides what is proposed for it, and an image or a state gets nothing."""
    outputs: dict[str, Array] = {
        "logits": np.zeros((4, 10), np.float32), "sentence_embedding": np.zeros((4, 384), np.float32),
        "pred_masks": np.zeros((1, 21, 64, 64), np.float32), "dets/boxes": np.zeros((1, 100, 4), np.float32),
        "dets/scores": np.zeros((1, 100), np.float32), "output": np.zeros((2, 3, 64, 64), np.float32),
        "stateN": np.zeros((2, 128), np.float32), "dets/labels": np.zeros((1, 100), np.int64)}
    assert propose(outputs) == [
        "--judge top1, top5, kl or accuracy (with --labels) fits output 'logits'",
        "--judge rank fits output 'sentence_embedding'", "--judge iou fits output 'pred_masks'",
        "--judge boxes fits output 'dets/boxes'"]
    assert propose({"output": outputs["output"], "stateN": outputs["stateN"]}) == []


def test_a_judge_takes_what_fits_then_what_it_can() -> None:
    """Named outputs are taken as named; else those that fit by name; else those whose shape will do."""
    scores, vectors = np.eye(4, 7, dtype=np.float32), RANDOM.normal(size=(4, 8)).astype(np.float32)
    outputs = {"logits": scores, "embedding": vectors}
    assert [f.output for f in judge_tasks(["top1", "rank"], outputs, outputs)] == ["logits", "embedding"]
    assert [f.output for f in judge_tasks(["top1:embedding"], outputs, outputs)] == ["embedding"]
    assert [f.output for f in judge_tasks(["rank"], {"y": vectors}, {"y": vectors})] == ["y"]
    detector = {"boxes": np.zeros((1, 9, 4), np.float32), "scores": np.zeros((1, 9, 2), np.float32)}
    assert [f.output for f in judge_tasks(["top1"], detector, detector)] == ["scores"]
    odd = {"a:0": scores}
    assert judge_tasks(["top1:a:0"], odd, odd)[0].output == "a:0"


@pytest.mark.parametrize(("judges", "message"), [
    (["top9"], "no judge is called 'top9'.* top1"), (["iou"], "fits no output.*'y' float32"),
    (["top1:z"], "no output 'z'.*'y'"), (["accuracy"], "needs labels"), (["boxes"], "fits no output"),
])
def test_what_cannot_be_judged_is_refused(judges: list[str], message: str) -> None:
    """An unknown judge, an unknown output, an unfit one and missing labels each say what there is."""
    outputs = {"y": np.zeros((4, 10), np.float32)}
    with pytest.raises(UsageError) as raised:
        judge_tasks(judges, outputs, outputs)
    assert re.search(message, str(raised.value))


def test_labels_must_be_as_many_as_rows() -> None:
    """Another number of labels is refused, not broadcast."""
    with pytest.raises(UsageError, match="3 labels for 4 rows"):
        figure("accuracy", np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(3, np.int64))


def test_outputs_that_are_missing_or_of_another_shape_pass_no_limit() -> None:
    """The candidate is not let off for what it does not show."""
    right = {"y": np.eye(4, 7, dtype=np.float32)}
    for other in ({}, {"y": right["y"][:2]}, {"y": right["y"][:, :6]}):
        for found in judge_tasks(["top1", "top5", "kl", "rank"], right, other):
            assert math.isnan(found.value)
            assert not within(found, -math.inf)
            assert not within(found, math.inf)


def test_limits_are_read_in_the_judges_direction() -> None:
    """Agreement must reach its limit and divergence must not pass it; other tolerances are left for others."""
    limits, others = task_limits(["top1=0.9", "rel_l2=1e-3", "kl=0.1", "fp16"])
    assert (limits, others) == ({"top1": 0.9, "kl": 0.1}, ["rel_l2=1e-3", "fp16"])
    assert within(TaskFigure("top1", "y", 0.9, {}), limits["top1"])
    assert not within(TaskFigure("top1", "y", 0.89, {}), limits["top1"])
    assert within(TaskFigure("kl", "y", 0.1, {}), limits["kl"])
    assert not within(TaskFigure("kl", "y", 0.11, {}), limits["kl"])
    for text in ("top1=high", "kl=nan", "top1=1.5", "kl=-1", "kl=1e999"):
        with pytest.raises(UsageError):
            task_limits([text])


def outputs_of(folder: str) -> dict[str, Array]:
    """A fixture's outputs in FP32 on its own inputs."""
    model = Model.load(FIXTURES / folder / "model.onnx")
    feed, _ = load_feed(model, [str(FIXTURES / folder / "inputs.npz")])
    return {n: to_numpy(v) for n, v in Executor(model).run(feed).items()}


def test_a_faulty_twin_keeps_its_answers() -> None:
    """The planted epsilon moves the logits of the digits network by over 1e-3 and none of its answers."""
    labels = load_arrays(FIXTURES / "digits_cnn" / "labels.npz")["labels"]
    sound, faulty = outputs_of("digits_cnn"), outputs_of("digits_cnn_faulty")
    found = {f.judge: f for f in judge_tasks(["top1", "kl", "accuracy"], sound, faulty, labels)}
    right = float(np.mean(sound["logits"].argmax(axis=1) == labels))
    assert found["top1"].value == 1
    assert found["accuracy"].detail["reference"] == right
    assert found["accuracy"].value == right
    assert 1e-9 < found["kl"].value < 1e-3


@pytest.mark.models
def test_real_outputs_are_judged() -> None:
    """A classifier's classes, a quantised detector's boxes; nothing is proposed for a super-resolved image."""
    expected = {name: load_arrays(SHARED / name / "expected_ort_cpu_noopt.npz")
                for name in ("cifar10_tinycnn", "ultraface_rfb320", "ultraface_qdq_int8", "superres_espcn")}
    classes = expected["cifar10_tinycnn"]
    noisy = {n: v + 0.01 * RANDOM.normal(size=v.shape).astype(np.float32) for n, v in classes.items()}
    top1, kl = judge_tasks(["top1", "kl"], classes, noisy)
    assert (top1.value, top1.detail["rows"]) == (1, 3)
    assert 0 < kl.value < 1e-3
    faces, = judge_tasks(["boxes"], expected["ultraface_rfb320"], expected["ultraface_qdq_int8"])
    assert faces.value == 1
    assert 0.8 < faces.detail["mean_iou"] < 1
    assert 0.01 < faces.detail["mean_score_difference"] < 0.2
    assert propose(expected["ultraface_rfb320"]) == ["--judge boxes fits output 'boxes'"]
    assert propose(expected["superres_espcn"]) == []
