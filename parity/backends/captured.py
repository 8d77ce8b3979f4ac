"""Tensors taken elsewhere: a file of them stands in for a runtime."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from parity.backends.base import Capture, Chunk, Feed
from parity.errors import BackendFailed
from parity.graph.feeds import load_arrays


class CapturedSession:
    """What a .npz of tensors shows, by ONNX name.

    Raises:
        FeedError: the file cannot be read.
        BackendFailed: it holds tensors of a type that .npz forgets.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors = load_arrays(path)
        forgotten = [n for n, v in self.tensors.items() if v.dtype.kind == "V"]
        if forgotten:
            raise BackendFailed(f"{path} holds {forgotten[0]!r} as raw bytes: .npz has no such type",
                                "Save BF16 and FP8 tensors with .astype('float32').")

    def run(self, feed: Feed) -> Capture:
        """All tensors of the file; those named like graph outputs are the outputs. `feed` made them, elsewhere."""
        return Capture(self.tensors, "", self._path.name, None)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """The wanted tensors, in one stretch."""
        yield {n: v for n, v in self.tensors.items() if n in names}

