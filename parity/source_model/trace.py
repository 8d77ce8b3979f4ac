"""What a PyTorch model computed, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from parity.source_model.place import Place


@dataclass(frozen=True)
class Activation:
    """One tensor that the model made.

    Attributes:
        name: the same in every run that takes the same way: "layers.0.attn:softmax#0".
        op: PyTorch's name for what made it, "softmax"; "input" and "parameter" for what was given.
        inputs: names of the activations it was made from.
        root: the activation whose elements these are, all of them, in another order or shape; its own name where it
            computes. Whatever repeats a computation on the same inputs has the root of the first.
        place: in the user's code.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    root: str
    place: Place


@dataclass(frozen=True, eq=False)
class Trace:
    """One run of a model, with everything it made.

    Attributes:
        activations: by name, in the order they were made; parameters and inputs among them.
        values: of those with floating-point elements.
        outputs: names of the activations that the model returns, nested structures flattened; empty for one that is
            no tensor, or was not seen being made.
        boundaries: for each call of a module that returned one tensor, in the order in which they returned: its path,
            and the activation.
        returned: the tensors that the model returns, of whatever type.
        branches: which way each `torch.cond` went, in the order in which they were met.
    """

    activations: Mapping[str, Activation]
    values: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]
    boundaries: tuple[tuple[str, str], ...] = ()
    returned: tuple[torch.Tensor, ...] = ()
    branches: tuple[bool, ...] = ()

    @cached_property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The activations that hold each root's elements, in order."""
        found: dict[str, list[str]] = {}
        for activation in self.activations.values():
            found.setdefault(activation.root, []).append(activation.name)
        return {root: tuple(names) for root, names in found.items()}
