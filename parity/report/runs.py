"""Several runs side by side: what changed from one to the next, by target and by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parity.report import answer, words
from parity.report.record import Candidate, Layer, Report

Runs = Mapping[str, Report]


@dataclass(frozen=True)
class Course:
    """One target through all runs.

    Attributes:
        target: its name; where no two runs share one and each has one target, that of the first and of the last.
        candidates: one a run, None where the run did not have it.
        models: one a run, the hash of the model.
    """

    target: str
    candidates: tuple[Candidate | None, ...]
    models: tuple[str, ...]

    @property
    def errors(self) -> tuple[float | None, ...]:
        """The worst output error of each run, as a multiple of its limit."""
        return tuple(None if c is None else worst(c) for c in self.candidates)

    @property
    def change(self) -> tuple[words.Mark, str]:
        """What became of it from the first run that has it to the last, in words."""
        ran = self._ran
        if len(ran) < 2:
            return "none", "ran once only" if ran else "never ran"
        if not self.comparable:
            return "none", "of another model"
        before, after = words.mark(ran[0]), words.mark(ran[-1])
        if before == after:
            between = {words.mark(c) for c in ran[1:-1]}
            return after, "as before" if between <= {before} else "as at first, but not in between"
        return (after, "mended") if after == "good" else (after, "broke") if after == "bad" else (after, "changed")

    @property
    def comparable(self) -> bool:
        """Whether the first and the last run that have it ran one model, or two versions of one.

        A model that was mended or exported again has another hash, and perhaps other names; most of its layers compute
        the same things in the same shapes all the same.
        """
        ran = self._ran
        if len(ran) < 2 or self._same_model:
            return len(ran) > 1
        first, last = (Counter(map(_made, c.tensors or c.outputs)) for c in (ran[0], ran[-1]))
        return 2 * (first & last).total() >= min(first.total(), last.total()) > 0

    @property
    def shared(self) -> list[tuple[Layer, Layer]]:
        """The layers that both the first and the last run show; in two versions of a model, those that are alike."""
        if not self.comparable:
            return []
        ran = self._ran
        after = {layer.tensor: layer for layer in ran[-1].tensors}
        both = [(layer, after[layer.tensor]) for layer in ran[0].tensors if layer.tensor in after]
        return both if self._same_model else [pair for pair in both if _made(pair[0]) == _made(pair[1])]

    @property
    def _ran(self) -> list[Candidate]:
        return [c for c in self.candidates if c is not None and c.status == "ok"]

    @property
    def _same_model(self) -> bool:
        ran = [model for c, model in zip(self.candidates, self.models, strict=True)
               if c is not None and c.status == "ok"]
        return ran[0] == ran[-1]


def _made(layer: Layer) -> tuple[str, int, tuple[int, ...]]:
    """What computes a tensor and in which shape, the number of samples aside."""
    return layer.op, len(layer.shape), layer.shape[1:]


@dataclass(frozen=True)
class Shift:
    """One tensor of a target in the first and in the last run that have it."""

    target: str
    before: Layer
    after: Layer


def load(paths: Sequence[Path]) -> Runs:
    """The reports by names that tell them apart: the file's, else with as many folders before it as that takes.

    Raises:
        UsageError: a file is missing, or not a report.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        deepest = max(len(path.resolve().parts) for path in paths)
        for depth in range(1, deepest):
            folders = ["/".join(path.resolve().parent.parts[-depth:]) for path in paths]
            if len(set(folders)) == len(folders):
                names = folders
                break
        else:  # one file twice
            names = [f"{name} {place}" for place, name in enumerate(names, 1)]
    return {name: Report.load(path) for name, path in zip(names, paths, strict=True)}


def worst(candidate: Candidate) -> float | None:
    """The worst output error as a multiple of its limit; None where no output has one."""
    ratios = [words.ratio(o.accumulated.rel_l2, o.tolerance) for o in candidate.outputs if o.accumulated]
    return max((r for r in ratios if r is not None), key=_badness, default=None)


def _badness(value: float) -> float:
    return math.inf if math.isnan(value) else value


def courses(runs: Runs) -> tuple[Course, ...]:
    """Every target through the runs, in the order in which they first appear."""
    held = [{c.target: c for c in report.candidates} for report in runs.values()]
    models = tuple(report.model.sha256 for report in runs.values())
    shared = set(held[0]).intersection(*held[1:])
    if not shared and all(len(each) == 1 for each in held):
        alone = tuple(next(iter(each.values())) for each in held)
        return (Course(f"{alone[0].target} → {alone[-1].target}", alone, models),)
    return tuple(Course(target, tuple(each.get(target) for each in held), models)
                 for target in dict.fromkeys(name for each in held for name in each))


def merged(runs: Runs) -> Report:
    """One report that holds the targets of all runs, each named after its run; the rest is the last run's."""
    last = list(runs.values())[-1]
    candidates = tuple(replace(c, target=f"{name} · {c.target}") for name, report in runs.items()
                       for c in report.candidates)
    reads = {tensor: read for report in runs.values() for tensor, read in report.reads.items()}
    return replace(last, candidates=candidates, reads=reads)


def mark(runs: Runs) -> words.Mark:
    """How the last run went."""
    return answer.mark(list(runs.values())[-1])


def headline(runs: Runs) -> str:
    """What changed over the runs, in one sentence."""
    first, *_, last = runs
    said = [course.change[1] for course in courses(runs)]
    parts = [f"{words.plural(said.count(what), 'target')} {what}" for what in _CHANGES if what in said]
    return (f"From {words.visible(first)} to {words.visible(last)}: "
            f"{', '.join(parts) or 'no target is in more than one run'}.{_unlike(runs)}")


def _unlike(runs: Runs) -> str:
    """What the runs do not share, so that differences may come from it: the model, or its inputs."""
    reports = list(runs.values())
    parts = [*(["models"] if len({r.model.sha256 for r in reports}) > 1 else []),
             *(["inputs"] if len({(r.inputs, r.seed, r.samples) for r in reports}) > 1 else [])]
    return f" They are of different {' and '.join(parts)}." if parts else ""


def lines(runs: Runs) -> list[str]:
    """What changed over the runs, for the terminal: the answer, each target, and the layers that changed most."""
    said = [headline(runs), ""]
    for course in courses(runs):
        errors = " → ".join(words.number(error) for error in course.errors)
        sign, change = course.change
        said.append(f"  {words.SIGNS[sign]} {words.visible(course.target)}: error {errors} of its limit, {change}")
    changed = shifts(runs, _PRINTED)
    if changed:
        said += ["", "Layers that changed most, by their local error"]
        said += [f"  {words.visible(s.after.tensor)} ({words.visible(s.after.op)}) on {words.visible(s.target)}: "
                 f"{_local(s.before)} → {_local(s.after)}" for s in changed]
    return said


def _local(layer: Layer) -> str:
    return words.number(None if layer.local is None else layer.local.rel_l2)


def next_step(runs: Runs) -> str:
    """What to do about the last run."""
    return answer.next_step(list(runs.values())[-1])


def shifts(runs: Runs, most: int) -> list[Shift]:
    """The tensors whose own error changed most, in either direction, as a ratio; none of models that are not alike.

    Args:
        runs: two or more.
        most: how many of them.
    """
    found = [Shift(course.target, *pair) for course in courses(runs) for pair in course.shared]
    found.sort(key=lambda shift: -_size(shift))
    return [shift for shift in found[:most] if _size(shift) > math.log(_NOTICEABLE)]


_CHANGES = ("broke", "mended", "changed", "as before", "as at first, but not in between", "of another model")
_NOTICEABLE = 1.5  # ratio of two errors from which on they are told apart
_PRINTED = 8  # layers that a terminal gets
_LEAST = 1e-8  # errors below are rounding of FP32, and taken as this


def _size(shift: Shift) -> float:
    sides = [layer.local or layer.accumulated for layer in (shift.before, shift.after)]
    values = [None if side is None else max(_badness(side.rel_l2), _LEAST) for side in sides]
    if values[0] is None or values[1] is None or values[0] == values[1]:
        return 0.0
    return abs(math.log(min(values[1], 1e300)) - math.log(min(values[0], 1e300)))
