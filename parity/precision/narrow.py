"""Weights in a narrower type: rounded once, counted, and written where the others of their model are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from onnx import TensorProto, numpy_helper

from parity.graph.weights import dtype_of, read_weight

# The largest finite numbers, (2 - 2^-10)·2^15 (IEEE 754 binary16) and (2 - 2^-7)·2^127 (bfloat16).
LARGEST: Mapping[int, float] = MappingProxyType({
    TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: float.fromhex("0x1.fep127"), TensorProto.FLOAT: np.inf})
# The bits of the smallest normal number, sign aside: below them a number keeps fewer digits.
_NORMAL_BITS = {TensorProto.FLOAT16: 0x0400, TensorProto.BFLOAT16: 0x0080}
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

    def write(self, tensor: TensorProto, pieces: Iterable[bytes]) -> None:
        """Write a weight's data, and make its protobuf point at it."""
        self.file.write(b"\0" * (-self.file.tell() % _PAGE))
        offset = self.file.tell()
        for piece in pieces:
            self.file.write(piece)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", offset), ("length", self.file.tell() - offset)):
            tensor.external_data.add(key=key, value=str(value))


def moved(tensor: TensorProto, folder: Path | None, out: WeightFile) -> None:
    """Copy the data of an external weight to another file, and make the weight point there."""
    data = read_weight(tensor, folder)
    mapped = isinstance(data, np.memmap)  # else narrower than a byte, packed in the file
    pieces = (c.tobytes() for c in _chunks(data)) if mapped else iter([numpy_helper.from_array(data).raw_data])
    out.write(tensor, pieces)


def rounded(tensor: TensorProto, name: str, element: int, folder: Path | None,
            out: WeightFile | None) -> tuple[TensorProto, Losses]:
    """A weight in another floating-point type, rounded to nearest even.

    Args:
        tensor: FP32, FP16 or BF16.
        name: of the new one.
        element: ONNX element type to convert to; no finite number of the weight may be beyond its range.
        folder: where external data is looked up.
        out: where to write the data; None embeds it.
    """
    weight = read_weight(tensor, folder)
    made = TensorProto(name=name, data_type=element, dims=tensor.dims)
    losses = Losses(0, 0)

    def pieces() -> Iterator[bytes]:
        nonlocal losses
        for chunk in _chunks(weight):
            converted = chunk.astype(dtype_of(element))
            losses = _added(losses, chunk, converted, element)
            yield converted.tobytes()

    if out is None:
        made.raw_data = b"".join(pieces())
    else:
        out.write(made, pieces())
    return made, losses


def _added(losses: Losses, before: np.ndarray, after: np.ndarray, element: int) -> Losses:
    if element not in _NORMAL_BITS:
        return losses
    magnitude = after.view(np.uint16) & 0x7FFF
    zeros = magnitude.size - int(np.count_nonzero(magnitude))
    subnormal = int(np.count_nonzero(magnitude < _NORMAL_BITS[element])) - zeros
    zeroed = zeros - (before.size - int(np.count_nonzero(before)))
    return Losses(losses.zeroed + zeroed, losses.subnormal + subnormal)


def _chunks(weight: np.ndarray) -> Iterator[np.ndarray]:
    flat = weight.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start:start + _CHUNK]
