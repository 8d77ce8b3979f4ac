"""What a fix is: a change that was applied and measured on the target it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.backends.latency import Latency


@dataclass(frozen=True)
class KeptLayer:
    """A layer that a fix keeps in higher precision.

    Attributes:
        tensor: its first output.
        node: its name, which may be empty.
        op: its operator.
        precision: what it is kept in.
        why: one phrase with figures.
    """

    tensor: str
    node: str
    op: str
    precision: str
    why: str


@dataclass(frozen=True)
class CurvePoint:
    """What keeping some layers in higher precision gives, on the emulator.

    Attributes:
        kept: how many layers.
        error: worst output error as a multiple of its limit; at most 1 passes.
        operations: share of all multiply-adds that the kept layers do.
        bytes: share of all weight bytes that they hold.
    """

    kept: int
    error: float
    operations: float
    bytes: float


@dataclass(frozen=True)
class Fix:
    """A change that was applied, run unwatched on the target, and measured there.

    Attributes:
        strategy: which, e.g. "keep", "calibration", "rescale", "rewrite"; joined by "+" where several were combined.
        message: what was changed, in one sentence.
        kept: layers in higher precision.
        before: worst output error on the target without the fix, as a multiple of its limit.
        after: the same with it.
        passed: whether all outputs, and all judges asked for, are within tolerance, on held-out samples too.
        metric: what stands behind `before` and `after` in plain figures, e.g. "rel_l2 of logits 0.21 → 0.008".
        layers: of how many layers that could be kept.
        operations: share of all multiply-adds in higher precision.
        bytes: share of all weight bytes in higher precision.
        casts: Casts that it adds to the variant (fewer: negative).
        curve: layers kept against error, as far as it was tried.
        trials: runs of the emulator.
        runs: runs of the target.
        held_out: the same as `after` on samples that the search did not see; None where there were too few.
        latency_before: of the variant without the fix, on the target.
        latency_after: of the variant with it.
        words: the same decision in other tools' words, by tool.
        training: layers that quantisation-aware training should cover, as configuration by tool; where no fix passes.
        file: path of the model with it; empty where that was not written.
    """

    strategy: str
    message: str
    kept: tuple[KeptLayer, ...]
    before: float
    after: float
    passed: bool
    metric: str = ""
    layers: int = 0
    operations: float = 0.0
    bytes: float = 0.0
    casts: int = 0
    curve: tuple[CurvePoint, ...] = ()
    trials: int = 0
    runs: int = 0
    held_out: float | None = None
    latency_before: Latency | None = None
    latency_after: Latency | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
