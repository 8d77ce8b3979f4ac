"""The words and figures of a fix: what it changes, what it gives, what it costs."""

from __future__ import annotations

import math

from parity.backends.latency import Latency
from parity.fixes.fix import Fix, KeptLayer
from parity.report import words
from parity.report.record import Candidate

TRAINING = "What quantisation-aware training should cover"


def best(candidate: Candidate) -> Fix | None:
    """The first fix that passes, else the one that comes nearest."""
    fixes = candidate.fixes
    passing = next((fix for fix in fixes if fix.passed), None)
    return passing or min(fixes, key=lambda fix: math.inf if math.isnan(fix.after) else fix.after, default=None)


def sentence(candidate: Candidate, fix: Fix) -> str:
    """What the fix gives on the candidate's target, in one sentence."""
    what = words.line(fix.message).rstrip(".") if not fix.kept else keeping(fix)
    gain = f"{what}, error {change(fix)}"
    if fix.passed:
        return f"A fix passes on {words.target(candidate)}: {gain}."
    return f"No fix passes on {words.target(candidate)}. The best found: {gain}."


def change(fix: Fix) -> str:
    """The output error before and after, as multiples of its limit; on other samples too where it is missed there."""
    missed = f", but {words.number(fix.held_out)} of it on other samples" if (
        fix.after <= 1 and not fix.passed and fix.held_out is not None) else ""
    return f"{words.number(fix.before)} → {words.number(fix.after)} of its limit{missed}"


def keeping(fix: Fix) -> str:
    """How many layers a fix that keeps some leaves in which precision: "3 of 54 layers kept in FP32"."""
    count = len(fix.kept)
    of = f"{count:,} of {words.plural(fix.layers, 'layer')}" if fix.layers else words.plural(count, "layer")
    names = sorted({words.visible(layer.precision).upper() for layer in fix.kept})
    return f"{of} kept in {' and '.join(names)}"


def figures(fix: Fix) -> list[tuple[str, str]]:
    """The fix as (label, value), in reading order."""
    behind = f" ({words.line(fix.metric)})" if fix.metric else ""
    rows = [("error", change(fix) + behind)]
    if fix.held_out is not None:
        beyond = ": beyond it" if not fix.held_out <= 1 else ""
        rows.append(("on other samples", (f"{words.number(fix.held_out)} of the limit{beyond} (on samples that the "
                                          "search did not see)")))
    if fix.kept:
        rows.append(("kept", (f"{keeping(fix)}: {fix.operations:.1%} of the multiply-adds, {fix.bytes:.1%} of the "
                              f"weight bytes, {casts(fix.casts)}")))
    if fix.latency_before is not None or fix.latency_after is not None:
        rows.append(("latency", f"{words.latency(fix.latency_before)} → {words.latency(fix.latency_after)}"
                     + slower(fix.latency_before, fix.latency_after)))
    rows.append(("tried", (f"{words.plural(fix.trials, 'run')} of the emulator, "
                           f"{words.plural(fix.runs, 'run')} of the target")))
    return rows


def casts(more: int) -> str:
    """How many Casts the fix adds or spares."""
    if more == 0:
        return "no Cast more"
    return f"{words.plural(abs(more), 'Cast')} {'more' if more > 0 else 'fewer'}"


def slower(before: Latency | None, after: Latency | None) -> str:
    """The ratio of two latencies where both are known: ", 1.2 times"."""
    return "" if before is None or after is None or not before.median else (
        f", {words.number(after.median / before.median)} times")


def name(layer: KeptLayer) -> str:
    """A kept layer by tensor and operator."""
    return f"{words.visible(layer.tensor)} ({words.visible(layer.op)})"
