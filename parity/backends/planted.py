"""One known fault, planted in a model: what a tool that finds faults is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from parity.graph.model import Model, shallow_copy


@dataclass(frozen=True)
class Fault:
    """One change to a model.

    Attributes:
        kind: what sort of fault, e.g. "weight scaled by 2 %".
        tensor: output of the node that it makes wrong: the tensor that should be named.
        edit: changes the protobuf in place.
    """

    kind: str
    tensor: str
    edit: Callable[[ModelProto], None]

    def plant(self, model: Model) -> Model:
        """The model with the fault; the original is untouched."""
        proto = shallow_copy(model.proto)
        self.edit(proto)
        return Model.from_proto(proto, model.folder)
