"""One layer of many whose INT8 makes the outputs' error, though its own error is small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.analysis.causes.evidence import Diagnosis, Evidence, ancestors, distance, emulated_error
from parity.analysis.energy import energies
from parity.figures import number
from parity.precision.mixture import Mixture

# With fewer layers one of them is to blame anyway.
_LEAST_LAYERS = 3
# Output directions that layers are chosen with, and how many are then tried.
_DIRECTIONS, _MOST_TRIED = 4, 3
# What share of the error goes with the layer as it was, and at least comes of it alone.
_GAIN, _ALONE = 0.6, 0.5


def sensitive(evidence: Evidence) -> Sequence[Diagnosis]:
    """The layer with which as it was most of the outputs' error goes, and which makes as much alone."""
    if evidence.precision != "int8" or not evidence.diverged or evidence.blamed_for("implementation", "nonfinite"):
        return ()
    mixture = Mixture(evidence.reference, evidence.variant, [evidence.feed])
    if len(mixture.layers) < _LEAST_LAYERS:
        return ()
    error = _error(evidence, mixture, ())
    emulated = emulated_error(evidence, evidence.variant)
    if not np.isclose(error, emulated, rtol=0.1) or emulated < _ALONE * min(evidence.error, 1.0):
        return ()  # the pieces do not add up to what runs
    energy = energies(mixture, _DIRECTIONS)
    for layer in sorted(energy, key=lambda n: -energy[n])[:_MOST_TRIED]:
        left = _error(evidence, mixture, (layer,))
        alone = _error(evidence, mixture, [n for n in mixture.layers if n != layer])
        if left <= (1 - _GAIN) * error and alone >= _ALONE * error:
            return (_told(evidence, layer, len(mixture.layers), (error, left, alone)),)
    return ()


def _error(evidence: Evidence, mixture: Mixture, kept: Sequence[str]) -> float:
    return distance(evidence.reference_outputs, mixture.run(kept)[0])


def _told(evidence: Evidence, layer: str, count: int, errors: tuple[float, float, float]) -> Diagnosis:
    node, (error, left, alone) = evidence.reference.graph.producer[layer], errors
    numbers = {"outputs_error": error, "outputs_without": left, "outputs_alone": alone, "layers": float(count)}
    found = evidence.of.get(layer)
    own = None if found is None or found.precision is None else found.precision
    grown = "" if own is None else f" Its own error of {number(own)} grows {_growth(evidence, layer)}."
    message = (f"{node.op} {node.label!r}, one of {count} layers in INT8, makes most of the outputs' emulated error of "
               f"{number(error)} (relative L2): {number(left)} is left with it as it was, alone it makes "
               f"{number(alone)}.{grown}")
    return Diagnosis("sensitive-layer", layer, message, numbers if own is None else {**numbers, "error": own})


def _growth(evidence: Evidence, layer: str) -> str:
    """Where behind a layer the relative error grows most."""
    steps = []
    for found in evidence.found:
        own = found.accumulated
        read = [evidence.of[n].accumulated for n in found.node.reads if n in evidence.of]
        before = max((a.rel_l2 for a in read if a is not None), default=0.0)
        if own is not None and own.reference_l2 and before > 0 and layer in ancestors(evidence.reference, found.tensor):
            steps.append((own.rel_l2 / before, found, before, own.rel_l2))
    if not steps:
        return "on its way"
    _, found, before, after = max(steps, key=lambda s: s[0])
    return f"on its way, from {number(before)} to {number(after)} in {found.node.op} {found.node.label!r}"
