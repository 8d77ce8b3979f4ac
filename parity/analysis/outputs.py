"""The verdict: the outputs of the unwatched run against the reference's."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from parity.analysis.match import draws_randomly
from parity.analysis.measure import Comparison, measure
from parity.analysis.tolerance import DEFAULTS, Tolerance
from parity.errors import MatchError
from parity.figures import number
from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy


@dataclass(frozen=True)
class OutputFinding:
    """One graph output on both sides.

    Attributes:
        name: ONNX tensor name.
        dtype: element type on the candidate's side.
        shape: on the candidate's side.
        comparison: candidate against reference; None where the shapes differ, or text stands for numbers.
        noise: relative L2 distance by which correct FP32 runs of this model may differ.
        limit: of the relative L2 error, raised for that noise; infinite where it has none.
        limits: of other metrics, by name.
        passed: whether the output is within tolerance.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    comparison: Comparison | None
    noise: float
    limit: float
    passed: bool
    limits: Mapping[str, float] = field(default_factory=dict)


def judge_outputs(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray],
                  noise: Mapping[str, float], tolerance: Tolerance) -> tuple[OutputFinding, ...]:
    """Hold every output that the candidate shows against its tolerance.

    Integers and booleans must be equal, but where the reference's own FP32 and FP64 outputs differ, and where the
    model is quantised.
    """
    found = []
    for name, expected in reference.items():
        if name not in candidate:
            continue
        value, own = candidate[name], noise.get(name, 0.0)
        comparison = _measured(expected, value)
        whole = expected.dtype.kind in "biu" and tolerance.precision != "int8" and own == 0.0
        exact = whole or expected.dtype.kind in "OSU"
        passed = comparison is not None and (comparison.identical if exact else tolerance.passes(comparison, own))
        others = {metric: limit for metric, limit in tolerance.limits.items() if metric != "rel_l2"}
        found.append(OutputFinding(name, value.dtype.name, value.shape, comparison, own, tolerance.rel_l2(own), passed,
                                   others))
    return tuple(found)


def relative_limit(outputs: Sequence[OutputFinding], tolerance: Tolerance, precision: str) -> float:
    """The relative L2 error from which on a tensor is held to be off: the outputs' own limit where they have one.

    Where only other metrics, or judges, are limited it is the default of the precision, or half the least error of an
    output that fails where that is less.

    Args:
        outputs: as judged.
        tolerance: by which.
        precision: that the candidate computes in.
    """
    limit = max((o.limit for o in outputs), default=tolerance.rel_l2(0.0))
    if math.isfinite(limit):
        return limit
    failing = (o.comparison.rel_l2 / 2 for o in outputs if not o.passed and o.comparison is not None)
    return min([DEFAULTS[precision].limits["rel_l2"], *(error for error in failing if error > 0)])


def _measured(expected: np.ndarray, value: np.ndarray) -> Comparison | None:
    if value.shape != expected.shape:
        return None
    try:
        return measure(expected, value)
    except MatchError:  # text for numbers
        return None


def absence_notes(reference: Collection[str], candidate: Collection[str]) -> tuple[str, ...]:
    """A sentence where the candidate shows not all of the outputs, by name, on which the verdict should rest."""
    absent = [n for n in reference if n not in candidate]
    if not absent:
        return ()
    if len(absent) == len(reference):
        return ("The candidate shows none of the model's outputs: the tensors that it does show decide.",)
    listed = ", ".join(map(repr, absent[:3])) + (", …" if len(absent) > 3 else "")
    return (f"The candidate does not show {listed}: the verdict rests on the other outputs.",)


def noise_notes(outputs: Sequence[OutputFinding], tolerance: Tolerance,
                drawn: Mapping[str, Node] = MappingProxyType({})) -> tuple[str, ...]:
    """A sentence for every output whose limit had to be raised for the model's own noise.

    Args:
        outputs: as judged.
        tolerance: by which.
        drawn: of the outputs that depend on random numbers, who draws them; see `drawn_outputs`.
    """
    usual = tolerance.rel_l2(0.0)
    return tuple(_noise_note(o, drawn.get(o.name)) for o in outputs if o.limit > usual and math.isfinite(usual))


def _noise_note(output: OutputFinding, drawn: Node | None) -> str:
    accepted = f"up to {number(output.limit)} is accepted there"
    if drawn is None:
        return (f"The model amplifies rounding: correct runs of it may differ by {number(output.noise)} (relative L2) "
                f"in output {output.name!r}, so {accepted}.")
    return (f"Output {output.name!r} depends on the random numbers of {drawn.op} {drawn.label!r}: runs of the "
            f"reference alone differ by {number(output.noise)} (relative L2) there, so {accepted}, which says "
            "little. To compare its values, feed the model with fixed numbers in that node's stead.")


def value_notes(outputs: Sequence[OutputFinding], reference: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A sentence for every output of which there was little to compare, or none."""
    notes = []
    for output in outputs:
        found = output.comparison
        if found is None:
            shapes = f"{list(output.shape)}, the reference's {list(reference[output.name].shape)}"
            notes.append(f"Output {output.name!r} has shape {shapes}.")
        elif found.size == 0:
            notes.append(f"Output {output.name!r} has no elements, so there was nothing to compare.")
        elif found.nan_reference and found.nan_reference == found.nan:
            notes.append(f"Output {output.name!r} is NaN on both sides in {found.nan} of {found.size} elements, "
                         "which say nothing.")
    return tuple(notes)


def random_notes(model: Model) -> tuple[str, ...]:
    """A sentence for every node that draws random numbers."""
    return tuple(
        f"Node {node.label!r} ({node.op}) draws random numbers, so outputs that depend on it differ from run to run; "
        "`parity check` shows it." for node in drawing_nodes(model))


def drawing_nodes(model: Model) -> tuple[Node, ...]:
    """The nodes that draw random numbers, or whose bodies do, in order; Dropout where it is set to train."""
    return tuple(n for n in model.graph.nodes if _draws(n, model))


def drawn_outputs(model: Model) -> dict[str, Node]:
    """The graph outputs that depend on random numbers, with the first node that draws those."""
    drawn = drawn_tensors(model)
    return {o.name: drawn[o.name] for o in model.graph.outputs if o.name in drawn}


def drawn_tensors(model: Model) -> dict[str, Node]:
    """The tensors that are random numbers or depend on them, with the first node that draws those."""
    found: dict[str, Node] = {}
    for node in model.graph.nodes:
        first = min((found[n] for n in node.reads if n in found), key=lambda n: n.index, default=None)
        if first is None and _draws(node, model):
            first = node
        if first is not None:
            found.update(dict.fromkeys(node.outputs, first))
    return found


def _draws(node: Node, model: Model) -> bool:
    trains = node.proto.op_type == "Dropout" and len(node.inputs) > 2 and _is_true(model, node.inputs[2])
    return draws_randomly(node.proto.op_type, training=trains) or any(
        _draws(inner, model) for body in node.subgraphs.values() for inner in body.nodes)


def _is_true(model: Model, name: str) -> bool:
    value = constant_values(model).get(name) if name in model.constants else None
    return is_tensor(value) and bool(to_numpy(value).all())


def top1(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Fraction of rows of `scores` [N, classes] whose largest entry is at the label [N]; None for other shapes."""
    if scores.ndim != 2 or len(scores) != len(labels) or scores.shape[1] < 2:
        return None
    return float(np.mean(scores.argmax(axis=1) == labels))
