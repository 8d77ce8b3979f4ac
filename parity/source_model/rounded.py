"""Weights that an export holds in fewer bits than the module: what that explains, and how to undo it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from onnx import TensorProto

from parity.graph.model import Model
from parity.graph.ops.call import HALVES, Value
from parity.source_model.fingerprint import Index
from parity.source_model.layout import find_layout
from parity.source_model.trace import Trace

# The unit roundoff of each type, 2⁻ᵖ with p bits of significand, the hidden one included (IEEE 754; BF16: 8 bits).
_ROUNDOFF = {TensorProto.FLOAT: ("FP32", 2.0**-24), TensorProto.FLOAT16: ("FP16", 2.0**-11),
             TensorProto.BFLOAT16: ("BF16", 2.0**-8)}
# Sums of equal numbers in another order.
_EXACT = 1e-12


def rounded_weights(model: Model) -> tuple[str, float]:
    """The coarsest type that a graph holds weights in, and its unit roundoff; FP32 where it has none."""
    kinds = {weight.data_type for weight in model.graph.initializers.values()} & _ROUNDOFF.keys()
    return max((_ROUNDOFF[kind] for kind in kinds), key=lambda pair: pair[1], default=_ROUNDOFF[TensorProto.FLOAT])


def unrounded(weights: Mapping[str, Value], trace: Trace) -> Iterator[tuple[str, torch.Tensor]]:
    """The FP16 and BF16 weights that are the module's own parameters rounded, as these were before.

    Autocast rounds parameters where it uses them, and an exporter stores them rounded: no fault of the export.

    Args:
        weights: of the graph, in their declared types.
        trace: of the module in FP64.
    """
    narrow = {n: w for n, w in weights.items() if isinstance(w, torch.Tensor) and w.dtype in HALVES and w.numel()}
    given = {n: trace.values[n] for n, a in trace.activations.items() if a.op == "parameter" and n in trace.values}
    for dtype in dict.fromkeys(w.dtype for w in narrow.values()):
        rounded = {name: value.to(dtype).double() for name, value in given.items()}
        index = Index(rounded, rounded)
        for name, weight in ((n, w.double()) for n, w in narrow.items() if w.dtype == dtype):
            laid = ((p, find_layout(rounded[p], weight, 0.0)) for p in index.find(weight, _EXACT))
            found = next(((p, layout[0]) for p, layout in laid if layout is not None), None)
            if found is not None:
                yield name, found[1].apply(given[found[0]])
