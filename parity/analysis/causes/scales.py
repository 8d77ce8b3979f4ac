"""A quantised tensor whose integers are those of another scale than the one it is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence
from parity.analysis.causes.unit import unit_of

# Share of the integers that another scale must give exactly; the others are ties of rounding.
_EXACT = 0.999


def other_scale(evidence: Evidence) -> Sequence[Diagnosis]:
    """A QuantizeLinear that rounds to other steps than the reference's, too fine ones or too coarse ones."""
    blamed = evidence.blamed_for("implementation")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if unit is None or unit.last.op != "QuantizeLinear" or unit.gold.shape != unit.candidate.shape:
        return ()
    x, scale = (unit.input(n) for n in unit.last.inputs[:2])
    zero = unit.input(unit.last.inputs[2]) if len(unit.last.inputs) > 2 and unit.last.inputs[2] else np.zeros(())
    if x is None or scale is None or zero is None or scale.size > 1 or unit.candidate.dtype.kind not in "iu":
        return ()
    wide, now = x.astype(np.float64), float(scale.reshape(()))
    own = unit.candidate.astype(np.float64) - float(zero.reshape(()))
    tensor, limits = evidence.named(unit.last.inputs[0]), np.iinfo(unit.candidate.dtype)
    largest = float(np.abs(wide).max(initial=0.0))
    if not own.any() and largest > now:
        message = f"All of {tensor!r} is quantised to 0, though it reaches {largest:.4g}, {largest / now:.3g} steps."
        return (Diagnosis("dead-scale", tensor, message, {"scale": now, "largest": largest}),)
    inside = (unit.candidate > limits.min) & (unit.candidate < limits.max)
    other = _step(wide[inside], own[inside])
    if not other > 0:
        return ()
    ends = limits.min - float(zero.reshape(())), limits.max - float(zero.reshape(()))
    exact = float((np.clip(np.rint(wide / other), *ends) == own).mean())
    clipped = float(1 - inside.mean())
    if exact < _EXACT:
        return ()
    words = f"{clipped:.2%} of it is at the end of the range" if other < now else (
        f"only {largest / other:.3g} steps of the range are used")
    message = (f"{tensor!r} is quantised in steps of {other:.4g}, not of {now:.4g}: that explains {exact:.2%} of its "
               f"integers exactly; {words}.")
    return (Diagnosis("clipped-calibration" if other < now and clipped else "wrong-scale", tensor, message,
                      {"scale": now, "other_scale": other, "exact": exact, "clipped": clipped}),)


def _step(x: np.ndarray, integers: np.ndarray) -> float:
    """The step of which numbers are so many: each one q of x says that it lies between x/(q + 1/2) and x/(q - 1/2)."""
    apart = np.abs(integers) >= 1
    if not apart.any() or (np.sign(x[apart]) != np.sign(integers[apart])).mean() > 1 - _EXACT:
        return 0.0
    size, count = np.abs(x[apart]), np.abs(integers[apart])
    least, most = size / (count + 0.5), size / (count - 0.5)
    return float(np.quantile(least, _EXACT) + np.quantile(most, 1 - _EXACT)) / 2
