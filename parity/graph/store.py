"""Tensors by name, held in memory up to a limit and in files beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import numpy as np

from parity.errors import OutputError
from parity.graph.ops.call import Value, from_numpy, to_numpy
from parity.graph.scratch import temporary_folder


class TensorStore(Mapping[str, np.ndarray]):
    """Arrays by name; once those in memory hold `limit` bytes, more go to files and come back memory-mapped.

    Text, and arrays without elements, always stay in memory: neither can be mapped.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty store.

        Args:
            limit: bytes that may be held in memory.
        """
        self._limit = limit
        self._held = 0
        self._arrays: dict[str, np.ndarray] = {}
        self._files: dict[str, tuple[Path, np.dtype, tuple[int, ...]]] = {}
        self._folder = temporary_folder()
        self._written = 0

    def put(self, name: str, array: np.ndarray) -> None:
        """Keep an array, which nobody may write into afterwards, in place of any other of that name.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        self.drop(name)
        mappable = array.dtype.kind != "O" and array.size > 0
        if mappable and self._held + array.nbytes > self._limit:
            path = Path(self._folder.name) / str(self._written)
            self._written += 1
            try:
                array.tofile(path)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise OutputError(f"tensor {name!r} ({array.nbytes} bytes) cannot be put aside ({error})",
                                  "Free space in the folder of temporary files, or set TMPDIR.") from error
            self._files[name] = path, array.dtype, array.shape
        else:
            self._arrays[name] = array
            self._held += array.nbytes

    def drop(self, name: str) -> None:
        """Forget an array; nothing happens where there is none."""
        array = self._arrays.pop(name, None)
        if array is not None:
            self._held -= array.nbytes
        path, _, _ = self._files.pop(name, (None, None, None))
        if path is not None:
            path.unlink()

    @property
    def spilled(self) -> int:
        """How many arrays lie in files now."""
        return len(self._files)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._arrays:
            return self._arrays[name]
        path, dtype, shape = self._files[name]
        mapped: np.ndarray = np.asarray(np.memmap(path, dtype, "r", shape=shape or (1,)))
        return mapped.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        yield from self._arrays
        yield from self._files

    def __len__(self) -> int:
        return len(self._arrays) + len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays or name in self._files


class ValueStore(MutableMapping[str, Value]):
    """Values of ONNX tensors and sequences by name; what is beyond the limit goes to a TensorStore's files."""

    def __init__(self, limit: int) -> None:
        """Make an empty store.

        Args:
            limit: bytes that may be held in memory.
        """
        self._limit = limit
        self._held = 0
        self._values: dict[str, Value] = {}
        self._lengths: dict[str, int | None] = {}  # of sequences put aside; None for a tensor
        self._aside = TensorStore(0)

    @property
    def spilled(self) -> int:
        """How many tensors lie in files now."""
        return self._aside.spilled

    def __setitem__(self, name: str, value: Value) -> None:
        self.pop(name, None)
        size = _nbytes(value)
        if value is None or self._held + size <= self._limit:
            self._values[name] = value
            self._held += size
            return
        elements = value if isinstance(value, list) else [value]
        self._lengths[name] = len(value) if isinstance(value, list) else None
        for position, element in enumerate(elements):
            self._aside.put(_element(name, position), to_numpy(element))

    def __getitem__(self, name: str) -> Value:
        if name in self._values:
            return self._values[name]
        length = self._lengths[name]
        elements: list[Value] = [from_numpy(self._aside[_element(name, i)]) for i in range(length or 1)]
        return elements[0] if length is None else elements[:length]

    def __delitem__(self, name: str) -> None:
        if name in self._values:
            self._held -= _nbytes(self._values.pop(name))
            return
        for position in range(self._lengths.pop(name) or 1):
            self._aside.drop(_element(name, position))

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._lengths

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        yield from self._lengths

    def __len__(self) -> int:
        return len(self._values) + len(self._lengths)


def _nbytes(value: Value) -> int:
    if isinstance(value, list):
        return sum(map(_nbytes, value))
    return 0 if value is None else value.nbytes


def _element(name: str, position: int) -> str:
    """A name that no ONNX tensor can be mixed up with."""
    return f"{name}\0{position}"
