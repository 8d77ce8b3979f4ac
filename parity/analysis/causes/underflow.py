"""Numbers too small for FP16, where they make the local error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, that_reach
from parity.analysis.causes.unit import Unit, unit_of
from parity.errors import ModelError
from parity.figures import number

FP16_NORMAL = 2.0**-14


def underflow(evidence: Evidence) -> Sequence[Diagnosis]:
    """Numbers too small for FP16 that become zero or lose their last bits, where that makes the local error."""
    found: list[tuple[float, Diagnosis]] = []
    for divergence in evidence.suspects():
        half = divergence.dtype == "float16" and divergence.local is not None
        if not half or divergence.local is None or not divergence.local.rel_l2 >= evidence.limit / 4:
            continue
        unit = unit_of(evidence, divergence, of_reference=True)
        diagnosis = None if unit is None else _small(unit) or _small_weights(evidence, unit)
        if diagnosis is not None:
            found.append((divergence.local.rel_l2, diagnosis))
    return that_reach(evidence, [d for _, d in sorted(found, key=lambda pair: -pair[0])])


def _small(unit: Unit) -> Diagnosis | None:
    try:
        gold = unit.gold
    except ModelError:
        return None
    if gold.shape != unit.candidate.shape:
        return None
    error = (unit.candidate.astype(np.float64) - gold)**2
    tiny = np.abs(gold) < FP16_NORMAL
    share = float(error[tiny].sum() / (error.sum() or 1.0))
    zeroed = float(((unit.candidate == 0) & (gold != 0)).mean())
    if share < 0.5:
        return None
    median = float(np.median(np.abs(gold[tiny])))
    message = (f"{tiny.mean():.1%} of {unit.tensor!r} is below FP16's smallest normal number "
               f"{number(FP16_NORMAL)} (median {number(median)}); {zeroed:.1%} became 0, and {share:.0%} of its "
               f"error of {number(unit.error)} "
               "(relative L2) is there.")
    return Diagnosis("fp16-underflow", unit.tensor, message,
                     {"tiny": float(tiny.mean()), "zeroed": zeroed, "explained": share, "error": unit.error})


def _small_weights(evidence: Evidence, unit: Unit) -> Diagnosis | None:
    """A weight that FP16 holds badly, because its numbers are too small."""
    for name in unit.last.inputs:
        weight = evidence.original.constant(name) if name else None
        if weight is None or weight.dtype != np.float32 or not weight.any():
            continue
        with np.errstate(over="ignore"):
            rounded = weight.astype(np.float16).astype(np.float64)
        lost = float(np.linalg.norm(rounded - weight) / np.linalg.norm(weight.astype(np.float64)))
        tiny = float((np.abs(weight) < FP16_NORMAL).mean())
        made = unit.tried({}, {name: rounded}) if lost > 2.0**-9 and tiny > 0.5 else None
        if made is None or made.shape != unit.candidate.shape:
            continue
        left = float(np.linalg.norm(unit.candidate.astype(np.float64) - made) / (np.linalg.norm(unit.gold) or 1.0))
        if left < unit.error / 2:
            message = (f"{tiny:.1%} of weight {name!r} is below FP16's smallest normal number "
                       f"{number(FP16_NORMAL)}: it loses {number(lost)} (relative L2), which explains "
                       f"{1 - left / unit.error:.0%} of the error of {unit.tensor!r}.")
            return Diagnosis("fp16-underflow", unit.tensor, message,
                             {"tiny": tiny, "lost": lost, "explained": 1 - left / unit.error, "error": unit.error})
    return None
