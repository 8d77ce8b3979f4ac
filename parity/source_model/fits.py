"""Which of a module's activations have the values of a tensor, in its own order of elements or in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parity.source_model.fingerprint import Index
from parity.source_model.layout import Layout, distance, find_layout
from parity.source_model.trace import Trace

# Relative L2. Constants that the export rounded to FP32 (2⁻²⁴ = 6e-8) move one node's output by about as much; an
# epsilon of a normalisation, the smallest thing that must not be overlooked, by 1e-6 and more.
TOLERANCE = 5e-7


@dataclass(frozen=True)
class Fit:
    """An activation, laid out, and how far it is from a tensor on the inputs, and on the others."""

    activation: str
    layout: Layout
    error: float
    control: float | None


class Fits:
    """The activations of one run, by their values."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._index = Index(trace.values, (n for n in trace.members if n in trace.values))

    def roots(self, value: torch.Tensor) -> Sequence[str]:
        """The roots that may have a tensor's elements, in whatever order."""
        return self._index.find(value, TOLERANCE)

    def one(self, activation: str, value: torch.Tensor) -> Fit | None:
        """How an activation fits a tensor as it is; None where it does not."""
        held = self._trace.values.get(activation)
        if held is None or held.numel() != value.numel():
            return None
        apart = distance(value, held)
        return Fit(activation, Layout.plain(tuple(value.shape)), apart, None) if apart <= TOLERANCE else None

    def any(self, root: str, value: torch.Tensor) -> Fit | None:
        """Of all that hold a root's elements: one in the tensor's own order, else the root permuted."""
        members = [m for m in self._trace.members[root] if m in self._trace.values]
        shape = tuple(value.shape)
        members.sort(key=lambda m: tuple(self._trace.values[m].shape) != shape)
        seen = set()
        for member in members:
            held = self._trace.values[member]
            form = held.data_ptr(), tuple(held.shape), held.stride()
            if form not in seen and (fit := self.one(member, value)) is not None:
                return fit
            seen.add(form)
        found = find_layout(self._trace.values[root], value, TOLERANCE)
        return None if found is None else Fit(root, *found, None)
