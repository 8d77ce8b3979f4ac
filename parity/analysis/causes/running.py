"""What another run of the candidate tells: whether it repeats, and whether optimisation is to blame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.analysis.causes.evidence import Diagnosis, Evidence, Tensors, ancestors, distance, outputs_of
from parity.analysis.outputs import drawing_nodes
from parity.figures import number
from parity.graph.graph import Node
from parity.graph.model import Model

# Two runs that differ by this share of the error explain it.
_SHARE, _LESSER_SHARE = 0.3, 0.05
# Less than this between two runs (relative L2) is threads that add in another order.
_NOISE = 1e-6
# Without its cause the error falls at least so far, or so far and well within the tolerance.
_GONE, _WITHIN = 0.2, 0.5


def nondeterminism(evidence: Evidence) -> Sequence[Diagnosis]:
    """Random numbers in the graph, or outputs that differ by much of the error when the candidate runs again."""
    drawn = _drawn(evidence)
    if drawn is None:
        return _between_runs(evidence, _SHARE)
    blamed = evidence.blamed_for("implementation", "nonfinite")
    if blamed is not None and drawn.outputs[0] != blamed.tensor:  # that is wrong whatever was drawn before it
        return ()
    again = evidence.between_runs
    seeded = again is None or again <= _NOISE
    apart = _between_draws(evidence.reference, evidence.feed) if seeded else again
    if apart is None or apart < _SHARE * min(evidence.error, 1.0):
        return ()
    what = "the model by our own executor" if seeded else "the candidate"
    message = (f"{drawn.op} {drawn.label!r} draws random numbers, which no two runtimes draw alike: two runs of {what} "
               f"on the same inputs differ by {number(apart)} (relative L2), where the candidate differs by "
               f"{number(evidence.error)} from the reference.")
    return (Diagnosis("nondeterminism", drawn.outputs[0], message, {"between_runs": apart, "error": evidence.error}),)


def unsteadiness(evidence: Evidence) -> Sequence[Diagnosis]:
    """The same by a lesser part of the error, where nothing else explains it."""
    return _between_runs(evidence, _LESSER_SHARE)


def _drawn(evidence: Evidence) -> Node | None:
    """The first node that draws random numbers which what is wrong depends on."""
    drawn = drawing_nodes(evidence.reference)
    if not drawn:
        return None
    wrong = [evidence.blamed[0].tensor] if evidence.blamed is not None else sorted(evidence.reference_outputs)
    before: set[str] = set().union(*(ancestors(evidence.reference, n) for n in wrong))
    return next((n for n in drawn if not before.isdisjoint(n.outputs)), None)


def _between_draws(model: Model, feed: Tensors) -> float:
    """How far two runs of a model are apart that draw from different seeds."""
    return distance(outputs_of(model, feed, seed=0), outputs_of(model, feed, seed=1))


def _between_runs(evidence: Evidence, share: float) -> Sequence[Diagnosis]:
    apart = evidence.between_runs
    if apart is None or not apart > _NOISE or apart < share * min(evidence.error, 1.0):
        return ()
    tensor = evidence.blamed[0].tensor if evidence.blamed is not None else min(evidence.candidate_outputs)
    message = (f"Two runs of the candidate on the same inputs differ by {number(apart)} (relative L2), where it "
               f"differs by {number(evidence.error)} from the reference.")
    return (Diagnosis("nondeterminism", tensor, message, {"between_runs": apart, "error": evidence.error}),)


def goes_unoptimised(evidence: Evidence) -> bool:
    """Whether the outputs' error goes with optimisation off; where that is not known, when the tensors are watched."""
    if not evidence.error > 0:
        return False
    left = evidence.unoptimised_error
    if left is None:
        return _moved(evidence)
    return left < math.inf and left <= max(_GONE * evidence.error, _WITHIN * min(evidence.error, evidence.limit))


def _moved(evidence: Evidence) -> bool:
    return evidence.moved is not None and 0.5 * evidence.error <= evidence.moved < math.inf


def optimisation(evidence: Evidence) -> Sequence[Diagnosis]:
    """The error goes when the runtime's graph optimisation is off, or the tensors are watched."""
    if not evidence.diverged or not goes_unoptimised(evidence):
        return ()
    numbers, told = {"error": evidence.error}, []
    if evidence.moved is not None and _moved(evidence):
        numbers["moved"] = evidence.moved
        told.append(f"watching the tensors moves the outputs by {number(evidence.moved)}")
    if evidence.unoptimised_error is not None:
        numbers["unoptimised"] = evidence.unoptimised_error
        told.append(f"with graph optimisation off {number(evidence.unoptimised_error)} is left")
    tensor = evidence.blamed[0].tensor if evidence.blamed is not None else max(
        evidence.candidate_outputs.keys() & evidence.reference_outputs.keys(),
        key=lambda n: distance({n: evidence.reference_outputs[n]}, evidence.candidate_outputs))
    message = (f"The runtime's optimisation makes the error of {number(evidence.error)} (relative L2): "
               f"{' and '.join(told)}.")
    return (Diagnosis("optimisation", tensor, message, numbers),)
