"""Which model was compared, and on which inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """Which model it was: path, hash of the file, and its size in nodes and tensors."""

    path: str
    sha256: str
    nodes: int
    tensors: int


@dataclass(frozen=True)
class InputFacts:
    """One input as it was fed; `source` is a file, or "seeded" with how the values were chosen."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
