"""Which tensors are worse than their baseline by more than their noise, and which are better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity.baseline.record import Baseline, Figures, figures_of
from parity.report.record import Candidate, Layer

Figure: TypeAlias = Literal["error", "own"]

# Over the noise of a few moved runs. Between ONNX Runtime's optimisation levels and numbers of threads, errors in FP32
# and FP16 moved by up to 1.1 times their noise (three fixtures, two real models).
MARGIN = 10.0
# Of the error itself. Kernels on integers add and round in other places when they are fused otherwise, which moving
# FP32 results does not show: the same changes moved INT8 errors by up to a hundredth in five of seven models; where
# kernels saturate, or the error is a third of the values, by more, which is then told.
SHARE = 0.1


@dataclass(frozen=True)
class Drift:
    """One tensor that is no longer what its baseline says.

    Attributes:
        layer: as it is now.
        output: whether it is a graph output of the run that nobody watched.
        figure: which of its figures moved: "own" where the layer itself did, "error" where what it is given may have.
        before: the figure in the baseline.
        now: the figure now; infinite where the tensor can no longer be compared.
        noise: by how much it may move without being another.
    """

    layer: Layer
    output: bool
    figure: Figure
    before: float
    now: float
    noise: float


def worse(baseline: Baseline, candidate: Candidate) -> tuple[Drift, ...]:
    """The tensors that got worse, in the order of the graph, then the outputs. What is new has no baseline.

    Args:
        baseline: what was accepted.
        candidate: the same target's run now.
    """
    return tuple(d for d in _drifts(baseline, candidate) if d.now > d.before + d.noise)


def uncovered(baseline: Baseline, candidate: Candidate) -> tuple[str, ...]:
    """The outputs, or where no tensor at all is, the tensors, that have figures now and none in the baseline."""
    outputs = _without(candidate.outputs, baseline.outputs)
    tensors = _without(candidate.tensors, baseline.tensors)
    return outputs or (tensors[:3] if len(tensors) == len(_without(candidate.tensors, {})) else ())


def partial_cover(baseline: Baseline, candidate: Candidate) -> str:
    """A sentence where tensors came or went since the baseline was stored; empty where none did."""
    shown = {layer.tensor for layer in candidate.tensors}
    gone = sum(tensor not in shown for tensor in baseline.tensors)
    new = sum(layer.tensor not in baseline.tensors for layer in candidate.tensors)
    said = [f"{gone} of {len(baseline.tensors)} recorded tensors are gone"] * bool(gone)
    return " and ".join([*said, f"{new} of {len(shown)} tensors now have no recorded figures"] if new else said)


def _without(layers: Sequence[Layer], accepted: Mapping[str, Figures]) -> tuple[str, ...]:
    return tuple(layer.tensor for layer in layers if layer.accumulated is not None
                 and (layer.tensor not in accepted or accepted[layer.tensor].error is None))


def better(baseline: Baseline, candidate: Candidate) -> tuple[Drift, ...]:
    """The tensors whose error shrank by more than noise, likewise."""
    return tuple(d for d in _drifts(baseline, candidate) if d.figure == "error" and d.now + d.noise < d.before)


def _drifts(baseline: Baseline, candidate: Candidate) -> Iterator[Drift]:
    sides: tuple[tuple[tuple[Layer, ...], Mapping[str, Figures], bool], ...] = (
        (candidate.tensors, baseline.tensors, False), (candidate.outputs, baseline.outputs, True))
    for layers, accepted, output in sides:
        for layer in layers:
            if layer.tensor in accepted:
                yield from _moved(layer, accepted[layer.tensor], output=output)


def _moved(layer: Layer, accepted: Figures, *, output: bool) -> Iterator[Drift]:
    """A tensor's figures then and now; what it adds by itself first, which tells more."""
    error, own = figures_of(layer)
    if own is not None and accepted.own is not None and layer.floor is not None:
        yield Drift(layer, output, "own", accepted.own, own, layer.floor + SHARE * accepted.own)
    if accepted.error is not None:
        yield Drift(layer, output, "error", accepted.error, float("inf") if error is None else error,
                    MARGIN * accepted.noise + SHARE * accepted.error)
