"""Find equal tensors among many, whatever the order of their elements."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from parity.source_model.layout import canonical


@dataclass(frozen=True)
class Fingerprint:
    """Figures of a tensor that do not depend on the order of its elements.

    Attributes:
        numel: how many elements.
        norm: L2.
        size: sum of absolute values.
        total: sum of values.
        largest: absolute value.
    """

    numel: int
    norm: float
    size: float
    total: float
    largest: float

    @staticmethod
    def of(value: torch.Tensor) -> Fingerprint:
        """Of a tensor with at least one element."""
        flat = value.double().reshape(-1)
        norm = torch.linalg.vector_norm(flat)
        if not norm.isfinite():
            flat = canonical(flat)
            norm = torch.linalg.vector_norm(flat)
        absolute = flat.abs()
        return Fingerprint(flat.numel(), float(norm), float(absolute.sum()), float(flat.sum()), float(absolute.max()))

    def fits(self, other: Fingerprint, tolerance: float) -> bool:
        """Whether two tensors within a relative L2 distance may have these figures.

        By the triangle inequality, and that of Cauchy and Schwarz for sums: |Σx − Σy| ≤ √n ‖x − y‖.
        """
        apart = tolerance * max(self.norm, other.norm)
        summed = apart * self.numel ** 0.5
        return (self.numel == other.numel and abs(self.norm - other.norm) <= apart
                and abs(self.size - other.size) <= summed and abs(self.total - other.total) <= summed
                and abs(self.largest - other.largest) <= apart)


class Index:
    """Tensors by fingerprint.

    Args:
        values: to look among, by name.
        names: which of them.
    """

    def __init__(self, values: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
        self._by_size: dict[int, list[str]] = {}
        self._values = values
        self._sorted: dict[int, tuple[list[float], list[str]]] = {}
        self._prints: dict[str, Fingerprint] = {}
        for name in names:
            if values[name].numel():
                self._by_size.setdefault(values[name].numel(), []).append(name)

    def find(self, value: torch.Tensor, tolerance: float) -> list[str]:
        """Those that may be equal to `value` but for the order, in the order in which they were given."""
        if value.numel() not in self._by_size:
            return []
        norms, names = self._norms(value.numel())
        wanted = Fingerprint.of(value)
        apart = tolerance * wanted.norm * 1.01
        near = names[bisect_left(norms, wanted.norm - apart):bisect_right(norms, wanted.norm + apart)]
        found = {name for name in near if self._print(name).fits(wanted, tolerance)}
        return [name for name in self._by_size[value.numel()] if name in found]

    def _norms(self, numel: int) -> tuple[list[float], list[str]]:
        """All of one size by norm, worked out when they are first asked for; most are told apart by that alone."""
        if numel not in self._sorted:
            entries = sorted((_norm(self._values[n]), n) for n in self._by_size[numel])
            self._sorted[numel] = [norm for norm, _ in entries], [name for _, name in entries]
        return self._sorted[numel]

    def _print(self, name: str) -> Fingerprint:
        if name not in self._prints:
            self._prints[name] = Fingerprint.of(self._values[name])
        return self._prints[name]


def _norm(value: torch.Tensor) -> float:
    """As `Fingerprint.of` has it."""
    norm = torch.linalg.vector_norm(value, dtype=torch.float64)
    return float(norm if norm.isfinite() else torch.linalg.vector_norm(canonical(value)))
