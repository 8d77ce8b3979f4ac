"""parity in Python: `parity.compare(model, inputs, candidates=[…])` returns the Report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import ModelProto

from parity.analysis.tasks import task_limits
from parity.analysis.tolerance import Tolerance
from parity.asked import (
    IN_MEMORY,
    AnyInputs,
    AnyLabels,
    AnyModel,
    AnySamples,
    AnySource,
    AnyTolerance,
    Asked,
    Values,
    is_file,
    is_path,
    without_options,
)
from parity.backends.base import Feed, RunOptions, backend_of
from parity.compare import Options, told_by
from parity.compare import compare as compare_feeds
from parity.contenders import Contender, Request, contenders_of, feeds_of, load_labels, of_original
from parity.errors import FeedError, ParityError, UsageError
from parity.graph.feeds import check_feed
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.original import Original, check_originals, is_original, original_of, read_example, source_of
from parity.precision.calibration import Calibration
from parity.report.record import InputFacts, Report
from parity.sample import Progress
from parity.targets import Target

if TYPE_CHECKING:
    from parity.source_model.source import SourceModel


def compare(model: AnyModel | AnySource, inputs: AnyInputs | None = None, *,
            candidates: Sequence[AnyModel] = (), reference: str = "pytorch",
            tolerance: AnyTolerance = (), judges: Sequence[str] = (), labels: AnyLabels | None = None,
            calibration: AnySamples | None = None,
            shapes: Mapping[str, Sequence[int]] | None = None, samples: int = 1, seed: int = 0,
            optimization: str = "all", threads: int | None = None, fixes: bool = False,
            progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Report:
    """Run a model on a reference and on candidates with the same inputs, and say at which tensor they part.

    >>> import parity
    >>> report = parity.compare("fixtures/digits_cnn/model.onnx", candidates=["onnxruntime", "pytorch:fp64"])
    >>> report.verdict
    'parity'
    >>> report.layers[["target", "tensor", "op"]].head(1).values.tolist()
    [['onnxruntime', 'conv2d', 'Conv']]

    Args:
        model: the reference: a path, an `onnx.ModelProto`, or a `Model`; or an `nn.Module` or exported program, which
            is exported on the first of `inputs`, and then held against its export as the candidate "module".
        inputs: arrays or tensors by input name, or in the model's order; one alone for the only input; several such
            mappings for several samples; a file as for `--input`; None for seeded ones.
        candidates: targets ("onnxruntime:int8"), other models or files of tensors (a folder with a slash in its
            name, or as a Path); those that are models run on every target given, else on onnxruntime. None at all
            means the same as no `-c`.
        reference: target of the reference.
        tolerance: metric or judge → limit, or what `--tolerance` takes; empty for the default of each precision.
        judges: what `--judge` takes.
        labels: class labels, integers [N], or a file of them.
        calibration: samples for INT8 ranges, or a file or folder; None takes the inputs.
        shapes: of seeded inputs.
        samples: how many seeded inputs.
        seed: for these.
        optimization: graph optimisation of the runtime: "off", "basic", "extended" or "all".
        threads: within an operator; None for one a core.
        fixes: look for fixes of what diverges in lower precision, which takes longer.
        progress: is told (what is going on, tensors done, tensors in all).

    Raises:
        ParityError: an argument makes no sense, or the reference cannot run. What befalls a candidate is in the report.
    """
    return compare_asked(Asked(model, candidates, inputs, reference, tolerance, judges, labels, calibration, shapes,
                               samples, seed, optimization, threads, fixes), progress)


def compare_asked(asked: Asked, progress: Progress = lambda what, done, total: None) -> Report:
    """Do as `compare` does with arguments that were checked.

    Raises:
        ParityError: as `compare`.
    """
    try:
        return _compared(asked, progress)
    except ParityError as error:
        error.message, error.hint = without_options(error.message), without_options(error.hint)
        raise


def _compared(asked: Asked, progress: Progress) -> Report:
    source = source_of(asked.model)
    loaded = _loaded(asked, source)
    targets = [Target.parse(c) for c in asked.candidates if isinstance(c, str) and not is_file(c)]
    reference = Target.parse(asked.reference)
    check_originals(targets, given=source is not None)
    for target in (reference, *(t for t in targets if not is_original(t))):
        backend_of(target)
    files = _files(asked)
    limits, rest = task_limits(asked.tolerances)
    tolerance = Tolerance.parse(rest, alone=bool(limits))
    feeds, facts = _feeds(loaded, asked, files)
    original = None if source is None else original_of(source, loaded, feeds[0])
    run = RunOptions(asked.optimization, seed=int(asked.seed))
    return told_by(original, compare_feeds(
        loaded, _contenders(asked, targets, files, original), feeds, facts, reference,
        Options(run if asked.threads is None else replace(run, threads=int(asked.threads)), tolerance,
                labels=_labels(asked.labels), calibration=calibration_of(loaded, asked.calibration),
                judges=asked.judges, task_limits=limits, fixes=asked.fixes, progress=progress,
                command=asked.command() or IN_MEMORY)))


def _contenders(asked: Asked, targets: Sequence[Target], files: Sequence[Path], original: Original | None,
                ) -> list[Contender]:
    others = [load_model(c) for c in asked.candidates if not is_path(c)]
    found = contenders_of(files, targets) if files or not others else []
    found += [Contender(target, other) for other in others for target in targets or [Target("onnxruntime")]]
    return [*of_original(original, targets), *found]


def load_model(model: object) -> Model:
    """The model that a path, a proto or a `Model` is.

    Raises:
        ModelError: it cannot be read.
        UsageError: it is none of these.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, PathLike)):
        return Model.load(Path(fspath(model)))
    if isinstance(model, ModelProto):
        return Model.from_proto(model)
    raise UsageError(f"a {type(model).__name__} is no model",
                     "Give a path, an onnx.ModelProto, a parity Model or a torch.nn.Module.")


def model_of(asked: Asked) -> Model:
    """The model as it is compared: of a module, its export.

    Raises:
        ParityError: it cannot be read or exported.
    """
    return _loaded(asked, source_of(asked.model))


def first_feed(model: Model, asked: Asked) -> Feed:
    """The first of the inputs that a comparison runs on.

    Raises:
        ParityError: they cannot be read or made, or do not fit the model.
    """
    return _feeds(model, asked, _files(asked))[0][0]


def _files(asked: Asked) -> list[Path]:
    return [Path(fspath(c)) for c in asked.candidates if is_path(c) and is_file(c)]


def _loaded(asked: Asked, source: SourceModel | None) -> Model:
    return load_model(asked.model) if source is None else _exported(source, asked)


def _exported(source: SourceModel, asked: Asked) -> Model:
    """The model's ONNX, made on the first of the inputs."""
    from parity.source_model.exporting import export

    if asked.inputs is None or isinstance(asked.inputs, (str, PathLike)):
        files = () if asked.inputs is None else (fspath(asked.inputs),)
        return export(source, read_example(source, files, asked.shape_texts, asked.seed)).model
    first = _sets(asked.inputs)[0]
    if isinstance(first, Mapping):
        return export(source, {name: _array(value) for name, value in first.items()}).model
    return export(source, [_array(value) for value in first]).model


def _feeds(model: Model, asked: Asked, files: Sequence[Path]) -> tuple[Sequence[Feed], tuple[InputFacts, ...]]:
    if asked.inputs is None or isinstance(asked.inputs, (str, PathLike)):
        named = () if asked.inputs is None else (fspath(asked.inputs),)
        return feeds_of(model, Request(Path(), files, inputs=named, shapes=asked.shape_texts,
                                       samples=int(asked.samples)), int(asked.seed))
    feeds = _given(model, asked.inputs)
    facts = tuple(InputFacts(n, v.dtype.name, v.shape, "given in Python") for n, v in feeds[0].items())
    return feeds, facts


def _given(model: Model, inputs: Values | Sequence[Mapping[str, object]]) -> list[Feed]:
    feeds = []
    for values in _sets(inputs):
        feed = _named(model, values)
        check_feed(model, feed)
        feeds.append(feed)
    return feeds


def _sets(inputs: Values | Sequence[Mapping[str, object]]) -> list[Mapping[str, object] | Sequence[object]]:
    """The sets of inputs, one or several."""
    if isinstance(inputs, Mapping):
        return [inputs]
    if hasattr(inputs, "__array__"):  # one array or tensor, whose rows are not inputs
        return [[inputs]]
    if not isinstance(inputs, Sequence):
        raise UsageError(f"inputs of type {type(inputs).__name__} are none that parity knows",
                         "Give arrays by name, a list of them in the model's order, or a file.")
    if not inputs:
        raise FeedError("there are no inputs", "Give at least one set of them, or None for seeded ones.")
    sets = [value for value in inputs if isinstance(value, Mapping)]
    return list(sets) if len(sets) == len(inputs) else [inputs]


def _named(model: Model, values: Mapping[str, object] | Sequence[object]) -> Feed:
    names = [spec.name for spec in model.graph.inputs]
    if isinstance(values, Mapping):
        return {name: _array(value) for name, value in values.items()}
    if len(values) != len(names):
        raise FeedError(f"{len(values)} inputs are given; the model has {len(names)}: {', '.join(names)}",
                        "Give one for each, in this order, or by name.")
    return {name: _array(value) for name, value in zip(names, values, strict=True)}


def _array(value: object) -> np.ndarray:
    """A numpy array of anything that is one, a tensor that requires gradients or sits on a GPU among them.

    Raises:
        FeedError: it is a list of lists of unequal lengths, say, or holds several inputs.
    """
    if isinstance(value, (Mapping, list, tuple)) and any(_holds_arrays(part) for part in (
            value.values() if isinstance(value, Mapping) else value)):
        raise FeedError(f"a {type(value).__name__} of arrays is given as one input",
                        "Inputs are arrays by name or in order. Where forward takes a dict or a list, wrap it in a "
                        "module whose forward takes each tensor of its own and puts them together.")
    try:
        return to_numpy(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise FeedError(f"a {type(value).__name__} is no array ({error})", "Give numpy arrays or tensors.") from error


def _holds_arrays(value: object) -> bool:
    return isinstance(value, (Mapping, np.ndarray, torch.Tensor))


def _labels(given: AnyLabels | None) -> np.ndarray | None:
    if given is None or is_path(given):
        return None if given is None else load_labels(Path(fspath(given)))
    labels = _array(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise FeedError(f"labels are {labels.dtype} of shape {list(labels.shape)}", "Give integers [N], one a row.")
    return labels


def calibration_of(model: Model, given: AnySamples | None) -> Calibration | None:
    """Calibration samples as `compare` takes them; None where there are none.

    Raises:
        ParityError: they cannot be read, or do not fit the model.
    """
    if given is None:
        return None
    if isinstance(given, (str, PathLike)):
        return Calibration.load(model, Path(fspath(given)))
    sets = [given] if isinstance(given, Mapping) else list(given)
    wrong = next((each for each in sets if not isinstance(each, Mapping)), None)
    if wrong is not None:
        raise UsageError(f"calibration holds a {type(wrong).__name__}, which is no sample",
                         "Give a list of samples, each arrays by name, or a file or folder.")
    feeds = [_named(model, values) for values in sets if isinstance(values, Mapping)]
    return replace(Calibration.of_feeds(model, feeds), source=f"{len(feeds)} samples given in Python")
