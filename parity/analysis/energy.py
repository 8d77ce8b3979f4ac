"""What each layer would do to the output if it alone were in lower precision: which to keep in a higher one first.

The energy of layer n is the mean over random output directions v of ⟨v·J_n, δ_n⟩², with J_n the slope of the outputs to
the layer's, and δ_n what lower precision changes in it at the reference's own inputs. With independent signs as v, each
output divided by its norm, that mean estimates the squared relative error of all outputs to first order (Hutchinson
1990), at the cost of one walk back through the graph for all layers together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from parity.analysis.derivative import Derivative, Parts, carries, difference, parts_of
from parity.errors import ModelError
from parity.graph.constants import constant_values
from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.ops.call import FLOATS, HALVES, Arithmetic, Tensor, Value, from_numpy
from parity.graph.store import ValueStore
from parity.precision.mixture import Mixture, Unit

# Up to so many layers, trying each costs no more than their energies.
FEW_LAYERS = 100


def prices(mixture: Mixture, directions: int = 16, seed: int = 0, memory: int = 2 * 2**30) -> dict[str, float]:
    """What each layer alone in the variant's precision costs: relative L2 error of the outputs, the dearest infinite.

    Found by trying where there are few layers, else estimated by energies.

    Args:
        mixture: the model and its variant.
        directions: for the energies.
        seed: of the directions.
        memory: bytes of tensors to hold; more go to files.

    Returns:
        Layer → price, in the model's order.
    """
    if len(mixture.layers) <= FEW_LAYERS:
        return alone(mixture)
    return {n: math.sqrt(e) for n, e in energies(mixture, directions, seed, memory).items()}


def alone(mixture: Mixture) -> dict[str, float]:
    """The output error with one layer in the variant's precision and all others in the model's, for every layer.

    Costs half a run for each layer, on average. Afterwards the mixture's base is the model itself.

    Args:
        mixture: the model and its variant.

    Returns:
        Layer → √Σ_o ‖Δ_o‖² / ‖r_o‖² over the outputs, the root mean square over feeds; infinite where an output is
        not finite where the model's is, or has another shape.
    """
    right = mixture.rebase(mixture.layers)
    found = {}
    for layer in mixture.layers:
        others = [n for n in mixture.layers if n != layer]
        errors = [_error(*pair) for pair in zip(right, mixture.run(others), strict=True)]
        found[layer] = math.sqrt(sum(errors) / len(errors))
    return found


def _error(right: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> float:
    """Σ_o ‖Δ_o‖² / ‖r_o‖² over the floating-point outputs."""
    total = 0.0
    for name, expected in right.items():
        value = from_numpy(expected)
        if isinstance(value, torch.Tensor) and value.dtype in FLOATS:
            error = _change(from_numpy(outputs[name]), value)
            total += math.inf if error is None else sum(float(e.square().sum()) for e in error) * _weight(value) ** 2
    return total


def _change(low: Value, high: Value) -> Parts | None:
    """One minus the other in FP64; None where only one of them is finite, or the shapes differ."""
    for a, b in zip(parts_of(low), parts_of(high), strict=False):
        if a.shape == b.shape and not (_surely_finite(a) and _surely_finite(b)) and a.isfinite().ne(b.isfinite()).any():
            return None
    return difference(low, high)


def _surely_finite(value: Tensor) -> bool:
    """Whether the sum is; that takes one pass and no memory, and is the usual case."""
    return math.isfinite(float(value.double().sum() if value.dtype in HALVES else value.sum()))


def _weight(value: Tensor) -> float:
    """One over the L2 norm of the finite elements; 0 where that is 0."""
    norm = float(torch.nan_to_num(value.double(), nan=0.0, posinf=0.0, neginf=0.0).norm())
    return 1 / norm if norm else 0.0


def energies(mixture: Mixture, directions: int = 16, seed: int = 0, memory: int = 2 * 2**30) -> dict[str, float]:
    """The energy of every layer, the mean over the feeds.

    Costs one evaluation of either form of each node, and `directions` products with its slope. Afterwards the
    mixture's base is the model itself.

    Args:
        mixture: the model and its variant.
        directions: how many output directions.
        seed: of the directions.
        memory: bytes of tensors to hold; more go to files.

    Returns:
        Layer → energy, a squared relative error of the outputs; infinite where the layer's own outputs are not finite
        in the variant's precision while they are in the model's.

    Raises:
        OutputError: tensors do not fit on the disk.
    """
    mixture.rebase(mixture.layers)
    constants = constant_values(mixture.reference)
    # Adjoints may be too small for FP16.
    halves = any(isinstance(v, torch.Tensor) and v.dtype in HALVES for v in constants.values())
    executor = Executor(mixture.reference, Arithmetic.DOUBLE if halves else Arithmetic.DECLARED, gradients=True)
    totals = dict.fromkeys(mixture.layers, 0.0)
    for place, feed in enumerate(mixture.feeds):
        values = mixture.base(place) or _run_aside(mixture, feed, memory)
        adjoints = ValueStore(memory)
        adjoints.update(_directions(mixture, values, directions, seed))
        for unit, energy in _walk_back(mixture, executor, constants, values, adjoints):
            totals[unit.name] += energy / len(mixture.feeds)
    return totals


def _run_aside(mixture: Mixture, feed: Feed, memory: int) -> ValueStore:
    """All tensors of the model, in files where they are too many."""
    values = ValueStore(memory)
    values.update({n: from_numpy(v) for n, v in feed.items()})
    for unit in mixture.units:
        values.update(mixture.high(unit, values))
    return values


def _directions(mixture: Mixture, values: Mapping[str, Value], count: int, seed: int) -> Iterator[tuple[str, Value]]:
    """For each output `count` random signs for every element, over the output's norm; [1 + count, *shape].

    The one put first is a probe: nothing but the middle row of the outputs, where they all have as many.
    """
    source = torch.Generator().manual_seed(seed)
    outputs = {o.name: v for o in mixture.reference.graph.outputs
               if isinstance(v := values.get(o.name), torch.Tensor) and v.dtype in FLOATS}
    batched = len({v.shape[:1] for v in outputs.values()}) == 1
    for name, value in outputs.items():
        signs = torch.randint(0, 2, (1 + count, *value.shape), generator=source, dtype=torch.int8) * 2 - 1
        if batched and value.ndim:
            middle = len(value) // 2
            signs[0, :middle] = signs[0, middle + 1:] = 0
        yield name, [signs * _weight(value)]


def _walk_back(mixture: Mixture, executor: Executor, constants: Mapping[str, Value], values: Mapping[str, Value],
               adjoints: ValueStore) -> Iterator[tuple[Unit, float]]:
    behind = _behind_layers(mixture)
    for unit in reversed(mixture.units):
        node = unit.node
        given = {n: parts_of(adjoints.pop(n)) for n in node.outputs if n in adjoints}
        if unit.low:
            yield unit, _energy(given, mixture.low(unit, values), values)
        read = {n: constants[n] if n in constants else values[n] for n in node.reads}
        names = [n for n in node.reads if n in behind and carries(node, n, read[n], given)]
        if not names or not given:
            continue
        try:
            derivative = Derivative(executor, node, read, names)
        except ModelError:  # integers as real numbers, in an operator that does not take them
            continue
        for name, pulled in derivative.pull_each(given).items():
            before = parts_of(adjoints[name]) if name in adjoints else None
            adjoints[name] = list(pulled) if before is None else [a + b for a, b in zip(before, pulled, strict=True)]


def _behind_layers(mixture: Mixture) -> set[str]:
    """The tensors that some layer's precision can change."""
    behind: set[str] = set()
    for unit in mixture.units:
        if unit.low or not behind.isdisjoint(unit.node.reads):
            behind.update(unit.node.outputs)
    return behind


def _energy(adjoints: Mapping[str, Parts], low: Mapping[str, Value], values: Mapping[str, Value]) -> float:
    """The mean over directions of (Σ adjoint · change)².

    Where rows have nothing to do with each other, the square of each row by itself: what the directions would mix of
    them is noise.
    """
    projections: list[Tensor] = []
    for name, stacked in adjoints.items():
        change = _change(low[name], values[name])
        if change is None:
            return math.inf
        projections.extend(_projected(a, d) for a, d in zip(stacked, change, strict=True))
    if not projections:
        return 0.0
    if len({p.shape for p in projections}) > 1:
        projections = [p.sum(1, keepdim=True) for p in projections]
    return float(torch.stack(projections).sum(0).double().square().sum(1).mean())


def _projected(stacked: Tensor, change: Tensor) -> Tensor:
    """Adjoint times change, summed over everything but the directions and the rows; [directions, rows or 1]."""
    probe, adjoint = stacked[0], stacked[1:]
    change = change.to(adjoint.dtype)
    if _by_rows(probe):
        return torch.einsum("krn,rn->kr", adjoint.flatten(2) if adjoint.ndim > 2 else adjoint[..., None],
                            change.flatten(1) if change.ndim > 1 else change[..., None])
    return (adjoint.reshape(len(adjoint), -1) @ change.reshape(-1))[:, None]


def _by_rows(probe: Tensor) -> bool:
    """Whether the adjoint of the outputs' middle row is confined to the tensor's; with time as rows it would not be."""
    if probe.ndim == 0 or len(probe) == 1:
        return False
    reached = probe.flatten(1).any(1) if probe.ndim > 1 else probe != 0
    return int(reached.sum()) == 1 and bool(reached[len(probe) // 2])
