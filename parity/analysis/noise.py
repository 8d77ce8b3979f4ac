"""How far apart correct FP32 runtimes may be: a model's sensitivity to the rounding of its own operators.

FP32 against FP64 is one sample of that. It misses what other kernels are free to do: a runtime's sigmoid is off by an
absolute 0.6 u, which is nothing to most models, but changes the fourth digit where a square root of a score of 1e-9
follows. So the model is also run a few times in FP32 with every operator's result moved at random within the rounding
that a correct kernel is admitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch

from parity.analysis.measure import measure
from parity.analysis.tolerance import BOUNDED, EXACT
from parity.errors import ModelError
from parity.graph.device import HOST
from parity.graph.executor import Executor
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import FLOATS, Arithmetic, Value, is_tensor, to_numpy

RUNS = 2
# Random numbers are drawn once and used again, each time from another start: drawing them anew would cost more than
# the run. The length is prime, so that rows and channels of larger tensors do not line up with it.
_PERIOD = 1_048_583
# No kernel of these leaves [0, 1]; the other bounded functions keep to [-1, 1].
_NON_NEGATIVE = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})


def noise(model: Model, feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], seed: int = 0,
          runs: int = RUNS) -> dict[str, float]:
    """The relative L2 noise of each output: the largest distance from FP64 among FP32 runs, moved and unmoved.

    Costs one run in FP64 and `runs` in FP32. Infinite where a moved run gives another shape.

    Args:
        model: any model, in its own types.
        feed: its inputs.
        outputs: what the executor makes of them in the model's own types.
        seed: of the movements and of the random operators.
        runs: how many moved ones.

    Raises:
        ModelError: the model cannot run.
    """
    return noise_around(gold_outputs(model, feed, seed), model, feed, outputs, seed, runs)


def gold_outputs(model: Model, feed: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """The model's outputs in FP64; raises as `noise` does."""
    return _outputs(Executor(model, Arithmetic.DOUBLE, seed=seed), feed)


def noise_around(gold: Mapping[str, np.ndarray], model: Model, feed: Mapping[str, np.ndarray],
                 outputs: Mapping[str, np.ndarray], seed: int = 0, runs: int = RUNS) -> dict[str, float]:
    """What `noise` returns, where the outputs in FP64 are known."""
    found = _distances(gold, outputs)
    for run in range(runs):
        try:
            moved = _outputs(Executor(model, seed=seed, rounding=Movement(seed + run)), feed)
        except ModelError:
            continue  # moved sizes that do not fit say nothing about the values
        found = {n: max(found[n], d) for n, d in _distances(gold, moved).items() if n in found}
    return found


class Movement:
    """Moves what operators make by up to one rounding, at random; a rounding for `Executor`.

    Arithmetic moves each element by up to u, the unit round-off of its type, relative to the element; functions
    bounded by 1, whose kernels are accurate in absolute terms only, by up to u of their bound (FP16 and BF16 ones by
    the u of FP32, in which they are computed, if that is more). What only moves data stays, and so do tensors of
    whole numbers, which every runtime computes exactly: sizes and positions among them.
    """

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        """The outputs of one node, moved."""
        if node.op in EXACT:
            return outputs
        return [self._moved(node.op, v) if isinstance(v, torch.Tensor) else v for v in outputs]

    def _moved(self, op: str, value: torch.Tensor) -> torch.Tensor:
        if value.dtype not in FLOATS or _whole(value):
            return value
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        share, roundoff = self._share(value.shape).to(wide.device, wide.dtype), torch.finfo(value.dtype).eps / 2
        if op not in BOUNDED:
            return torch.addcmul(wide, wide, share, value=roundoff).to(value.dtype)
        reach = (wide.abs() * roundoff).clamp_(min=torch.finfo(wide.dtype).eps / 2)
        return torch.addcmul(wide, reach, share).clamp_(0.0 if op in _NON_NEGATIVE else -1.0, 1.0).to(value.dtype)

    def _share(self, shape: torch.Size) -> torch.Tensor:
        """Numbers from -1 to 1, evenly distributed."""
        start = int(torch.randint(_PERIOD, (), generator=self._random, device=HOST))
        count = math.prod(shape)
        share = _pool()[start:start + min(count, _PERIOD)]
        return (share if count <= _PERIOD else share.repeat(-(-count // _PERIOD))[:count]).reshape(shape)


@cache
def _pool() -> torch.Tensor:
    return torch.empty(2 * _PERIOD, device=HOST).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))


def _whole(value: torch.Tensor) -> bool:
    """Whether all elements are whole numbers; the first few mostly tell that they are not."""
    few = value.reshape(-1)[:256]
    return torch.equal(few, few.round()) and torch.equal(value, value.round())


def _outputs(executor: Executor, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: to_numpy(v) for n, v in executor.run(feed).items() if is_tensor(v)}


def _distances(gold: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {n: measure(g, other[n]).rel_l2 if g.shape == other[n].shape else math.inf
            for n, g in gold.items() if n in other}
