"""Weights as numpy arrays, wherever they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import onnx
from onnx import TensorProto

from parity.errors import ModelError

# Files that some weight is mapped from now. A mapping holds a file descriptor, so weights share one a file.
_MAPPED: WeakValueDictionary[tuple[Path, int, int], np.memmap] = WeakValueDictionary()
# Types narrower than a byte are packed in the file, so they are decoded instead of mapped.
_PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.STRING}


def dtype_of(elem_type: int) -> np.dtype:
    """The numpy (or ml_dtypes) dtype of an ONNX element type.

    Raises:
        ModelError: the model uses an element type that the installed onnx does not know.
    """
    try:
        dtype: np.dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError as error:
        raise ModelError(f"unknown ONNX element type {elem_type}", "Install a newer onnx.") from error
    return dtype


def read_weight(tensor: TensorProto, folder: Path | None, *, check_only: bool = False) -> np.ndarray:
    """The value of a weight, memory-mapped read-only when it lies in an external file.

    Args:
        tensor: the initializer.
        folder: the model's folder, which external files may not leave.
        check_only: do not read the data, only make sure that it is there.

    Raises:
        ModelError: the file is missing, too short, or outside the model's folder.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.empty(0) if check_only else _decode(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folder, where.get("location", ""), tensor.name)
    dtype, count = dtype_of(tensor.data_type), int(np.prod(tensor.dims, dtype=np.int64))
    whole = count * dtype.itemsize if tensor.data_type not in _PACKED else 0
    offset, need = _number(where, "offset", 0, tensor.name), _number(where, "length", whole, tensor.name)
    if need < whole:
        raise ModelError(f"weight {tensor.name!r} needs {whole} bytes, its external entry has {need}",
                         "The model is damaged; save it again.")
    if path.stat().st_size < offset + need:
        raise ModelError(f"weight {tensor.name!r}: {path} is {path.stat().st_size} bytes, {offset + need} are needed",
                         "The external data is truncated; copy it again.")
    if check_only:
        return np.empty(0)
    if tensor.data_type in _PACKED:
        inline = TensorProto()
        inline.CopyFrom(tensor)
        inline.ClearField("external_data")
        inline.data_location = TensorProto.DEFAULT
        with path.open("rb") as file:
            file.seek(offset)
            inline.raw_data = file.read(need)
        return _decode(inline)
    if count == 0:
        return np.empty(tuple(tensor.dims), dtype)
    return _mapped(path)[offset:offset + whole].view(dtype).reshape(tuple(tensor.dims))


def _mapped(path: Path) -> np.memmap:
    stat = path.stat()
    key = path, stat.st_mtime_ns, stat.st_size
    mapped = _MAPPED.get(key)
    if mapped is None:
        mapped = _MAPPED[key] = np.memmap(path, dtype=np.uint8, mode="r")
    return mapped


def read_sparse_weight(sparse: onnx.SparseTensorProto, folder: Path | None) -> np.ndarray:
    """The value of a sparse weight, as a dense array.

    Args:
        sparse: values, and where they stand: flat indices [n], or one row of coordinates each [n, rank].
        folder: as for `read_weight`.

    Raises:
        ModelError: as for `read_weight`.
    """
    values, indices = read_weight(sparse.values, folder), read_weight(sparse.indices, folder)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dense.shape)] = values
    return dense


def _decode(tensor: TensorProto) -> np.ndarray:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"weight {tensor.name!r} cannot be read ({error})", "Export the model again.") from error


def _number(where: Mapping[str, str], key: str, default: int, name: str) -> int:
    text = where.get(key, str(default))
    if not text.isdecimal():
        raise ModelError(f"weight {name!r}: {key} {text!r} of its external data is not a whole number",
                         "The model is damaged; save it again.")
    return int(text) or default


def _inside(folder: Path | None, location: str, name: str) -> Path:
    if folder is None:
        raise ModelError(f"weight {name!r} lies in external file {location!r}, but the model has no folder",
                         "Load the model from its file.")
    root = folder.resolve()
    path = (root / location).resolve()
    if not path.is_relative_to(root):
        raise ModelError(f"weight {name!r} points outside the model's folder: {location!r}",
                         "External data must lie beside the model; save it again.")
    if not path.is_file():
        raise ModelError(f"weight {name!r}: its external file {location!r} is missing from {root}",
                         "Copy the data file next to the model.")
    return path
