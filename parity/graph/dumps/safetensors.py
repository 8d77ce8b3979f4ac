"""The safetensors format: the header's length (8 bytes), the header (JSON), the values."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from parity.errors import FeedError

# The names that the format has for types; values are little-endian, in C order.
_DTYPES = {
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2"), "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu)}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name.

    Raises:
        FeedError: the file is cut off, or a tensor of it has a type or place that cannot be.
        ValueError: its header is not JSON.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise FeedError(f"{path} is {len(data)} bytes, and its header should end at byte {8 + length}",
                        "The file is damaged or cut off; copy it again.")
    header: object = json.loads(data[8:8 + length].decode("utf-8"))
    if not isinstance(header, dict):
        raise FeedError(f"{path} has a header that lists no tensors", "The file is damaged; save it again.")
    values = memoryview(data)[8 + length:]
    return {name: _tensor(path, name, entry, values) for name, entry in header.items() if name != "__metadata__"}


def _tensor(path: Path, name: str, entry: object, values: memoryview) -> np.ndarray:
    match entry:
        case {"dtype": str(kind), "shape": [*sizes], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise FeedError(f"{path}: tensor {name!r} has no dtype, shape and data_offsets",
                            "The file is damaged; save it again.")
    if kind not in _DTYPES:
        raise FeedError(f"{path}: tensor {name!r} is {kind}; known are {', '.join(_DTYPES)}",
                        "Save it in one of these, as tensor.float().")
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise FeedError(f"{path}: tensor {name!r} has shape {sizes}", "The file is damaged; save it again.")
    dtype = _DTYPES[kind]
    count = 1
    for size in sizes:
        count *= size
    if not 0 <= start <= end <= len(values) or end - start != count * dtype.itemsize:
        raise FeedError(f"{path}: tensor {name!r} ({kind} {sizes}) needs {count * dtype.itemsize} bytes and has bytes "
                        f"{start} to {end} of {len(values)}", "The file is damaged or cut off; copy it again.")
    return np.frombuffer(values[start:end], dtype).reshape(sizes).copy()
