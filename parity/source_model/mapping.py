"""Which of the module's activations each tensor of the ONNX graph is: the map, and how each match was made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch

from parity.figures import number
from parity.source_model.layout import Layout
from parity.source_model.place import Place


class How(str, Enum):
    """How a match was made.

    NAME: the tensor has the name of a node of the exporter's program, and that node's line, module and operator are
    those of the activation. OUTPUT: both are the same output of their graphs. SCOPE: equal in FP64, and the older
    exporter's scope is the module that made it. VALUE: equal in FP64. PERMUTED: equal in FP64 in another order of
    axes. POSITION: computed from the same by an operator of the same kind, and with its value the next node is right.
    """

    NAME = "name"
    OUTPUT = "output"
    VALUE = "value"
    PERMUTED = "permuted"
    SCOPE = "scope"
    POSITION = "position"


@dataclass(frozen=True)
class Match:
    """One tensor and its activation.

    Attributes:
        tensor: ONNX name.
        activation: name in the trace of the module.
        how: it was made.
        layout: of the activation's elements in the tensor.
        error: relative L2 distance in FP64, of what the ONNX node makes of the module's own values.
        control: the same on other inputs; None where it was not needed or could not be had.
        agrees: whether these are within the tolerance. What is named and does not agree is an export fault.
        place: in the user's code.
    """

    tensor: str
    activation: str
    how: How
    layout: Layout
    error: float
    control: float | None
    agrees: bool
    place: Place


@dataclass(frozen=True)
class Fault:
    """Where an export went wrong.

    Attributes:
        match: the first tensor that is known to disagree: there it was measured.
        hidden: tensors before it that are no activation, or one put together in another order, in the graph's order.
            What makes one of these, or the first to disagree, is wrong: of the rest something is known that agrees.
        after: what all of these are computed from.
        reordered: a transposition before it, matched or not, with which everything would be right in another order of
            axes, and which therefore is wrong; empty where there is none.
        branch: a tensor before it that decides a branch, and decides for another than the module takes.
    """

    match: Match
    hidden: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    reordered: str = ""
    branch: str = ""

    @property
    def begins(self) -> str:
        """The earliest tensor at which it may be."""
        return self.reordered or self.branch or next(iter(self.hidden), self.match.tensor)


@dataclass(frozen=True, eq=False)
class TensorMap:
    """The map of one export.

    Attributes:
        matches: by ONNX tensor, in the graph's order.
        places: of every floating-point tensor that depends on the inputs, matched or not.
        onnx_runs: full FP64 runs of the ONNX graph that it cost.
        module_runs: the same of the module.
        fault: the first disagreement, and where it begins; None where there is none.
        elsewhere: how far an output of the export is from the module's on other inputs (relative L2, FP64); None where
            they agree there, or that could not be found out.
    """

    matches: Mapping[str, Match]
    places: Mapping[str, Place]
    onnx_runs: float = 1.0
    module_runs: int = 1
    fault: Fault | None = None
    elsewhere: float | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the export."""
        if self.elsewhere is None or any(not m.error < self.elsewhere / 10 for m in self.faults):
            return ()  # what is wrong shows on these inputs
        note = ("On other inputs, seeded ones of the same shapes, the export's outputs are off the module's by "
                f"{number(self.elsewhere)} (relative L2, in FP64), and not on these: something of the example that it "
                "was exported on may be baked in. Compare on more of your own inputs (--input).")
        return (note,)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Tensors that only the executor can show, in the graph's order."""
        return tuple(name for name in self.places if name not in self.matches)

    @property
    def faults(self) -> tuple[Match, ...]:
        """What does not agree, in the graph's order."""
        return tuple(m for m in self.matches.values() if not m.agrees)

    @property
    def share(self) -> float:
        """Part of the floating-point tensors that are mapped."""
        return len(self.matches.keys() & self.places.keys()) / max(len(self.places), 1)

    @cached_property
    def readers(self) -> Mapping[str, tuple[Match, ...]]:
        """The matches of each activation."""
        found: dict[str, list[Match]] = {}
        for match in self.matches.values():
            found.setdefault(match.activation, []).append(match)
        return {name: tuple(matches) for name, matches in found.items()}

    def shown(self, values: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """What a run of the module makes, under ONNX names, in the graph's order.

        Args:
            values: of activations; those that are missing, or have another size than in FP64, are left out.
        """
        for match in self.matches.values():
            value = values.get(match.activation)
            if value is not None and value.numel() == math.prod(match.layout.view):
                yield match.tensor, match.layout.apply(value)
