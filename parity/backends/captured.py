"""Tensors taken elsewhere: a file of them stands in for a runtime."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from parity.backends.base import Capture, Chunk, Feed
from parity.graph.feeds import load_arrays


class CapturedSession:
    """What a .npz of tensors shows, by ONNX name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors = load_arrays(path)

    def run(self, feed: Feed) -> Capture:
        """All tensors of the file; those named like graph outputs are the outputs. `feed` made them, elsewhere."""
        return Capture(self.tensors, "", self._path.name, None)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """The wanted tensors, in one stretch."""
        yield {n: v for n, v in self.tensors.items() if n in names}

