"""What the command line names: what is held against the reference, on which inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parity.backends.base import backend_of
from parity.backends.planted import Fault
from parity.backends.trt import driver
from parity.errors import BackendFailed, BackendUnavailable, FeedError, UsageError
from parity.graph.dumps.dump import declared_dtypes, fitted, split_runner
from parity.graph.dumps.read import holds_tensors, read_dump
from parity.graph.feeds import Feed, load_arrays, load_feed, parse_shape, seeded_feed
from parity.graph.model import Model
from parity.graph.shapes import parse_range
from parity.original import MODULE, Original, is_original
from parity.report.record import InputFacts
from parity.targets import VARIANTS, Target

if TYPE_CHECKING:
    from parity.source_model.source import SourceModel

_DEFAULT = Target("onnxruntime")
_TENSORRT = tuple(Target("tensorrt", "", precision) for precision in ("fp32", "fp16", "int8"))
# What lower precision would do, where there is no hardware for it.
_FORECASTS = (Target("pytorch", "", "fp16"), Target("pytorch", "", "int8"))


@dataclass(frozen=True)
class Request:
    """What the command line names, still as text and paths.

    Attributes:
        model: the reference's .onnx.
        files: other models and files of tensors.
        reference: target of the reference.
        targets: targets of the candidates; none for the default.
        inputs: files of inputs, or NAME=FILE; none for seeded ones.
        labels: a file of class labels.
        shapes: NAME=AxBxC of seeded inputs.
        samples: how many seeded feeds to make.
        calibration: a file or folder of samples for INT8 ranges.
        source: the PyTorch model that `model` was exported from.
        names_from: the .onnx that `model` was made from, which still knows source lines and module paths.
    """

    model: Path
    files: Sequence[Path] = ()
    reference: str = "pytorch"
    targets: Sequence[str] = ()
    inputs: Sequence[str] = ()
    labels: Path | None = None
    shapes: Sequence[str] = ()
    samples: int = 1
    calibration: Path | None = None
    source: SourceModel | None = None
    names_from: Path | None = None


@dataclass(frozen=True)
class Contender:
    """Something to hold against the reference.

    Attributes:
        target: where it runs; None for tensors taken elsewhere.
        model: another model than the reference's; None for the same.
        tensors: a file of tensors.
        asked: named by the user, so that it must be able to run.
        fault: planted in what it runs but not in what it is judged by, to test the judging itself.
        original: the user's module, which runs in place of the model.
    """

    target: Target | None
    model: Model | None = None
    tensors: Path | None = None
    asked: bool = True
    fault: Fault | None = None
    original: Original | None = None

    @property
    def emulated(self) -> bool:
        """Whether it is a forecast, made without the runtime that it is about."""
        return self.target is not None and self.target.backend == "pytorch" and self.target.precision in VARIANTS

    def __str__(self) -> str:
        if self.tensors is not None:
            return str(self.tensors)
        return f"{self.target}" if self.model is None else f"{self.model.name} on {self.target}"


def contenders_of(files: Sequence[Path], targets: Sequence[Target]) -> list[Contender]:
    """Read what the command line names.

    Args:
        files: other models (.onnx), each run on every target, and files or folders of tensors.
        targets: where to run the other models, or, where there are none, the reference; with none, another model
            runs on onnxruntime, and, where there are no files, the reference also on TensorRT, or, where that cannot
            run, emulated in lower precision, as a forecast. Those of the user's module are left aside.

    Raises:
        UsageError: a file of another kind.
        ModelError: a model that cannot be read.
    """
    runtimes = [t for t in targets if not is_original(t)]
    found: list[Contender] = []
    for path in files:
        if path.suffix == ".onnx":
            other = Model.load(path)
            found.extend(Contender(target, other) for target in runtimes or [_DEFAULT])
        elif holds_tensors(path):
            found.append(Contender(None, tensors=path))
        else:
            raise UsageError(f"candidate file {path} is neither a model (.onnx) nor tensors (.npz, .npy, .safetensors, "
                             ".json or a folder of them)", "Give one of these, or a target with -c.")
    if all(contender.model is None for contender in found):
        found.extend(Contender(target) for target in runtimes)
    return found or ([] if targets else [Contender(target, asked=False) for target in _defaults()])


def of_original(original: Original | None, targets: Sequence[Target]) -> list[Contender]:
    """The user's module, where there is one: by itself, and as it was asked for besides."""
    own = [MODULE, *filter(is_original, targets)] if original is not None else []
    return [Contender(target, original=original) for target in dict.fromkeys(own)]


def _defaults() -> tuple[Target, ...]:
    return (_DEFAULT, *(_TENSORRT if _runs(_TENSORRT[0]) else _FORECASTS))


def _runs(target: Target) -> bool:
    """Whether a backend can run here; it is asked only where there is a GPU, in a process of its own."""
    try:
        return bool(driver.devices()) and bool(backend_of(target).devices())
    except (BackendUnavailable, BackendFailed):
        return False


def feeds_of(model: Model, request: Request, seed: int) -> tuple[list[Feed], tuple[InputFacts, ...]]:
    """The inputs to run: the user's files, or as many seeded feeds as samples are wanted.

    A file of candidate tensors that holds the inputs too is what they were taken with, so it is fed.

    Raises:
        FeedError: they cannot be read or made, or do not fit the model.
        UsageError: a malformed shape, or shapes or samples beside files.
    """
    dumps = [f for f in request.files if f.suffix != ".onnx"]
    if dumps and request.samples > 1:
        raise UsageError(f"{dumps[0]} holds tensors of one sample, and --samples asks for {request.samples}",
                         "Leave out --samples.")
    files = request.inputs or _inputs_among(dumps, model)
    if files:
        ranges = [parse_range(text)[1] for text in request.shapes]  # what an engine is to accept, whatever is fed
        if any(shape.min == shape.max for shape in ranges) or request.samples > 1:
            raise UsageError("--shape and --samples are for seeded inputs, and --input gives the values themselves",
                             "Leave out one or the other.")
        feed, sources = load_feed(model, files)
        feeds = [feed]
    else:
        feed, sources = seeded_feed(model, seed, dict(parse_shape(text) for text in request.shapes))
        found = {name: value.shape for name, value in feed.items()}
        feeds = [feed, *(seeded_feed(model, seed, found, sample)[0] for sample in range(1, request.samples))]
    facts = tuple(InputFacts(s.name, feed[s.name].dtype.name, feed[s.name].shape, s.text) for s in sources)
    return feeds, facts


def load_labels(path: Path) -> np.ndarray:
    """Class labels, integers [N], from a .npy, or from an .npz under `labels` or as its only array.

    Raises:
        FeedError: the file cannot be read, or holds no such array.
    """
    arrays = load_arrays(path)
    labels = arrays.get("labels", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise FeedError(f"{path} holds no one-dimensional integer array of labels", "Save it under the name `labels`.")
    return labels


def _inputs_among(files: Sequence[Path], model: Model) -> list[str]:
    """The first of these files of tensors that holds all inputs."""
    wanted, known = {spec.name for spec in model.graph.inputs}, declared_dtypes(model)
    return [str(f) for f in files
            if wanted and wanted <= fitted(read_dump(f), known, split_runner(f)[0]).keys()][:1]
