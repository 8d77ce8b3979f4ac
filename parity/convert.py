"""`parity convert`: write a model in another precision."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import TensorProto

from parity.errors import OutputError, UsageError
from parity.fixes.recipe import Recipe
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder, told
from parity.precision.calibration import Calibration
from parity.precision.plan import PrecisionPlan
from parity.precision.quantize import QuantizeSettings
from parity.precision.ranges import RangeSettings
from parity.precision.variant import Variant, make_variant

if TYPE_CHECKING:
    from parity.precision.plan import Precision
    from parity.precision.ranges import Method


@dataclass(frozen=True)
class Conversion:
    """What to write.

    Attributes:
        precision: of all nodes, unless there is a plan.
        plan: a JSON file as `Recipe.to_json` writes it.
        calibration: samples for INT8: .npz, .npy, or a folder of them; None takes a seeded input.
        method: how ranges are found: "minmax", "entropy" or "percentile"; unless the plan says.
        outputs: quantise what nodes make, too, not only what they read; unless the plan says.
        seed: of the seeded input.
    """

    precision: Precision = "fp32"
    plan: Path | None = None
    calibration: Path | None = None
    method: Method = "minmax"
    outputs: bool = False
    seed: int = 0


def convert(path: Path, conversion: Conversion, out: Path) -> Variant:
    """Make the variant of a model and write it, with its weights beside it where the original's are.

    Args:
        path: the model.
        conversion: what to make of it.
        out: the .onnx to write; it appears whole or not at all.

    Raises:
        UsageError: a plan that cannot be read or belongs to another model, or nothing to quantise.
        FeedError: calibration samples that do not fit.
        OutputError: it cannot be written.
    """
    model = Model.load(path)
    settings = QuantizeSettings(RangeSettings(conversion.method), outputs=conversion.outputs)
    recipe = None if conversion.plan is None else Recipe.from_json(_read(conversion.plan), model)
    wanted: Precision | PrecisionPlan = conversion.precision
    if recipe is not None:
        model, wanted, settings = recipe.model, recipe.plan, recipe.settings or settings
    with temporary_folder() as folder:
        with told():
            variant = make_variant(model, wanted, _samples(model, conversion, wanted), settings, Path(folder))
        write_model(variant.model, out)
    return variant


def _samples(model: Model, conversion: Conversion, wanted: Precision | PrecisionPlan) -> Calibration | None:
    kinds = {*wanted.nodes.values(), wanted.default} if isinstance(wanted, PrecisionPlan) else {wanted}
    if "int8" not in kinds:
        return None
    if conversion.calibration is not None:
        return Calibration.load(model, conversion.calibration)
    return Calibration.of_feeds(model, [seeded_feed(model, conversion.seed)[0]], indicative=True)


def _read(plan: Path) -> str:
    try:
        return plan.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {plan} ({error})", "Check the path.") from error


def write_text(text: str, out: Path) -> None:
    """Write a text file; it appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".parity-") as folder:
            whole = Path(folder) / out.name
            whole.write_text(text, encoding="utf-8")
            whole.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out} ({error.strerror or error})", "Choose another place with -o.") from error


def write_model(model: Model, out: Path) -> None:
    """Write a model, with its weights beside it where they are in external files; it appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".parity-") as folder:
            whole = Path(folder) / out.name
            if any(t.data_location == TensorProto.EXTERNAL for t in model.weights()):
                model = model.externalised(Path(folder), f"{out.name}.data")
                model.save(whole)
                (Path(folder) / f"{out.name}.data").replace(out.with_name(f"{out.name}.data"))
            else:
                model.save(whole)
            whole.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out} ({error.strerror or error})", "Choose another place with -o.") from error
