"""The same elements in another order: which way of laying out one tensor gives another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch

# Axes beyond which permutations are not tried: 720 of them.
_MOST_AXES = 6
_SAMPLES = 64
# How many times nearer another order of elements must be before numbers that differ are taken for it.
_CLEARLY = 4
_FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Layout:
    """value.reshape(view).permute(axes).reshape(shape)."""

    view: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def apply(self, value: torch.Tensor) -> torch.Tensor:
        """The elements of `value`, laid out."""
        return value.reshape(self.view).permute(self.axes).reshape(self.shape)

    @property
    def moves(self) -> bool:
        """Whether elements change their order."""
        order = [a for a in self.axes if self.view[a] != 1]
        return order != sorted(order)

    @staticmethod
    def plain(shape: tuple[int, ...]) -> Layout:
        """Nothing moves."""
        return Layout(shape, tuple(range(len(shape))), shape)


def canonical(value: torch.Tensor) -> torch.Tensor:
    """A value in FP64 and within FP32's range: what is beyond it has no other meaning there than infinity."""
    return torch.nan_to_num(value.double(), nan=0.0, posinf=_FLOAT32_MAX, neginf=-_FLOAT32_MAX).clamp(
        -_FLOAT32_MAX, _FLOAT32_MAX)


def distance(value: torch.Tensor, other: torch.Tensor) -> float:
    """Relative L2 distance of two tensors of as many elements; 0 for two that are equal, zeros included."""
    value, other = value.double().reshape(-1), other.double().reshape(-1)
    apart, size = torch.linalg.vector_norm(value - other), torch.linalg.vector_norm(value)
    if not (apart.isfinite() and size.isfinite()):
        value, other = canonical(value), canonical(other)
        apart, size = torch.linalg.vector_norm(value - other), torch.linalg.vector_norm(value)
    return float(apart / size) if size else (0.0 if not apart else float("inf"))


def find_layout(value: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> tuple[Layout, float] | None:
    """How to lay out `value` so that it is `wanted`.

    Args:
        value: any tensor.
        wanted: another of as many elements.
        tolerance: relative L2.

    Returns:
        The layout that moves least, and how far apart the two are then; None where none fits.
    """
    if value.numel() != wanted.numel() or not value.numel():
        return None
    shape = tuple(wanted.shape)
    places = torch.linspace(0, wanted.numel() - 1, min(_SAMPLES, wanted.numel())).long()
    samples = canonical(wanted.reshape(-1)[places])
    bound = tolerance * float(torch.linalg.vector_norm(canonical(wanted)))  # no element of a fit is farther off
    indices = torch.arange(value.numel()).reshape(value.shape)
    flat = value.reshape(-1)
    for layout in _layouts(tuple(value.shape), shape):
        picked = flat[layout.apply(indices).reshape(-1)[places]] if layout.moves else flat[places]
        if float((canonical(picked) - samples).abs().max()) > bound:
            continue
        apart = distance(wanted, layout.apply(value))
        if apart <= tolerance:
            return layout, apart
    return None


def nearest_layout(value: torch.Tensor, wanted: torch.Tensor) -> tuple[Layout, float]:
    """How to lay out a value that has other numbers than `wanted`, so that what is left apart is the numbers.

    Args:
        value: any tensor.
        wanted: another of as many elements, at least one.

    Returns:
        The layout and how far apart the two are then: the plain one, unless another is nearer several times over.
    """
    shape = tuple(wanted.shape)
    places = torch.linspace(0, wanted.numel() - 1, min(_SAMPLES, wanted.numel())).long()
    samples, flat = wanted.reshape(-1)[places], value.reshape(-1)
    indices = torch.arange(value.numel()).reshape(value.shape)
    plain = Layout.plain(shape)
    best = min(_layouts(tuple(value.shape), shape),
               key=lambda layout: distance(samples, flat[layout.apply(indices).reshape(-1)[places]]))
    straight, apart = distance(wanted, value), distance(wanted, best.apply(value))
    return (best, apart) if apart < straight / _CLEARLY else (plain, straight)


def _layouts(given: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[Layout]:
    """As it is; then its own axes permuted; then the wanted axes, split out of its own, permuted."""
    yield Layout.plain(given) if given == wanted else Layout(wanted, tuple(range(len(wanted))), wanted)
    seen = set()
    for view, inverse in ((_squeezed(given), False), (_squeezed(wanted), True)):
        if not 1 < len(view) <= _MOST_AXES:
            continue
        for axes in permutations(range(len(view))):
            split = tuple(view[a] for a in axes) if inverse else view
            order = tuple(axes.index(i) for i in range(len(axes))) if inverse else axes
            layout = Layout(split, order, wanted)
            if layout.moves and (split, order) not in seen:
                seen.add((split, order))
                yield layout


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
