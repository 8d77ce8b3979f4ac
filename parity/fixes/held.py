"""A model whose tensors are held divided by powers of two, while it is being rewritten node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from parity.fixes.edits import GraphEdit
from parity.graph.constants import constant_values
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy
from parity.precision.elements import read_types
from parity.precision.narrow import largest_magnitude

# A factor that FP16 holds as a normal number; a larger one is applied in steps.
_STEP = 14


class Held:
    """At which exponent each tensor is held: the graph has t·2⁻ᵉ in its place.

    Attributes:
        edit: what was exchanged so far.
        constants: the FP32 tensors that no input can change.
        wants: at which exponent at least each tensor is to be held, where that is above 0.
    """

    def __init__(self, model: Model, largest: Mapping[str, float], limit: float) -> None:
        """Hold every tensor as it is.

        Args:
            model: flat.
            largest: the greatest |x| of tensors, as far as it is known.
            limit: the largest number that fits.
        """
        self.model = model
        self.edit = GraphEdit(model)
        values = {n: to_numpy(v) for n, v in constant_values(model).items() if is_tensor(v)}
        self.constants = {n: v for n, v in values.items() if v.dtype == np.float32}
        self.wants: dict[str, int] = {}
        self._types = read_types(model)
        self._limit = limit
        self._largest = {**largest, **{n: largest_magnitude(v) for n, v in self.constants.items()}}
        self._exponents: dict[str, int] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._pending: list[NodeProto] = []

    def taken(self) -> list[NodeProto]:
        """The nodes that were added since this was last asked."""
        pending, self._pending = self._pending, []
        return pending

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
        pending = self.taken()
        self.at(name, exponent)
        self._exponents[name] = exponent
        made, self._pending = self.taken(), pending
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
