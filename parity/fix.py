"""`parity fix`: what a repair came to, as a report, and the fixed model on disk; and what `parity compare` proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parity.analysis.match import comparable_tensors
from parity.analysis.outputs import judge_outputs
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
from parity.graph.model import Model, temporary_folder
from parity.precision.calibration import Calibration
from parity.report.assemble import output_layer, source_of
from parity.report.record import Candidate, Layer, ModelFacts, Reference, Report
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
    with temporary_folder() as weights:
        problem = problem_of(model, target, feeds, calibration, demand, order.limits, order.run, folder, Path(weights))
        writer = _Writer(request.model, folder)
        outcome = repair(problem, writer.save, progress)
    writer.check()
    candidate = _candidate(problem, outcome)
    mended = outcome.before <= 1 or any(s.fix.passed for s in outcome.solutions)
    nodes = ModelFacts(model.name, model.sha256, len(problem.flat.graph.nodes), len(comparable_tensors(problem.flat)))
    report = Report("parity" if mended else "divergence", nodes, facts, order.run.seed, environment(order.run),
                    Reference("pytorch", "ok"), (candidate,), command, len(feeds))
    return report, writer.written


def proposals(model: Model, target: Target, feeds: Sequence[Feed], calibration: Calibration | None, demand: Demand,
              run: RunOptions,
              progress: Progress) -> tuple[tuple[Fix, ...], Mapping[str, float]]:
    """The fixes that were tried for a target that diverges, and what each layer costs; nothing is written.

    Raises:
        UsageError: FP32 misses the tolerance on the target, too.
        BackendUnavailable, BackendFailed: the target cannot run.
    """
    with temporary_folder() as folder:
        problem = problem_of(model, target, feeds, calibration, demand, Limits(), run, Path(folder), Path(folder))
        outcome = repair(problem, lambda solution: None, progress)
    return tuple(s.fix for s in outcome.solutions), outcome.prices


def _fixable(target: Target) -> Target:
    backend_of(target)  # a typing error is told before anything is read or run
    if target.precision not in VARIANTS:
        raise UsageError(f"{target} is no lower precision, so there is nothing to keep in a higher one",
                         f"Name one of {', '.join(f'{target.backend}:{p}' for p in VARIANTS)} with --for.")
    return target


class _Writer:
    """Writes every fix over the one before; where that fails, the one before is still whole."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.written: dict[str, Path] = {}
        self._model, self._plan = folder / f"{model.stem}.fixed.onnx", folder / "plan.json"
        self._failure: OutputError | None = None

    def save(self, solution: Solution) -> None:
        """Write a fix that passed."""
        try:
            write_model(solution.variant.model, self._model)
            write_text(solution.variant.plan.to_json(), self._plan)
        except OutputError as error:
            self._failure = error
        else:
            self.written = {"fixed model": self._model, "plan": self._plan}

    def check(self) -> None:
        """Complain where there was a fix and none could be written."""
        if self._failure is not None and not self.written:
            raise self._failure


def _candidate(problem: Problem, outcome: Outcome) -> Candidate:
    """The target before and after: the outputs are those without the fix."""
    goal = problem.judged[0][1]
    found = judge_outputs(goal.reference, outcome.outputs, goal.noise, goal.tolerance)
    rows = tuple(output_layer(o, problem.flat.graph.producer.get(o.name)) for o in found)
    latency: Latency | None = outcome.solutions[0].fix.latency_before if outcome.solutions else None
    return Candidate(
        str(problem.target), "ok", emulated=problem.target.backend == "pytorch",
        tensors=_layers(problem, outcome.prices),
        verdict="parity" if outcome.before <= 1 else "divergence", outputs=rows, latency=latency,
        fixes=tuple(s.fix for s in outcome.solutions), notes=_notes(problem, outcome))


def _layers(problem: Problem, prices: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers that were priced; nobody watched them, so there is nothing else to say of them."""
    found = sorted((problem.flat.graph.producer[n] for n in prices if n in problem.flat.graph.producer),
                   key=lambda node: node.index)
    return tuple(Layer(n.outputs[0], n.proto.name, n.op, n.index, source_of(n), energy=prices[n.outputs[0]] ** 2)
                 for n in found)


def _notes(problem: Problem, outcome: Outcome) -> tuple[str, ...]:
    samples = len(problem.searched), len(problem.held_out)
    low = problem.target.precision.upper()
    notes = [f"In FP32 the target is at {outcome.floor:.2g} times the limit, in {low} at {outcome.before:.3g} times."]
    if outcome.before <= 1:
        notes.append("The variant is within its tolerance as it is: there is nothing to fix.")
    elif not samples[1]:
        notes.append("There were too few samples to hold some out: give more with --calibration, --samples or a larger "
                     "batch, so that the fix is judged on others than it was searched on.")
    if problem.calibration.indicative and problem.target.precision == "int8":
        notes.append(f"INT8 ranges are from {problem.calibration.source}: give --calibration for those of your data.")
    return tuple(notes)
