"""What a fix strategy proposes, as data: an edited model that nobody has tried yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.graph.model import Model


@dataclass(frozen=True)
class Magnitudes:
    """How large tensors are, beside what a format holds: what a rescaling is made from.

    Attributes:
        largest: the greatest magnitude of each tensor that was looked at.
        limit: the largest number that the format holds.
    """

    largest: Mapping[str, float] = field(repr=False)
    limit: float


@dataclass(frozen=True, eq=False)
class Patch:
    """A change to the FP32 model, made before its FP16 or INT8 variant is.

    In real arithmetic the edited model gives what the original gave; in FP32 the two differ by rounding at most.
    Every tensor that both have holds the same values in both.

    Attributes:
        strategy: which made it, e.g. "rescale" or "rewrite".
        message: what was changed, in one sentence.
        tensors: the original tensors that it is about.
        model: the edited model, flat.
        formulas: that were rewritten, as `rewrite.PATTERNS` names them.
        rescaled: what a rescaling was made from.
    """

    strategy: str
    message: str
    tensors: tuple[str, ...]
    model: Model
    formulas: tuple[str, ...] = ()
    rescaled: Magnitudes | None = None
