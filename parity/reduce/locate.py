"""What a target does wrong, and where: one plain run and one watched run of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from parity.analysis.localize import Divergence, divergences, first_to_blame
from parity.analysis.match import comparable_tensors
from parity.analysis.measure import measure
from parity.analysis.outputs import OutputFinding, drawn_outputs, judge_outputs, relative_limit
from parity.analysis.reads import without_unread
from parity.analysis.streams import Stream
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.backends.base import Feed, RunOptions
from parity.errors import BackendFailed, UsageError
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.ops.call import is_tensor, to_numpy
from parity.graph.store import TensorStore
from parity.reduce.sides import Sides
from parity.reduce.trials import isolated_backend
from parity.sample import Sample

# What there is to show: a tensor beyond its floor, one beyond the outputs' tolerance, outputs that no watched tensor
# explains, or a target that fails.
Kind: TypeAlias = Literal["floor", "limit", "outputs", "failure"]


@dataclass(frozen=True, eq=False)
class Symptom:
    """What a target does wrong.

    Attributes:
        kind: what there is to show.
        tensors: that are wrong: the first bad one, or outputs; none where the target failed.
        values: every tensor that is known, by name: the candidate's own, the inputs among them; the reference's where
            the target failed.
        limit: relative L2 tolerance of the outputs.
        failure: how the target failed.
    """

    kind: Kind
    tensors: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    limit: float
    failure: BackendFailed | None = None


def symptom_of(sides: Sides, sample: Sample, tolerance: Tolerance | None, options: RunOptions) -> Symptom | None:
    """Run the target once as deployed and once watched.

    Returns:
        What is wrong; None where nothing is.

    Raises:
        BackendUnavailable: the target cannot run here.
        BackendFailed: it runs, but fails while it is watched.
        ModelError: the reference cannot run.
        UsageError: nothing is off but outputs that depend on random numbers.
    """
    allowed = tolerance or DEFAULTS[sides.precision]
    try:
        session = isolated_backend(sides.target).open(sides.deployed, sides.candidate, sides.target, options)
        outputs = session.run(sample.feed).outputs
    except BackendFailed as error:
        return Symptom("failure", (), _reference_values(sides, sample, options),
                       relative_limit((), allowed, sides.precision), error)
    drawn = drawn_outputs(sides.candidate)
    findings = judge_outputs(sample.outputs, outputs, sample.noise, allowed)
    judged = tuple(o for o in findings if o.name not in drawn)
    failing = tuple(o.name for o in sorted(judged, key=_how_far, reverse=True) if not o.passed)
    limit = relative_limit(judged, allowed, sides.precision)
    shown = frozenset(comparable_tensors(sides.candidate))
    if sides.judge is sides.reference:
        shown &= frozenset(comparable_tensors(sides.judge))
    values = TensorStore(options.memory)
    for name, value in sample.feed.items():
        values.put(name, value)
    watched = Stream(_kept(session.watch(sample.feed, shown, sides.sizes), values), shown)
    found = _walk(sides, sample, watched)
    blamed = first_to_blame(found, outputs_fail=bool(failing), limit=limit)
    if blamed is None or (blamed[1] == "precision" and _hidden(judged, outputs, values)):
        random = [o.name for o in findings if not o.passed and o.name in drawn]
        if random and not failing:
            raise _no_fault(random[0], drawn[random[0]])
        return Symptom("outputs", failing, values, limit) if failing else None
    return Symptom("floor" if blamed[0].to_blame else "limit", (blamed[0].tensor,), values, limit)


def _walk(sides: Sides, sample: Sample, shown: Stream) -> Sequence[Divergence]:
    wanted = comparable_tensors(sides.reference)
    expected = Stream(sample.session.watch(sample.feed, wanted, sample.survey.sizes), frozenset(wanted))
    names = frozenset(comparable_tensors(sides.judge))
    walk = divergences(sides.reference, sides.judge, sample.feed, expected, shown, names)
    return without_unread(list(walk), sides.judge, sample.feed)


def _kept(chunks: Iterator[Mapping[str, np.ndarray]], store: TensorStore) -> Iterator[Mapping[str, np.ndarray]]:
    """Pass the chunks on, keeping what is in them."""
    for chunk in chunks:
        for name, value in chunk.items():
            store.put(name, value)
        yield chunk


def _no_fault(output: str, drawn: Node) -> UsageError:
    return UsageError(f"output {output!r} depends on the random numbers of {drawn.op} {drawn.label!r}, which no two "
                      "runtimes draw alike, and nothing else is off: that is no fault to report",
                      "Feed the model with fixed numbers in that node's stead.")


def _how_far(output: OutputFinding) -> float:
    return float("inf") if output.comparison is None else output.comparison.rel_l2


def _hidden(judged: Sequence[OutputFinding], outputs: Feed, watched: Mapping[str, np.ndarray]) -> bool:
    """Whether watching moved the outputs by as much as half of their error: then its tensors are of another run."""
    error = max((o.comparison.rel_l2 for o in judged if o.comparison is not None), default=0.0)
    moved = [measure(outputs[n], watched[n]).rel_l2 for n in (o.name for o in judged) if n in watched
             and outputs[n].shape == watched[n].shape and outputs[n].dtype.kind not in "OSU"]
    return max(moved, default=0.0) >= error / 2


def _reference_values(sides: Sides, sample: Sample, options: RunOptions) -> TensorStore:
    """Every tensor as the model that the target fails on would have it."""
    values = TensorStore(options.memory)
    for name, value in sample.feed.items():
        values.put(name, value)
    for step in Executor(sides.candidate, seed=options.seed).steps(sample.feed):
        for name, made in step.values.items():
            if is_tensor(made):
                values.put(name, to_numpy(made))
    return values
