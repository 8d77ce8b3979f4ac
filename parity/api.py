"""parity in Python: `parity.compare(model, inputs, candidates=[…])` returns the Report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from parity.analysis.tasks import task_limits
from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed, RunOptions, backend_of
from parity.compare import Options, told_by
from parity.compare import compare as compare_feeds
from parity.contenders import Contender, Request, contenders_of, feeds_of, load_labels, of_original
from parity.errors import FeedError, UsageError
from parity.graph.feeds import check_feed
from parity.graph.model import Model
from parity.original import check_originals, is_original, original_of, read_example, source_of
from parity.precision.calibration import Calibration
from parity.report.record import InputFacts, Report
from parity.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn
    from torch.export import ExportedProgram

    from parity.source_model.source import SourceModel

AnyModel: TypeAlias = "str | PathLike[str] | ModelProto | Model"
AnySource: TypeAlias = "nn.Module | ExportedProgram"
# One set of inputs: arrays or tensors by name, or in the model's order.
Values: TypeAlias = Mapping[str, object] | Sequence[object]
AnyInputs: TypeAlias = "Values | Sequence[Mapping[str, object]] | str | PathLike[str]"
_FILES = (".onnx", ".npz", ".npy", ".safetensors", ".json")


def compare(model: AnyModel | AnySource, inputs: AnyInputs | None = None, *,
            candidates: Sequence[AnyModel] = (), reference: str = "pytorch",
            tolerance: Mapping[str, float] | Sequence[str] | str = (), judges: Sequence[str] = (),
            labels: np.ndarray | str | PathLike[str] | None = None,
            calibration: Sequence[Mapping[str, object]] | str | PathLike[str] | None = None,
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
        inputs: arrays or tensors by input name, or in the model's order; several such mappings for several samples; a
            file as for `--input`; None for seeded ones.
        candidates: targets ("onnxruntime:int8"), other models or files of tensors; those that are models run on every
            target given, else on onnxruntime. None at all means the same as no `-c`.
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
    source = source_of(model)
    loaded = load_model(model) if source is None else _exported(source, inputs, shapes or {}, seed)
    targets = [Target.parse(c) for c in candidates if isinstance(c, str) and not _is_file(c)]
    files = [Path(fspath(c)) for c in candidates if isinstance(c, (str, PathLike)) and _is_file(c)]
    others = [load_model(c) for c in candidates if not isinstance(c, (str, PathLike))]
    check_originals(targets, given=source is not None)
    for target in (Target.parse(reference), *(t for t in targets if not is_original(t))):
        backend_of(target)
    contenders = contenders_of(files, targets) if files or not others else []
    contenders += [Contender(target, other) for other in others for target in targets or [Target("onnxruntime")]]
    feeds, facts = _feeds(loaded, inputs, shapes or {}, samples, seed, files)
    original = None if source is None else original_of(source, loaded, feeds[0])
    contenders = [*of_original(original, targets), *contenders]
    limits, rest = task_limits([tolerance] if isinstance(tolerance, str) else _texts(tolerance))
    run = RunOptions(optimization, seed=seed)
    return told_by(original, compare_feeds(loaded, contenders, feeds, facts, Target.parse(reference), Options(
        run if threads is None else replace(run, threads=threads), Tolerance.parse(rest, alone=bool(limits)),
        labels=load_labels(Path(fspath(labels))) if isinstance(labels, (str, PathLike)) else labels,
        calibration=_calibration(loaded, calibration), judges=judges, task_limits=limits, fixes=fixes,
        progress=progress)))


def load_model(model: AnyModel) -> Model:
    """The model that a path, a proto or a `Model` is.

    Raises:
        ModelError: it cannot be read.
        UsageError: it is none of these.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, PathLike)):
        return Model.load(Path(fspath(model)))
    if type(model).__name__ == "ModelProto":
        return Model.from_proto(model)
    raise UsageError(f"a {type(model).__name__} is no model",
                     "Give a path, an onnx.ModelProto, a parity Model or a torch.nn.Module.")


def _exported(source: SourceModel, inputs: AnyInputs | None, shapes: Mapping[str, Sequence[int]], seed: int) -> Model:
    """The model's ONNX, made on the first of the inputs."""
    from parity.source_model.exporting import export

    if inputs is None or isinstance(inputs, (str, PathLike)):
        files = () if inputs is None else (fspath(inputs),)
        example = read_example(source, files, [f"{n}={'x'.join(map(str, s))}" for n, s in shapes.items()], seed)
        return export(source, example).model
    first = _sets(inputs)[0]
    if isinstance(first, Mapping):
        return export(source, {name: _array(value) for name, value in first.items()}).model
    return export(source, [_array(value) for value in first]).model


def _is_file(candidate: str | PathLike[str]) -> bool:
    """Whether it is a path rather than a target such as "pytorch.compile"."""
    return not isinstance(candidate, str) or candidate.endswith(_FILES) or Path(candidate).exists()


def _texts(tolerance: Mapping[str, float] | Sequence[str]) -> list[str]:
    if isinstance(tolerance, Mapping):
        return [f"{name}={float(limit)!r}" for name, limit in tolerance.items()]
    return list(tolerance)


def _feeds(model: Model, inputs: AnyInputs | None, shapes: Mapping[str, Sequence[int]], samples: int, seed: int,
           files: Sequence[Path]) -> tuple[Sequence[Feed], tuple[InputFacts, ...]]:
    if inputs is None or isinstance(inputs, (str, PathLike)):
        texts = [f"{name}={'x'.join(map(str, sizes))}" for name, sizes in shapes.items()]
        named = () if inputs is None else (fspath(inputs),)
        return feeds_of(model, Request(Path(), files, inputs=named, shapes=texts, samples=samples), seed)
    feeds = _given(model, inputs)
    facts = tuple(InputFacts(n, v.dtype.name, v.shape, "given in Python") for n, v in feeds[0].items())
    return feeds, facts


def _given(model: Model, inputs: Values | Sequence[Mapping[str, object]]) -> list[Feed]:
    feeds = []
    for values in _sets(inputs):
        feed = _named(model, values)
        check_feed(model, feed)
        feeds.append(feed)
    return feeds


def _sets(inputs: Values | Sequence[Mapping[str, object]]) -> list[Values]:
    """The sets of inputs, one or several."""
    one = isinstance(inputs, Mapping) or not all(isinstance(i, Mapping) for i in inputs)
    sets: list[Values] = [inputs] if one else list(inputs)  # type: ignore[arg-type] # looked at above
    if not sets:
        raise FeedError("there are no inputs", "Give at least one set of them, or None for seeded ones.")
    return sets


def _named(model: Model, values: Values) -> Feed:
    names = [spec.name for spec in model.graph.inputs]
    if isinstance(values, Mapping):
        return {name: _array(value) for name, value in values.items()}
    if len(values) != len(names):
        raise FeedError(f"{len(values)} inputs are given; the model has {len(names)}: {', '.join(names)}",
                        "Give one for each, in this order, or by name.")
    return {name: _array(value) for name, value in zip(names, values, strict=True)}


def _array(value: object) -> np.ndarray:
    """A numpy array of anything that is one, a tensor that requires gradients or sits on a GPU among them."""
    detach = getattr(value, "detach", None)
    return np.asarray(value if detach is None else detach().cpu().numpy())


def _calibration(model: Model,
                 given: Sequence[Mapping[str, object]] | str | PathLike[str] | None) -> Calibration | None:
    if given is None:
        return None
    if isinstance(given, (str, PathLike)):
        return Calibration.load(model, Path(fspath(given)))
    feeds = [_named(model, values) for values in given]
    return replace(Calibration.of_feeds(model, feeds), source=f"{len(feeds)} samples given in Python")
