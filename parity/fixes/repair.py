"""Mend a variant: try what may help on the emulator, search for the layers to keep, verify on the target.

    the target in FP32 (can the tolerance be met at all?) and the variant as it is
    ─► other calibrations or rewritten formulas, on the emulator; the best of them on the target
    ─► layers priced and ranked ─► search on the emulator ─► held-out samples ─► the target, unwatched
       (missed there: the search goes on with a tighter limit)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from parity.analysis.energy import prices
from parity.backends.base import Session
from parity.backends.latency import latency_of
from parity.errors import UsageError
from parity.fixes.account import Account
from parity.fixes.attempt import Attempt, Emulation, variant_of
from parity.fixes.fix import Fix
from parity.fixes.journal import Journal
from parity.fixes.keep import Group, largest, overflowing, ranked, touching
from parity.fixes.outcome import Outcome, Solution
from parity.fixes.outcome import ranked as best_of_each
from parity.fixes.problem import Problem, allowing_for_noise
from parity.fixes.rescale import rescales
from parity.fixes.rewrite import rewrites
from parity.fixes.search import Found, Trials, search
from parity.fixes.settings import calibrations, has_outliers, seven_bits
from parity.fixes.target import TargetRuns
from parity.fixes.training import training
from parity.fixes.words import words
from parity.graph.costs import added_casts
from parity.graph.flatten import inline_functions
from parity.precision.plan import Precision

# Told (what is going on, steps done, steps in all).
Progress = Callable[[str, int, int], None]
# Where the target misses what the emulator reaches, the next search keeps to this much less than it needs.
_SLACK = 0.95
# However cheap they are; a node costs about as much as so many multiply-adds, beside its own.
_MOST_EXTRA, _NODE = 580, 1_000_000
# Below this limit (relative L2) a model's own FP32 noise may raise it.
_NOISY = 1e-2
# An attempt that leaves more of the error than this does not help.
_HELPS = 0.9
# Beyond this multiple of what the emulator says, it is the runtime's kernels that lose.
_SATURATED = 1.5


def repair(problem: Problem, save: Callable[[Solution], None], progress: Progress) -> Outcome:
    """Look for the smallest change with which the variant keeps to its tolerance on its target.

    Args:
        problem: what is to be mended.
        save: is given every fix that passes on the target, as soon as it does; a later one is a better one.
        progress: is told how far things are.

    Raises:
        UsageError: the model in FP32 misses the tolerance on the target, too; says by how much.
        BackendUnavailable, BackendFailed: the target cannot run.
    """
    tight = problem.judged[0][1].tolerance.limits.get("rel_l2", math.inf) < _NOISY
    runs = TargetRuns(allowing_for_noise(problem) if tight else problem)
    problem = runs.problem
    floor, _, _ = runs.error(problem.model)
    if floor > 1:
        raise UsageError(f"the tolerance cannot be met: {problem.target.backend} in FP32 is at {floor:.3g} times it "
                         "already", "Give a --tolerance beyond that, or find out why with `parity compare`.")
    mending = _Mending(problem, runs, save, progress)
    base = Emulation(problem, Attempt("", "", problem.model))
    before, session, outputs = runs.error(base.variant.model)
    if before <= 1:
        return Outcome(before, floor, outputs, ())
    mending.start(base, before, session, outputs)
    chosen = mending.best_attempt(base)
    if not mending.passed:
        mending.keep_layers(chosen)
    found = best_of_each(mending.solutions, before)
    return Outcome(before, floor, outputs, (*map(mending.timed, found[:1]), *found[1:]), mending.prices)


class _Mending:
    """One repair under way: what was tried so far."""

    def __init__(self, problem: Problem, runs: TargetRuns, save: Callable[[Solution], None],
                 progress: Progress) -> None:
        self.problem, self.runs, self.save, self.progress = problem, runs, save, progress
        self.solutions: list[Solution] = []
        self.trials = 0
        self.before = math.inf
        self.session: Session | None = None
        self.base: Emulation | None = None
        self.outputs: Mapping[str, np.ndarray] = {}
        self.prices: Mapping[str, float] = {}

    @property
    def passed(self) -> bool:
        """Whether a fix passes on the target."""
        return any(s.fix.passed for s in self.solutions)

    def start(self, base: Emulation, before: float, session: Session, outputs: Mapping[str, np.ndarray]) -> None:
        """Take the variant as it is for what there was before."""
        self.base, self.before, self.session = base, before, session
        self.outputs = outputs
        self.trials += 1

    def best_attempt(self, base: Emulation) -> Emulation:
        """The way to make the variant that does best with no layer kept; what passes on the target ends it."""
        found = [base]
        if self.problem.target.precision == "int8":
            if self._saturates(self.before, base.baseline):
                found = [self._on_target(self._emulated(seven_bits(base.attempt)), base)]
            if not self.passed:
                found += self._calibrated(found[0])
        else:
            found += self._patched(base)
        best = min(found, key=lambda e: e.baseline)
        if best not in {base, found[0]} and not self.passed:
            self._on_target(best, base)
        return best

    def _saturates(self, measured: float, emulated: float) -> bool:
        """Whether it may be the runtime's INT8 kernels, and not the format, that lose."""
        return self.problem.target.precision == "int8" and measured > _SATURATED * max(emulated, 1 / _SATURATED)

    def _calibrated(self, base: Emulation) -> list[Emulation]:
        """The base with other ranges: the dearer method only where clipping outliers helps at all."""
        found: list[Emulation] = []
        for attempt in calibrations(base.attempt) if has_outliers(base.mixture) else ():
            found.append(self._emulated(attempt))
            if found[-1].baseline > _HELPS * base.baseline:
                break
        return found

    def _patched(self, base: Emulation) -> list[Emulation]:
        """The variant of models with rewritten formulas, and with overflowing tensors rescaled."""
        flat = inline_functions(self.problem.model)
        if any(node.subgraphs for node in flat.graph.nodes):
            return []
        found = [self._emulated(Attempt(patch.strategy, patch.message, patch.model)) for patch in rewrites(flat)]
        best = min((base, *found), key=lambda e: e.baseline)
        beyond = overflowing(best.mixture)
        if beyond:
            limit = float(np.finfo(np.float16).max)
            model = best.mixture.reference if best is not base else flat
            for patch in rescales(model, largest(best.mixture), limit):
                strategy = "+".join(filter(None, (best.attempt.strategy, patch.strategy)))
                message = " ".join(filter(None, (best.attempt.message, patch.message)))
                found.append(self._emulated(Attempt(strategy, message, patch.model)))
        return found

    def _emulated(self, attempt: Attempt) -> Emulation:
        self.progress(attempt.strategy, self.trials, self.problem.limits.trials)
        self.trials += 1
        return Emulation(self.problem, attempt)

    def _on_target(self, emulation: Emulation, base: Emulation) -> Emulation:
        """Run an attempt without kept layers; returns it, or the base where that does better."""
        after, session, outputs = self.runs.error(emulation.variant.model)
        fix = Fix(emulation.attempt.strategy, emulation.attempt.message, (), self.before, after, after <= 1,
                  casts=added_casts(self._base.variant.model, emulation.variant.model), trials=self.trials,
                  layers=len(emulation.mixture.layers), runs=self.runs.count, held_out=emulation.held_out(()),
                  metric=self.runs.change(self.outputs, outputs))
        self._add(Solution(fix, emulation.variant, emulation.attempt, session))
        return emulation if after < self.before else base

    @property
    def _base(self) -> Emulation:
        assert self.base is not None  # noqa: S101 - repair starts with it
        return self.base

    def keep_layers(self, emulation: Emulation) -> None:
        """Search for the layers to keep, tightening the limit while the target, or unseen samples, miss it."""
        account, journal, first, order = self._priced(emulation)
        names = {group.name: group for group in emulation.groups}
        most = max(1, int(self.problem.limits.kept * len(names)))
        if self.problem.target.precision == "int8":
            most = min(most, len(names) - 1)  # with all of them kept there would be no INT8 variant
        trials = Trials(lambda chosen: emulation.error(_layers(names, chosen)),
                        self._allowed(account), journal.trials(), journal.add_trial)
        trials.known[frozenset()] = emulation.baseline
        kinder = self._kinder(emulation)
        limit, found = kinder, None
        while self.runs.count < self.problem.limits.runs - 1:
            found = search(first[:most], order[:max(0, most - len(first))], trials, limit)
            self.progress("search", self.trials + trials.tried, self.problem.limits.trials)
            if not found.enough:
                break
            held_out = emulation.held_out(_layers(names, found.items))
            if held_out is not None and held_out > kinder and limit > kinder * _SLACK**8:
                limit = min(limit, found.error) * max(_SLACK * kinder / held_out, 0.3)
                continue
            after = self._keep(account, found, held_out, trials)
            if after <= 1:
                return
            if self._saturates(after, found.error) and not emulation.attempt.settings.reduce_range:
                self.keep_layers(self._emulated(seven_bits(emulation.attempt)))
                return
            limit = min(limit, found.error) * max(_SLACK / after, 0.3)
        if found is not None and not self.passed and self.runs.count < self.problem.limits.runs:
            self._keep(account, found, emulation.held_out(_layers(names, found.items)), trials)

    def _allowed(self, account: Account) -> int:
        """How many sets may be tried: the more, the less each costs."""
        limits = self.problem.limits
        each = account.operations + _NODE * len(account.emulation.mixture.units)
        return max(1, limits.trials + min(_MOST_EXTRA, int(limits.extra / each)) - self.trials)

    def _kinder(self, emulation: Emulation) -> float:
        """How much worse the emulator is than the target: a runtime need not round after every operator."""
        measured = self.before if emulation.attempt.strategy == "" else math.inf
        ratio = emulation.baseline / measured if 0 < measured < math.inf else 1.0
        return ratio if _SATURATED < ratio < math.inf else 1.0

    def _priced(self, emulation: Emulation) -> tuple[Account, Journal, list[str], list[str]]:
        """What layers are worth, and in which order to keep them: those that overflow first."""
        mixture = emulation.mixture
        key = f"{self.problem.digest} {emulation.attempt.strategy} {emulation.attempt.settings}"
        journal = Journal(self.problem.folder / "trials.jsonl", key)
        self.progress("pricing", 0, len(mixture.layers))
        worth = journal.prices()
        if worth is None:
            worth = prices(mixture)
            journal.add_prices(worth)
        self.prices = worth
        beyond = overflowing(mixture)
        at_once = touching(mixture, beyond)
        order = ranked(emulation.groups, worth)
        first = [g.name for g in order if not at_once.isdisjoint(g.layers)]
        return Account.of(emulation, worth, beyond), journal, first, [g.name for g in order if g.name not in first]

    def _keep(self, account: Account, found: Found[str], held_out: float | None, trials: Trials[str]) -> float:
        """Run what a search found on the target; returns the error there."""
        emulation = account.emulation
        groups = [g for g in emulation.groups if g.name in found.items]
        layers = [layer for group in groups for layer in group.layers]
        precision: Precision = "fp32"
        variant = variant_of(self.problem, emulation.attempt, layers)
        after, session, outputs = self.runs.error(variant.model)
        wanted = self.problem.limits.precision
        if after <= 1 and wanted != precision and self.runs.count < self.problem.limits.runs:
            narrower = variant_of(self.problem, emulation.attempt, layers, wanted)
            error, other, found_there = self.runs.error(narrower.model)
            if error <= 1:
                variant, precision, after, session, outputs = narrower, wanted, error, other, found_there
        kept = account.kept(groups, precision)
        operations, size = account.shares(layers)
        low, total = self.problem.target.precision, len(emulation.mixture.layers)
        message = (f"{emulation.attempt.message} {len(layers)} of {total} layers stay in {precision.upper()}, the rest "
                   f"is {low.upper()}.").strip()
        decided: Mapping[str, Precision] = dict.fromkeys(layers, precision)
        fix = Fix(
            "+".join(filter(None, (emulation.attempt.strategy, "keep"))), message, kept, self.before, after, after <= 1,
            layers=total, operations=operations, bytes=size, curve=account.curve(trials.known),
            casts=added_casts(self._base.variant.model, variant.model), trials=self.trials + trials.tried,
            runs=self.runs.count, held_out=held_out,
            words=words(emulation.attempt.model, decided, cast("Precision", low), emulation.attempt.settings),
            training=training(self.problem.model, _hardest(layers, account)) if after > 1 and low == "int8" else {},
            metric=self.runs.change(self.outputs, outputs))
        self._add(Solution(fix, variant, emulation.attempt, session))
        return after

    def _add(self, solution: Solution) -> None:
        self.solutions.append(solution)
        if solution.fix.passed:
            self.save(solution)

    def timed(self, solution: Solution) -> Solution:
        """With how fast the variant is on the target, with and without the fix."""
        if self.problem.target.backend == "pytorch" or self.session is None:
            return solution  # emulated: its speed says nothing of the format's
        before, after = (latency_of(s, self.problem.judged[0][0]) for s in (self.session, solution.session))
        return replace(solution, fix=replace(solution.fix, latency_before=before, latency_after=after))


def _layers(names: Mapping[str, Group], chosen: frozenset[str]) -> list[str]:
    return [layer for name in chosen for layer in names[name].layers]


def _hardest(layers: Sequence[str], account: Account) -> list[str]:
    """The layers to train: those that were kept, or where none was, the dearest tenth."""
    if layers:
        return list(layers)
    dearest = sorted(account.prices, key=lambda layer: account.prices[layer], reverse=True)
    return dearest[:max(1, len(dearest) // 10)]
