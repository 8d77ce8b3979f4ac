"""The one way in which a figure is written in a sentence or a table."""

from __future__ import annotations

import math

# Three digits round to 1 what is closer to it than the one, and what is closer than the other is 1.
_NEAR, _SAME = 5e-3, 1e-9


def digits(value: float) -> str:
    """A figure to three digits, or to as many as tell it from 1: a cosine of 0.99993 is not 1."""
    rest = abs(1 - value)
    if _SAME < rest < _NEAR:
        return f"{value:.{math.ceil(-math.log10(rest)) + 1}f}"
    return f"{value:.3g}"


def number(value: float | None) -> str:
    """A figure to three significant digits; "–" where there is none, "∞" and "NaN" where it is not finite."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    rounded = float(f"{value:.2e}")
    if rounded == 0:
        return "0"
    if 1e-3 <= abs(rounded) < 1e3:
        return digits(value)
    if 1e3 <= abs(rounded) < 1e5:
        return f"{rounded:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"
