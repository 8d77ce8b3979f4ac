"""Tensors made visible: as outputs, in stretches that fit the memory, or shown while the engine runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from parity.backends.base import Chunk
from parity.backends.trt.run import OutOfMemory
from parity.errors import BackendFailed

# Runs the model with some tensors made visible, and returns those that came to light.
Showing = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def stretches(names: Sequence[str], sizes: Mapping[str, int], memory: int) -> list[tuple[str, ...]]:
    """Cut names into runs of neighbours whose tensors fit the memory; one too large for it stands alone.

    Args:
        names: in the graph's order.
        sizes: bytes of each; 0 where unknown.
        memory: bytes that a stretch may hold.
    """
    found: list[tuple[str, ...]] = []
    stretch: list[str] = []
    held = 0
    for name in names:
        size = sizes.get(name, 0)
        if stretch and held + size > memory:
            found.append(tuple(stretch))
            stretch, held = [], 0
        stretch.append(name)
        held += size
    return [*found, tuple(stretch)] if stretch else found


def watched(names: Sequence[str], sizes: Mapping[str, int], memory: int, show: Showing) -> Iterator[Chunk]:
    """Show tensors a stretch at a time; a stretch that fails is halved until it runs.

    What fails alone is left out: the model runs without it being marked, so it is the mark that the runtime refuses.

    Args:
        names: in the graph's order.
        sizes: bytes of each, where known.
        memory: bytes that a stretch may hold.
        show: runs the model with these made visible.

    Raises:
        OutOfMemory: there is no room for a single tensor.
        BackendFailed: not one of the tensors can be shown.
    """
    waiting = list(reversed(stretches(names, sizes, memory)))
    shown, refusal = 0, None
    while waiting:
        stretch = waiting.pop()
        try:
            found = show(stretch)
        except BackendFailed as error:
            if len(stretch) > 1:
                half = len(stretch) // 2
                waiting += [stretch[half:], stretch[:half]]
            elif isinstance(error, OutOfMemory):
                raise
            refusal = error
            continue
        shown += len(found)
        yield {n: found[n] for n in stretch if n in found}
    if refusal is not None and not shown:
        raise refusal
