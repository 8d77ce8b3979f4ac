"""Other ways to find INT8 ranges: another calibration method, fewer bits, scales by channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from parity.fixes.attempt import Attempt
from parity.precision.mixture import Mixture
from parity.precision.ranges import RangeSettings

# A percentile of 99.99 stands for at least two elements from here on; so many are looked at of a larger tensor.
_MANY, _LOOKED_AT = 20_000, 200_000
# A million normally distributed values reach 1.3 times their percentile of 99.99: with less than this little is won.
_TAIL = 1.5
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


def has_outliers(mixture: Mixture) -> bool:
    """Whether clipping ranges may help: some activation reaches far beyond nearly all of its elements.

    Finding other ranges costs more runs than all else; where no large activation has a tail, it is not tried. Of small
    ones a percentile says nothing; where all are small, trying costs as little.
    """
    read = {name for unit in mixture.units if unit.low for name in unit.node.reads}
    values = [mixture.base(0).get(name) for name in sorted(read - mixture.reference.constants)]
    large = [v for v in values if isinstance(v, torch.Tensor) and v.numel() >= _MANY]
    for value in large:
        magnitudes = value.detach().abs().reshape(-1).float()
        few = magnitudes[::max(1, magnitudes.numel() // _LOOKED_AT)]
        usual = torch.topk(few, max(1, few.numel() // _MANY)).values[-1]
        if float(magnitudes.max()) > _TAIL * float(usual):
            return True
    return not large


def seven_bits(base: Attempt) -> Attempt:
    """The base with weights of 7 bits, which ONNX Runtime's kernels cannot saturate on CPUs without VNNI."""
    return replace(base, strategy=_joined(base, "reduce-range"), settings=replace(base.settings, reduce_range=True),
                   message=_told(base, "Weights have 7 bits, so that 16-bit sums of products do not saturate."))


def _joined(base: Attempt, strategy: str) -> str:
    return f"{base.strategy}+{strategy}" if base.strategy else strategy


def _told(base: Attempt, message: str) -> str:
    return f"{base.message} {message}".strip()


