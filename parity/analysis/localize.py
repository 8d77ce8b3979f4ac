"""Walk the graph once with both sides in lock step: how far each tensor is off, and which one starts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch

from parity.analysis.judge import Judgement, Ruler, judge
from parity.analysis.match import draws_randomly, moves_only
from parity.analysis.measure import Comparison, measure
from parity.analysis.outputs import drawn_tensors
from parity.analysis.region import Region, region_of
from parity.analysis.streams import Inputs, Rulers, Stream
from parity.errors import MatchError, ModelError
from parity.graph.device import Lying, lying
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import Value, is_tensor, to_numpy

# Why a tensor is named: its own arithmetic, its number format, a NaN or Inf born there, or how the model was exported.
Kind: TypeAlias = Literal["implementation", "precision", "nonfinite", "export"]


@dataclass(frozen=True)
class Divergence:
    """One tensor on both sides.

    Attributes:
        tensor: ONNX name.
        node: the reference's node that makes it; for a tensor that only the variant has, the variant's.
        index: place of the tensor's node in the reference; for a tensor that only the variant has, of the next one.
        dtype: element type on the candidate's side.
        shape: on the candidate's side.
        accumulated: candidate against reference; None where the shapes differ or the reference has no such tensor.
        local: candidate against the reference's operator in FP64 at the candidate's own inputs.
        precision: relative L2 error, at the same inputs, of the variant emulated: what its number formats explain;
            None where none is involved.
        judgement: what the local rule says of the rest; None where it cannot be applied.
        shape_differs: the candidate's shape is not the operator's, or text stands for numbers.
        level: how the reference evaluated the node.
        error: |candidate - operator| of every element, kept of a tensor to blame that may not be read whole.
        region: where tensors are hidden, the nodes since the last visible ones; None where there is only this one.
        drawn: it depends on random numbers: only what its node makes of its own inputs says anything.
    """

    tensor: str
    node: Node
    index: int
    dtype: str
    shape: tuple[int, ...]
    accumulated: Comparison | None
    local: Comparison | None
    precision: float | None
    judgement: Judgement | None
    shape_differs: bool = False
    level: str = ""
    error: np.ndarray | None = None
    region: Region | None = None
    drawn: bool = False

    @property
    def to_blame(self) -> bool:
        """Whether this very node is at fault: wrong by more than its own noise, or of the wrong shape."""
        return self.shape_differs or (self.judgement is not None and not self.judgement.passed)


def divergences(reference: Model, variant: Model, feed: Mapping[str, np.ndarray], expected: Stream, shown: Stream,
                wanted: Collection[str], device: torch.device | None = None) -> Iterator[Divergence]:
    """Compare every tensor that the candidate shows, in the order of the graph that it runs.

    Args:
        reference: the reference, flat.
        variant: what the candidate runs, flat: the reference itself, or an edit of it that keeps its tensor names.
        feed: the inputs, the same on both sides.
        expected: the reference's tensors.
        shown: the candidate's tensors.
        wanted: names to report on.
        device: that both sides' tensors lie on, and where they are measured; None for the CPU.
    """
    own = Rulers(variant, device)
    original = None if variant is reference else Rulers(reference, device)
    inputs, drawn = Inputs(), drawn_tensors(variant)
    for fed, array in feed.items():
        inputs.show(fed, array, None)
    remaining = _readers(variant) + (_readers(reference) if original else Counter())
    places = _places(variant, reference)
    for node in variant.graph.nodes:
        ruler = None if all(o in variant.constants for o in node.outputs) else own.at(node, inputs)
        for position, name in enumerate(node.proto.output):
            if ruler is None or not name:
                continue
            value, right = shown.pull(name), expected.pull(name)
            if value is None:
                if remaining[name]:
                    _estimate(inputs, own, name, ruler, position)
                continue
            if name in wanted:
                region = region_of(node, variant, reference, inputs.hidden) if ruler.hidden else None
                found = _divergence(ruler, position, places[name], value, right, drawn=name in drawn)
                found = replace(found, region=region)
                found = _with_error(found, ruler, position, value) if moves_only(variant, name) else found
                yield found if original is None else _split(found, original, inputs, ruler.declared[position], value)
            inputs.show(name, value, None if original else _of_own_type(ruler, position, right))
        for finished in (node, *_counterparts(node, reference if original else None)):
            remaining.subtract(finished.reads)
            for name in (*finished.reads, *finished.outputs):
                if remaining[name] == 0:
                    inputs.drop(name)
                    expected.drop(name)
                    shown.drop(name)


def _estimate(inputs: Inputs, own: Rulers, name: str, ruler: Ruler, position: int) -> None:
    with suppress(ModelError):  # inputs that a fault upstream made unusable; then nobody knows this one either
        moved = own.moved.evaluate(ruler.node, ruler.narrow, ruler.outer[1])
        inputs.estimate(name, ruler.gold[position], moved[position])


def _of_own_type(ruler: Ruler, position: int, right: Lying | None) -> Lying | None:
    """A value of the type that the model gives this tensor: the reference's, but where that may run in FP64."""
    if right is None or right.dtype != np.float64:
        return right
    try:
        return lying(ruler.declared[position])
    except ModelError:
        return right


def _readers(model: Model) -> Counter[str]:
    return Counter(name for node in model.graph.nodes for name in node.reads)


def _counterparts(node: Node, reference: Model | None) -> list[Node]:
    """The reference's nodes that are done with when the variant's node is."""
    if reference is None:
        return []
    made = (reference.graph.producer.get(o) for o in node.outputs)
    return [n for n in made if n is not None and n.outputs[0] in node.outputs]


def _places(variant: Model, reference: Model) -> dict[str, int]:
    """The reference's node index of each tensor; one that only the variant has is put before the next known."""
    places: dict[str, int] = {}
    following = len(reference.graph.nodes)
    for node in reversed(variant.graph.nodes):
        known = [reference.graph.producer[o].index for o in node.outputs if o in reference.graph.producer]
        following = min(known, default=following)
        places.update(dict.fromkeys(node.outputs, following))
    return places


def _divergence(ruler: Ruler, position: int, place: int, value: Lying, right: Lying | None, *, drawn: bool,
                ) -> Divergence:
    judgement, shape_differs = None, False
    # What random numbers the candidate drew is known only where it shows them.
    unknown = _draws(ruler) or (drawn and ruler.hidden)
    try:
        judgement = None if unknown else judge(ruler, position, value)
    except MatchError:
        shape_differs = True
    except ModelError:
        pass  # inputs that a fault upstream made unusable; it was blamed there
    level = ruler.gold_executor.levels.get(ruler.node.outputs[0])
    return Divergence(
        ruler.node.proto.output[position], ruler.node, place, value.dtype.name, value.shape, _measured(right, value),
        None if judgement is None else judgement.local, None if judgement is None else judgement.precision,
        judgement, shape_differs, level.value if level else "", drawn=drawn or unknown)


def _draws(ruler: Ruler) -> bool:
    op, training = ruler.node.proto.op_type, ruler.wide[2] if len(ruler.wide) > 2 else None
    return draws_randomly(op, training=op == "Dropout" and training is not None and bool(training))


def _measured(right: Lying | None, value: Lying) -> Comparison | None:
    """The candidate against the reference; None where they cannot be compared."""
    if right is None or right.shape != value.shape:
        return None
    try:
        return measure(right, value)
    except MatchError:
        return None


def _split(found: Divergence, original: Rulers, inputs: Inputs, emulated: Value, value: Lying) -> Divergence:
    """Measure a variant's tensor against the reference's operator, and how much of that the formats explain."""
    node = original.model.graph.producer.get(found.tensor)
    ruler = None if node is None else original.at(node, inputs)
    if node is None or ruler is None:
        return found
    try:
        gold = lying(ruler.gold[list(node.proto.output).index(found.tensor)])
    except ModelError:  # inputs that a fault upstream made unusable
        return replace(found, node=node)
    if gold.shape != value.shape or not is_tensor(emulated) or lying(emulated).shape != value.shape:
        return replace(found, node=node)
    return replace(found, node=node, local=measure(gold, value), precision=measure(gold, lying(emulated)).rel_l2)


def _with_error(found: Divergence, ruler: Ruler, position: int, value: Lying) -> Divergence:
    """Keep the error of a tensor to blame of which perhaps not every element is read."""
    if found.judgement is None or found.judgement.passed or value.dtype.kind == "O":
        return found
    return replace(found, error=np.abs(np.subtract(to_numpy(ruler.gold[position]), value, dtype=np.float64)))


def first_to_blame(found: Sequence[Divergence], *, outputs_fail: bool, limit: float) -> tuple[Divergence, Kind] | None:
    """The tensor to name, and why.

    Args:
        found: in the reference's order.
        outputs_fail: whether the verdict is divergence.
        limit: relative L2 tolerance of the outputs.

    Returns:
        The earliest tensor whose implementation error is beyond its floor ("implementation", or "nonfinite" where
        that error is a NaN or Inf), or, before it, one that is not finite where the reference's is ("nonfinite"): past
        such a one nothing else can be judged. Else, where the outputs fail, the earliest beyond tolerance
        ("precision"); else None. What depends on random numbers is not held against the reference's.
    """
    for d in found:
        if d.accumulated is not None and d.accumulated.mismatched_nonfinite and not d.drawn:
            return d, "nonfinite"
        if d.to_blame:
            return d, "nonfinite" if d.judgement is not None and d.judgement.nonfinite else "implementation"
    if outputs_fail:
        for d in found:
            if d.accumulated is not None and not d.accumulated.rel_l2 <= limit and not d.drawn:
                return d, "precision"
    return None

