"""What the map of a module and its export says of the export: its fault, in the module's row of the Report."""

from __future__ import annotations

from dataclasses import replace

from parity.analysis.diagnose import Diagnosis
from parity.analysis.outputs import drawn_tensors
from parity.figures import number
from parity.graph.model import Model
from parity.report import words
from parity.report.record import Candidate, FirstBad
from parity.source_model.fits import TOLERANCE
from parity.source_model.mapping import Fault, TensorMap
from parity.source_model.place import Place, place_of

_EXPORT_FAULT = ("The export is not the module{}: in FP64, and at the module's own inputs, {!r} is off by {} "
                 "(relative L2){}. This was made when the model was exported, and by no runtime.")
_REORDERED = ", and would be right if {!r} before it had its axes in another order"
_BRANCH = ", since {!r} decides for another branch than the module takes"
_HIDDEN = ", which is the first that can be held against the module: the fault is in {}"
_BAKED_IN = ("The export is not the module{}: on these inputs {!r} is right in FP64, on others of the same shapes it "
             "is off{}. A value of the example inputs, or the branch that they take, was baked in at the export.")


def with_export_findings(candidate: Candidate, mapping: TensorMap, flat: Model) -> Candidate:
    """The module's row with the first tensor that its export computes otherwise.

    Where the outputs agree, a tensor that the FP32 run names and FP64 clears is named no more: that is rounding, or
    another way of writing a mask, and not the export's doing. What depends on random numbers, which the two draw
    differently, is no fault of the export.

    Args:
        candidate: the module held against its export.
        mapping: of the two, made in FP64 at equal inputs, so that no runtime and no rounding is in its faults.
        flat: the export, as it was mapped.
    """
    drawn, fault = drawn_tensors(flat), mapping.fault
    if fault is not None and fault.match.tensor in drawn:
        fault = next((Fault(m) for m in mapping.faults if m.tensor not in drawn), None)
    if fault is not None:
        bad = _first_bad(candidate, fault, flat)
        return replace(candidate, first_bad=bad, diagnoses=(_told(fault, bad, flat), *candidate.diagnoses))
    match = None if candidate.first_bad is None else mapping.matches.get(candidate.first_bad.tensor)
    cleared = match is not None and match.agrees and candidate.verdict == "parity"
    return replace(_cleared(candidate, mapping), first_bad=None, diagnoses=()) if cleared else candidate


def _cleared(candidate: Candidate, mapping: TensorMap) -> Candidate:
    """The row with no tensor to blame that is the module's own in FP64."""
    agree = {name for name, match in mapping.matches.items() if match.agrees}
    return replace(candidate, tensors=tuple(
        replace(row, passed=True, origin=None) if row.tensor in agree and not row.passed else row
        for row in candidate.tensors))


def _first_bad(candidate: Candidate, fault: Fault, flat: Model) -> FirstBad:
    """The tensor to name; figures only where it was shown, and in the order in which it should be."""
    named = fault.reordered or fault.branch
    tensor = named or fault.match.tensor
    node = flat.graph.producer[tensor]
    row = None if named else next((r for r in candidate.tensors if r.tensor == tensor), None)
    source = place_of(node).source or (None if named else fault.match.place.source)
    return FirstBad(tensor, node.proto.name, node.op, node.index, "export", None if row is None else row.accumulated,
                    None if row is None else row.local, source, (*fault.hidden, tensor) if fault.hidden else (),
                    fault.after)


def _told(fault: Fault, bad: FirstBad, flat: Model) -> Diagnosis:
    match = fault.match
    where = _where(place_of(flat.graph.producer[bad.tensor]) if fault.reordered or fault.branch else match.place)
    figures = {"error": match.error} | ({} if match.control is None else {"error on other inputs": match.control})
    if match.error <= TOLERANCE:
        by = "" if match.control is None else f" by {number(match.control)} (relative L2)"
        message = _BAKED_IN.format(where, match.tensor, by)
    else:
        message = _EXPORT_FAULT.format(where, match.tensor, number(match.error), _before(fault, bad))
    return Diagnosis("export-fault", bad.tensor, message, figures)


def _before(fault: Fault, bad: FirstBad) -> str:
    """What is known of what lies before the first tensor that disagrees."""
    if fault.reordered:
        return _REORDERED.format(fault.reordered)
    if fault.branch:
        return _BRANCH.format(fault.branch)
    return _HIDDEN.format(words.region(bad)) if fault.hidden else ""


def _where(place: Place) -> str:
    return f" {place.module!r}" * bool(place.module) + f" at {place.source} `{place.text}`" * bool(place.source)
