"""`parity fix`: what a repair came to, as a report, and the fixed model on disk; and what `parity compare` proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from parity.analysis.goal import Goal
from parity.analysis.match import comparable_tensors
from parity.analysis.outputs import (
    absence_notes,
    drawn_outputs,
    judge_outputs,
    noise_notes,
    random_notes,
    value_notes,
)
from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed, RunOptions, backend_of
from parity.backends.latency import Latency
from parity.contenders import Request, feeds_of, load_labels
from parity.convert import write_model, write_text
from parity.environment import environment
from parity.errors import OutputError, UsageError
from parity.fixes.fix import Fix
from parity.fixes.outcome import Outcome, Solution
from parity.fixes.problem import Demand, Limits, Problem, problem_of
from parity.fixes.repair import repair
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder, told
from parity.precision.calibration import Calibration
from parity.report.assemble import output_layer, task_results, worst_of
from parity.report.record import Candidate, Layer, ModelFacts, Reference, Report
from parity.source_model.place import place_of
from parity.targets import VARIANTS, Target

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Order:
    """What is wanted of a fix, and how far to go for it.

    Attributes:
        tolerance: of the outputs; None for the default of the precision.
        judges: how outputs are judged beside that.
        task_limits: what the judges' figures must keep to.
        limits: of the search.
        run: how the target is run.
    """

    tolerance: Tolerance | None = None
    judges: Sequence[str] = ()
    task_limits: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    run: RunOptions = field(default_factory=RunOptions)


def fix_file(request: Request, order: Order, folder: Path, progress: Progress,
             command: str) -> tuple[Report, Mapping[str, Path]]:
    """Search for the fix that the command line asks for, and write it.

    Args:
        request: the model, its inputs, and one target in one of VARIANTS.
        order: what is wanted.
        folder: where the fixed model, its plan and the trials go.
        progress: is told how far things are.
        command: what the user typed, for the report.

    Returns:
        The report, and the files that were written, by what they are.

    Raises:
        UsageError: a target that has no variant to fix, or a tolerance that FP32 itself misses.
        OutputError: no fix could be written.
    """
    target = _fixable(Target.parse(request.targets[0]))
    model = Model.load(request.model)
    feeds, facts = feeds_of(model, request, order.run.seed)
    calibration = None if request.calibration is None else Calibration.load(model, request.calibration)
    labels = None if request.labels is None else load_labels(request.labels)
    demand = Demand(order.tolerance, order.judges, order.task_limits, labels)
    progress("reference", 0, 1)
    files = _Files(request.model, folder)
    try:
        with told(), temporary_folder() as weights:
            problem = problem_of(model, target, feeds, calibration, demand, order.limits, order.run, folder,
                                 Path(weights))
            outcome = repair(problem, files.save, progress)
            notes = files.finish(outcome)
    except OutputError as error:
        raise OutputError(f"{error.message}{files.kept}", error.hint) from error
    candidate = _candidate(outcome, files, notes)
    mended = outcome.before <= 1 or any(s.fix.passed for s in outcome.solutions)
    nodes = ModelFacts(model.name, model.sha256, len(problem.flat.graph.nodes), len(comparable_tensors(problem.flat)))
    report = Report("parity" if mended else "divergence", nodes, facts, order.run.seed, environment(order.run),
                    Reference("pytorch", "ok"), (candidate,), command, len(feeds))
    return report, files.written


def proposals(model: Model, target: Target, feeds: Sequence[Feed], calibration: Calibration | None, demand: Demand,
              run: RunOptions,
              progress: Progress) -> tuple[tuple[Fix, ...], Mapping[str, float]]:
    """The fixes that were tried for a target that diverges, and what each layer costs; nothing is written.

    Raises:
        UsageError: FP32 misses the tolerance on the target, too.
        BackendUnavailable, BackendFailed: the target cannot run.
    """
    with told(), temporary_folder() as folder:
        problem = problem_of(model, target, feeds, calibration, demand, Limits(), run, Path(folder), Path(folder))
        outcome = repair(problem, lambda solution: None, progress)
    return tuple(s.fix for s in outcome.solutions), outcome.prices


def _fixable(target: Target) -> Target:
    backend_of(target)  # a typing error is told before anything is read or run
    if target.precision not in VARIANTS:
        raise UsageError(f"{target} is no lower precision, so there is nothing to keep in a higher one",
                         f"Name a precision with --for, e.g. {replace(target, precision='int8')}.")
    return target


class _Files:
    """What a run leaves in its folder: a fix over the one before, which stays whole where that fails.

    Attributes:
        written: the files of this run, by what they are.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self.written: dict[str, Path] = {}
        self._model, self._plan = folder / f"{model.stem}.fixed.onnx", folder / "plan.json"
        self._best, self._best_plan = folder / f"{model.stem}.best.onnx", folder / "plan.best.json"
        self._saved: Solution | None = None
        self._failure: OutputError | None = None
        self._planless: OutputError | None = None

    @property
    def kept(self) -> str:
        """What to add to the news of a failure: which fix lies there all the same."""
        if self._saved is not None:
            return f"; {self._model.name}, which passes, is written"
        return f"; {self._model.name} of an earlier run was kept" if self._model.exists() else ""

    def save(self, solution: Solution) -> None:
        """Write a fix that passed."""
        try:
            write_model(solution.variant.model, self._model)
        except OutputError as error:
            self._failure = error
            return
        self.written["fixed model"] = self._model
        self._saved, self._failure = solution, None
        self._write_plan(solution, self._plan, "plan")

    def finish(self, outcome: Outcome) -> tuple[str, ...]:
        """Write the best that was found where nothing passes, and take away what earlier runs left.

        Returns:
            Notes on that.

        Raises:
            OutputError: a fix or its plan could not be written.
        """
        if self._failure is not None and self._saved is None:
            raise self._failure
        if self._saved is not None and self._planless is not None:
            raise self._planless
        notes = [] if self._failure is None else [
            f"A better fix could not be written ({self._failure.message}): {self._model.name} is the one before."]
        best = outcome.solutions[0] if outcome.solutions and self._saved is None else None
        if best is not None and best.fix.after < outcome.before:
            try:
                write_model(best.variant.model, self._best)
            except OutputError as error:
                return (*notes, f"The best found could not be written ({error.message}).")
            else:
                self.written["best found"] = self._best
                self._write_plan(best, self._best_plan, "its plan")
                notes.append(f"{self._best.name} is the best found. It is not within the limits.")
        return (*notes, *self._cleared())

    def file(self, solution: Solution, *, best: bool) -> str:
        """Where a solution was written; "" where it was not."""
        if self._saved is not None and solution.variant is self._saved.variant:
            return str(self._model)
        return str(self._best) if best and "best found" in self.written else ""

    def _write_plan(self, solution: Solution, path: Path, what: str) -> None:
        try:
            write_text(solution.recipe.to_json(), path)
        except OutputError as error:
            self._planless = error
            self.written.pop(what, None)
            with suppress(OSError):
                path.unlink(missing_ok=True)  # it was that of another model
        else:
            self._planless = None
            self.written[what] = path

    def _cleared(self) -> list[str]:
        """Take away the files of these names that this run did not write, and say which these were."""
        left = [p for p in (self._model, self._plan, self._best, self._best_plan)
                if p not in self.written.values() and p.exists()]
        for path in left:
            path.unlink()
            path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        names = " and ".join(p.name for p in left)
        return [f"{names} of an earlier run {'was' if len(left) == 1 else 'were'} removed."] if left else []


def _candidate(outcome: Outcome, files: _Files, notes: Sequence[str]) -> Candidate:
    """The target before and after: the outputs are those without the fix, of every one the worst over the feeds."""
    problem = outcome.problem
    without = worst_of([_sample(problem, goal, outputs)
                        for (_, goal), outputs in zip(problem.judged, outcome.outputs, strict=True)])
    latency: Latency | None = outcome.solutions[0].fix.latency_before if outcome.solutions else None
    fixes = [replace(s.fix, file=files.file(s, best=s is outcome.solutions[0])) for s in outcome.solutions]
    return replace(
        without, tensors=_layers(problem, outcome.prices), latency=latency,
        verdict="parity" if outcome.before <= 1 else "divergence",
        # What lies in the folder comes first, where a better one could not be written.
        fixes=tuple(sorted(fixes, key=lambda fix: not fix.file)),
        notes=(*_notes(outcome), *without.notes, *notes))


def _sample(problem: Problem, goal: Goal, outputs: Mapping[str, np.ndarray]) -> Candidate:
    """What the variant did on one feed, as `parity compare` tells it."""
    found = judge_outputs(goal.reference, outputs, goal.noise, goal.tolerance)
    return Candidate(
        str(problem.target), "ok", emulated=problem.target.backend == "pytorch",
        verdict="parity" if goal.error(outputs) <= 1 else "divergence",
        outputs=tuple(output_layer(o, problem.flat.graph.producer.get(o.name)) for o in found),
        tasks=task_results(goal.judges, goal.task_limits, goal.reference, outputs, goal.labels),
        notes=(*absence_notes(goal.reference, outputs), *value_notes(found, goal.reference),
               *random_notes(problem.flat), *noise_notes(found, goal.tolerance, drawn_outputs(problem.flat))))


def _layers(problem: Problem, prices: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers that were priced; nobody watched them, so there is nothing else to say of them."""
    found = sorted((problem.flat.graph.producer[n] for n in prices if n in problem.flat.graph.producer),
                   key=lambda node: node.index)
    return tuple(Layer(n.outputs[0], n.proto.name, n.op, n.index, place_of(n).source, energy=prices[n.outputs[0]] ** 2)
                 for n in found)


def _notes(outcome: Outcome) -> tuple[str, ...]:
    problem = outcome.problem
    low = problem.target.precision.upper()
    notes = [f"In FP32 the target is at {outcome.floor:.2g} times the limit, in {low} at {outcome.before:.3g} times."]
    if outcome.before <= 1:
        notes.append("The variant is within its tolerance as it is: there is nothing to fix.")
    elif not problem.held_out:
        notes.append("There were too few samples to hold some out: give more with --calibration, --samples or a larger "
                     "batch, so that the fix is judged on others than it was searched on.")
    if problem.calibration.indicative and problem.target.precision == "int8":
        notes.append(f"INT8 ranges are from {problem.calibration.source}: give --calibration for those of your data.")
    return tuple(notes)
