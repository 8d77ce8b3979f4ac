"""Layers grouped by the user's modules: errors and shares, rolled up the tree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from parity.report.record import Candidate, Layer, Report
from parity.report.rungs import ModuleErrors


def with_modules(report: Report) -> Report:
    """The report with the errors of each candidate's modules, as far as its layers know theirs."""
    rows = (replace(candidate, modules=rolled_up(candidate)) for candidate in report.candidates)
    return replace(report, candidates=tuple(rows))


def rolled_up(candidate: Candidate) -> tuple[ModuleErrors, ...]:
    """Each module with all that is in it, outer ones before inner ones and in the order in which they are entered.

    Empty where no layer knows its module.
    """
    if not any(layer.module for layer in candidate.tensors):
        return ()
    members: dict[str, list[Layer]] = {"": []}
    for layer in candidate.tensors:
        for path in _paths(layer.module or ""):
            members.setdefault(path, []).append(layer)
    return tuple(_errors(path, members[path]) for path in _in_order(members))


def depth(row: ModuleErrors) -> int:
    """How many modules it is in; the whole model is in none."""
    return row.module.count(".") + 1 if row.module else 0


def _paths(module: str) -> Iterator[str]:
    """The module and all that it is in: "", "layers", "layers.3"."""
    yield ""
    parts = module.split(".") if module else []
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _in_order(paths: Sequence[str] | dict[str, list[Layer]]) -> list[str]:
    """Depth first; modules of one parent in the order in which they come."""
    place = {path: number for number, path in enumerate(paths)}
    return sorted(place, key=lambda path: [place[outer] for outer in _paths(path)])


def _errors(path: str, layers: Sequence[Layer]) -> ModuleErrors:
    shares = [layer.share for layer in layers if layer.share is not None]
    made = [layer for layer in layers if layer.local is not None]
    worst = max(made, key=_local, default=None)
    end = max((layer for layer in layers if layer.accumulated), key=lambda layer: layer.index, default=None)
    return ModuleErrors(
        path, len(layers), sum(not layer.passed for layer in layers), math.fsum(shares) if shares else None,
        None if worst is None or worst.local is None else worst.local.rel_l2, None if worst is None else worst.tensor,
        None if end is None or end.accumulated is None else end.accumulated.rel_l2)


def _local(layer: Layer) -> float:
    error = 0.0 if layer.local is None else layer.local.rel_l2
    return math.inf if math.isnan(error) else error
