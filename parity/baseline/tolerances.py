"""Tolerances from measurement: how far a sound target is off over seeds, and how far rounding moves it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal

from parity.analysis.tolerance import NOISE_FACTOR
from parity.api import compare
from parity.baseline.noise import layer_noise
from parity.contenders import Request, feeds_of
from parity.graph.model import Model
from parity.graph.shapes import parse_shape
from parity.precision.calibration import Calibration
from parity.report import words
from parity.report.record import Candidate
from parity.sample import Progress
from parity.targets import Target

# Over the largest error seen: what other inputs may do beyond a few seeds.
HEADROOM = 2.0
_ONE_DIGIT = Context(prec=1, rounding=ROUND_CEILING)


@dataclass(frozen=True)
class Spread:
    """How far one target's outputs are off.

    Attributes:
        target: which one.
        errors: of the worst output (relative L2), one a seed; one in all where the inputs are given.
        noise: by how much rounding moves an output, the most over the seeds.
        limit: the tolerance to ask for; None where there is none to give.
        reason: why there is none.
        missing: whether the target cannot run here.
    """

    target: str
    errors: tuple[float, ...]
    noise: float
    limit: float | None
    reason: str = ""
    missing: bool = False


def spreads_of(request: Request, seeds: Sequence[int], optimization: str, progress: Progress) -> list[Spread]:
    """Run every target on every seed, against the reference.

    Args:
        request: model, targets, and inputs where they are given; else they are seeded.
        seeds: of inputs, and of the movements that show what rounding does.
        optimization: graph optimisation of the runtime.
        progress: is told how many seeds are done.

    Raises:
        ParityError: an argument makes no sense, or the reference cannot run.
    """
    rows: dict[str, list[Candidate]] = {}
    runs = seeds[:1] if request.inputs else seeds
    for done, seed in enumerate(runs):
        progress("seeds", done, len(runs))
        model = Model.load(request.model)
        feeds, _ = feeds_of(model, request, seed)
        report = compare(model, feeds, candidates=request.targets, reference=request.reference, seed=seed,
                         calibration=request.calibration, optimization=optimization)
        for candidate in report.candidates:
            rows.setdefault(candidate.target, []).append(candidate)
    progress("seeds", len(runs), len(runs))
    return [_spread(request, candidates, seeds) for candidates in rows.values()]


def _spread(request: Request, candidates: Sequence[Candidate], seeds: Sequence[int]) -> Spread:
    target = candidates[0].target
    broken = next((c for c in candidates if c.status != "ok"), None)
    errors = tuple(_error(c) for c in candidates)
    blank = Spread(target, errors, 0.0, None)
    if broken is not None:
        return replace(blank, reason=words.verdict(broken), missing=True)
    wrong = next((c.first_bad for c in candidates if c.first_bad and c.first_bad.kind != "precision"), None)
    if wrong is not None:
        return replace(blank, reason=f"{words.blamed(wrong)} is wrong by itself ({words.KINDS[wrong.kind]}): "
                                     "no tolerance excuses that")
    if not all(map(math.isfinite, errors)):
        return replace(blank, reason="an output cannot be compared")
    noise = _noise(request, Target.parse(target), [o.tensor for o in candidates[0].outputs], seeds)
    return Spread(target, errors, noise, rounded_up(max(HEADROOM * max(errors), NOISE_FACTOR * noise)))


def rounded_up(limit: float) -> float:
    """A limit to one digit, upwards: 0.0312 → 0.04."""
    return float(_ONE_DIGIT.create_decimal(Decimal(limit)))


def _error(candidate: Candidate) -> float:
    found = [math.inf if o.accumulated is None else o.accumulated.rel_l2 for o in candidate.outputs]
    return math.inf if not found or any(map(math.isnan, found)) else max(found)


def _noise(request: Request, target: Target, outputs: Sequence[str], seeds: Sequence[int]) -> float:
    model = Model.load(request.model)
    feeds, _ = feeds_of(model, request, seeds[0])
    samples = None if request.calibration is None else Calibration.load(model, request.calibration)
    found = layer_noise(model, target, feeds[0], samples, seeds[0], runs=len(seeds))
    finite = [found[name] for name in outputs if math.isfinite(found.get(name, math.inf))]
    return max(finite, default=0.0)


def described(spread: Spread) -> str:
    """One target in a line."""
    target = words.visible(spread.target)
    if spread.limit is None:
        return f"✗ {target}: {spread.reason}"
    low, high = (words.number(bound(spread.errors)) for bound in (min, max))
    seen = low if low == high else f"{low} to {high}"
    return (f"✓ {target}: relative L2 error {seen} ({words.plural(len(spread.errors), 'run')}), "
            f"rounding moves it by {words.number(spread.noise)}: rel_l2={spread.limit:g}")


def listed(request: Request, spreads: Sequence[Spread], seed: int, optimization: str) -> str:
    """The model with its targets, tolerances and all that they were measured with, as parity.toml takes it.

    Args:
        request: what was measured.
        spreads: what came of it.
        seed: the first of the seeds.
        optimization: of the runtime.
    """
    sound = {s.target: s.limit for s in spreads if s.limit is not None}
    entries = {
        "path": _quoted(request.model.as_posix()), "inputs": ", ".join(map(_quoted, request.inputs)),
        "shapes": _table({name: str(list(sizes)) for name, sizes in map(parse_shape, request.shapes)}),
        "calibration": "" if request.calibration is None else _quoted(request.calibration.as_posix()),
        "reference": _quoted(request.reference) if request.reference != "pytorch" else "",
        "seed": str(seed) if seed and not request.inputs else "",
        "optimization": _quoted(optimization) if optimization != "all" else "",
        "targets": f"[{', '.join(map(_quoted, sound))}]",
        "tolerance": _table({target: f"{{ rel_l2 = {limit:g} }}" for target, limit in sound.items()})}
    return "\n".join(["[[model]]", *(f"{key} = {value}" for key, value in entries.items() if value)])


def _table(entries: Mapping[str, str]) -> str:
    """An inline table; empty where there is nothing in it."""
    rows = ", ".join(f"{_quoted(key)} = {value}" for key, value in entries.items())
    return f"{{ {rows} }}" if rows else ""


def _quoted(text: str) -> str:
    """A basic string of TOML, which escapes as JSON does, and one sign more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
