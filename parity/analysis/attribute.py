"""Which layer the output error is from: shares that, with what the slopes miss, add up to 1.

The error of all outputs together, each normalised by its own size, is E = Σ_o ‖c_o − r_o‖² / ‖r_o‖². Walking back
from it, every tensor y gets an adjoint a_y, made with slopes S averaged between the reference's values r and the
candidate's c. The node f that makes y from x has the local error δ = c_y − f(c_x), so that

    ⟨a_y, c_y − r_y⟩ = ⟨a_y, δ⟩ + ⟨a_y, f(c_x) − f(r_x)⟩ = E·share_y + E·ρ + ⟨S^T a_y, c_x − r_x⟩

whatever S is: ρ is what S misses, and the sum of all shares and all ρ is 1 to rounding. It is accounting, not a
forecast of what a repair would bring.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from parity.analysis.derivative import Parts, carries, dot, parts_of
from parity.analysis.sides import Sides
from parity.analysis.slopes import RULE, Segment, averaged, bilinear
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import FLOATS, Value
from parity.graph.store import ValueStore

# Share from which on a layer counts as one whose share changes its sign.
_MATTERS = 0.01
# Share that the slopes of one node may miss before more points are taken.
_ENOUGH = 1e-3
# Share of what slopes miss, from which on the place is worth naming.
_MISSED = 1e-6
# Beyond this relative L2 error the two outputs have nothing to do with each other.
_UNRELATED = 1.0


@dataclass(frozen=True)
class Shares:
    """The output error of one feed, by the tensors that it is from.

    Attributes:
        shares: tensor → share of the error, for all that have one; negative where it offsets others.
        missed: first output of a node → share that its averaged slopes miss.
        error: E, the sum over outputs of the squared relative L2 error.
        weights: graph output → 1 / ‖r‖², how it is normalised.
        withheld: why there are no shares; empty where there are.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    missed: Mapping[str, float] = field(default_factory=dict)
    error: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    withheld: str = ""


@dataclass(frozen=True)
class Pooled:
    """Shares over several feeds, each weighing as its error does: Σ E_s·share_s / Σ E_s.

    Attributes:
        shares: tensor → pooled share.
        sum: of all shares; with `residual` it is 1.
        sum_abs: of their magnitudes; beyond 2, layers cancel each other and single shares mislead.
        residual: what the averaged slopes miss, as a share.
        residual_abs: of the magnitudes of what the slopes miss at each node.
        residual_at: first output of the node at which most is missed; None where nothing is.
        flips: tensors with a share above 0.01 on one feed and below −0.01 on another.
        samples: feeds that shares could be given for.
        slope_rule: how slopes were averaged.
        withheld: why there are no shares; empty where there are.
    """

    shares: Mapping[str, float]
    sum: float
    sum_abs: float
    residual: float
    residual_abs: float
    residual_at: str | None
    flips: int
    samples: int
    slope_rule: str = RULE
    withheld: str = ""


def attribute(reference: Model, feed: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray], memory: int,
              noise: Mapping[str, float], seed: int = 0) -> Shares:
    """Attribute one candidate's output error to its tensors.

    Everything is computed in FP64. Costs at most ten forward passes of the reference in FP64, most often five.

    Args:
        reference: the model, flat.
        feed: its inputs.
        tensors: what the candidate shows, outputs among them, under the reference's names; inputs too, if they differ.
        memory: bytes of tensors to hold; more go to files.
        noise: graph output → relative L2 distance by which correct runs may differ; 0 where it is not given.
        seed: of the random operators.

    Raises:
        ModelError: the reference does not run on this feed.
        OutputError: tensors do not fit on the disk.
    """
    sides = Sides(reference, tensors, memory, seed)
    sides.run(feed)
    withheld = _why_withheld(sides, noise)
    if withheld:
        return Shares(withheld=withheld)
    errors = _floats(sides)
    weights = {n: 1 / _norm(sides.expected(n)) ** 2 for n in errors}
    adjoints = ValueStore(memory // 3)
    for name, error in errors.items():
        adjoints[name] = [weights[name] * e for e in error]
    total = sum(weights[n] * dot(e, e) for n, e in errors.items())
    return _walk_back(sides, adjoints, total, weights)


def _why_withheld(sides: Sides, noise: Mapping[str, float]) -> str:
    """Why shares would say nothing, or mislead; empty where they do not."""
    distances = {}
    for name, shown in sides.shown.items():
        right = sides.expected(name)
        if not isinstance(right, torch.Tensor) or right.dtype not in FLOATS or not isinstance(shown, torch.Tensor):
            continue
        if shown.shape != right.shape:
            return f"the shapes of output {name} differ"
        if not torch.equal(shown.isfinite(), right.isfinite()):
            return f"output {name} holds NaN or Inf on one side"
        error, norm = sides.distance(name), _norm(right)
        size = 0.0 if error is None else math.sqrt(dot(error, error))
        distances[name] = size / norm if norm else math.inf if size else 0.0
    if not distances:
        return "no output is floating-point"
    name = max(distances, key=distances.__getitem__)
    if distances[name] > _UNRELATED:
        return f"the relative error of output {name} is {distances[name]:.3g}; beyond 1 shares mislead"
    if all(d <= noise.get(n, 0.0) for n, d in distances.items()):
        return "the output error is within what correct runs may differ by; there is nothing to explain"
    return ""


def _norm(value: Value) -> float:
    """L2 norm of the elements that are finite."""
    return float(torch.nan_to_num(parts_of(value)[0].double(), nan=0.0, posinf=0.0, neginf=0.0).norm())


def _floats(sides: Sides) -> dict[str, Parts]:
    """The errors of the floating-point outputs that have one."""
    found = {n: sides.distance(n) for n, v in sides.shown.items()
             if isinstance(v, torch.Tensor) and v.dtype in FLOATS}
    return {n: e for n, e in found.items() if e is not None and dot(e, e) > 0}


def _walk_back(sides: Sides, adjoints: ValueStore, total: float, weights: Mapping[str, float]) -> Shares:
    shares: dict[str, float] = {}
    missed: dict[str, float] = {}
    # ⟨adjoint, distance⟩ of each tensor, summed as its readers give its adjoint.
    carried = {n: dot(parts_of(a), sides.distance(n)) / total for n, a in adjoints.items()}
    for node in reversed(sides.nodes):
        given = {n: parts_of(adjoints.pop(n)) for n in node.outputs if n in adjoints}
        local = {n: dot(a, sides.local(n)) / total for n, a in given.items()}
        left = sum(carried.pop(n) for n in given) - sum(local.values())
        for name, pulled in _pulled(sides, node, given, _ENOUGH * total).items():
            passed_on = dot(pulled, sides.distance(name)) / total
            left -= passed_on
            carried[name] = carried.get(name, 0.0) + passed_on
            before = parts_of(adjoints[name]) if name in adjoints else None
            adjoints[name] = list(pulled) if before is None else [a + b for a, b in zip(before, pulled, strict=True)]
        shares.update(local)
        if given:
            missed[node.outputs[0]] = left
        for name in node.outputs:
            sides.drop(name)
    shares.update(carried)  # what is left was fed, and differed already there
    return Shares({n: v for n, v in shares.items() if v}, {n: v for n, v in missed.items() if v}, total, weights)


def _pulled(sides: Sides, node: Node, adjoints: Mapping[str, Parts], enough: float) -> dict[str, Parts]:
    """The adjoints that a node passes on to the inputs that differ."""
    names = [n for n in node.reads if n in sides.distances and carries(node, n, sides.expected(n), adjoints)]
    if not names or not adjoints:
        return {}
    steps = {n: parts_of(sides.distances[n]) for n in names}
    rises = {} if bilinear(node) else {n: _rise(d, sides.local(n)) for n in adjoints if (d := sides.distance(n))}
    segment = Segment(node, {n: sides.expected(n) for n in node.reads}, steps, rises)
    return averaged(sides.executor, segment, adjoints, enough)


def _rise(distance: Parts, local: Parts | None) -> Parts:
    """What the operator makes at the candidate's inputs minus what it makes at the reference's."""
    return distance if local is None else [d - e for d, e in zip(distance, local, strict=True)]


def pool(samples: Sequence[Shares]) -> Pooled:
    """Shares over several feeds; those of which shares were withheld are left out.

    Args:
        samples: one or more.
    """
    given = [s for s in samples if not s.withheld]
    if not given:
        return Pooled({}, 0.0, 0.0, 0.0, 0.0, None, 0, 0, withheld="; ".join({s.withheld: None for s in samples}))
    shares = _weighted([(s.error, s.shares) for s in given])
    missed = _weighted([(s.error, s.missed) for s in given])
    worst = max(missed, key=lambda n: abs(missed[n]), default=None)
    signs = [{n for s in given for n, v in s.shares.items() if sign * v > _MATTERS} for sign in (1, -1)]
    return Pooled(
        shares, sum(shares.values()), sum(map(abs, shares.values())), sum(missed.values()),
        sum(map(abs, missed.values())), worst if worst is not None and abs(missed[worst]) > _MISSED else None,
        len(signs[0] & signs[1]), len(given))


def _weighted(samples: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    total = sum(weight for weight, _ in samples)
    sums: dict[str, float] = defaultdict(float)
    for weight, values in samples:
        for name, value in values.items():
            sums[name] += value * weight / total
    return dict(sums)
