"""Input values from a seed: the same bits on every machine, whatever its processor, libm or numpy.

Only PCG64's raw words are used, whose stream numpy guarantees (NEP 19), and exact integer arithmetic on them.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 18
_FIELD_BITS = 21
_FIELD = np.uint64((1 << _FIELD_BITS) - 1)


class Bits:
    """A stream of 64-bit words that depends on the seed, the sample and the input's name alone."""

    def __init__(self, seed: int, sample: int, name: str) -> None:
        self._source = np.random.PCG64(np.random.SeedSequence([seed, sample, zlib.crc32(name.encode())]))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next words, uint64 [count]."""
        return np.asarray(self._source.random_raw(count), np.uint64)

    def below(self, span: int, count: int) -> NDArray[np.int64]:
        """Integers in [0, span), int64 [count]; the bias is below span / 2³²."""
        words = self.words(count)
        if span <= 1 << 32:
            words = (words >> np.uint64(32)) * np.uint64(span) >> np.uint64(32)
        drawn: NDArray[np.int64] = (words % np.uint64(span)).astype(np.int64)
        return drawn

    def normal(self, count: int) -> NDArray[np.float32]:
        """Nearly normal numbers with mean 0 and variance 1, float32 [count], every one of them exact.

        The sum of twelve uniforms (Irwin–Hall): each a 21-bit integer, so that the sum, less its mean, fits the
        24 bits of a float32's significand. Reaches ±6.
        """
        parts = [self._twelve(min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
        sums = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return (sums - 6 * int(_FIELD)).astype(np.float32) * np.float32(2.0**-_FIELD_BITS)

    def _twelve(self, count: int) -> NDArray[np.int64]:
        words = self.words(4 * count).reshape(count, 4)
        fields = [(words >> np.uint64(shift * _FIELD_BITS) & _FIELD).sum(axis=1) for shift in range(3)]
        sums: NDArray[np.int64] = np.asarray(fields, np.int64).sum(axis=0)
        return sums


_BYTES_DRAWN = 16  # an element holds this many while it is drawn: a sum, and its copy


def memory_to_draw(shapes: Iterable[tuple[int, ...]]) -> int:
    """Bytes that are needed at once to draw inputs of these shapes."""
    return _BYTES_DRAWN * sum(math.prod(shape) for shape in shapes)


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container that this runs in, has."""
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [own]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such limit, or "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


class Domain(Protocol):
    """Which values an input may take, and how to draw them."""

    @property
    def text(self) -> str:
        """What the values are, for the report: "seeded index < 30522"."""
        ...

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """Values of this shape, in any dtype that holds them exactly."""
        ...


@dataclass(frozen=True)
class Normal:
    """Real numbers with mean 0 and variance 1."""

    text: str = "seeded normal"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        return bits.normal(math.prod(shape)).reshape(shape)


@dataclass(frozen=True)
class Positive:
    """Real numbers, uniform in (0, 1]: multiples of 2⁻²⁴."""

    text: str = "seeded positive"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        steps = bits.below(1 << 24, math.prod(shape)) + 1
        return (steps.astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


@dataclass(frozen=True)
class Integers:
    """Whole numbers, uniform in [low, high)."""

    low: int
    high: int
    text: str

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        drawn = bits.below(max(1, self.high - self.low), math.prod(shape))
        return (drawn + self.low).reshape(shape)


@dataclass(frozen=True)
class Choice:
    """One of a few values that the model itself compares with; a lone element takes the first of them."""

    values: tuple[int, ...]

    @property
    def text(self) -> str:
        """See Domain."""
        listed = ", ".join(map(str, self.values[:4])) + (", …" if len(self.values) > 4 else "")
        return f"seeded choice of {listed}"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        count = math.prod(shape)
        picks = bits.below(len(self.values), count) if count != 1 else np.zeros(1, np.int64)
        return np.asarray(self.values, np.int64)[picks].reshape(shape)


@dataclass(frozen=True)
class Mask:
    """0/1 along the last axis: a run of ones over at least half of it, then zeros; the first row is all ones."""

    text: str = "seeded mask"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        width = shape[-1] if shape else 1
        lengths = _lengths(bits, width, math.prod(shape[:-1]))
        return np.asarray(np.arange(width) < lengths[:, np.newaxis], np.int64).reshape(shape)


@dataclass(frozen=True)
class Lengths:
    """Sequence lengths: the first is the whole of `limit`, the others at least half of it."""

    limit: int

    @property
    def text(self) -> str:
        """See Domain."""
        return f"seeded length ≤ {self.limit}"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        return _lengths(bits, self.limit, math.prod(shape)).reshape(shape)


def _lengths(bits: Bits, limit: int, count: int) -> NDArray[np.int64]:
    lengths = limit - bits.below(limit // 2 + 1, count)
    lengths[:1] = limit
    return lengths


@dataclass(frozen=True)
class Positions:
    """0, 1, 2, … along the last axis, starting again at `limit`."""

    limit: int
    text: str = "positions 0, 1, 2, …"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        return np.broadcast_to(np.arange(shape[-1] if shape else 1) % self.limit, shape or (1,)).reshape(shape)


@dataclass(frozen=True)
class Fill:
    """One value everywhere, except perhaps for the first element: for inputs that are sizes, axes or counts."""

    value: int
    first: int
    reader: str

    @property
    def text(self) -> str:
        """See Domain."""
        return f"{self.value}, as {self.reader} reads it"

    def draw(self, bits: Bits, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """See Domain."""
        values = np.full(math.prod(shape), self.value, np.int64)
        values[:1] = self.first
        return values.reshape(shape)
