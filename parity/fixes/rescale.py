"""Rescale around an overflow: hold tensors divided by powers of two where operators let a factor pass.

A tensor t is *held at* an exponent e where the graph computes t·2⁻ᵉ. Linear operators take a change of exponent into
their weights; what is positively homogeneous hands it on; a normalisation drops it (its epsilon takes the factor);
Log turns it into a sum; where nothing of the kind follows, a multiplication takes it back. All factors are powers of
two, so that FP32 results differ by underflow at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from parity.fixes.edits import GraphEdit
from parity.fixes.homogeneous import Kind, role_of
from parity.fixes.patch import Magnitudes, Patch
from parity.fixes.scaled import RULES
from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.precision.elements import read_types
from parity.precision.narrow import largest_magnitude

# Other samples have larger values than those that were looked at.
_MARGIN = 2.0
# A factor that FP16 holds as a normal number; a larger one is applied in steps.
_STEP = 14


def rescales(model: Model, largest: Mapping[str, float], limit: float) -> list[Patch]:
    """Models in which tensors beyond a format's range are held divided by powers of two.

    Args:
        model: flat.
        largest: the greatest |x| of tensors in FP32 on the samples; one that is missing is taken to fit.
        limit: the largest number that the format holds, e.g. 65504 for FP16. Tensors are brought to half of it.

    Returns:
        At most one patch, for all tensors together; none where no tensor is beyond half the limit, or where those
        that are cannot be held otherwise (they are graph outputs, or a Softmax reads them).
    """
    beyond = {n: v for n, v in largest.items()
              if n not in model.constants and math.isfinite(v) and v * _MARGIN > limit}
    if not beyond:
        return []
    rescaling = Rescaling(model, largest, limit)
    rescaling.run()
    edited = rescaling.edit.done()
    exponents = {n: rescaling.exponent(n) for n in beyond if rescaling.exponent(n) >= max(1, rescaling.need(n))}
    held = {n: e for n, e in exponents.items() if rescaling.at(n, e) in edited.graph.producer}
    if not held:
        return []
    top = max(held, key=lambda n: beyond[n])
    powers = f"2^{min(held.values())}" + (f" to 2^{max(held.values())}" if len(set(held.values())) > 1 else "")
    message = (f"{len(held)} of the {len(beyond)} tensors beyond {limit / _MARGIN:g} are computed divided by {powers} "
               f"(the largest, {top!r}, reaches {beyond[top]:.3g}), and what follows takes the factor back.")
    return [Patch("rescale", message, tuple(held), edited, rescaled=Magnitudes(dict(largest), limit))]


class Rescaling:
    """A model being rescaled, node by node in order.

    Attributes:
        edit: what was exchanged so far.
        constants: the FP32 tensors that no input can change.
        wants: at which exponent at least each tensor is to be held, where that is above 0.
    """

    def __init__(self, model: Model, largest: Mapping[str, float], limit: float) -> None:
        self.model = model
        self.edit = GraphEdit(model)
        values = {n: to_numpy(v) for n, v in constant_values(model).items() if is_tensor(v)}
        self.constants = {n: v for n, v in values.items() if v.dtype == np.float32}
        self._types = read_types(model)
        self._limit = limit / _MARGIN
        self._largest = {**largest, **{n: largest_magnitude(v) for n, v in self.constants.items()}}
        self._exponents: dict[str, int] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._pending: list[NodeProto] = []
        self.wants = _wants(self)

    def run(self) -> None:
        """Hold every tensor at the exponent that is wanted of it, and graph outputs as they were."""
        for node in self.model.graph.nodes:
            if not self.model.constants.issuperset(node.outputs) and self._concerns(node):
                made = self._rewritten(node)
                self.edit.replace(node, [*self._pending, *made])
                self._pending = []
        for output in self.model.graph.outputs:
            self.at(output.name, 0)
        self.edit.append(self._pending)

    def need(self, name: str) -> int:
        """The least exponent at which a tensor fits the format; 0 where its values are not known."""
        top = self._largest.get(name, 0.0)
        return math.ceil(math.log2(top / self._limit)) if 0 < top < math.inf else 0

    def is_float(self, name: str) -> bool:
        """Whether a tensor is FP32; no other is ever scaled."""
        return bool(self._types.of(name) == TensorProto.FLOAT)

    def moves(self, name: str) -> bool:
        """Whether a tensor depends on an input."""
        return name not in self.model.constants

    def exponent(self, name: str) -> int:
        """At which exponent a tensor is held."""
        return self._exponents.get(name, 0)

    def hold(self, name: str, exponent: int) -> str:
        """Note at which exponent a node now makes a tensor; returns the name that it has there."""
        if exponent:
            self._exponents[name] = exponent
            self._names[name, exponent] = self.edit.fresh(f"{name}/scaled")
        return self._names.get((name, exponent), name)

    def at(self, name: str, exponent: int) -> str:
        """The name under which a tensor is found at an exponent; what computes it is added where there is none."""
        held = self.exponent(name)
        if (name, exponent) not in self._names and exponent != held:
            if name in self.constants:
                made = self.edit.weight(f"{name}/scaled", np.ldexp(self.constants[name], -exponent))
            else:
                made = name if exponent == 0 else self.edit.fresh(f"{name}/scaled")
                self.times(self.at(name, held), made, held - exponent)
            self._names[name, exponent] = made
        return self._names.get((name, exponent), name)

    def relax(self, name: str, exponent: int) -> list[NodeProto]:
        """The nodes that bring a tensor to another exponent as soon as it is made."""
        pending, self._pending = self._pending, []
        self.at(name, exponent)
        self._exponents[name] = exponent
        made, self._pending = self._pending, pending
        return made

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: float) -> str:
        """Add a node before the one that is being rewritten; returns its output."""
        self._pending.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def times(self, source: str, target: str, exponent: int) -> str:
        """Multiply by a power of two, in steps that a narrow format holds; returns the result's name."""
        while exponent:
            step = max(-_STEP, min(_STEP, exponent))
            exponent -= step
            name = self.edit.fresh(f"{target}/step") if exponent else target
            source = self.add("Mul", [source, self.edit.number(f"2^{step}", 2.0**step)], name)
        return source

    def _concerns(self, node: Node) -> bool:
        return any(self.exponent(n) for n in node.reads) or any(o in self.wants for o in node.outputs)

    def _rewritten(self, node: Node) -> list[NodeProto]:
        role = role_of(node, self.constants)
        tensors = [*role.data(node), *(node.outputs[:1] if role.gives else ())]
        rule = RULES.get(role.kind)
        made = rule(self, node, role) if rule and all(map(self.is_float, tensors)) else None
        if made is None:
            for name in filter(self.moves, node.reads):
                self.at(name, 0)
            return [node.proto]
        return made


def _wants(rescaling: Rescaling) -> dict[str, int]:
    """At which exponent each tensor is wanted: the one it needs, or that of its only reader, where that is a JOIN."""
    wants: dict[str, int] = {}
    asked: dict[str, int] = {}
    scalable: set[str] = set()
    shut: set[str] = set()
    readers = rescaling.model.graph.readers
    for node in reversed(rescaling.model.graph.nodes):
        role = role_of(node, rescaling.constants)
        out = node.outputs[0] if node.outputs else ""
        for name in node.outputs:
            least = max(rescaling.need(name), asked.get(name, 0))
            if least > 0 and name in scalable - shut and rescaling.is_float(name) and rescaling.moves(name):
                wants[name] = least
        data = [n for n in role.data(node) if rescaling.moves(n)]
        if role.kind is Kind.OTHER:
            continue
        scalable.update(data)
        if role.kind is Kind.SHIFT or (role.kind is Kind.JOIN and role.gives and out in shut):
            shut.update(data)
        if role.kind is Kind.JOIN and role.gives and out in wants:
            for name in data:
                if len(readers[name]) == 1:
                    asked[name] = max(asked.get(name, 0), wants[out])
    return wants
