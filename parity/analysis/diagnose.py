"""Why a tensor is off: causes that fit, each with the numbers that say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from parity.analysis.causes import (
    files,
    formats,
    inputs,
    meanings,
    quantisation,
    ranges,
    rounding,
    running,
    scales,
    sensitive,
    sums,
    underflow,
    weights,
)
from parity.analysis.causes.evidence import Diagnosis as Diagnosis  # noqa: PLC0414 - what a cause says is named here
from parity.analysis.causes.evidence import Evidence as Evidence  # noqa: PLC0414
from parity.errors import ParityError

# A cause looks at the evidence and says what fits, best first; nothing where it does not fit. They are asked in this
# order: what makes all else unsure comes first, then what costs least.
CAUSES: tuple[Callable[[Evidence], Sequence[Diagnosis]], ...] = (
    inputs.nonfinite_inputs,
    running.nondeterminism,
    scales.other_scale,
    files.other_file,
    scales.other_zero_point,
    formats.nonfinite,
    rounding.before_nonfinite,
    formats.born,
    inputs.other_inputs,
    meanings.other_meaning,
    weights.other_weights,
    inputs.other_mixture,
    meanings.fewer_bits,
    ranges.uncovered,
    quantisation.saturation,
    sums.accumulation,
    running.optimisation,
    quantisation.quantisation,
    sensitive.sensitive,
    underflow.underflow,
    rounding.tails,
    rounding.cancellation,
    running.unsteadiness,
)
MOST = 3


def diagnose(evidence: Evidence) -> tuple[Diagnosis, ...]:
    """Say why a candidate is off.

    The first cause that fits ends the search: what it does further on would look like others.

    Args:
        evidence: what is known of it.

    Returns:
        At most `MOST`, best first; none where nothing fits, or nothing is off.
    """
    if evidence.blamed is None and not evidence.diverged:
        return ()
    for cause in CAUSES:
        with suppress(ParityError):  # an odd model that a cause cannot be tried on
            found = cause(evidence)
            if found:
                return tuple(replace(d, tensor=evidence.named(d.tensor)) for d in found[:MOST])
    return ()
