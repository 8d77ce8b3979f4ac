"""What outputs are to keep to, as one number: the worst figure as a multiple of its limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.analysis.measure import METRICS, Comparison
from parity.analysis.outputs import OutputFinding, judge_outputs
from parity.analysis.tasks import JUDGES, TaskFigure, judge_tasks, within
from parity.analysis.tolerance import Tolerance


@dataclass(frozen=True)
class Limited:
    """A figure, and what its limit makes of it.

    Attributes:
        name: of the metric or judge, and of the output: "rel_l2 of logits".
        value: the figure.
        times: how many times its distance from perfect is what the limit admits: at most 1 keeps to it; 0 for a
            judge's that has none.
        judged: whether it is a judge's.
    """

    name: str
    value: float
    times: float
    judged: bool = False


@dataclass(frozen=True)
class Goal:
    """Limits for the outputs on one feed.

    Attributes:
        reference: the outputs that are right.
        noise: relative L2 distance by which correct FP32 runs may differ, by output.
        tolerance: of the plain metrics.
        judges: how outputs are judged beside these, e.g. "top1".
        task_limits: what the judges' figures must keep to.
        labels: class labels, one a row, for the judges that need them.
    """

    reference: Mapping[str, np.ndarray]
    noise: Mapping[str, float]
    tolerance: Tolerance
    judges: Sequence[str] = ()
    task_limits: Mapping[str, float] = field(default_factory=dict)
    labels: np.ndarray | None = None

    def error(self, outputs: Mapping[str, np.ndarray]) -> float:
        """The worst figure as a multiple of its limit: at most 1 exactly where `parity compare` finds parity.

        Args:
            outputs: the candidate's.

        Returns:
            From 0; infinite where an output is missing, not finite where the reference is, or of another shape.
        """
        found = judge_outputs(self.reference, outputs, self.noise, self.tolerance)
        if len(found) < len(self.reference) or any(o.comparison is None for o in found):
            return math.inf
        return max((figure.times for figure in self.figures(outputs)), default=0.0)

    def figures(self, outputs: Mapping[str, np.ndarray]) -> list[Limited]:
        """Every limited metric of every output that can be compared, and all judges' figures."""
        found = judge_outputs(self.reference, outputs, self.noise, self.tolerance)
        return [*(figure for output in found for figure in self._measured(output)), *self._tasks(outputs)]

    def _measured(self, found: OutputFinding) -> list[Limited]:
        comparison = found.comparison
        if comparison is None:
            return []
        limits = {**self.tolerance.limits, "rel_l2": found.limit} if "rel_l2" in self.tolerance.limits else (
            self.tolerance.limits)
        times = {metric: _times(metric, comparison, limit) for metric, limit in limits.items()}
        if comparison.mismatched_nonfinite:
            times = {"mismatched_nonfinite": math.inf}
        if not found.passed and max(times.values(), default=0.0) <= 1:
            times["rel_l2"] = max(1.0 + comparison.rel_l2, math.nextafter(1.0, 2.0))  # integers, which must be equal
        return [Limited(f"{metric} of {found.name}", METRICS[metric].of(comparison),
                        min(each, 1.0) if found.passed else each) for metric, each in times.items()]

    def _tasks(self, outputs: Mapping[str, np.ndarray]) -> list[Limited]:
        asked = [*self.judges, *(j for j in self.task_limits if j not in {n.partition(":")[0] for n in self.judges})]
        if not asked:
            return []
        figures = judge_tasks(asked, self.reference, outputs, self.labels)
        return [Limited(f"{f.judge} of {f.output}", f.value, self._task_times(f), judged=True) for f in figures]

    def _task_times(self, figure: TaskFigure) -> float:
        limit = self.task_limits.get(figure.judge)
        return 0.0 if limit is None else _beside(
            _beyond(JUDGES[figure.judge].lower_is_better, figure.value, limit), passed=within(figure, limit))


def _times(metric: str, found: Comparison, limit: float) -> float:
    value = METRICS[metric].of(found)
    if metric == "sqnr_db":
        return float(10 ** min((limit - value) / 20, 300)) if value < math.inf else 0.0
    return _beyond(METRICS[metric].lower_is_better, value, limit)


def _beside(figure: float, *, passed: bool) -> float:
    """The figure; where rounding or an odd limit puts it on the wrong side of 1, what is nearest on the right one."""
    if passed:
        return figure if figure <= 1 else 1.0
    return figure if figure > 1 else math.nextafter(1.0, 2.0)


def _beyond(lower_is_better: bool, value: float, limit: float) -> float:
    """How many times a figure's distance from perfect (0, or 1 where higher is better) is what its limit admits."""
    if math.isnan(value):
        return math.inf
    lost, admitted = (value, limit) if lower_is_better else (1.0 - value, 1.0 - limit)
    if admitted <= 0:
        return 0.0 if lost <= admitted else 1.0 + lost
    return max(lost, 0.0) / admitted
