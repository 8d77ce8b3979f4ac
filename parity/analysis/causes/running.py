"""What another run of the candidate tells: whether it repeats, and whether optimisation is to blame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parity.analysis.causes.evidence import Diagnosis, Evidence, distance
from parity.analysis.match import draws_randomly

# Two runs that differ by this share of the error explain it.
_SHARE, _LESSER_SHARE = 0.3, 0.05
# Less than this between two runs (relative L2) is threads that add in another order.
_NOISE = 1e-6
# Without its cause the error falls at least so far.
_GONE = 0.2


def nondeterminism(evidence: Evidence) -> Sequence[Diagnosis]:
    """The same inputs give outputs that differ by much of the error when the candidate runs again."""
    return _between_runs(evidence, _SHARE)


def unsteadiness(evidence: Evidence) -> Sequence[Diagnosis]:
    """The same by a lesser part of the error, where nothing else explains it."""
    return _between_runs(evidence, _LESSER_SHARE)


def _between_runs(evidence: Evidence, share: float) -> Sequence[Diagnosis]:
    apart = evidence.between_runs
    if apart is None or not apart > _NOISE or apart < share * min(evidence.error, 1.0):
        return ()
    drawn = next((n for n in evidence.reference.graph.nodes if draws_randomly(n.proto.op_type, training=False)), None)
    if drawn is not None:
        tensor, where = drawn.outputs[0], f"; {drawn.op} {drawn.label!r} draws random numbers"
    else:
        tensor = evidence.blamed[0].tensor if evidence.blamed is not None else min(evidence.candidate_outputs)
        where = ""
    message = (f"Two runs of the candidate on the same inputs differ by {apart:.1e} (relative L2), where it differs by "
               f"{evidence.error:.1e} from the reference{where}.")
    return (Diagnosis("nondeterminism", tensor, message, {"between_runs": apart, "error": evidence.error}),)


def goes_unoptimised(evidence: Evidence) -> bool:
    """Whether the outputs' error goes with optimisation off; where that is not known, when the tensors are watched."""
    if not evidence.error > 0:
        return False
    left = evidence.unoptimised_error
    return _moved(evidence) if left is None else left <= _GONE * evidence.error


def _moved(evidence: Evidence) -> bool:
    return evidence.moved is not None and 0.5 * evidence.error <= evidence.moved < math.inf


def optimisation(evidence: Evidence) -> Sequence[Diagnosis]:
    """The error goes when the runtime's graph optimisation is off, or the tensors are watched."""
    if not evidence.diverged or not goes_unoptimised(evidence):
        return ()
    numbers, told = {"error": evidence.error}, []
    if evidence.moved is not None and _moved(evidence):
        numbers["moved"] = evidence.moved
        told.append(f"watching the tensors moves the outputs by {evidence.moved:.1e}")
    if evidence.unoptimised_error is not None:
        numbers["unoptimised"] = evidence.unoptimised_error
        told.append(f"with graph optimisation off {evidence.unoptimised_error:.1e} is left")
    tensor = evidence.blamed[0].tensor if evidence.blamed is not None else max(
        evidence.candidate_outputs.keys() & evidence.reference_outputs.keys(),
        key=lambda n: distance({n: evidence.reference_outputs[n]}, evidence.candidate_outputs))
    message = (f"The runtime's optimisation makes the error of {evidence.error:.1e} (relative L2): "
               f"{' and '.join(told)}.")
    return (Diagnosis("optimisation", tensor, message, numbers),)
