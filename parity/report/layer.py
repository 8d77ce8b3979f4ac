"""What a report says of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.analysis.localize import Kind
from parity.analysis.measure import Comparison
from parity.analysis.portrait import Portrait


@dataclass(frozen=True)
class Layer:
    """What was found about one tensor of the user's model.

    Attributes:
        tensor: ONNX tensor name.
        node: name of the node that makes it (may be empty), None for a graph input.
        op: operator, with its domain when it is not ONNX's own.
        index: position of the node in topological order.
        source: "file:line" the node was exported from, where the model says so.
        dtype: element type on the candidate's side.
        shape: shape on the candidate's side.
        accumulated: candidate against reference, everything upstream included; None where a side has no value.
        local: candidate against the reference operator in FP64 at the candidate's own inputs.
        floor: the local error (relative L2) up to which this tensor is accepted; None where it is not judged.
        precision: the part of the local error (relative L2) that the format explains; None where none is involved.
        implementation: the part of the local error (relative L2) that the format does not explain.
        share: its share of the output error.
        energy: what it would do to the output alone.
        passed: for an output, whether it is within tolerance; for a tensor, whether it is not to blame.
        origin: what a failed tensor suffers from; "inherited" when it is off only because its inputs are.
        level: how the reference evaluated the node ("torch", "function", "reference").
        tolerance: for an output, the limit of its relative L2 error; None where that has none, and for other tensors.
        limits: for an output, those of other metrics, by name.
        noise: for an output, the distance (relative L2) of the FP32 reference from FP64.
        portrait: both sides close up, for outputs, tensors to blame and those of the largest shares.
        module: path of the PyTorch module that owns it, "layers.3.attn"; empty for the outermost, None where unknown.
    """

    tensor: str
    node: str | None
    op: str
    index: int
    source: str | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    accumulated: Comparison | None = None
    local: Comparison | None = None
    floor: float | None = None
    precision: float | None = None
    implementation: float | None = None
    share: float | None = None
    energy: float | None = None
    passed: bool = True
    origin: str | None = None
    level: str | None = None
    tolerance: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    noise: float | None = None
    portrait: Portrait | None = None
    module: str | None = None


@dataclass(frozen=True)
class FirstBad:
    """The earliest tensor to blame, and what for.

    Attributes:
        tensor: ONNX tensor name.
        node: name of the node that makes it (may be empty).
        op: operator, with its domain when it is not ONNX's own.
        index: position of the node in topological order.
        kind: what is wrong.
        accumulated: candidate against reference; None where they cannot be compared.
        local: candidate against the reference operator at the candidate's own inputs; None where that is not known.
        source: "file:line" the node was exported from, where the model says so.
        region: where tensors before it are hidden, the nodes among which the fault is, each by its first output, this
            one last; empty where it can only be this one.
        after: the visible tensors that the region reads; none where it starts at weights.
    """

    tensor: str
    node: str | None
    op: str
    index: int
    kind: Kind
    accumulated: Comparison | None
    local: Comparison | None
    source: str | None = None
    region: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
