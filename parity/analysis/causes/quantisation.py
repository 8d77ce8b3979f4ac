"""What INT8 does to a layer: outliers, clipping, scales that do not fit, channels that share one, saturation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from parity.analysis.causes.evidence import Diagnosis, Evidence, emulated_error, relative
from parity.analysis.causes.formats import SATURATING
from parity.analysis.causes.layers import Quantised, layer_of, shares_scale
from parity.analysis.causes.running import goes_unoptimised
from parity.analysis.causes.unit import unit_of
from parity.figures import number
from parity.graph.model import Model, shallow_copy

# Share of a layer's error that must go with its cause.
_EXPLAINED = 0.5
# Layers looked at, those with the largest local error first.
_MOST_LAYERS = 12
# Weights of channels whose ranges differ by this do not fit one scale.
_SPREAD = 8.0
# Channels, at most this share of them, that reach so many times the range of the middle one are outliers; so is the
# largest element beside what 99.9 % keep to.
_FAR, _FEW = 4.0, 0.25
# Layers that are put back, and by which share the outputs' error must fall for one to count.
_MOST_TRIED, _LEAST_GAIN = 5, 0.1
# Share of the outputs' error that the formats must make: what a kernel makes has another cause.
_EMULATED = 0.5


def quantisation(evidence: Evidence) -> Sequence[Diagnosis]:
    """Why the layers are hurt whose INT8 the outputs suffer from most.

    Each is looked at where the reference's own tensors come in, and said only where the emulated outputs are better
    with that layer as it was.
    """
    if evidence.precision != "int8" or evidence.blamed_for("precision", "nonfinite") is None:
        return ()
    error = emulated_error(evidence, evidence.variant)
    if not error >= _EMULATED * min(evidence.error, 1.0):
        return ()
    explained: dict[str, Diagnosis] = {}
    for layer in _hurt(evidence):
        diagnosis = _why(layer, evidence.limit)
        known = None if diagnosis is None else explained.get(diagnosis.tensor)
        if diagnosis is not None and (known is None or diagnosis.evidence["error"] > known.evidence["error"]):
            explained[diagnosis.tensor] = diagnosis
    found = []
    for diagnosis in sorted(explained.values(), key=lambda d: -d.evidence["error"])[:_MOST_TRIED]:
        left = emulated_error(evidence, _without(evidence, diagnosis.tensor))
        if left <= (1 - _LEAST_GAIN) * error:
            message = (f"{diagnosis.message[:-1]}; with what reads it unquantised the outputs' error falls from "
                       f"{number(error)} to {number(left)}.")
            found.append(replace(diagnosis, message=message, evidence={
                **diagnosis.evidence, "outputs_error": error, "outputs_without": left}))
    return sorted(found, key=lambda d: d.evidence["outputs_without"])


def _without(evidence: Evidence, tensor: str) -> Model:
    """The variant with the operands, as they were, of every layer that reads a tensor."""
    proto = shallow_copy(evidence.variant.proto)
    by_output = {o: n for n in proto.graph.node for o in n.output if o}
    for reader in evidence.reference.graph.readers.get(tensor, ()):
        divergence = evidence.of.get(reader.outputs[0])
        layer = None if divergence is None else layer_of(evidence, divergence)
        if layer is None:
            continue
        for position, operand in enumerate(reader.inputs[:2]):
            value = evidence.original.constant(operand)
            name = operand if value is None else f"{reader.outputs[0]}/unquantised{position}"
            by_output[layer.node.outputs[0]].input[position] = name
            if value is not None:
                proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return Model.from_proto(proto, evidence.variant.folder)


def _hurt(evidence: Evidence) -> list[Quantised]:
    """The layers with the largest local errors, and those whose channels share a scale though they differ much."""
    local = [d for d in evidence.found if d.precision is not None and d.tensor in evidence.reference.graph.producer]
    notable = [d for d in local if d.precision is not None and d.precision > evidence.limit / 8]
    worst = sorted(notable, key=lambda d: -(d.precision or 0.0))[:_MOST_LAYERS]
    shared = [d for d in local if d not in worst and shares_scale(evidence, d, _SPREAD)]
    chosen = [*worst, *shared[:_MOST_LAYERS]]
    evidence.expected([n for d in chosen for n in d.node.reads if n in evidence.reference.graph.producer])
    layers = (layer_of(evidence, d, at_reference=True) for d in chosen)
    return [layer for layer in layers if layer is not None]


def _why(layer: Quantised, limit: float) -> Diagnosis | None:
    """The first cause that explains most of a layer's error, where that is worth explaining."""
    if layer.error > limit / 4:
        for cause in (_dead_scale, _clipped, _coarse_scale, _tails, _outliers):
            diagnosis = cause(layer)
            if diagnosis is not None:
                return diagnosis
    return _shared_scale(layer, limit)


def _told(layer: Quantised, cause: str, tensor: str, words: str, left: float,
          numbers: dict[str, float]) -> Diagnosis | None:
    explained = 1 - left / layer.error
    if not explained >= _EXPLAINED:
        return None
    message = (f"{words}: that makes {explained:.0%} of the INT8 error of {number(layer.error)} (relative L2) of "
               f"{layer.unit.tensor!r}.")
    return Diagnosis(cause, tensor, message, {**numbers, "error": layer.error, "left": left, "explained": explained})


def _dead_scale(layer: Quantised) -> Diagnosis | None:
    """A scale that makes everything zero, or is none."""
    for q in layer.quantizers:
        bad = ~(np.isfinite(q.scale) & (q.scale > 0))
        moved = q.quantised()
        dead = bool(bad.any()) or (not moved.any() and bool(q.value.any()))
        if dead:
            largest = float(np.abs(q.value).max())
            words = (f"The scale of {q.name!r} is {float(q.scale.ravel()[0]):.2g}, and all of it becomes 0, though it "
                     f"reaches {largest:.4g}")
            found = _told(layer, "dead-scale", q.name, words, layer.without(q),
                          {"scale": float(q.scale.ravel()[0]), "largest": largest})
            if found is not None:
                return found
    return None


def _clipped(layer: Quantised) -> Diagnosis | None:
    """Elements beyond the range that calibration saw."""
    for q in layer.quantizers:
        beyond = q.beyond()
        if not beyond.any():
            continue
        left = layer.with_values({q: np.where(beyond, q.value, q.quantised())})
        largest, end = float(np.abs(q.value).max()), float(q.largest.max())
        words = (f"{beyond.mean():.2%} of {q.name!r} lies beyond its range of ±{end:.4g} (it reaches {largest:.4g}) "
                 "and is clipped")
        found = _told(layer, "clipped-calibration", q.name, words, left,
                      {"clipped": float(beyond.mean()), "range": end, "largest": largest,
                       "steps_rmse": q.error_in_steps()})
        if found is not None:
            return found
    return None


def _coarse_scale(layer: Quantised) -> Diagnosis | None:
    """A scale for a much wider range than the tensor has, so that few of its steps are used."""
    for q in layer.quantizers:
        used = float((q.reach() / q.largest).max())
        if used * 4 > 1 or used == 0:
            continue
        left = layer.with_values({q: q.requantised(q.scale * used)})
        words = (f"{q.name!r} uses {used:.1%} of its range of ±{float(q.largest.max()):.4g}, {used * q.steps:.1f} of "
                 f"{q.steps:.0f} steps to a side")
        found = _told(layer, "wrong-scale", q.name, words, left,
                      {"used": used, "steps": used * q.steps, "steps_rmse": q.error_in_steps()})
        if found is not None:
            return found
    return None


def _tails(layer: Quantised) -> Diagnosis | None:
    """Probabilities below half a step, which all become zero."""
    for q in layer.quantizers:
        maker = layer.unit.bench.model.graph.producer.get(q.name)
        if maker is None or maker.op not in SATURATING or q.scale.size > 1:
            continue
        zeroed = (q.integers() == q.zero) & (q.value != 0)
        if not zeroed.any():
            continue
        size, lost = np.abs(q.value), float(np.abs(q.value[zeroed]).sum())
        words = (f"{zeroed.mean():.1%} of {q.name!r} ({maker.op}), {lost / size.sum():.1%} of its sum, is below half a "
                 f"step of INT8 ({float(q.scale.max()) / 2:.2g}) and becomes 0")
        found = _told(layer, "saturated-tails", q.name, words, layer.with_values({
            q: np.where(zeroed, q.value, q.quantised())}),
            {"share": float(zeroed.mean()), "lost": lost / float(size.sum()), "step": float(q.scale.max())})
        if found is not None:
            return found
    return None


def _shared_scale(layer: Quantised, limit: float) -> Diagnosis | None:
    """One scale for all output channels of a weight, which differ much in range."""
    q, axis = layer.weight, layer.output_axis
    if q is None or axis is None or q.scale.size > 1:
        return None
    ranges = q.by_channel(axis)
    factor = float(ranges.max() / ranges[ranges > 0].min()) if ranges.any() else 0.0
    if factor < _SPREAD:
        return None
    error, left = layer.by_channel({}), layer.by_channel({q: q.requantised_by_channel(axis)})
    if not error > limit / 4 or not left < (1 - _EXPLAINED) * error:
        return None
    message = (f"Weight {q.name!r} has one scale for {len(ranges)} output channels, whose ranges differ by a factor of "
               f"{factor:.3g}: a scale for each lowers the error by channel of {layer.unit.tensor!r} from "
               f"{number(error)} to {number(left)} (relative L2).")
    return Diagnosis("per-tensor-weights", q.name, message,
                     {"factor": factor, "error": error, "left": left, "explained": 1 - left / error})


def _outliers(layer: Quantised) -> Diagnosis | None:
    """A few channels (or elements) of the input that set the range, and leave few steps to all others."""
    q, axis = layer.activation, layer.channel_axis
    if q is None or q.scale.size > 1:
        return None
    used = np.abs(q.value) / q.scale
    bulk = float(np.percentile(used, 99))
    numbers = {"steps_of_99_percent": bulk, "steps_rmse": q.error_in_steps()}
    if axis is not None:
        ranges = q.by_channel(axis)
        middle = float(np.median(ranges[ranges > 0])) if ranges.any() else 0.0
        outliers = ranges > _FAR * middle
        if middle and outliers.any() and outliers.mean() <= _FEW:
            factor = float(ranges.max() / middle)
            words = (f"{outliers.sum()} of {len(ranges)} channels of {q.name!r} reach {factor:.3g} times the range of "
                     f"the middle one, which leaves it {middle / float(q.scale.max()):.1f} of {q.steps:.0f} steps")
            found = _told(layer, "int8-outliers", q.name, words, layer.balanced(ranges, middle),
                          {**numbers, "channels": float(outliers.sum()), "factor": factor})
            if found is not None:
                return found
    end = float(np.percentile(np.abs(q.value), 99.9))
    largest = float(np.abs(q.value).max())
    if not end or largest < _FAR * end:
        return None
    few = np.abs(q.value) > end
    inside = q.requantised(q.scale * end / largest)
    words = (f"{q.name!r} reaches {largest:.4g}, {largest / end:.3g} times what 99.9 % of it keep to, which leaves "
             f"those {end / float(q.scale.max()):.1f} of {q.steps:.0f} steps")
    return _told(layer, "int8-outliers", q.name, words, layer.with_values({q: np.where(few, q.value, inside)}),
                 {**numbers, "factor": largest / end})


def saturation(evidence: Evidence) -> Sequence[Diagnosis]:
    """Pairs of INT8 products added up in 16 bits, as x86 CPUs without VNNI do."""
    if evidence.precision != "int8":
        return ()
    blamed = evidence.blamed_for("implementation")
    unit = None if blamed is None else unit_of(evidence, blamed)
    layer = None if blamed is None or unit is None else layer_of(evidence, blamed)
    if unit is not None and layer is not None and unit.gold.shape == unit.candidate.shape:
        for words, value, largest, share in layer.saturated():
            if unit.explains(value):
                return (_saturates(layer, f" ({words})", largest, share, relative(layer.unit.gold, value)),)
    return _saturated_unseen(evidence) if evidence.diverged and goes_unoptimised(evidence) else ()


def _saturated_unseen(evidence: Evidence) -> Sequence[Diagnosis]:
    """The same in kernels that the runtime uses only where it optimises: by how many sums would pass 16 bits."""
    found = []
    for divergence in evidence.found:
        layer = layer_of(evidence, divergence) if divergence.tensor in evidence.reference.graph.producer else None
        simulated = None if layer is None else next(layer.saturated(), None)
        exact = None if layer is None else layer.made({})
        if layer is None or simulated is None or exact is None:
            continue
        _, value, largest, share = simulated
        error = relative(exact, value)
        if error > evidence.limit / 4:
            found.append((error, _saturates(layer, "", largest, share, error)))
    return [d for _, d in sorted(found, key=lambda pair: -pair[0])]


def _saturates(layer: Quantised, words: str, largest: float, share: float, error: float) -> Diagnosis:
    last = layer.unit.last
    message = (f"{last.op} {last.label!r} adds pairs of INT8 products in 16 bits{words}: {share:.2%} of the sums pass "
               f"32767 (the largest is {number(largest)}) and saturate, an error of {number(error)} (relative "
               "L2). Weights in 7 bits avoid it.")
    return Diagnosis("int8-saturation", layer.unit.tensor, message,
                     {"largest_pair": largest, "saturated": share, "error": error})
