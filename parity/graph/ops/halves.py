"""FP16 and BF16 around a kernel that computes in FP32: widened before, rounded after."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.graph.graph import Node
from parity.graph.ops.call import HALVES, Value
from parity.graph.ops.fallback import schema_of


def widened(value: Value) -> Value:
    """A 16-bit float tensor as FP32; all else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALVES else value


def narrowed(node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
    """Round the FP32 outputs that the operator's schema ties to a 16-bit input.

    An operator without a schema, as those of other domains are, gives all its float outputs in the type of its first
    16-bit input, as is the custom there; a kernel for one that does otherwise is registered with `halves`.

    Args:
        node: the node.
        inputs: as they were before widening.
        outputs: as the kernel gave them.
    """
    halves = [v.dtype if isinstance(v, torch.Tensor) and v.dtype in HALVES else None for v in inputs]
    if not any(halves):
        return outputs
    schema = schema_of(node.proto.op_type, node.domain, node.opset)
    if schema is None:
        first = next(d for d in halves if d)
        return [_rounded(v, first) for v in outputs]
    types: dict[str, torch.dtype | None] = {}
    for i, dtype in enumerate(halves):
        if inputs[i] is not None:
            types.setdefault(schema.inputs[min(i, len(schema.inputs) - 1)].type_str, dtype)
    last = len(schema.outputs) - 1
    return [_rounded(v, types.get(schema.outputs[min(i, last)].type_str)) for i, v in enumerate(outputs)]


def _rounded(value: Value, dtype: torch.dtype | None) -> Value:
    return value.to(dtype) if dtype and isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value
