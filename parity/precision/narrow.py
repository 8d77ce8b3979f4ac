"""Weights in a narrower type: rounded once, counted, and written where the others of their model are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from onnx import TensorProto

from parity.graph.weights import dtype_of, read_weight

# The largest finite numbers: (2 - 2^-10)·2^15 and (2 - 2^-7)·2^127 (IEEE 754 binary16; bfloat16 has 8 bits of precision).
LARGEST: Mapping[int, float] = MappingProxyType({
    TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: float.fromhex("0x1.fep127"), TensorProto.FLOAT: np.inf})
# The smallest normal numbers: below them a number keeps fewer bits.
_SMALLEST_NORMAL = {TensorProto.FLOAT16: 2.0**-14, TensorProto.BFLOAT16: 2.0**-126, TensorProto.FLOAT: 2.0**-126}
# Elements that are read, rounded and written at a time, so that a weight larger than memory passes through.
_CHUNK = 1 << 22
_PAGE = 4096


@dataclass(frozen=True)
class Losses:
    """What rounding did to the small numbers of a weight: how many became 0, and how many more are subnormal now."""

    zeroed: int
    subnormal: int


def largest_magnitude(weight: np.ndarray) -> float:
    """The largest finite |x| of a weight of any shape; 0 where there is none."""
    largest = 0.0
    for chunk in _chunks(weight):
        with np.errstate(invalid="ignore"):
            top = max(-float(chunk.min()), float(chunk.max()))
        if not np.isfinite(top):
            top = float(np.abs(chunk[np.isfinite(chunk)]).max(initial=0))
        largest = max(largest, top)
    return largest


class WeightFile:
    """An external file that weights are written to, page by page, so that runtimes can map them."""

    def __init__(self, file: BinaryIO, location: str) -> None:
        self.file = file
        self.location = location

    def write(self, tensor: TensorProto, pieces: Iterator[np.ndarray]) -> None:
        """Write a weight's data, and make its protobuf point at it."""
        self.file.write(b"\0" * (-self.file.tell() % _PAGE))
        offset = self.file.tell()
        for piece in pieces:
            self.file.write(piece.tobytes())
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", offset), ("length", self.file.tell() - offset)):
            tensor.external_data.add(key=key, value=str(value))


def moved(tensor: TensorProto, folder: Path | None, out: WeightFile) -> None:
    """Copy the data of an external weight to another file, and make it point there."""
    data = read_weight(tensor, folder)
    if data.dtype.itemsize * data.size != _stored_bytes(tensor, data):
        tensor.ClearField("external_data")  # packed below a byte: small enough to stay inside
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = numpy_helper.from_array(data).raw_data
        return
    tensor.ClearField("external_data")
    out.write(tensor, _chunks(data))
