"""Outputs judged as their users judge them: class scores, embeddings, masks and detections, in their own figures.

A judge is chosen by the user (`--judge top1`, or `--judge top1:logits` for one output). `propose` says which seem to
fit; none is ever assumed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from parity.analysis.boxes import are_scored, compare_boxes, is_boxes, is_real, may_be_boxes, scores_of
from parity.analysis.masks import compare_masks
from parity.analysis.scores import (
    Verdict,
    compare_accuracy,
    compare_distributions,
    compare_leaders,
    compare_neighbours,
    rows_of,
)
from parity.analysis.tolerance import read_limit
from parity.errors import UsageError

Outputs: TypeAlias = Mapping[str, np.ndarray]
# Takes an output's name, the reference's outputs, the candidate's, and the labels if there are any.
Judging: TypeAlias = Callable[[str, Outputs, Outputs, "np.ndarray | None"], Verdict]

_NOT_CLASSES = re.compile(
    r"box|mask|segm|embed|feat|vector|pool|descript|landmark|keypoint|(hidden|state)(?!ful)", re.I)
_LOGITS = re.compile(r"logit", re.I)
_EMBEDDING = re.compile(r"embed|embd|feat|vector|pool|descript|represent", re.I)
_MASK = re.compile(r"mask|segm|matte|alpha|saliency", re.I)


@dataclass(frozen=True)
class Judge:
    """One way to judge an output; a new one is a function and a line in JUDGES.

    Attributes:
        name: as in `--judge NAME` and `--tolerance NAME=LIMIT`.
        meaning: the figure, in words.
        wants: what an output must be, in words.
        perfect: the figure where both sides are the same.
        lower_is_better: its direction.
        figure: computes it.
        accepts: whether an output, by name among all, can be judged so.
        seems: whether its name and shape say that it is meant so.
        needs_labels: whether there is no figure without labels.
    """

    name: str
    meaning: str
    wants: str
    perfect: float
    lower_is_better: bool
    figure: Judging
    accepts: Callable[[str, Outputs], bool]
    seems: Callable[[str, np.ndarray], bool]
    needs_labels: bool = False

    def fits(self, name: str, outputs: Outputs) -> bool:
        """Whether to propose this judge for the output `name`."""
        return self.accepts(name, outputs) and self.seems(name, outputs[name])

    def within(self, value: float, limit: float) -> bool:
        """Whether `value` is as good as `limit` or better; NaN never is."""
        return value <= limit if self.lower_is_better else value >= limit


@dataclass(frozen=True)
class TaskFigure:
    """What a judge says of one output.

    Attributes:
        judge: its name.
        output: ONNX name of the output.
        value: the figure; NaN where the candidate's output is missing, has another shape or cannot be judged.
        detail: what stands beside it, by name; each judge's function says what.
    """

    judge: str
    output: str
    value: float
    detail: Mapping[str, float]


def within(figure: TaskFigure, limit: float) -> bool:
    """Whether a figure keeps to a limit of its judge; NaN never does."""
    return JUDGES[figure.judge].within(figure.value, limit)


def task_limits(texts: Iterable[str]) -> tuple[dict[str, float], list[str]]:
    """Part `--tolerance` texts into limits of judges ("top1=0.99") and those that are for others to read.

    Raises:
        UsageError: a judge's limit that is not a number or senseless.
    """
    limits: dict[str, float] = {}
    others = []
    for text in texts:
        name, equals, _ = text.partition("=")
        if not equals or name not in JUDGES:
            others.append(text)
            continue
        judge = JUDGES[name]
        limits[name] = read_limit(text, judge.perfect, "top1=0.99", lower_is_better=judge.lower_is_better)
    return limits, others


def propose(outputs: Outputs) -> list[str]:
    """A sentence for every output that seems made for a judge: "--judge top1 or kl fits output 'logits'"."""
    beside_boxes = {scores_of(n, outputs) for n in outputs if JUDGES["boxes"].fits(n, outputs)}
    notes = []
    for name in (n for n in outputs if n not in beside_boxes):
        fitting = [j.name + (" (with --labels)" if j.needs_labels else "") for j in JUDGES.values()
                   if j.fits(name, outputs)]
        if fitting:
            listed = " or ".join(filter(None, (", ".join(fitting[:-1]), fitting[-1])))
            notes.append(f"--judge {listed} fits output {name!r}")
    return notes


def judge_tasks(names: Sequence[str], reference: Outputs, candidate: Outputs,
                labels: np.ndarray | None = None) -> tuple[TaskFigure, ...]:
    """Judge the outputs as the user asks.

    Args:
        names: judges, each "NAME" for every output that it fits, or where it fits none that it accepts, or
            "NAME:OUTPUT" for that one.
        reference: the reference's graph outputs.
        candidate: the candidate's.
        labels: class labels, one a row of the class scores, integers.

    Raises:
        UsageError: an unknown judge or output, a judge that accepts no output, labels that are missing or of
            another number than the rows.
    """
    found = []
    for text in names:
        name, _, output = text.partition(":")
        if name not in JUDGES:
            raise UsageError(f"no judge is called {name!r}", f"Known: {', '.join(JUDGES)}.")
        judge = JUDGES[name]
        if judge.needs_labels and labels is None:
            raise UsageError(f"judge {name} needs labels", "Give them with --labels FILE.")
        for chosen in _outputs_for(judge, output, reference):
            value, detail = (judge.figure(chosen, reference, candidate, labels) if chosen in candidate
                             else (math.nan, {}))
            found.append(TaskFigure(name, chosen, float(value), MappingProxyType(detail)))
    return tuple(found)


def _outputs_for(judge: Judge, output: str, outputs: Outputs) -> list[str]:
    """What a judge is to judge: the one named, else all that fit, else all accepted that fit no other judge."""
    listed = ", ".join(f"{n!r} {v.dtype}{list(v.shape)}" for n, v in outputs.items()) or "none"
    if output and output not in outputs:
        raise UsageError(f"judge {judge.name}: there is no output {output!r}", f"The outputs are: {listed}.")
    accepted = [n for n in ([output] if output else outputs) if judge.accepts(n, outputs)]
    if not accepted:
        raise UsageError(f"judge {judge.name} fits no output: it wants {judge.wants}", f"The outputs are: {listed}.")
    unclaimed = [n for n in accepted if not any(other.fits(n, outputs) for other in JUDGES.values())]
    return [n for n in accepted if judge.fits(n, outputs)] or unclaimed or accepted


def _each(compare: Callable[[np.ndarray, np.ndarray], Verdict]) -> Judging:
    """Judge an output alone, as it is."""
    def figure(name: str, reference: Outputs, candidate: Outputs, labels: np.ndarray | None) -> Verdict:
        right, other = reference[name], candidate[name]
        return compare(right, other) if right.shape == other.shape else (math.nan, {})

    return figure


def _each_row(compare: Callable[[np.ndarray, np.ndarray], Verdict]) -> Judging:
    """Judge an output alone, as rows of class scores."""
    def of_rows(right: np.ndarray, other: np.ndarray) -> Verdict:
        rows = rows_of(right), rows_of(other)
        return (math.nan, {}) if rows[0] is None or rows[1] is None else compare(rows[0], rows[1])

    return _each(of_rows)


def _accuracy(name: str, reference: Outputs, candidate: Outputs, labels: np.ndarray | None) -> Verdict:
    if labels is None:
        raise UsageError("accuracy needs labels", "Give them with --labels FILE.")
    return _each_row(partial(compare_accuracy, labels=labels))(name, reference, candidate, None)


def _boxes(name: str, reference: Outputs, candidate: Outputs, labels: np.ndarray | None) -> Verdict:
    scores = scores_of(name, reference)
    if scores is None or scores not in candidate or not are_scored(candidate[name], candidate[scores]):
        return math.nan, {}
    return compare_boxes([reference[name], candidate[name]], [reference[scores], candidate[scores]])


def _has_classes(name: str, outputs: Outputs, least: int = 2) -> bool:
    rows = rows_of(outputs[name])
    return rows is not None and rows.shape[1] >= least


def _seem_classes(name: str, array: np.ndarray) -> bool:
    two = array.ndim >= 2 and all(size == 1 for size in array.shape[2:])
    return is_real(array) and not _NOT_CLASSES.search(name) and (two or bool(_LOGITS.search(name)))


def _has_embeddings(name: str, outputs: Outputs) -> bool:
    array = outputs[name]
    return array.ndim >= 2 and len(array) >= 3 and array.size >= 2 * len(array) and is_real(array)


def _has_masks(name: str, outputs: Outputs) -> bool:
    array = outputs[name]
    return array.ndim in (3, 4) and array.dtype.kind not in "OSUMmc"


def _has_boxes(name: str, outputs: Outputs) -> bool:
    return may_be_boxes(outputs[name]) and scores_of(name, outputs) is not None


_CLASSES = "class scores [N, C]"
JUDGES: Mapping[str, Judge] = MappingProxyType({judge.name: judge for judge in (
    Judge("top1", "fraction of rows with the same arg-max", _CLASSES, 1.0, False,
          _each_row(partial(compare_leaders, count=1)), _has_classes, _seem_classes),
    Judge("top5", "mean fraction shared of the five highest scores", f"{_CLASSES} of six classes or more", 1.0, False,
          _each_row(partial(compare_leaders, count=5)), partial(_has_classes, least=6), _seem_classes),
    Judge("kl", "KL divergence from the reference, nats", f"{_CLASSES}, logits or probabilities", 0.0, True,
          _each_row(compare_distributions), _has_classes, _seem_classes),
    Judge("accuracy", "fraction of rows whose arg-max is the label", _CLASSES, 1.0, False,
          _accuracy, _has_classes, _seem_classes, needs_labels=True),
    Judge("rank", "rank correlation of cosine similarities within the batch", "embeddings [N, D], N ≥ 3", 1.0, False,
          _each(compare_neighbours), _has_embeddings, lambda name, array: bool(_EMBEDDING.search(name))),
    Judge("iou", "mean intersection over union of masks", "masks [N, H, W] or [N, C, H, W]", 1.0, False,
          _each(compare_masks), _has_masks, lambda name, array: bool(_MASK.search(name))),
    Judge("boxes", "fraction of the detections that both sides have",
          "boxes [N, 4] or [images, N, 4] beside scores [..., N] or [..., N, C]", 1.0, False,
          _boxes, _has_boxes, is_boxes),
)})
