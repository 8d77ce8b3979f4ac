"""A tensor whose integers are those of another scale or zero point than the one it is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, relative
from parity.analysis.causes.unit import Unit, unit_of
from parity.figures import number

# Share of the integers that another scale must give exactly; the others are ties of rounding.
_EXACT = 0.999
# Elements that a straight line needs to say anything, and by how little two scales may differ and be the same.
_FEWEST, _SAME = 8, 1e-5


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


def other_zero_point(evidence: Evidence) -> Sequence[Diagnosis]:
    """A zero point, or a scale of DequantizeLinear, that is not the one a tensor is judged by: alike everywhere."""
    blamed = evidence.blamed_for("implementation")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if unit is None or unit.last.op not in ("QuantizeLinear", "DequantizeLinear") or (
            unit.gold.shape != unit.candidate.shape or unit.candidate.size < _FEWEST):
        return ()
    read, scale = (unit.input(n) for n in unit.last.inputs[:2])
    if read is None or scale is None or scale.size > 1:
        return ()
    return _shifted(unit, evidence, float(scale.max())) if unit.last.op == "QuantizeLinear" else _line(
        unit, evidence, read.astype(np.float64), float(scale.max()))


def _shifted(unit: Unit, evidence: Evidence, scale: float) -> Sequence[Diagnosis]:
    """Integers that are all off by the same number."""
    limits = np.iinfo(unit.candidate.dtype)
    by = float(np.rint(np.median(unit.candidate.astype(np.float64) - unit.gold)))
    exact = float((np.clip(unit.gold + by, limits.min, limits.max) == unit.candidate).mean())
    if not by or exact < _EXACT:
        return ()
    tensor = evidence.named(unit.last.inputs[0])
    message = (f"{tensor!r} is quantised as if with a zero point off by {by:+.0f}: that explains {exact:.2%} of its "
               f"integers, and shifts the whole tensor by {by * scale:.4g}.")
    return (Diagnosis("wrong-zero-point", tensor, message, {"off": by, "exact": exact, "shift": by * scale}),)


def _line(unit: Unit, evidence: Evidence, integers: np.ndarray, scale: float) -> Sequence[Diagnosis]:
    """Real numbers that are a straight line of the integers, but another one."""
    spread = integers - integers.mean()
    if not spread.any() or not np.isfinite(unit.candidate).all():
        return ()
    candidate = unit.candidate.astype(np.float64)
    slope = float((spread * candidate).sum() / (spread**2).sum())
    value = candidate.mean() + slope * spread
    if not unit.explains(value) or not slope:
        return ()
    zero = float(integers.mean() - candidate.mean() / slope)
    own = float(np.median(integers - unit.gold / scale))
    by, times = float(np.rint(zero - own)), slope / scale
    same = abs(times - 1) < _SAME
    if not by and same:
        return ()
    tensor = evidence.named(unit.tensor)
    words = [f"with a zero point off by {by:+.0f}, one shift of {-by * slope:.4g} for the whole tensor"] if by else []
    words += [] if same else [f"in steps of {slope:.4g}, not of {scale:.4g}"]
    left = relative(value, unit.candidate)
    message = (f"{tensor!r} is dequantised as if {' and '.join(words)}: that explains the candidate's values to "
               f"{number(left)} (relative L2), where what it should be leaves {number(unit.error)}.")
    return (Diagnosis("wrong-zero-point" if by else "wrong-scale", tensor, message,
                      {"off": by, "scale": scale, "other_scale": slope, "error": unit.error, "left": left}),)


def _step(x: np.ndarray, integers: np.ndarray) -> float:
    """The step of which numbers are so many: each one q of x says that it lies between x/(q + 1/2) and x/(q - 1/2)."""
    apart = np.abs(integers) >= 1
    if not apart.any() or (np.sign(x[apart]) != np.sign(integers[apart])).mean() > 1 - _EXACT:
        return 0.0
    size, count = np.abs(x[apart]), np.abs(integers[apart])
    least, most = size / (count + 0.5), size / (count - 0.5)
    return float(np.quantile(least, _EXACT) + np.quantile(most, 1 - _EXACT)) / 2
