"""A contender made ready to run: the variant of the model that it asks for, on the backend that it names."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from parity.analysis.match import common_names, comparable_tensors
from parity.analysis.outputs import drawn_outputs
from parity.analysis.tolerance import model_precision
from parity.backends.base import Feed, RunOptions, Session, backend_of
from parity.backends.captured import CapturedSession
from parity.contenders import Contender
from parity.errors import BackendUnavailable, FeedError, MatchError, ModelError, UsageError
from parity.graph.dumps.dump import declared_dtypes
from parity.graph.feeds import check_feed
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder, told
from parity.graph.survey import Survey, survey
from parity.original import Original
from parity.precision.calibration import Calibration
from parity.precision.reweigh import with_weights_of
from parity.targets import VARIANTS, Target

if TYPE_CHECKING:
    from parity.precision.plan import Precision


@dataclass(frozen=True)
class Ready:
    """What is needed to run a contender and to judge it.

    Attributes:
        session: runs it.
        variant: the flat graph that it runs; the reference's own where it runs that.
        shown: names of the tensors that it may show.
        order: the same and others, in the order of the graph that the session has.
        sizes: bytes of each of them, where known.
        precision: whose tolerance applies: the target's, or what the model itself computes in.
        notes: what a reader should know about the variant.
        folder: holds converted weights for as long as they are needed.
        own: the graph of a file that is not the reference's, with its own weights; None where there is none.
    """

    session: Session
    variant: Model
    shown: frozenset[str]
    order: tuple[str, ...]
    sizes: Mapping[str, int]
    precision: str
    notes: tuple[str, ...] = ()
    folder: tempfile.TemporaryDirectory[str] | None = None
    own: Model | None = None


def make_ready(model: Model, contender: Contender, surveyed: Survey, feed: Feed, calibration: Calibration | None,
               options: RunOptions) -> Ready:
    """Make the contender's variant, and open it.

    Args:
        model: the reference, as the user handed it in.
        contender: what to run.
        surveyed: the reference on `feed`.
        feed: the inputs.
        calibration: samples for INT8 ranges; None takes the feed itself, for indicative ones.
        options: how to run.

    Raises:
        MatchError: it has no tensor name in common with the reference.
        FeedError: its model wants other inputs than the reference.
        BackendUnavailable: the target cannot run here, or no such variant can be made.
        BackendFailed: the runtime refuses the model.
    """
    wanted = comparable_tensors(surveyed.flat)
    if contender.tensors is not None:
        return _taken_elsewhere(contender.tensors, surveyed, feed)
    assert contender.target is not None  # noqa: S101 - a contender is a target or a file of tensors
    if contender.original is not None:
        return _of_original(contender.original, contender.target, surveyed, feed)
    deployed, own = model, surveyed
    if contender.model is not None:
        deployed, own = contender.model, _survey_other(contender, feed, options)
        common_names(_named(surveyed.flat), _named(own.flat), str(contender))
    target, flat = contender.target, own.flat
    notes: tuple[str, ...] = ()
    folder = temporary_folder()
    if target.precision in VARIANTS:
        try:
            flat, notes = variant_for(target, own.flat, feed, calibration, Path(folder.name))
        except (UsageError, ModelError) as error:
            if contender.asked:
                raise
            raise BackendUnavailable(error.message, error.hint) from error
        deployed, target = flat, replace(target, precision="fp32")
    fault = contender.fault
    runs = (deployed, flat) if fault is None else (fault.plant(flat), fault.plant(flat))
    session = backend_of(target).open(*runs, target, options)
    precision = contender.target.precision if contender.target.precision != "fp32" else model_precision(flat)
    order = comparable_tensors(flat)
    if contender.model is not None and model_precision(flat) == model_precision(surveyed.flat):
        shown = frozenset(wanted) & set(order)  # and the reference's weights are the right ones
        return Ready(session, surveyed.flat, shown, order, own.sizes, precision, own=flat)
    shown = frozenset(order)
    in_file = None if contender.model is None else flat
    if contender.model is not None and flat is own.flat:
        flat, notes = with_weights_of(surveyed.flat, flat)
    added = shown.difference(comparable_tensors(own.flat))  # by the variant: small change, of no known size
    sizes = {**dict.fromkeys(added, 0), **own.sizes}
    return Ready(session, flat, shown, order, sizes, precision, notes, folder, in_file)


def _of_original(original: Original, target: Target, surveyed: Survey, feed: Feed) -> Ready:
    """The user's module, which computes what the graph does, in the types that the graph says."""
    flat = surveyed.flat
    shown = frozenset(comparable_tensors(flat)) & original.mapping.matches.keys()
    precision = target.precision if target.precision != "fp32" else model_precision(flat)
    order = comparable_tensors(flat)
    baked = () if drawn_outputs(flat) else original.mapping.notes  # two runs that draw differ anyway
    return Ready(original.open(target, feed), flat, shown, order, surveyed.sizes, precision,
                 (*original.source.notes, *baked))


def _named(flat: Model) -> tuple[str, ...]:
    """What two sides may have in common: tensors worth comparing, and outputs that are inputs or weights."""
    return (*comparable_tensors(flat), *(o.name for o in flat.graph.outputs))


def _taken_elsewhere(source: Path, surveyed: Survey, feed: Feed) -> Ready:
    flat, outputs = surveyed.flat, [o.name for o in surveyed.flat.graph.outputs]
    captured = CapturedSession(source, declared_dtypes(flat), surveyed.forms, outputs)
    captured.check_inputs(feed)
    unusable = [captured.misfits[n] for n in outputs if n in captured.misfits]
    if unusable or (captured.misfits and captured.tensors.keys().isdisjoint(_named(flat))):
        raise MatchError(f"{source} cannot be compared: {(unusable or list(captured.misfits.values()))[0]}",
                         "Save it as the model has it, and take it on the inputs of this run.")
    shown = common_names(_named(flat), captured.tensors, str(source))
    return Ready(captured, flat, shown, comparable_tensors(flat), surveyed.sizes, _dumped_precision(flat, captured),
                 captured.notes)


def _dumped_precision(flat: Model, captured: CapturedSession) -> str:
    """Of tensors taken elsewhere: what the model computes in, or less where they were saved in less."""
    own = model_precision(flat)
    halves = any(captured.tensors[o.name].dtype == "float16" for o in flat.graph.outputs if o.name in captured.tensors)
    return "fp16" if own == "fp32" and halves else own


def _survey_other(contender: Contender, feed: Feed, options: RunOptions) -> Survey:
    assert contender.model is not None  # noqa: S101 - the caller looked
    names = [spec.name for spec in contender.model.graph.inputs]
    try:
        check_feed(contender.model, {n: feed[n] for n in names if n in feed})
    except FeedError as error:
        raise FeedError(f"{contender} does not take the reference's inputs: {error.message}",
                        "Both models must take the same inputs.") from error
    try:
        return survey(contender.model, feed, options.seed)
    except ModelError:  # its runtime has the last word on whether it can run
        return Survey(inline_functions(contender.model), {}, {})


def variant_for(target: Target, flat: Model, feed: Feed, calibration: Calibration | None, folder: Path,
                ) -> tuple[Model, tuple[str, ...]]:
    """The model in a target's precision, and what to tell of it.

    Args:
        target: in one of VARIANTS.
        flat: the model.
        feed: what INT8 ranges are taken from where there is no calibration.
        calibration: samples for INT8 ranges.
        folder: for converted weights.

    Raises:
        UsageError: there is nothing to quantise, or the standard has no such form.
        OutputError: the folder of temporary files is full.
    """
    from parity.precision.variant import make_variant

    samples = calibration or replace(Calibration.of_feeds(flat, [feed], indicative=True), source="this run's inputs")
    with told():
        variant = make_variant(flat, cast("Precision", target.precision), samples, folder=folder)
    return variant.model, variant.notes
