"""Checks of a target that need no reference: is it repeatable, and does a result depend on what should not matter?

Each check runs the target on two sides that ought to agree and compares the outputs, unwatched. Where they part, a
watched run on both sides finds the first tensor that does. Bits must agree where the same program does the same work
(`repeat`, `rows`, `rebuild`); where the work is ordered differently (`batch`, `optimization`) an output keeps to the
tolerance of the model's precision, raised for the model's own noise (`Tolerance.rel_l2`), and a tensor is past its
noise beyond max(SURELY_CLEAN, NOISE_FACTOR · its distance between FP32 and FP64), relative L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from parity.analysis.match import comparable_tensors
from parity.analysis.parting import Gap, LineUp, Pair, Parting, first_parting, gaps_of, noise_of, whole
from parity.analysis.streams import Stream
from parity.analysis.tolerance import DEFAULTS, model_precision
from parity.backends.base import Feed, RunOptions, Session, backend_of
from parity.contenders import Request, feeds_of
from parity.errors import BackendFailed, FeedError, ModelError, UsageError
from parity.graph.batch import batch_of, grown, places_of, row_axis
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.graph.survey import Survey, survey
from parity.precision.calibration import Calibration
from parity.preparation import variant_for
from parity.report.checks import Check, describe, exit_status
from parity.targets import VARIANTS, Target

__all__ = ["CHECKS", "Check", "check_file", "describe", "exit_status", "run_checks"]

Outputs: TypeAlias = Mapping[str, np.ndarray]

_ROWS = 3  # of a batch made from a single row


def run_checks(model: Model, target: Target, feed: Feed, options: RunOptions,
               wanted: Sequence[str] | None = None) -> tuple[Check, ...]:
    """Check a target on one feed.

    Args:
        model: what to run; a variant in another precision is a model of its own.
        target: where.
        feed: the inputs; where the batch is open and they hold one row, seeded rows are added for `rows` and `batch`.
        options: how to run.
        wanted: names of checks; None for all.

    Raises:
        UsageError: an unknown check.
        BackendUnavailable: the target cannot run here.
    """
    names = list(CHECKS) if wanted is None else list(wanted)
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"no check is called {name!r}", f"Known: {', '.join(CHECKS)}.")
    bench = _Bench(model, target, feed, options)
    return tuple(_run(bench, name) for name in names)


def check_file(request: Request, options: RunOptions, wanted: Sequence[str] | None = None) -> tuple[Check, ...]:
    """Check the one target that a command line names.

    Args:
        request: with one target.
        options: how to run.
        wanted: names of checks; None for all.

    Raises:
        ParityError: as for `run_checks`; the model or its inputs cannot be read; no such variant can be made.
    """
    (target,) = map(Target.parse, request.targets)
    model = Model.load(request.model)
    feeds, _ = feeds_of(model, request, options.seed)
    if target.precision not in VARIANTS:
        return run_checks(model, target, feeds[0], options, wanted)
    with temporary_folder() as folder:
        samples = None if request.calibration is None else Calibration.load(model, request.calibration)
        variant, _ = variant_for(target, survey(model, feeds[0], options.seed).flat, feeds[0], samples, Path(folder))
        return run_checks(variant, replace(target, precision="fp32"), feeds[0], options, wanted)


def _run(bench: _Bench, name: str) -> Check:
    meaning, check = CHECKS[name]
    blank = Check(name, meaning, "passed")
    try:
        return check(bench, blank)
    except (BackendFailed, FeedError, ModelError) as error:
        return replace(blank, status="failed", reason=str(error))


@dataclass(frozen=True, eq=False)
class _Bench:
    """A model on a target, with what several checks need of it."""

    model: Model
    target: Target
    feed: Feed
    options: RunOptions

    @cached_property
    def survey(self) -> Survey:
        """The flat form of the model, and the sizes of its tensors."""
        try:
            return survey(self.model, self.feed, self.options.seed)
        except ModelError:  # its runtime has the last word on whether it can run
            return Survey(inline_functions(self.model), {}, {})

    @cached_property
    def session(self) -> Session:
        """The model as it is to be deployed."""
        return self.open()

    @cached_property
    def outputs(self) -> Outputs:
        """Of that session's first run."""
        return self.session.run(self.feed).outputs

    def open(self, model: Model | None = None, options: RunOptions | None = None) -> Session:
        """Build it, or another model or with other options, anew."""
        return backend_of(self.target).open(model or self.model, self.survey.flat, self.target, options or self.options)

    def on(self, feed: Feed) -> _Bench:
        """The same on other inputs."""
        return replace(self, feed=feed)

    def watched(self, session: Session) -> Stream:
        """Every tensor worth comparing, as a session of this bench shows it."""
        names = comparable_tensors(self.survey.flat)
        return Stream(session.watch(self.feed, names, self.survey.sizes), frozenset(names))

    @cached_property
    def noise(self) -> Mapping[str, float]:
        """How far correct runs may be apart in each tensor."""
        return noise_of(self.survey.flat, self.feed, self.options.seed)

    def parting(self, left: Stream, right: Stream, line_up: LineUp = whole, noise: Mapping[str, float] | None = None,
                ) -> Parting | None:
        """The first tensor in which two sides part."""
        return first_parting(self.survey.flat, comparable_tensors(self.survey.flat), left, right, line_up, noise)


def _repeat(bench: _Bench, blank: Check) -> Check:
    """The same run twice in one session."""
    check = _exact(blank, bench.outputs, bench.session.run(bench.feed).outputs)
    return check if check.status == "passed" else _named(check, _first_unrepeated(bench))


def _first_unrepeated(bench: _Bench) -> Parting | None:
    """Watch one session twice: what a session draws or caches starts anew in another one."""
    flat = bench.survey.flat
    for names in _groups(bench):
        session = bench.open(flat.watching(names))
        left, right = (_shown(session.run(bench.feed).outputs) for _ in range(2))
        first = first_parting(flat, names, left, right)
        if first is not None:
            return first
    return None


def _shown(tensors: Outputs) -> Stream:
    return Stream(iter([tensors]), frozenset(tensors))


def _groups(bench: _Bench) -> Iterator[list[str]]:
    """The tensors worth comparing, in order, in groups of which both runs fit the memory."""
    names: list[str] = []
    held = 0
    for name in (n for n in comparable_tensors(bench.survey.flat) if n in bench.survey.sizes or not bench.survey.sizes):
        names.append(name)
        held += 2 * bench.survey.sizes.get(name, 0)
        if held >= bench.options.memory:
            yield names
            names, held = [], 0
    if names:
        yield names


def _rebuild(bench: _Bench, blank: Check) -> Check:
    """The first run of a session against the first run of another one."""
    again = bench.open()
    check = _exact(blank, bench.outputs, again.run(bench.feed).outputs)
    if check.status == "passed":
        return check
    return _named(check, bench.parting(bench.watched(bench.session), bench.watched(again)))


def _optimization(bench: _Bench, blank: Check) -> Check:
    """Graph optimisation off against the level asked for ("all" where that is off too)."""
    level = "all" if bench.options.optimization == "off" else bench.options.optimization
    off, on = (bench.open(options=replace(bench.options, optimization=o)) for o in ("off", level))
    check = _close(blank, bench, gaps_of(off.run(bench.feed).outputs, on.run(bench.feed).outputs))
    if check.status == "passed":
        return check
    return _named(check, bench.parting(bench.watched(off), bench.watched(on), noise=bench.noise))


def _rows(bench: _Bench, blank: Check) -> Check:
    """A row against a copy of itself at the end of the same batch."""
    batch = batch_of(bench.model, bench.feed)
    if batch is None:
        return _without_batch(blank)
    feed, batch = grown(bench.model, bench.feed, batch, 2, bench.options.seed)
    size = batch.size + 1
    twice, alone = bench.on(batch.take(feed, [*range(batch.size), 0])), bench.on(batch.take(feed, [0]))
    try:
        sides = bench.session.run(twice.feed).outputs, bench.session.run(alone.feed).outputs
    except (BackendFailed, ModelError) as error:
        return _refused(blank, size, error)

    def copies(many: np.ndarray, one: np.ndarray) -> list[Pair]:
        axis = row_axis(many.shape, one.shape, size)
        places = [[] if axis is None else places_of(many, axis, size, row) for row in (0, size - 1)]
        return list(zip(*places, strict=True))

    gaps = gaps_of(*sides, copies)
    if not gaps:
        return _without_rows(blank)
    check = _worst(blank, gaps, {})
    if check.status == "passed":
        return check
    return _named(check, twice.parting(*_two_feeds(twice, alone), copies))


def _batch(bench: _Bench, blank: Check) -> Check:
    """Every row alone against itself in the batch."""
    batch = batch_of(bench.model, bench.feed)
    if batch is None:
        return _without_batch(blank)
    feed, batch = grown(bench.model, bench.feed, batch, _ROWS, bench.options.seed)
    size, together = batch.size, bench.on(feed)
    findings = []
    try:
        many = bench.session.run(feed).outputs
        for row in range(size):
            one = bench.session.run(batch.take(feed, [row])).outputs
            gaps = gaps_of(many, one, _row_of(row, size))
            if not gaps:
                return _without_rows(blank)
            findings.append(_close(blank, together, gaps))
    except (BackendFailed, ModelError) as error:
        return _refused(blank, size, error)
    worst = max(range(size), key=lambda row: (findings[row].status == "parted", findings[row].gap.rank))
    if findings[worst].status == "passed":
        return findings[worst]
    sides = _two_feeds(together, bench.on(batch.take(feed, [worst])))
    return _named(findings[worst], together.parting(*sides, _row_of(worst, size), together.noise))


def _row_of(row: int, size: int) -> LineUp:
    """Line up the row of a batch with the row alone."""
    def line_up(many: np.ndarray, one: np.ndarray) -> list[Pair]:
        axis = row_axis(many.shape, one.shape, size)
        return [] if axis is None else [(one, place) for place in places_of(many, axis, size, row)]

    return line_up


def _two_feeds(left: _Bench, right: _Bench) -> tuple[Stream, Stream]:
    """The tensors of two runs of one model, each in a session of its own: the branches taken may differ."""
    return left.watched(left.open()), right.watched(right.open())


def _without_batch(blank: Check) -> Check:
    return replace(blank, status="not applicable", reason="fixed batch")


def _without_rows(blank: Check) -> Check:
    return replace(blank, status="not applicable", reason="no output has a row for each row of the inputs")


def _refused(blank: Check, size: int, error: BackendFailed | ModelError) -> Check:
    return replace(blank, status="not applicable",
                   reason=f"the model leaves its first dimension open, but not for 1 and {size} rows: {error.message}")


def _exact(blank: Check, left: Outputs, right: Outputs) -> Check:
    """Every output against itself, bit for bit."""
    return _worst(blank, gaps_of(left, right), {})


def _close(blank: Check, bench: _Bench, gaps: Mapping[str, Gap]) -> Check:
    """Every output within the tolerance of the model's precision, raised for its noise where that decides."""
    tolerance = DEFAULTS[model_precision(bench.survey.flat)]
    usual = tolerance.rel_l2(0.0)
    noisy = any(gap.beyond(usual) for gap in gaps.values())
    return _worst(blank, gaps, {n: tolerance.rel_l2(bench.noise.get(n, 0.0)) if noisy else usual for n in gaps})


def _worst(blank: Check, gaps: Mapping[str, Gap], limits: Mapping[str, float]) -> Check:
    """The output that is furthest off, those beyond their limits first."""
    if not gaps:
        return replace(blank, status="not applicable", reason="no output is a tensor")
    name = max(gaps, key=lambda n: (gaps[n].beyond(limits.get(n)), gaps[n].rank))
    parted = gaps[name].beyond(limits.get(name))
    return replace(blank, status="parted" if parted else "passed", output=name, gap=gaps[name], limit=limits.get(name))


def _named(check: Check, first: Parting | None) -> Check:
    reason = "" if first else "no tensor parts when all are watched: watching hides it"
    return replace(check, first=first, reason=reason)


CHECKS: Mapping[str, tuple[str, Callable[[_Bench, Check], Check]]] = MappingProxyType({
    "repeat": ("the same inputs twice", _repeat),
    "rows": ("the same row twice in a batch", _rows),
    "batch": ("a row alone and in a batch", _batch),
    "optimization": ("graph optimisation off and on", _optimization),
    "rebuild": ("a second build", _rebuild),
})
