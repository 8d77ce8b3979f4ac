"""One repair under way: what was tried on the emulator and on the target, and what came of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import cast

from parity.analysis.energy import energies, prices
from parity.backends.latency import latency_of
from parity.fixes.account import Account
from parity.fixes.attempt import Attempt, Emulation, variant_of
from parity.fixes.fix import Fix
from parity.fixes.journal import Journal
from parity.fixes.keep import Group, overflowing
from parity.fixes.outcome import Solution
from parity.fixes.target import Ran, TargetRuns
from parity.fixes.training import training
from parity.fixes.words import words
from parity.graph.costs import added_casts
from parity.precision.plan import Precision
from parity.precision.variant import Variant

# Told (what is going on, steps done, steps in all).
Progress = Callable[[str, int, int], None]
# However cheap they are; a node costs about as much as so many multiply-adds, beside its own.
_MOST_EXTRA, _NODE = 580, 1_000_000
# Where trying every layer alone costs more multiply-adds than this, energies order them as well in half the time.
_DEAR, _DIRECTIONS = 5e10, 8


class Mending:
    """What was tried so far for one variant.

    Attributes:
        problem: what is to be mended.
        runs: of the target.
        progress: is told how far things are.
        solutions: what was run on the target, in that order.
        trials: runs of the emulator.
        before: the variant as it is, on the target.
        missed: of every attempt the sets of groups, by name, that do not pass on the target, and how many times their
            limit they are at there.
        prices: what each layer alone in low precision does to the outputs (relative L2), once that is known.
    """

    def __init__(self, runs: TargetRuns, base: Emulation, before: Ran, save: Callable[[Solution], None],
                 progress: Progress) -> None:
        """Start.

        Args:
            runs: of the target.
            base: the variant as it is, on the emulator.
            before: the same on the target.
            save: is given every fix that passes, as soon as it does.
            progress: is told how far things are.
        """
        self.problem, self.runs, self.progress = runs.problem, runs, progress
        self.solutions: list[Solution] = []
        self.trials = 1
        self.before = before
        self.prices: Mapping[str, float] = {}
        self._base, self._save = base, save
        self._ran: dict[tuple[Emulation, frozenset[str], str], tuple[Variant, Ran]] = {
            (base, frozenset(), ""): (base.variant, before)}
        self.missed = defaultdict[Emulation, dict[frozenset[str], float]](dict, {base: {frozenset(): before.error}})

    @property
    def passed(self) -> bool:
        """Whether a fix passes on the target."""
        return any(s.fix.passed for s in self.solutions)

    @property
    def fewest(self) -> int | None:
        """The least number of layers that a fix keeps which passes on the target; None where none does."""
        return min((len(s.fix.kept) for s in self.solutions if s.fix.passed), default=None)

    @property
    def spare(self) -> bool:
        """Whether the emulator may be run for yet another way to make the variant."""
        return self.problem.limits.extra > 0 or self.trials < self.problem.limits.trials

    def emulated(self, attempt: Attempt) -> Emulation:
        """Run an attempt on the emulator."""
        self.progress(attempt.strategy, self.trials, self.problem.limits.trials)
        self.trials += 1
        return Emulation(self.problem, attempt)

    def on_target(self, emulation: Emulation) -> Fix:
        """Run an attempt without kept layers on the target."""
        attempt = emulation.attempt
        return self._judged(emulation, (), "fp32", lambda ran: Fix(
            attempt.strategy, attempt.message, (), self.before.error, ran.error, passed=False, trials=self.trials,
            layers=len(emulation.mixture.layers), words=self._words(emulation, (), "fp32")))

    def unkept(self, emulation: Emulation) -> Ran | None:
        """What an attempt without kept layers did on the target; None where it was not run there."""
        found = self._ran.get((emulation, frozenset(), ""))
        return None if found is None else found[1]

    def keep(self, account: Account, chosen: frozenset[str], tried: Mapping[frozenset[str], float], trials: int) -> Fix:
        """Run an attempt with some layers kept on the target, in FP32 or, on request and if that passes, in FP16.

        Args:
            account: of the attempt.
            chosen: names of the groups that are kept.
            tried: the error of every set that was tried.
            trials: runs of the emulator that this took.
        """
        fix = self._kept(account, chosen, "fp32", tried, trials)
        wanted = self.problem.limits.precision
        if fix.passed and wanted != "fp32" and self.runs.left > 0:
            narrower = self._kept(account, chosen, wanted, tried, trials)
            self.solutions.pop(-2 if narrower.passed else -1)  # one of the two is the answer
            return narrower if narrower.passed else fix
        return fix

    def _kept(self, account: Account, chosen: frozenset[str], precision: Precision,
              tried: Mapping[frozenset[str], float], trials: int) -> Fix:
        emulation = account.emulation
        attempt = emulation.attempt
        groups = [g for g in emulation.groups if g.name in chosen]
        layers = [layer for group in groups for layer in group.layers]
        operations, size = account.shares(layers)
        low, total = self.problem.target.precision, len(emulation.mixture.layers)
        stay = f"{len(layers)} of {total} layers stay in {precision.upper()}, the rest is" if layers else (
            "No layer is kept: all that can be is")
        fix = self._judged(emulation, groups, precision, lambda ran: Fix(
            "+".join(filter(None, (attempt.strategy, "keep"))), f"{attempt.message} {stay} {low.upper()}.".strip(),
            account.kept(groups, precision), self.before.error, ran.error, passed=False, layers=total,
            operations=operations, bytes=size, curve=account.curve(tried), trials=self.trials + trials,
            words=self._words(emulation, layers, precision)))
        if fix.passed or low != "int8":
            return fix
        taught = replace(fix, training=training(self.problem.model, account.hardest(layers)))
        self.solutions[-1] = replace(self.solutions[-1], fix=taught)
        return taught

    def _words(self, emulation: Emulation, layers: Collection[str], precision: Precision) -> Mapping[str, str]:
        attempt, low = emulation.attempt, cast("Precision", self.problem.target.precision)
        return words(attempt.model, dict.fromkeys(layers, precision), low, attempt.settings)

    def _judged(self, emulation: Emulation, groups: Collection[Group], precision: Precision,
                told: Callable[[Ran], Fix]) -> Fix:
        """Run a variant on the target; the fix with all that this says of it is noted, and saved where it passes."""
        variant, ran = self._run(emulation, frozenset(layer for g in groups for layer in g.layers), precision)
        fix, held_out = told(ran), self.runs.held_out(ran)
        overfitted = ran.error <= 1 and held_out is not None and not held_out <= 1
        unseen = (f" It is within the limit on the samples that it was searched on, but at {held_out:.3g} times the "
                  "limit on those held out.") if overfitted else ""
        fix = replace(
            fix, message=fix.message + unseen, passed=ran.error <= 1 and not overfitted, held_out=held_out,
            casts=added_casts(self._base.variant.model, variant.model), runs=self.runs.count,
            metric=self.runs.change(self.before, ran))
        solution = Solution(fix, variant, emulation.attempt, ran.session)
        self.solutions.append(solution)
        if fix.passed:
            self._save(solution)
        else:
            self.missed[emulation][frozenset(g.name for g in groups)] = max(fix.after, held_out or 0.0)
        return fix

    def _run(self, emulation: Emulation, layers: frozenset[str], precision: Precision) -> tuple[Variant, Ran]:
        """Run a variant on the target, unless it was."""
        key = emulation, layers, precision if layers else ""
        if key not in self._ran:
            variant = variant_of(self.problem, emulation.attempt, layers, precision) if layers else emulation.variant
            self._ran[key] = variant, self.runs.run(variant.model)
        return self._ran[key]

    def priced(self, emulation: Emulation) -> tuple[Account, Journal]:
        """What the layers of an attempt are worth, and where the trials of it are noted."""
        mixture = emulation.mixture
        key = f"{self.problem.digest} {emulation.attempt.strategy} {emulation.attempt.settings}"
        journal = Journal(self.problem.folder / "trials.jsonl", key)
        self.progress("pricing", 0, len(mixture.layers))
        account = Account.of(emulation, {}, overflowing(mixture))
        worth = journal.prices()
        if worth is None:
            dear = account.operations * len(mixture.layers) / 2 > _DEAR
            worth = {n: math.sqrt(e) for n, e in energies(mixture, _DIRECTIONS).items()} if dear else prices(mixture)
            journal.add_prices(worth)
        self.prices = worth
        return replace(account, prices=worth), journal

    def allowed(self, account: Account) -> int:
        """How many sets may be tried: the more, the less each costs."""
        limits = self.problem.limits
        each = account.operations + _NODE * len(account.emulation.mixture.units)
        return max(0, limits.trials + min(_MOST_EXTRA, int(limits.extra / each)) - self.trials)

    def timed(self, solution: Solution) -> Solution:
        """With how fast the variant is on the target, with and without the fix."""
        if self.problem.target.backend == "pytorch":
            return solution  # emulated: its speed says nothing of the format's
        before, after = (latency_of(s, self.problem.judged[0][0]) for s in (self.before.session, solution.session))
        return replace(solution, fix=replace(solution.fix, latency_before=before, latency_after=after))
