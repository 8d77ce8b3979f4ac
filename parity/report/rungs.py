"""What a report says beside its layers: where on the way to deployment, and in the user's code, the error enters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity.report.layer import FirstBad

# What a rung of the ladder changes beside the one it stands on: nothing (the truth); FP64 for the module's own types;
# the module for its .onnx; torch for another reference; for a runtime, with graph optimisation off or as it is; that
# optimisation; the number format; torch.compile for eager execution; anything else, in another model or in tensors.
Stage: TypeAlias = Literal["truth", "types", "export", "reference", "runtime", "optimised", "precision", "compiled",
                           "other"]


@dataclass(frozen=True)
class Rung:
    """One step on the way from the module to a deployed model; outputs only, and all of them unwatched.

    Attributes:
        name: of what ran: "module:fp64", or a candidate's target.
        stage: what it changes beside the rung that it stands on.
        above: name of that rung; None for the truth.
        output: the graph output that the figures are of: the worst beside its limit; None where none was compared.
        error: relative L2 distance from the truth, everything above included; None where the shapes differ.
        added: relative L2 distance from the rung that it stands on; None for the truth, and where the shapes differ.
        limit: up to which that is accepted.
        passed: whether what it adds to every output is accepted.
        first_bad: the earliest tensor to blame at this step.
        note: a plain sentence that a reader should know.
    """

    name: str
    stage: Stage
    above: str | None
    output: str | None = None
    error: float | None = None
    added: float | None = None
    limit: float | None = None
    passed: bool = True
    first_bad: FirstBad | None = None
    note: str = ""


@dataclass(frozen=True)
class ModuleErrors:
    """The layers of one module of the user's code, those of the modules in it included.

    Attributes:
        module: its path, "layers.3.attn"; empty for the whole model.
        layers: how many tensors there are.
        bad: how many of them are to blame.
        share: of the output error, their sum; None where shares are not shown.
        local: the largest error (relative L2) that one of them makes by itself.
        worst: the tensor that makes it.
        accumulated: the error (relative L2) at the module's end, everything upstream included.
    """

    module: str
    layers: int
    bad: int = 0
    share: float | None = None
    local: float | None = None
    worst: str | None = None
    accumulated: float | None = None
