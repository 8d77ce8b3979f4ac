"""All that a variant was made by, as one JSON file: plan.json, from which `parity convert --plan` makes it again.

It is the JSON of a `PrecisionPlan` with up to three fields more, each left out where there is nothing to say:

    "quantization": {"method": "percentile", "percentile": 99.99, "per_channel": true, "outputs": false,
                     "weight_bits": 7}
    "rewritten": ["Log(Softmax(x))"]
    "rescaled": {"limit": 65504.0, "largest": {"scores": 70123.5}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.errors import UsageError
from parity.fixes.patch import Magnitudes
from parity.fixes.rescale import rescales
from parity.fixes.rewrite import PATTERNS, rewritten
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.precision.plan import PrecisionPlan
from parity.precision.quantize import QuantizeSettings
from parity.precision.ranges import METHODS, RangeSettings

_OWN = ("quantization", "rewritten", "rescaled")
_BITS = {8: False, 7: True}  # of weights → whether their range is reduced


@dataclass(frozen=True)
class Recipe:
    """What a variant is made of, and how.

    Attributes:
        plan: of the nodes of `model`.
        model: the user's, with formulas rewritten and tensors rescaled where that is part of it.
        settings: how it is quantised; None where nobody said.
        formulas: that were rewritten.
        rescaled: what the rescaling was made from.
    """

    plan: PrecisionPlan
    model: Model
    settings: QuantizeSettings | None = None
    formulas: tuple[str, ...] = ()
    rescaled: Magnitudes | None = field(default=None, repr=False)

    def to_json(self) -> str:
        """The recipe as JSON, to be read back with `from_json`."""
        written = json.loads(self.plan.to_json())
        if self.settings is not None and "int8" in {self.plan.default, *self.plan.nodes.values()}:
            written["quantization"] = _written(self.settings)
        if self.formulas:
            written["rewritten"] = list(self.formulas)
        if self.rescaled is not None:
            written["rescaled"] = {"limit": self.rescaled.limit, "largest": dict(self.rescaled.largest)}
        return json.dumps(written, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str, model: Model) -> Recipe:
        """Read a recipe, or a plan alone, and make the edits to the model that it holds.

        Args:
            text: as `to_json` writes it.
            model: as the user handed it in.

        Raises:
            UsageError: not such JSON, or it does not fit the model; see also `PrecisionPlan.from_json`.
        """
        try:
            read = json.loads(text)
        except json.JSONDecodeError:
            read = None
        if not isinstance(read, dict):
            return Recipe(PrecisionPlan.from_json(text, model), model)  # it says best what is wrong
        own = {name: read.pop(name) for name in _OWN if name in read}
        settings = _settings(own["quantization"]) if "quantization" in own else None
        formulas = _formulas(own.get("rewritten", []))
        rescaled = _magnitudes(own["rescaled"]) if "rescaled" in own else None
        edited = _edited(model, formulas, rescaled)
        return Recipe(PrecisionPlan.from_json(json.dumps(read), edited), edited, settings, formulas, rescaled)


def _edited(model: Model, formulas: tuple[str, ...], rescaled: Magnitudes | None) -> Model:
    """The user's model with the edits of a fix made anew.

    Raises:
        UsageError: it has no such formulas or tensors.
    """
    edited = model
    if formulas:
        flat = inline_functions(model)
        edited = rewritten(flat, formulas)
        if edited is flat:
            raise UsageError(f"the plan rewrites {formulas[0]}, which {model.name} does not hold", _OTHER_MODEL)
    if rescaled is not None:
        patches = rescales(inline_functions(edited), rescaled.largest, rescaled.limit)
        if not patches:
            raise UsageError(f"the plan rescales tensors that {model.name} does not have", _OTHER_MODEL)
        edited = patches[0].model
    return edited


def _written(settings: QuantizeSettings) -> Mapping[str, object]:
    bits = next(bits for bits, reduced in _BITS.items() if reduced == settings.reduce_range)
    percentile = {"percentile": settings.ranges.percentile} if settings.ranges.method == "percentile" else {}
    return {"method": settings.ranges.method, **percentile, "per_channel": settings.per_channel,
            "outputs": settings.outputs, "weight_bits": bits}


def _settings(read: object) -> QuantizeSettings:
    entry = _entry(read, "quantization", {"method", "percentile", "per_channel", "outputs", "weight_bits"})
    method = entry.get("method", "minmax")
    known = {name: name for name in METHODS}
    if method not in known:
        raise UsageError(f"the plan finds ranges by {method!r}", f"Choose one of {', '.join(known)}.")
    percentile = _number(entry.get("percentile", RangeSettings.percentile), "percentile")
    if not 0 < percentile <= 100:
        raise UsageError(f"the plan's percentile is {percentile:g}", "Write a number up to 100, e.g. 99.99.")
    bits = entry.get("weight_bits", 8)
    if bits not in _BITS:
        raise UsageError(f"the plan's weight_bits is {bits!r}", "Write 8 or 7.")
    return QuantizeSettings(
        RangeSettings(known[method], percentile), per_channel=_flag(entry.get("per_channel", True), "per_channel"),
        outputs=_flag(entry.get("outputs", False), "outputs"), reduce_range=_BITS[bits])


def _formulas(read: object) -> tuple[str, ...]:
    known = [p.before for p in PATTERNS]
    if not isinstance(read, list) or not all(name in known for name in read):
        raise UsageError(f"the plan rewrites {read!r}", f"Known are the formulas {', '.join(known)}.")
    return tuple(read)


def _magnitudes(read: object) -> Magnitudes:
    entry = _entry(read, "rescaled", {"limit", "largest"})
    largest = entry.get("largest")
    if not isinstance(largest, dict):
        raise UsageError(f"the plan's largest is {largest!r}", "Let `parity fix` write it.")
    return Magnitudes({name: _number(value, name) for name, value in largest.items()},
                      _number(entry.get("limit"), "limit"))


def _entry(read: object, name: str, known: set[str]) -> dict[str, object]:
    if not isinstance(read, dict) or not read.keys() <= known:
        raise UsageError(f"the plan's {name} is {read!r}", f"Write an object with {', '.join(sorted(known))}.")
    return read


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"the plan's {name} is {value!r}, which is no number", "Let `parity fix` write it.")
    return float(value)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"the plan's {name} is {value!r}", "Write true or false.")
    return value


_OTHER_MODEL = "Give the model that the plan was made for."
