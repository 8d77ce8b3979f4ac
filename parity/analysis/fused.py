"""Operators that hold an activation, as two: the linear part, and the activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnx import NodeProto, helper

from parity.graph.graph import Node

# What `activation_params` of FusedConv stand for, by ONNX Runtime's ContribOperators.md.
_PARAMS: Mapping[str, Sequence[str]] = {
    "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
_ACTIVATION_OPSET = 10  # Clip has its limits as attributes


def stages(node: Node) -> tuple[Node, Node] | None:
    """The linear part of FusedConv and FusedGemm, and their activation, which reads its output; None for others.

    Args:
        node: any; the activation makes its output, the linear part makes one of another name.
    """
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
    name = attributes.get("activation", b"")
    if node.op not in ("com.microsoft::FusedConv", "com.microsoft::FusedGemm") or not name:
        return None
    op, between = name.decode(), f"{node.outputs[0]}/linear"
    params = dict(zip(_PARAMS.get(op, ()), attributes.get("activation_params", ()), strict=False))
    params.update((n.removeprefix("activation_"), v) for n, v in attributes.items()
                  if n in ("activation_alpha", "activation_beta", "activation_gamma"))
    linear = NodeProto()
    linear.CopyFrom(node.proto)
    linear.output[0] = between
    del linear.attribute[:]
    linear.attribute.extend(a for a in node.proto.attribute if not a.name.startswith("activation"))
    activation = helper.make_node(op, [between], [node.outputs[0]], **params)
    return replace(node, proto=linear), Node(activation, node.index, _ACTIVATION_OPSET)
