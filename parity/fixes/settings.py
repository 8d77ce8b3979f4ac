"""Other ways to find INT8 ranges: another calibration method, fewer bits, scales by channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parity.fixes.attempt import Attempt
from parity.precision.ranges import RangeSettings

_METHODS = (
    ("percentile", 99.99, "Ranges hold 99.99 % of the magnitudes instead of all: outliers are clipped."),
    ("entropy", 100.0, "Ranges are those that lose least information (entropy) instead of all values."),
)


def calibrations(base: Attempt) -> Iterator[Attempt]:
    """The base quantised with other ranges."""
    for method, percentile, message in _METHODS:
        ranges = RangeSettings(method, percentile=percentile)  # type: ignore[arg-type]
        yield replace(base, strategy=_joined(base, "calibration"), message=_told(base, message),
                      settings=replace(base.settings, ranges=ranges))


def seven_bits(base: Attempt) -> Attempt:
    """The base with weights of 7 bits, which ONNX Runtime's kernels cannot saturate on CPUs without VNNI."""
    return replace(base, strategy=_joined(base, "reduce-range"), settings=replace(base.settings, reduce_range=True),
                   message=_told(base, "Weights have 7 bits, so that 16-bit sums of products do not saturate."))


def _joined(base: Attempt, strategy: str) -> str:
    return f"{base.strategy}+{strategy}" if base.strategy else strategy


def _told(base: Attempt, message: str) -> str:
    return f"{base.message} {message}".strip()


