"""The ladder: where on the way from the module to each deployed model the error of the outputs enters.

    module:fp64 → module → pytorch (the .onnx on torch) → onnxruntime, unoptimised → onnxruntime → onnxruntime:fp16

Without a module it starts at the .onnx in FP64. It is made of the outputs of runs that were made anyway, but for one
of the module in FP64 and one of ONNX Runtime without graph optimisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from parity.analysis.match import comparable_tensors
from parity.analysis.measure import measure
from parity.analysis.outputs import OutputFinding, drawn_outputs, judge_outputs
from parity.analysis.tolerance import DEFAULTS, Tolerance, model_precision
from parity.backends.base import Session, backend_of
from parity.contenders import Contender
from parity.errors import BackendFailed, BackendUnavailable, ModelError
from parity.examine import Examined
from parity.figures import number
from parity.graph.model import Model
from parity.graph.ops.call import tensor_of
from parity.graph.store import TensorStore
from parity.original import MODULE, TRUTH, Original
from parity.report.record import Candidate, FirstBad, Rung
from parity.report.rungs import Stage
from parity.sample import Options, Sample
from parity.source_model.layout import distance
from parity.source_model.place import place_of
from parity.source_model.rounded import rounded_weights
from parity.targets import VARIANTS, Target

Arrays = Mapping[str, np.ndarray]
# What came of each contender on one sample.
Ran = Sequence[tuple[Contender, Examined]]

_GOLD, _TORCH = Target("pytorch", "", "fp64"), Target("pytorch")
# Relative L2 in FP64: another order of sums; and what constants rounded to FP32 (6e-8 each) make of it, or to a coarser
# type in units of its roundoff.
_EXACT, _ROUNDED, _UNITS = 1e-12, 1e-6, 4
_DRAWN = "What depends on random numbers is compared on no rung: {}."
_IN_FP64 = "In FP64, where nothing rounds, the export {}."


def climb(model: Model, sample: Sample, reference: Target, ran: Ran, options: Options) -> tuple[Rung, ...]:
    """The rungs on one sample, each behind the one that it stands on.

    Args:
        model: the reference, as the user handed it in.
        sample: its run.
        reference: where it ran.
        ran: the contenders, and what came of each.
        options: of the comparison.
    """
    ladder = _Ladder(sample, options)
    ground = _to_the_reference(ladder, reference, ran)
    for contender, examined in sorted(ran, key=lambda pair: _stage(pair[0]) == "precision"):  # these stand on others
        name, stage = str(contender), _stage(contender)
        if not examined.deployed or contender.fault is not None or name in ladder.outputs:
            continue
        above = _under(contender)
        above = above if above in ladder.outputs else ground
        plainly = _unoptimised(model, contender, sample, options)
        if plainly is not None:
            ladder.add(f"{name}, unoptimised", "runtime", above, plainly, examined.precision)
            above, stage = ladder.rungs[-1].name, "optimised"
        ladder.add(name, stage, above, examined.deployed, examined.precision)
    return tuple(ladder.rungs)


def pooled(samples: Sequence[Sequence[Rung]], candidates: Sequence[Candidate]) -> tuple[Rung, ...]:
    """The ladder of a run: of each rung the worst sample's figures, and whom its candidate blames.

    Args:
        samples: the rungs on each.
        candidates: as they are reported.
    """
    worst: dict[str, Rung] = {}
    for rung in (rung for sample in samples for rung in sample):
        held = worst.get(rung.name)
        if held is None or _badness(rung) > _badness(held):
            worst[rung.name] = rung
    found = {c.target: c.first_bad for c in candidates if c.first_bad is not None}
    return tuple(replace(rung, first_bad=_blamed(rung, worst, found)) for rung in worst.values())


def _blamed(rung: Rung, rungs: Mapping[str, Rung], found: Mapping[str, FirstBad]) -> FirstBad | None:
    """The first bad layer of a rung: what the module's row says of an export is the export's."""
    if rung.output is None:
        return None
    bad = found.get(rung.name)
    match rung.stage:
        case "types":
            return rung.first_bad if bad is None or bad.kind == "export" else bad
        case "export":
            own = found.get(str(MODULE))
            return own if own is not None and own.kind == "export" else None
        case "runtime" if bad is None and not rung.passed:
            return next((found.get(r.name) for r in rungs.values() if r.above == rung.name), None)
        case "optimised" if rung.passed and rung.above is not None and not rungs[rung.above].passed:
            return None
        case _:
            return bad


def _badness(rung: Rung) -> tuple[bool, float]:
    added = math.inf if rung.added is None or math.isnan(rung.added) else rung.added
    return not rung.passed, added


class _Ladder:
    """The rungs so far, and the outputs of each; those that are drawn at random are compared on none."""

    def __init__(self, sample: Sample, options: Options) -> None:
        self.sample, self.options = sample, options
        self.rungs: list[Rung] = []
        self.outputs: dict[str, Arrays] = {}
        self.precision = model_precision(sample.survey.flat)
        self.drawn = drawn_outputs(sample.survey.flat)

    def add(self, name: str, stage: Stage, above: str | None, outputs: Arrays, precision: str = "",
            note: str = "") -> None:
        """Put one on.

        Args:
            name: of what ran.
            stage: what it changes.
            above: the rung that it stands on; None for the first.
            outputs: of its unwatched run.
            precision: whose tolerance applies; empty for the model's own.
            note: what a reader should know.
        """
        self.outputs[name] = outputs
        if above is None:
            drawn = ", ".join(map(repr, self.drawn))
            self.rungs.append(Rung(name, stage, None, error=0.0, note=_DRAWN.format(drawn) if drawn else ""))
            return
        tolerance = self.options.tolerance or DEFAULTS[precision or self.precision]
        judged = {o.name: o for o in self._judged(self.outputs[above], outputs, tolerance)}
        errors = {o.name: o for o in self._judged(self.outputs[self.rungs[0].name], outputs, tolerance)}
        worst = max(judged.values(), key=_beyond, default=None)
        if worst is None:
            self.rungs.append(Rung(name, stage, above, note=note))
            return
        self.rungs.append(Rung(
            name, stage, above, worst.name, _rel_l2(errors.get(worst.name)), _rel_l2(worst), worst.limit,
            all(o.passed for o in judged.values()), note=note))

    def explain(self, sessions: Callable[[], tuple[Session, Session]]) -> None:
        """Where the last rung fails, name the first tensor at which it parts from the one above."""
        rung = self.rungs[-1]
        if not rung.passed:
            first_bad = _first_apart(self.sample, *sessions(), rung.limit or 0.0, self.options.run.memory)
            self.rungs[-1] = replace(rung, first_bad=first_bad)

    def in_fp64(self, truth: Arrays) -> str:
        """What the export computes in FP64, beside the module; empty where nothing can be said."""
        apart = max((math.inf if o.comparison is None else o.comparison.rel_l2
                     for o in self._judged(truth, self.sample.gold, DEFAULTS["fp64"])), default=math.nan)
        if math.isnan(apart):
            return ""
        kind, roundoff = rounded_weights(self.sample.survey.flat)
        return _IN_FP64.format(
            "computes what the module does" if apart <= _EXACT else
            f"is off the module by {number(apart)}: its constants are rounded to FP32" if apart <= _ROUNDED else
            f"is off the module by {number(apart)}, which constants rounded to {kind} may explain"
            if kind != "FP32" and apart <= _UNITS * roundoff else
            f"is off the module by {number(apart)}: it computes something else")

    def _judged(self, above: Arrays, outputs: Arrays, tolerance: Tolerance) -> tuple[OutputFinding, ...]:
        held = {name: value for name, value in above.items() if name not in self.drawn}
        return judge_outputs(held, outputs, self.sample.noise, tolerance)


def _to_the_reference(ladder: _Ladder, reference: Target, ran: Ran) -> str:
    """From the truth to the reference; the name of that rung."""
    sample, options = ladder.sample, ladder.options
    module = _module(ran, sample)
    if module is None:
        ladder.add(str(_GOLD), "truth", None, sample.gold)
        ladder.add(str(_TORCH), "types", str(_GOLD), sample.survey.outputs)
        ladder.explain(lambda: (_opened(sample, _GOLD, options), _opened(sample, _TORCH, options)))
    else:
        original, truth, own = module
        ladder.add(str(TRUTH), "truth", None, truth)
        ladder.add(str(MODULE), "types", str(TRUTH), own)
        ladder.explain(lambda: (original.open(TRUTH, sample.feed), original.open(MODULE, sample.feed)))
        ladder.add(str(_TORCH), "export", str(MODULE), sample.survey.outputs, note=ladder.in_fp64(truth))
    if str(reference) not in ladder.outputs:
        ladder.add(str(reference), "reference", str(_TORCH), sample.outputs)
    return str(reference)


def _module(ran: Ran, sample: Sample) -> tuple[Original, Arrays, Arrays] | None:
    """The module, its outputs in FP64, and those in its own types; None where there is none, or it does not run."""
    found = {c.target: (c.original, e.deployed) for c, e in ran if c.original is not None and e.deployed}
    original, own = found.get(MODULE, (None, {}))
    if original is None:
        return None
    if TRUTH in found:
        return original, found[TRUTH][1], own
    try:
        return original, original.truth(sample.feed), own
    except ModelError:
        return None


def _opened(sample: Sample, target: Target, options: Options) -> Session:
    return backend_of(target).open(sample.survey.flat, sample.survey.flat, target, options.run)


def _stage(contender: Contender) -> Stage:
    target = contender.target
    if target is None or contender.model is not None:
        return "other"
    if contender.original is not None:
        return "compiled"
    return "precision" if target.precision in VARIANTS else "runtime"


def _under(contender: Contender) -> str:
    """What it is but a change of: the same runtime in FP32, the module that is compiled; empty where there is none."""
    if contender.original is not None:
        return str(MODULE)
    return "" if contender.target is None else str(replace(contender.target, precision="fp32"))


def _unoptimised(model: Model, contender: Contender, sample: Sample, options: Options) -> Arrays | None:
    """ONNX Runtime's outputs without graph optimisation; None for anything else, and where it was off anyway."""
    target = contender.target
    if target is None or _stage(contender) != "runtime" or target.backend != "onnxruntime":
        return None
    run = replace(options.run, optimization="off")
    if run == options.run:
        return None
    try:
        return backend_of(target).open(model, sample.survey.flat, target, run).run(sample.feed).outputs
    except (BackendFailed, BackendUnavailable):
        return None


def _first_apart(sample: Sample, above: Session, own: Session, limit: float, memory: int) -> FirstBad | None:
    """The first tensor by which two runs of the same graph are further apart than a limit (relative L2)."""
    wanted, held = comparable_tensors(sample.survey.flat), TensorStore(memory)
    for chunk in above.watch(sample.feed, wanted, sample.survey.sizes):
        for name, value in chunk.items():
            held.put(name, value)
    for chunk in own.watch(sample.feed, wanted, sample.survey.sizes):
        for name, value in chunk.items():
            if name not in held or value.dtype.kind != "f" or held[name].shape != value.shape:
                continue
            bad = not np.array_equal(np.isfinite(value), np.isfinite(held[name]))
            if bad or distance(tensor_of(held[name]), tensor_of(value)) > limit:
                node = sample.survey.flat.graph.producer[name]
                return FirstBad(name, node.proto.name, node.op, node.index, "nonfinite" if bad else "precision",
                                measure(held[name], value), None, place_of(node).source)
    return None


def _rel_l2(found: OutputFinding | None) -> float | None:
    return None if found is None or found.comparison is None else found.comparison.rel_l2


def _beyond(found: OutputFinding) -> tuple[bool, float]:
    error = _rel_l2(found)
    over = math.inf if error is None or math.isnan(error) else error / found.limit if found.limit else error
    return not found.passed, over
