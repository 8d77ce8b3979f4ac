"""Is one tensor to blame? The local rule: the candidate's value against the operator at the candidate's own inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
import torch

from parity.analysis.measure import Comparison, measure
from parity.analysis.tolerance import (
    BOUNDED,
    EXACT,
    EXCESS_LIMIT,
    FP64_ROUNDOFF,
    HALF_FORMATS,
    QUANTIZERS,
    SURELY_CLEAN,
    fp32_factor,
    fp32_floor,
    half_floor,
    quantization_excess,
)
from parity.graph.device import HOST, Lying, lying
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.ops.call import HALVES, Value, to_numpy


@dataclass(frozen=True)
class Judgement:
    """What the local rule says of one tensor.

    Attributes:
        local: candidate against the operator in FP64 at the candidate's inputs.
        floor: relative L2 error up to which the tensor is accepted; for a quantised one, in steps.
        precision: relative L2 error that the format explains; None where the tensor is FP32 or wider.
        implementation: relative L2 error that it does not; in steps beyond one half for a quantised tensor.
        passed: whether the implementation error is within the floor.
        nonfinite: whether NaN or Inf stands where the operator gives none, or the other way round.
    """

    local: Comparison
    floor: float
    precision: float | None
    implementation: float
    passed: bool
    nonfinite: bool = False


@dataclass(frozen=True, eq=False)
class Ruler:
    """One node of the reference, ready to be evaluated at the candidate's own inputs.

    Attributes:
        node: the node.
        wide: its inputs as the candidate shows them; where it hides one, that tensor's FP64 estimate.
        narrow: the same with FP32 estimates for the hidden ones.
        hidden: whether any input is such an estimate.
        constant: for each input, whether no graph input can change it.
        accumulator_step: of an operator on dequantised inputs, the step (root mean square over channels) of the
            integer accumulator that a runtime may add the bias in; 0 elsewhere.
        gold_executor: evaluates in FP64.
        declared_executor: evaluates in the tensors' own types.
    """

    node: Node
    wide: Sequence[Value]
    narrow: Sequence[Value]
    outer: tuple[dict[str, Value], dict[str, Value]]
    hidden: bool
    constant: Sequence[bool]
    accumulator_step: float
    gold_executor: Executor
    declared_executor: Executor

    @cached_property
    def gold(self) -> list[Value]:
        """The outputs in FP64."""
        return self.gold_executor.evaluate(self.node, self.wide, self.outer[0])

    @cached_property
    def declared(self) -> list[Value]:
        """The outputs in the tensors' own types: the emulation, and in FP32 the noise floor's other end."""
        return self.declared_executor.evaluate(self.node, self.narrow, self.outer[1])

    @cached_property
    def perturbed(self) -> list[Value]:
        """The outputs in FP64 after one rounding of each non-constant 16-bit input, signs drawn from a fixed seed."""
        inputs = [v if self.constant[i] else _shaken(v, seed=i) for i, v in enumerate(self.wide)]
        return self.gold_executor.evaluate(self.node, inputs, self.outer[0])


def _shaken(value: Value, seed: int) -> Value:
    """A tensor as it may have been before it was rounded to 16 bits; what became zero was not negative for certain."""
    if not isinstance(value, torch.Tensor) or value.dtype not in HALVES:
        return value
    form = HALF_FORMATS[str(value.dtype).removeprefix("torch.")]
    bits = torch.randint(0, 2, value.shape, generator=torch.Generator().manual_seed(seed), device=HOST)
    signs = bits.to(value.device) * 2 - 1
    step = (value.double().abs() * form.roundoff).clamp_min(2 * form.tiny)
    return value.double() + torch.where(value == 0, 1, signs) * step


def judge(ruler: Ruler, index: int, candidate: Lying) -> Judgement:
    """Apply the rule to output `index` of a node.

    Args:
        ruler: the node at the candidate's inputs.
        index: which of its outputs.
        candidate: what the candidate shows for it.

    Raises:
        MatchError: the shapes differ.
        ModelError: the reference cannot evaluate the node on these inputs.
    """
    gold = lying(ruler.gold[index])
    if gold.dtype.kind != "f":
        return _judge_integers(ruler, index, gold, candidate)
    local = measure(gold, candidate)
    if _beyond_range(local, candidate.dtype):
        gold = _overflowed(gold, candidate.dtype)
        local = measure(gold, candidate)
    if candidate.dtype.name in HALF_FORMATS:
        return _judge_half(ruler, index, gold, candidate, local)
    if local.mismatched_nonfinite:
        local = measure(lying(ruler.declared[index]).astype(np.float64), candidate)
        if local.mismatched_nonfinite:
            return Judgement(local, 0.0, None, math.inf, passed=False, nonfinite=True)
    error, norm = local.error_l2, local.reference_l2
    if candidate.dtype == np.float64 and lying(ruler.declared[index]).dtype == np.float64:
        floor = 4096 * FP64_ROUNDOFF * norm
    elif ruler.node.op in EXACT and not ruler.hidden:
        floor = 2.0**-126 * math.sqrt(gold.size)
    elif error <= SURELY_CLEAN * norm:
        floor = SURELY_CLEAN * norm
    else:
        floor = _fp32_floor(ruler, index, gold, norm)
    return Judgement(local, _relative(floor, norm), None, local.rel_l2, passed=error <= floor)


def _fp32_floor(ruler: Ruler, index: int, gold: Lying, norm: float) -> float:
    noise = measure(gold, lying(ruler.declared[index])).error_l2
    first = next((v for v in ruler.wide if isinstance(v, torch.Tensor)), None)
    elements_in = first.numel() if first is not None else 1
    factor = fp32_factor(ruler.node.op, elements_in, gold.size, max(gold.shape, default=1))
    rounded_bias = 0.5 * ruler.accumulator_step * math.sqrt(gold.size)
    return fp32_floor(factor, noise, norm, gold.size, bounded=ruler.node.op in BOUNDED) + rounded_bias


def _judge_half(ruler: Ruler, index: int, gold: Lying, candidate: Lying, local: Comparison) -> Judgement:
    form = HALF_FORMATS[candidate.dtype.name]
    emulated = lying(ruler.declared[index])
    explained = measure(gold, emulated)
    left = measure(emulated, candidate)
    if left.mismatched_nonfinite:
        return Judgement(local, 0.0, explained.rel_l2, math.inf, passed=False, nonfinite=True)
    norm, noise = explained.reference_l2, explained.error_l2 if math.isfinite(explained.error_l2) else 0.0
    floor = half_floor(form, noise, 0.0, norm, gold.size)
    if left.error_l2 > floor:
        shift = measure(gold, lying(ruler.perturbed[index])).error_l2
        floor = half_floor(form, noise, shift, norm, gold.size)
    norm = norm or 1.0
    return Judgement(local, _relative(floor, norm), explained.rel_l2, left.error_l2 / norm, left.error_l2 <= floor)


def _judge_integers(ruler: Ruler, index: int, gold: Lying, candidate: Lying) -> Judgement:
    local = measure(gold, candidate)
    if local.identical or measure(lying(ruler.declared[index]), candidate).identical:
        return Judgement(local, 0.0, None, 0.0, passed=True)
    if ruler.node.op in QUANTIZERS or "QLinear" in ruler.node.op:
        steps = unrounded(ruler, gold) if ruler.node.op in QUANTIZERS else None
        if steps is None:  # without the un-rounded value a step cannot be told from a rounding decision
            return Judgement(local, 1.0, 0.0, local.max_abs, passed=local.max_abs <= 1)
        excess = quantization_excess(steps, np.asarray(candidate))
        return Judgement(local, EXCESS_LIMIT, 0.0, max(excess, 0.0), passed=excess <= EXCESS_LIMIT)
    return Judgement(local, 0.0, None, local.rel_l2, passed=False)


def unrounded(ruler: Ruler, gold: Lying) -> np.ndarray | None:
    """What a quantiser is to round.

    Args:
        ruler: the quantiser at the candidate's inputs.
        gold: its output in integers, of the type to clip to.

    Returns:
        x/scale + zero_point in FP64, clipped to the type's range; None for blocked or dynamic quantisation.
    """
    if ruler.node.proto.op_type != "QuantizeLinear":
        return None
    x, scale, zero = (to_numpy(v).astype(np.float64) if v is not None else np.zeros(())
                      for v in (*ruler.wide, None)[:3])
    if scale.ndim > 1:
        return None
    if scale.size > 1 or scale.ndim == 1:
        axis = next((a.i for a in ruler.node.proto.attribute if a.name == "axis"), 1)
        along = [1] * x.ndim
        if x.ndim:
            along[axis] = scale.size
            scale = scale.reshape(along) if scale.size > 1 else scale.reshape(())
            zero = zero.reshape(along) if zero.size > 1 else zero.reshape(())
    limits = np.iinfo(gold.dtype)
    clipped: np.ndarray = np.clip(x / scale + zero, limits.min, limits.max)
    return clipped


def _beyond_range(local: Comparison, dtype: np.dtype) -> bool:
    if dtype.kind in "biu":
        return False
    return max(abs(local.min_reference), abs(local.max_reference)) > float(ml_dtypes.finfo(dtype).max)


def _overflowed(gold: Lying, dtype: np.dtype) -> np.ndarray:
    """FP64 values beyond the range of the candidate's type are what rounding makes of them: infinite."""
    info, gold = ml_dtypes.finfo(dtype), np.asarray(gold)
    with np.errstate(invalid="ignore"):
        beyond = np.abs(gold) > float(info.max) * (1 + 2.0 ** -(info.nmant + 2))
    return np.where(beyond, np.copysign(np.inf, gold), gold)


def _relative(error: float, norm: float) -> float:
    return error / norm if norm else (0.0 if error == 0 else math.inf)
