"""The variant of a model that a plan asks for, by whichever edits that takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.errors import UsageError
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.cast import cast_with_notes
from parity.precision.plan import Precision, PrecisionPlan, all_nodes, plan_for, read_plan
from parity.precision.quantize import QuantizeSettings, quantize


@dataclass(frozen=True)
class Variant:
    """A model in another precision.

    Attributes:
        model: every tensor of the original under its name.
        plan: what each node was asked to compute in.
        notes: where the variant is not what the plan says, and what else there is to know, for people.
        indicative: INT8 ranges are not from the user's data.
    """

    model: Model
    plan: PrecisionPlan
    notes: tuple[str, ...] = ()
    indicative: bool = False


def make_variant(model: Model, precision: Precision | PrecisionPlan, calibration: Calibration | None = None,
                 settings: QuantizeSettings = QuantizeSettings(),  # noqa: B008 - it is frozen
                 folder: Path | None = None) -> Variant:
    """Write a plan into a model.

    Args:
        model: flat, where INT8 is to reach what is inside If.
        precision: of all nodes, or a plan made for this model.
        calibration: for INT8.
        settings: for INT8.
        folder: where converted weights go when the model's are in external files; see `cast_to`.

    Returns:
        The model itself where the plan is fp32 throughout, and for a uniform int8 plan where it is quantised already.

    Raises:
        UsageError: INT8 without calibration, or nothing to quantise; see also `cast_to` and `quantize`.
        FeedError: a calibration sample does not fit the model.
        BackendUnavailable: INT8 needs ONNX Runtime, which is not there.
        BackendFailed: ONNX Runtime cannot run the model.
    """
    plan = precision if isinstance(precision, PrecisionPlan) else plan_for(model, precision)
    asked = {n.outputs[0]: plan.of(n) for n in all_nodes(inline_functions(model).graph) if n.outputs}
    kinds = set(asked.values())
    if kinds <= {"fp32"}:
        return Variant(model, plan)
    if "int8" not in kinds:
        cast, notes = cast_with_notes(model, plan, folder=folder)
        return Variant(cast, plan, tuple(n.text for n in notes))
    if kinds == {"int8"} and "int8" in (present := read_plan(model)).nodes.values():
        return Variant(model, present, ("The model is quantised already; nothing was added.",))
    if calibration is None:
        raise UsageError("int8 needs samples to find the ranges of activations on", "Give them with --calibration.")
    quantized = quantize(model, plan, calibration, settings)
    notes_so_far = [f"Ranges were observed on {calibration.source}{_WARNING if calibration.indicative else ''}."]
    notes_so_far.extend(quantized.notes)
    result = quantized.model
    if kinds & {"fp16", "bf16"}:
        # What is new, Q/DQ and the parts of fused operators, belongs to the int8 nodes and stays in FP32.
        result, notes = cast_with_notes(result, PrecisionPlan("int8", asked), folder=folder)
        notes_so_far.extend(n.text for n in notes)
    return Variant(result, plan, tuple(notes_so_far), calibration.indicative)


_WARNING = ": they are indicative only, so give real data with --calibration"
