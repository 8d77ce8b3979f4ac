"""The graphs that a reduction is about: what the target runs, and what that is judged by."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.analysis.tolerance import model_precision
from parity.backends.base import Feed
from parity.contenders import Contender
from parity.errors import FeedError, ModelError, UsageError
from parity.graph.feeds import check_feed
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.graph.survey import Survey, survey
from parity.precision.calibration import Calibration
from parity.precision.reweigh import with_weights_of
from parity.preparation import variant_for
from parity.targets import VARIANTS, Target


@dataclass(frozen=True)
class Sides:
    """What a contender runs, beside what it is judged by.

    Attributes:
        target: where it runs, in FP32: the precision is in the model.
        deployed: the model as the runtime gets it.
        candidate: the same with control flow inlined.
        judge: what its operators should do, flat: of the same precision, with the reference's weights.
        reference: the reference, flat.
        precision: whose tolerance applies.
        sizes: bytes of the candidate's tensors where known.
        notes: what a reader should know about the variant.
        folder: holds converted weights for as long as they are needed.
    """

    target: Target
    deployed: Model
    candidate: Model
    judge: Model
    reference: Model
    precision: str
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    folder: tempfile.TemporaryDirectory[str] = field(default_factory=temporary_folder)


def sides_of(model: Model, contender: Contender, surveyed: Survey, feed: Feed, calibration: Calibration | None,
             seed: int) -> Sides:
    """The graphs of a contender.

    Args:
        model: the reference, as the user handed it in.
        contender: what runs.
        surveyed: the reference on `feed`.
        feed: the inputs.
        calibration: samples for INT8 ranges; None takes the feed itself.
        seed: of random operators.

    Raises:
        UsageError: tensors taken elsewhere, which nothing here can run again; or a variant that cannot be made.
        FeedError: its model wants other inputs than the reference.
    """
    if contender.target is None:
        raise UsageError(f"{contender} holds tensors taken elsewhere, and there is nothing to run again",
                         "Give the model that made them, or a target with -c.")
    deployed, flat, sizes = model, surveyed.flat, surveyed.sizes
    if contender.model is not None:
        own = _survey(contender.model, contender, feed, seed)
        deployed, flat, sizes = contender.model, own.flat, own.sizes
    target, folder, original = contender.target, temporary_folder(), flat
    notes: tuple[str, ...] = ()
    if target.precision in VARIANTS:
        flat, notes = variant_for(target, flat, feed, calibration, Path(folder.name))
        deployed = flat
    judge = flat
    if contender.model is not None and model_precision(flat) == model_precision(surveyed.flat):
        judge = surveyed.flat
    elif contender.model is not None and flat is original:
        judge, notes = with_weights_of(surveyed.flat, flat)
    if contender.fault is not None:
        deployed = flat = contender.fault.plant(flat)
    precision = target.precision if target.precision != "fp32" else model_precision(flat)
    return Sides(replace(target, precision="fp32"), deployed, flat, judge, surveyed.flat, precision, sizes, notes,
                 folder)


def _survey(model: Model, contender: Contender, feed: Feed, seed: int) -> Survey:
    names = [spec.name for spec in model.graph.inputs]
    try:
        check_feed(model, {n: feed[n] for n in names if n in feed})
    except FeedError as error:
        raise FeedError(f"{contender} does not take the reference's inputs: {error.message}",
                        "Both models must take the same inputs.") from error
    try:
        return survey(model, feed, seed)
    except ModelError:  # its runtime has the last word on whether it can run
        return Survey(inline_functions(model), {}, {})
