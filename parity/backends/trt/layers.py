"""The layers of an engine, as the inspector's JSON or the builder's own list tells them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from parity.backends.base import CompiledLayer

_MARK = "[ONNX Layer: "
_SEPARATORS = re.compile("[\x1e\x1f]")
# Element types in TensorRT's words, from narrow to wide.
_WORDS = MappingProxyType({
    "fp4": r"FP4", "int4": r"Int4", "int8": r"Int8", "fp8": r"FP8|Float8", "bf16": r"BF16|BFloat16",
    "fp16": r"FP16|Half", "fp32": r"FP32|Float"})
WIDTHS = tuple(_WORDS)
_LINE = re.compile(r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w*), Inputs: \[(?P<Inputs>.*?)\], "
                   r"Constants: \[(?P<Constants>.*?)\], Outputs: \[(?P<Outputs>.*?)\], TacticName: .*?"
                   r"(?:, StreamId: \d+)?, Metadata: (?P<Metadata>.*)")
_TENSOR = re.compile(r"Name: (?P<Name>.*?), Dimensions: \[(?P<Dimensions>[-\d,]*)\], "
                     r"Strides: \[(?P<Strides>[-\d,]*)\], .*?Datatype: (?P<Datatype>\w+)")


@dataclass(frozen=True)
class EngineTensor:
    """What a layer reads or writes.

    Attributes:
        name: as the engine calls it.
        shape: its dimensions.
        strides: elements from one index to the next, one a dimension; empty where the inspector does not say.
        kind: its element type, "fp16" say; "" for indices, shapes and masks.
    """

    name: str
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: as the engine calls it.
        kind: TensorRT's word for what it does.
        covers: first outputs of the ONNX nodes that it computes, or computes a part of.
        inputs: what it reads.
        constants: weights and the like.
        outputs: what it writes.
    """

    name: str
    kind: str = ""
    covers: tuple[str, ...] = ()
    inputs: tuple[EngineTensor, ...] = ()
    constants: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Element types of what it reads, constants included."""
        return tuple(dict.fromkeys(t.kind for t in (*self.inputs, *self.constants) if t.kind))

    @property
    def writes(self) -> tuple[str, ...]:
        """Element types of what it writes."""
        return tuple(dict.fromkeys(t.kind for t in self.outputs if t.kind))

    @property
    def summary(self) -> CompiledLayer:
        """The layer as every runtime tells it."""
        return CompiledLayer(self.name, self.kind, self.covers, self.reads, self.writes)


def layers_of(information: str, nodes: Mapping[str, str] = MappingProxyType({})) -> tuple[Layer, ...]:
    """Read the engine inspector's JSON.

    Args:
        information: as `EngineInspector.get_engine_information` gives it; an engine that was built without details
            lists names only.
        nodes: name of an ONNX node → its first output, where these differ.
    """
    try:
        entries = json.loads(information)["Layers"]
        return tuple(Layer(e) if isinstance(e, str) else _layer(e, nodes) for e in entries)
    except (ValueError, KeyError, TypeError, AttributeError):  # not a list of layers that this version knows
        return ()


def layers_said(words: str) -> tuple[Layer, ...]:
    """Read the list of layers that the builder prints when it is done, the only one where no engine can be loaded."""
    return tuple(_layer(match.groupdict(), MappingProxyType({})) for match in _LINE.finditer(words))


def _layer(entry: Mapping[str, object], nodes: Mapping[str, str]) -> Layer:
    covers = dict.fromkeys(nodes.get(name, name) for name in _covered(str(entry.get("Metadata", ""))))
    inputs, constants, outputs = (_tensors(entry.get(key)) for key in ("Inputs", "Constants", "Outputs"))
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", "")), tuple(covers), inputs, constants, outputs)


def _covered(metadata: str) -> Iterator[str]:
    r"""ONNX nodes in a layer's metadata: "[ONNX Layer: a]\x1f[ONNX Layer: b]" gives a and b."""
    for part in _SEPARATORS.split(metadata):
        start = part.find(_MARK)
        if start >= 0 and part.rstrip().endswith("]"):
            yield part[start + len(_MARK):].rstrip()[:-1]


def _tensors(found: object) -> tuple[EngineTensor, ...]:
    """Tensors of a layer: entries of the JSON, or the same as one line of text."""
    if isinstance(found, str):
        return tuple(EngineTensor(m["Name"], _numbers(m["Dimensions"].split(",")), _numbers(m["Strides"].split(",")),
                                  _kind(m["Datatype"])) for m in _TENSOR.finditer(found))
    if not isinstance(found, list):
        return ()
    return tuple(EngineTensor(str(t.get("Name", "")), _numbers(t.get("Dimensions")), _numbers(t.get("Strides")),
                              _kind(str(t.get("Datatype", t.get("Format/Datatype", "")))))
                 for t in found if isinstance(t, dict))


def _numbers(found: object) -> tuple[int, ...]:
    return tuple(int(n) for n in found if n != "") if isinstance(found, list) else ()


def _kind(text: str) -> str:
    return next((kind for kind, words in _WORDS.items() if re.search(rf"\b(?:{words})\b", text)), "")
