"""Mend a variant: try what may help on the emulator, search for the layers to keep, verify on the target.

    the target in FP32 (can the tolerance be met at all?) and the variant as it is
    ─► other calibrations or rewritten formulas, on the emulator; the best of them on the target
    ─► layers priced and ranked ─► search on the emulator ─► held-out samples ─► the target, unwatched
       (missed there: the search goes on with a tighter limit; passed: smaller sets are tried there,
       and the same layers without rewritten formulas)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from parity.analysis.match import draws_randomly
from parity.errors import FeedError, UsageError
from parity.fixes.attempt import Attempt, Emulation
from parity.fixes.keep import largest, overflowing
from parity.fixes.mending import Mending, Progress
from parity.fixes.outcome import Outcome, Solution
from parity.fixes.outcome import ranked as best_of_each
from parity.fixes.problem import Problem, allowing_for_noise, outputs_of
from parity.fixes.rescale import rescales
from parity.fixes.rewrite import rewrites
from parity.fixes.selection import keep_layers, keep_these, saturates
from parity.fixes.settings import calibrations, has_outliers, seven_bits
from parity.fixes.target import Ran, TargetRuns, judged
from parity.graph.flatten import inline_functions
from parity.precision.plan import all_nodes

# Below this limit (relative L2), or where the target in FP32 is at more than this share of its limit, a model's own
# FP32 noise may matter.
_NOISY, _NEAR = 1e-2, 1e-3
# Random numbers that move the outputs by more than this share of their limit drown what a fix does.
_DRAWN = 0.1
# An attempt that leaves more of the error than this does not help.
_HELPS = 0.9
# Share of the trials for one way to make the variant where others wait: most, for it is the likeliest.
_FIRST = 0.75
# With so many trials left for each layer, a search for a fix that keeps fewer costs next to nothing.
_CHEAP = 5


def repair(problem: Problem, save: Callable[[Solution], None], progress: Progress) -> Outcome:
    """Look for the smallest change with which the variant keeps to its tolerance on its target.

    Args:
        problem: what is to be mended.
        save: is given every fix that passes on the target, as soon as it does; a later one is a better one.
        progress: is told how far things are.

    Raises:
        UsageError: the model in FP32 misses the tolerance, too (says by how much), or draws random numbers.
        FeedError: inputs hold NaN or Inf, and so do the outputs.
        BackendUnavailable, BackendFailed: the target cannot run.
    """
    runs = TargetRuns(problem)
    whole = runs.run(problem.model)
    if not problem.judged[0][1].tolerance.precision:
        _refuse_random(problem, whole, 1.0)
    if _noise_matters(problem, whole):
        runs.problem = problem = allowing_for_noise(problem)
        whole = judged(problem, whole.outputs, whole.session)
    base = Emulation(problem, Attempt("", "", problem.model))
    before = runs.run(base.variant.model)
    if max(whole.error, before.error) > 1:
        _refuse_random(problem, whole, _DRAWN)
        _refuse_nonfinite(problem, before)
    if whole.error > 1:
        raise UsageError(f"the tolerance cannot be met: {problem.target.backend} in FP32 is at {whole.error:.3g} times "
                         f"it already ({runs.said(whole) or 'an output is missing'})",
                         "Give a --tolerance beyond that, or find out why with `parity compare`.")
    if before.error <= 1:
        return Outcome(problem, before.error, whole.error, before.outputs, ())
    mending = Mending(runs, base, before, save, progress)
    _select(mending, _attempts(mending, base))
    _unwritten(mending, base)
    found = best_of_each(mending.solutions, before.error)
    return Outcome(problem, before.error, whole.error, before.outputs,
                   (*map(mending.timed, found[:1]), *found[1:]), mending.prices)


def _noise_matters(problem: Problem, whole: Ran) -> bool:
    """Whether it is worth finding out how far correct FP32 runs of the model are apart."""
    _, goal = problem.judged[0]
    integers = goal.tolerance.precision != "int8" and any(v.dtype.kind in "biu" for v in goal.reference.values())
    return integers or goal.tolerance.limits.get("rel_l2", math.inf) < _NOISY or whole.error > _NEAR


def _refuse_random(problem: Problem, whole: Ran, least: float) -> None:
    """Raise where random numbers move the outputs by more than this multiple of their limit."""
    drawn = next((n for n in all_nodes(problem.flat.graph) if draws_randomly(n.proto.op_type, training=False)), None)
    if drawn is None:
        return
    # With another seed, and on the target, which draws others anyway.
    feed, goal = problem.judged[0]
    moved = max(whole.error, goal.error(outputs_of(problem.flat, feed, problem.options.seed + 1)))
    if moved > least:
        raise UsageError(f"no fix can be judged: node {drawn.label!r} ({drawn.op}) draws random numbers, which alone "
                         f"move the outputs by {moved:.2g} times their limit",
                         "Export the model without it, or with what it draws as an input.")


def _refuse_nonfinite(problem: Problem, before: Ran) -> None:
    """Raise where NaN or Inf in the inputs makes the outputs of the model such, too, which no INT8 or FP16 follows."""
    for (feed, goal), outputs in zip(problem.judged, before.outputs, strict=True):
        if goal.error(outputs) < math.inf or all(map(_finite, goal.reference.values())):
            continue
        for name, value in feed.items():
            if not _finite(value):
                count = value.size - int(np.isfinite(value.astype(np.float64)).sum())
                raise FeedError(f"input {name!r} holds {count} NaN or Inf among {value.size} elements, so the outputs "
                                "are not finite either, and no fix can be judged on them",
                                "Give finite inputs with --input.")


def _finite(value: np.ndarray) -> bool:
    return value.dtype.kind in "biuOSU" or bool(np.isfinite(value.astype(np.float64)).all())


def _attempts(mending: Mending, base: Emulation) -> list[Emulation]:
    """Ways to make the variant, the one that does best with no layer kept first; what passes on the target ends it."""
    if mending.problem.target.precision != "int8":
        return _best_first(mending, [base, *_patched(mending, base)])
    if not (saturates(mending, mending.before.error, base.baseline) and mending.spare):
        return _best_first(mending, [base, *_calibrated(mending, base)])
    narrower = mending.emulated(seven_bits(base.attempt))
    if not mending.on_target(narrower).after < mending.before.error:
        return [*_best_first(mending, [base, *_calibrated(mending, base)]), narrower]
    return [*_best_first(mending, [narrower, *([] if mending.passed else _calibrated(mending, narrower))]), base]


def _best_first(mending: Mending, found: Sequence[Emulation]) -> list[Emulation]:
    """The best of some on the emulator, and the first, which has been run on the target already."""
    best = min(found, key=lambda e: e.baseline)
    if best is found[0]:
        return [best]
    mending.on_target(best)
    return [best, found[0]]


def _select(mending: Mending, attempts: Sequence[Emulation]) -> None:
    """Search for the layers to keep in one attempt after the other, until a set passes on the target.

    Where trials are cheap the others are searched for a smaller set then.
    """
    left, narrow = list(attempts), any(e.attempt.settings.reduce_range for e in attempts)
    cheap = True
    while left and mending.fewest != 0 and (cheap or not mending.passed):
        emulation = left.pop(0)
        wide = not narrow and mending.spare
        found = keep_layers(mending, emulation, _FIRST if left else 1.0, unless_saturated=wide)
        cheap = found.left > _CHEAP * len(emulation.groups)
        if found.saturated:
            left, narrow = [mending.emulated(seven_bits(emulation.attempt)), emulation, *left], True


def _unwritten(mending: Mending, base: Emulation) -> None:
    """Try without rewritten formulas what passes with them: some runtimes rewrite them so of their own accord."""
    best = best_of_each(mending.solutions, mending.before.error)[0]
    if best.attempt.formulas and best.fix.passed and best.fix.kept and mending.runs.left > 0:
        keep_these(mending, base, [layer.tensor for layer in best.fix.kept])


def _calibrated(mending: Mending, base: Emulation) -> list[Emulation]:
    """The base with other ranges: the dearer method only where clipping outliers helps at all."""
    found: list[Emulation] = []
    for attempt in calibrations(base.attempt) if mending.spare and has_outliers(base.mixture) else ():
        if not mending.spare:
            break
        found.append(mending.emulated(attempt))
        if found[-1].baseline > _HELPS * base.baseline:
            break
    return found


def _patched(mending: Mending, base: Emulation) -> list[Emulation]:
    """The variant of models with rewritten formulas, and with overflowing tensors rescaled."""
    flat = inline_functions(mending.problem.model)
    if any(node.subgraphs for node in flat.graph.nodes):
        return []
    found: list[Emulation] = []
    for patch in rewrites(flat):
        if mending.spare:
            attempt = Attempt(patch.strategy, patch.message, patch.model, formulas=patch.formulas)
            found.append(mending.emulated(attempt))
    best = min((base, *found), key=lambda e: e.baseline)
    if overflowing(best.mixture) and mending.spare:
        model = best.mixture.reference if best is not base else flat
        for patch in rescales(model, largest(best.mixture), float(np.finfo(np.float16).max)):
            strategy = "+".join(filter(None, (best.attempt.strategy, patch.strategy)))
            message = " ".join(filter(None, (best.attempt.message, patch.message)))
            found.append(mending.emulated(Attempt(strategy, message, patch.model, formulas=best.attempt.formulas,
                                                  rescaled=patch.rescaled)))
    return found
