"""How far two sides may be apart: tolerances for outputs, noise floors for the local error of one tensor.

The constants of the floors were found on 21 trained models run by ONNX Runtime with its optimisations off and on:
38,000 clean tensors raised no alarm, and 792 of 792 planted faults were named. u is the unit round-off of FP32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from parity.analysis.measure import METRICS, Comparison
from parity.errors import UsageError
from parity.graph.graph import Graph, Node
from parity.graph.model import Model

FP32_ROUNDOFF = 2.0**-24
FP64_ROUNDOFF = 2.0**-53
# Below this relative error an FP32 tensor is within its floor whatever its own noise is: 32·u > 3e-7.
SURELY_CLEAN = 3e-7

# Functions whose kernels are accurate in absolute terms only: they may be off by a unit of their bound, 1.
BOUNDED = frozenset({"Sigmoid", "Tanh", "Erf", "Softmax", "HardSigmoid", "Softsign", "Sin", "Cos"})
# Operators that move or select values without arithmetic: any difference is a fault.
EXACT = frozenset({
    "Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather",
    "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Scatter", "Expand", "Tile", "Pad", "Where",
    "Compress", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "Trilu", "OneHot", "NonZero", "Unique", "Shape",
    "Size", "ConstantOfShape", "Constant", "EyeLike", "Relu", "Clip", "MaxPool", "GlobalMaxPool", "ReduceMax",
    "ReduceMin", "Max", "Min", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "ArgMax", "ArgMin", "TopK", "Dropout",
    "MaxUnpool", "CenterCropPad", "SequenceAt", "SequenceConstruct", "SequenceInsert", "SplitToSequence",
    "ConcatFromSequence", "Cast", "CastLike",
})
# One quantisation step is a rounding decision; what counts is how far the chosen step lies from the un-rounded value.
QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "com.microsoft::QuantizeLinear"})
EXCESS_LIMIT = 0.02  # steps; clean kernels stay below 2e-5


@dataclass(frozen=True)
class Tolerance:
    """What an output must keep to: every limit, by metric name.

    Attributes:
        limits: metric → limit.
        precision: the precision that it is the default of; empty for the user's own.
    """

    limits: Mapping[str, float]
    precision: str = ""

    @staticmethod
    def parse(texts: Sequence[str], *, alone: bool = False) -> Tolerance | None:
        """Read "fp16" or "rel_l2=1e-3", several together.

        Args:
            texts: each a precision or metric=value.
            alone: other limits are in force, so that none among these means no limit.

        Returns:
            The tolerance; None for that of the target's precision.

        Raises:
            UsageError: an unknown precision or metric, or a limit that is not a number or senseless.
        """
        limits: dict[str, float] = {}
        for text in texts:
            name, equals, _ = text.partition("=")
            if not equals and name in DEFAULTS:
                limits.update(DEFAULTS[name].limits)
                continue
            if not equals or name not in METRICS:
                raise UsageError(f"tolerance {text!r} is neither a precision nor metric=value",
                                 f"Precisions: {', '.join(DEFAULTS)}; metrics: {', '.join(METRICS)}.")
            metric = METRICS[name]
            limits[name] = read_limit(text, metric.perfect, "rel_l2=1e-3", lower_is_better=metric.lower_is_better)
        return Tolerance(limits) if limits or alone else None

    def passes(self, comparison: Comparison, noise: float) -> bool:
        """Whether an output keeps to every limit.

        Args:
            comparison: candidate against reference.
            noise: distance (relative L2) of the reference from FP64; ten times that is always accepted of rel_l2.
        """
        limits = {**self.limits, "rel_l2": self.rel_l2(noise)} if "rel_l2" in self.limits else self.limits
        return all(METRICS[m].within(METRICS[m].of(comparison), limit) for m, limit in limits.items())

    def rel_l2(self, noise: float) -> float:
        """The limit on relative L2, raised to what the model's own rounding makes of it, but not past NOISE_CAP."""
        raised = min(NOISE_FACTOR * noise, NOISE_CAP) if math.isfinite(noise) else 0.0
        return max(self.limits.get("rel_l2", math.inf), raised)


def read_limit(text: str, perfect: float, example: str, *, lower_is_better: bool) -> float:
    """The limit in "metric=limit".

    Args:
        text: what the user typed.
        perfect: the figure of two equal sides.
        example: what to write instead where it is senseless.
        lower_is_better: the figure's direction.

    Raises:
        UsageError: it is no number, none that can be held, or no figure can keep to it.
    """
    value = text.partition("=")[2]
    try:
        limit = float(value)
    except ValueError as error:
        raise UsageError(f"tolerance {text!r}: {value!r} is not a number", f"Write e.g. {example}.") from error
    if math.isnan(limit) or (limit < perfect if lower_is_better else limit > perfect):
        raise UsageError(f"tolerance {text!r}: nothing can be within {value}", f"Write e.g. {example}.")
    if math.isinf(limit) and "inf" not in value.casefold():
        raise UsageError(f"tolerance {text!r}: {value} is too large a number", f"Write e.g. {example}, or inf.")
    return limit


NOISE_FACTOR = 10.0
# Relative L2 at which two tensors have little in common: no noise excuses more.
NOISE_CAP = 0.5

# Relative L2 of an output. FP32 leaves three digits of slack over ordinary summation-order noise; the others are
# a few units of the format's own resolution (2^-11, 2^-8, a percent of the range) grown over tens of layers.
DEFAULTS: Mapping[str, Tolerance] = {
    "fp64": Tolerance({"rel_l2": 1e-4}, "fp64"),
    "fp32": Tolerance({"rel_l2": 1e-4}, "fp32"),
    "fp16": Tolerance({"rel_l2": 1e-2}, "fp16"),
    "bf16": Tolerance({"rel_l2": 5e-2}, "bf16"),
    "int8": Tolerance({"rel_l2": 1e-1}, "int8"),
}


def model_precision(model: Model) -> str:
    """The lowest precision that a model itself computes in: "int8", "bf16", "fp16" or "fp32"."""
    graph = model.graph
    if any("QuantizeLinear" in n.op or "QLinear" in n.op for n in graph.nodes):
        return "int8"
    kinds = {t.data_type for t in graph.initializers.values()}
    casts = [n for n in graph.nodes if n.op == "Cast" and not _is_undone(n, graph)]
    kinds |= {a.i for n in casts for a in n.proto.attribute if a.name == "to"}
    names = {str(spec.dtype) for spec in graph.inputs}
    if TensorProto.BFLOAT16 in kinds or "bfloat16" in names:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in kinds or "float16" in names else "fp32"


def _is_undone(cast: Node, graph: Graph) -> bool:
    """Whether what a Cast makes is only cast again: a tensor rounded, perhaps by mistake, in which nothing computes."""
    readers = graph.readers.get(cast.outputs[0], ())
    return bool(readers) and all(reader.op == "Cast" for reader in readers)


def fp32_factor(op: str, elements_in: int, elements_out: int, largest_dim: int) -> float:
    """K of the FP32 floor: how many times its own noise an operator's result may be off.

    Args:
        op: operator name.
        elements_in: of the first input.
        elements_out: of the output.
        largest_dim: largest dimension of the output.
    """
    if op.startswith("Reduce") or "Pool" in op or op in ("CumSum", "Mean", "ArgMax"):
        return max(64.0, 4.0 * math.sqrt(elements_in / max(elements_out, 1)))
    if op in ("Resize", "Upsample"):
        return max(32.0, 2.0 * largest_dim)
    return 32.0


def fp32_floor(factor: float, noise: float, norm: float, elements: int, *, bounded: bool) -> float:
    """The L2 error up to which an FP32 tensor is accepted.

    Args:
        factor: from `fp32_factor`.
        noise: L2 distance of the operator in FP32 from itself in FP64, at the candidate's inputs.
        norm: L2 norm of the FP64 result.
        elements: of the tensor.
        bounded: whether the operator is one of BOUNDED.
    """
    absolute = 2 * FP32_ROUNDOFF * math.sqrt(elements) if bounded else 0.0
    return factor * max(noise, FP32_ROUNDOFF * norm) + absolute + 2.0**-126 * math.sqrt(elements)


@dataclass(frozen=True)
class HalfFormat:
    """A 16-bit format's resolution: half a unit in the last place of 1, and the smallest subnormal's half."""

    roundoff: float
    tiny: float


HALF_FORMATS = {"float16": HalfFormat(2.0**-12, 2.0**-26), "bfloat16": HalfFormat(2.0**-9, 2.0**-134)}


def half_floor(form: HalfFormat, format_noise: float, perturbation: float, norm: float, elements: int) -> float:
    """The L2 error, against emulation, up to which an FP16/BF16 tensor is accepted.

    Args:
        form: the format.
        format_noise: L2 distance of the emulated operator from itself in FP64.
        perturbation: L2 effect of one rounding of the non-constant inputs: runtimes consume wider values than
            the rounded tensors that they show.
        norm: L2 norm of the FP64 result.
        elements: of the tensor.
    """
    return 8 * max(format_noise, perturbation, form.roundoff * norm, form.tiny * math.sqrt(elements))


def quantization_excess(unrounded: np.ndarray, quantized: np.ndarray) -> float:
    """How far, in steps, a quantised tensor lies beyond half a step of the value it should round.

    Args:
        unrounded: x/scale + zero_point in FP64, clipped to the type's range.
        quantized: the integers.

    Returns:
        max |q - v| - 1/2; negative when every element is rounded right. -1/2 for an empty tensor.
    """
    if quantized.size == 0:
        return -0.5
    return float(np.max(np.abs(quantized.astype(np.float64) - unrounded))) - 0.5
