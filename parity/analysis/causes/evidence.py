"""What is known of a candidate that is off, and how causes tell what they found."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from onnx import helper

from parity.analysis.localize import Divergence, Kind
from parity.analysis.measure import measure
from parity.errors import MatchError
from parity.figures import number
from parity.graph.constants import constant_values
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import Arithmetic, Value, from_numpy, is_tensor, to_numpy

Tensors: TypeAlias = Mapping[str, np.ndarray]
# What an edit of the precision puts between the model's own operators.
_FORMATS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
# Share of the outputs' error that must come by way of a tensor that is named for it, and how many are looked at.
_LEAST_SHARE, _MOST_TRIED = 0.25, 8


@dataclass(frozen=True)
class Diagnosis:
    """A cause that fits, with the numbers that say so.

    Attributes:
        cause: its name in the table of causes, e.g. "fp16-overflow".
        tensor: at which it shows.
        message: one sentence with the figures.
        evidence: the figures by name.
    """

    cause: str
    tensor: str
    message: str
    evidence: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A candidate beside its reference, on one feed.

    Attributes:
        reference: the reference, flat.
        variant: what the candidate runs, flat: the reference itself where both compute in the same precision.
        feed: the inputs, the same on both sides.
        found: every tensor that was compared, in the order of the graph.
        blamed: the tensor that was named, and what for.
        shown: the candidate's watched tensors.
        reference_outputs: of the reference's plain run.
        candidate_outputs: of the candidate's unwatched run.
        limit: relative L2 tolerance of the outputs.
        precision: what the candidate computes in: "fp32", "fp16", "bf16" or "int8".
        diverged: whether the verdict is divergence.
        moved: how far (relative L2) watching moved the candidate's outputs; None where that is not known.
        again: runs the candidate once more, unwatched; None where it cannot be run.
        unoptimised: the same without the runtime's graph optimisation.
        exported: the candidate is the module that the reference is an export of, and the reference is what is wrong.
        own: the candidate's own file, flat; None where it runs the reference, or nobody has what it runs.
    """

    reference: Model
    variant: Model
    feed: Tensors
    found: Sequence[Divergence]
    blamed: tuple[Divergence, Kind] | None
    shown: Tensors
    reference_outputs: Tensors
    candidate_outputs: Tensors
    limit: float
    precision: str = "fp32"
    diverged: bool = False
    moved: float | None = None
    again: Callable[[], Tensors] | None = None
    unoptimised: Callable[[], Tensors] | None = None
    exported: bool = False
    own: Model | None = None
    _expected: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def of(self) -> Mapping[str, Divergence]:
        """What was found, by tensor."""
        return {d.tensor: d for d in self.found}

    @cached_property
    def bench(self) -> Bench:
        """Evaluates what the candidate runs."""
        return Bench(self.variant)

    @cached_property
    def original(self) -> Bench:
        """Evaluates the reference."""
        return self.bench if self.variant is self.reference else Bench(self.reference)

    @cached_property
    def file(self) -> Bench | None:
        """Evaluates the candidate's own file."""
        return None if self.own is None else Bench(self.own)

    @cached_property
    def error(self) -> float:
        """Largest relative L2 error among the unwatched outputs."""
        return distance(self.reference_outputs, self.candidate_outputs)

    @cached_property
    def unoptimised_error(self) -> float | None:
        """The same with the runtime's optimisation off; None where that cannot be run."""
        return None if self.unoptimised is None else distance(self.reference_outputs, self.unoptimised())

    @cached_property
    def between_runs(self) -> float | None:
        """Largest relative L2 distance between two unwatched runs; None where the candidate cannot be run again."""
        return None if self.again is None else distance(self.candidate_outputs, self.again())

    def blamed_for(self, *kinds: Kind) -> Divergence | None:
        """The tensor that was named, where it was named for one of these."""
        return self.blamed[0] if self.blamed is not None and self.blamed[1] in kinds else None

    def suspects(self) -> list[Divergence]:
        """The tensors that a lack of precision may be about.

        Those that the named one is made from, then those that the outputs that are most wrong are made from.
        """
        blamed = self.blamed_for("precision")
        if blamed is None:
            return []
        before = ancestors(self.reference, blamed.tensor)
        much = min(self.limit, self.error / 2)  # each output has a limit of its own, and this is the widest
        wrong = [n for n in self.reference_outputs.keys() & self.candidate_outputs.keys()
                 if relative(self.reference_outputs[n], self.candidate_outputs[n]) > much]
        concerned = before.union(*(ancestors(self.reference, n) for n in wrong))
        return sorted((d for d in self.found if d.tensor in concerned), key=lambda d: d.tensor not in before)

    def brought(self, tensor: str) -> float:
        """What of the outputs' error comes by way of one tensor.

        That is the largest relative L2 error of the outputs when the reference goes on from the candidate's value of
        it; inf where that is unknown. Costs one run of the reference.
        """
        maker, right = self.reference.graph.producer.get(tensor), self.expected([tensor]).get(tensor)
        if maker is None or right is None or tensor not in self.shown or self.shown[tensor].shape != right.shape:
            return math.inf
        proto = shallow_copy(self.reference.proto)
        node = next(n for n in proto.graph.node if tensor in n.output)
        node.output[list(node.output).index(tensor)] = f"{tensor}/own"
        kind = helper.np_dtype_to_tensor_dtype(right.dtype)
        proto.graph.input.append(helper.make_tensor_value_info(tensor, kind, None))
        changed = Model.from_proto(proto, self.reference.folder)
        value = np.asarray(self.shown[tensor]).astype(right.dtype)
        return distance(self.reference_outputs, outputs_of(changed, {**self.feed, tensor: value}))

    def computed(self, where: str, words: str, instead: str, left: float, error: float) -> str:
        """A sentence on what would make one side compute what the other does: the simplest such thing, maybe not it.

        Args:
            where: an operator.
            words: with what the candidate computes it.
            instead: of what the reference has; empty where `words` say that it is another.
            left: relative L2 error of the candidate that this leaves.
            error: that the reference's operator leaves.
        """
        if self.exported:
            beside = f" with {instead}" if instead else " otherwise"
            return (f"The module computes {where} as if with {words}, and the .onnx{beside}: that explains the "
                    f"module's values to {number(left)} (relative L2), where the .onnx leaves {number(error)}.")
        beside = f" instead of {instead}" if instead else ""
        return (f"{where} was computed as if with {words}{beside}: that explains the candidate's values to "
                f"{number(left)} (relative L2), where the reference's operator leaves {number(error)}.")

    def seen(self, name: str) -> np.ndarray | None:
        """What the candidate's operators read: a tensor that it shows, or an input; None where it is hidden."""
        return self.shown[name] if name in self.shown else self.feed.get(name)

    def named(self, tensor: str) -> str:
        """The reference's tensor that one of the variant's stands for, before or after Casts and Q/DQ."""
        known, graph = self.reference.graph.producer, self.variant.graph
        after = (o for r in graph.readers.get(tensor, ()) if r.op in _FORMATS for o in r.outputs if o in known)
        while tensor not in known and tensor in graph.producer and graph.producer[tensor].inputs:
            if graph.producer[tensor].op not in _FORMATS:
                return next(after, tensor)
            tensor = graph.producer[tensor].inputs[0]
        return tensor

    def called(self, node: Node, position: int) -> str:
        """What the reference calls that which a node of the variant reads at a position."""
        source = self.reference.graph.producer.get(node.outputs[0])
        alike = source is not None and source.op == node.op and position < len(source.inputs)
        return source.inputs[position] if source is not None and alike else node.inputs[position]

    def expected(self, names: Collection[str]) -> Tensors:
        """The reference's own values of some tensors; those not asked for before cost one run of it."""
        missing = [n for n in names if n not in self._expected]
        if missing:
            values = Executor(self.reference).run(self.feed, capture=missing)
            self._expected.update({n: to_numpy(values[n]) for n in missing if n in values and is_tensor(values[n])})
        return {n: self._expected[n] for n in names if n in self._expected}


def ancestors(model: Model, tensor: str) -> set[str]:
    """The tensors that one is made from, and itself."""
    found: set[str] = set()
    stack = [tensor]
    while stack:
        name = stack.pop()
        node = model.graph.producer.get(name)
        if name not in found:
            found.add(name)
            stack.extend(node.reads if node is not None else ())
    return found


class Bench:
    """A flat model whose nodes can be evaluated in FP64, one at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.executor = Executor(model, Arithmetic.DOUBLE)

    @cached_property
    def constants(self) -> Mapping[str, Value]:
        """Every tensor that no input can change, in its declared type."""
        return constant_values(self.model)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor that no input can change; None for another."""
        value = self.constants.get(name)
        return to_numpy(value) if is_tensor(value) else None

    def value(self, evidence: Evidence, name: str) -> Value:
        """What an operator of the candidate read: a constant, or what it shows; None where that is hidden."""
        if name in self.constants:
            return self.constants[name]
        seen = evidence.seen(name)
        return None if seen is None else from_numpy(np.asarray(seen))


def that_reach(evidence: Evidence, found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Of a few diagnoses, those about tensors whose error makes a good part of that of the outputs."""
    if not evidence.diverged or not math.isfinite(evidence.error):
        return list(found)
    return [d for d in found[:_MOST_TRIED] if evidence.brought(d.tensor) >= _LEAST_SHARE * evidence.error]


def emulated_error(evidence: Evidence, variant: Model) -> float:
    """Largest relative L2 error among the outputs of a model that is run in the reference's stead."""
    return distance(evidence.reference_outputs, outputs_of(variant, evidence.feed))


def outputs_of(model: Model, feed: Tensors, seed: int = 0) -> dict[str, np.ndarray]:
    """The outputs of a model on our own executor."""
    return {n: to_numpy(v) for n, v in Executor(model, seed=seed).run(feed).items() if is_tensor(v)}


def distance(one: Tensors, other: Tensors) -> float:
    """Largest relative L2 distance among the tensors that both have; inf where shapes differ."""
    return max((relative(one[n], other[n]) for n in one.keys() & other.keys()), default=0.0)


def relative(expected: np.ndarray, value: np.ndarray) -> float:
    """The relative L2 error of a tensor; inf where the shapes differ, or text stands for numbers."""
    if expected.shape != value.shape:
        return math.inf
    try:
        return measure(expected, value).rel_l2
    except MatchError:
        return math.inf
