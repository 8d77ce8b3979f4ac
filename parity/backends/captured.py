"""Tensors taken elsewhere: a file of them stands in for a runtime."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from parity.backends.base import Capture, Chunk, Feed
from parity.errors import BackendFailed
from parity.graph.dumps.dump import fitted, split_runner
from parity.graph.dumps.read import read_dump


class CapturedSession:
    """What a file or folder of tensors shows, by ONNX name.

    Args:
        source: whatever `read_dump` reads.
        known: the model's tensors with their declared dtypes (`declared_dtypes`), for files that do not spell names
            or types.

    Attributes:
        tensors: by name.
        notes: what a reader should know about the values.

    Raises:
        FeedError: the file cannot be read, or does not say which tensor is which.
        BackendFailed: it holds tensors of a type that numpy's files forget.
    """

    def __init__(self, source: Path, known: Mapping[str, np.dtype | None] = MappingProxyType({})) -> None:
        self._path, _ = split_runner(source)
        dump = read_dump(source).named(self._path.stem)
        self.tensors = fitted(dump, known, self._path)
        self.notes = tuple(f"{self._path.name}: {note}." for note in dump.notes)
        forgotten = [n for n, v in self.tensors.items() if v.dtype.type is np.void]
        if forgotten:
            raise BackendFailed(f"{source} holds {forgotten[0]!r} as raw bytes: numpy's files have no such type",
                                "Save BF16 and FP8 tensors with .astype('float32'), or as .safetensors.")

    def run(self, feed: Feed) -> Capture:
        """All tensors of the file; those named like graph outputs are the outputs. `feed` made them, elsewhere."""
        return Capture(self.tensors, "", self._path.name, None)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """The same as `run`: what was not taken there cannot be shown here."""
        return self.run(feed)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """The wanted tensors, in one stretch."""
        yield {n: v for n, v in self.tensors.items() if n in names}
