"""One operator in terms of another one's kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
from onnx import NodeProto

from parity.graph.graph import Node
from parity.graph.ops.call import KERNELS, Call, Tensor, Value


def single(value: float) -> float:
    """A default attribute as the FP32 number that a file would hold."""
    return float(np.float32(value))


def onnx_kernel(op: str, opset: int, call: Call, *inputs: Value, proto: NodeProto | None = None) -> Tensor:
    """Evaluate the kernel of an ONNX operator on behalf of a node of another operator.

    Args:
        op: operator of ONNX's own domain with one output.
        opset: version of ONNX whose attributes and inputs are followed.
        call: the calling node.
        inputs: in the order of the ONNX operator.
        proto: holds the attributes; by default the calling node does.

    Raises:
        NotImplementedError: there is no such kernel, or it does not cover the case.
    """
    found = KERNELS.get(("", op))
    if found is None:
        raise NotImplementedError(op)
    node = replace(call.node, opset=opset) if proto is None else Node(proto, call.node.index, opset)
    return cast("Tensor", found(replace(call, node=node), *inputs))
