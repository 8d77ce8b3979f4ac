"""What the command line names: what is held against the reference, on which inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.errors import FeedError, UsageError
from parity.graph.feeds import Feed, load_arrays, load_feed, parse_shape, seeded_feed
from parity.graph.model import Model
from parity.report.record import InputFacts
from parity.targets import Target

_DEFAULT = Target("onnxruntime")


@dataclass(frozen=True)
class Contender:
    """Something to hold against the reference.

    Attributes:
        target: where it runs; None for tensors taken elsewhere.
        model: another model than the reference's; None for the same.
        tensors: a file of tensors.
        asked: named by the user, so that it must be able to run.
    """

    target: Target | None
    model: Model | None = None
    tensors: Path | None = None
    asked: bool = True

    def __str__(self) -> str:
        if self.tensors is not None:
            return str(self.tensors)
        return f"{self.target}" if self.model is None else f"{self.model.name} on {self.target}"


def contenders_of(files: Sequence[Path], targets: Sequence[Target]) -> list[Contender]:
    """Read what the command line names.

    Args:
        files: other models (.onnx), each run on every target, and files of tensors (.npz).
        targets: where to run; with none, a model runs on onnxruntime.

    Raises:
        UsageError: a file of another kind.
        ModelError: a model that cannot be read.
    """
    found = []
    for path in files:
        if path.suffix == ".npz":
            found.append(Contender(None, tensors=path))
        elif path.suffix == ".onnx":
            other = Model.load(path)
            found.extend(Contender(target, other) for target in targets or [_DEFAULT])
        else:
            raise UsageError(f"candidate file {path} is neither a model (.onnx) nor tensors (.npz)",
                             "Give a .onnx, a .npz, or a target with -c.")
    if not files:
        found = [Contender(t) for t in targets] or [Contender(_DEFAULT, asked=False)]
    return found


def feeds_of(model: Model, files: Sequence[str], shapes: Sequence[str], seed: int, samples: int,
             ) -> tuple[list[Feed], tuple[InputFacts, ...]]:
    """The inputs to run: the user's files, or as many seeded feeds as samples are wanted.

    Raises:
        FeedError: they cannot be read or made, or do not fit the model.
        UsageError: a malformed shape, or shapes or samples beside files.
    """
    if files:
        if shapes or samples > 1:
            raise UsageError("--shape and --samples are for seeded inputs, and --input gives the values themselves",
                             "Leave out one or the other.")
        feed, sources = load_feed(model, files)
        feeds = [feed]
    else:
        wanted = dict(parse_shape(text) for text in shapes)
        feed, sources = seeded_feed(model, seed, wanted)
        found = {name: value.shape for name, value in feed.items()}
        feeds = [feed, *(seeded_feed(model, seed, found, sample)[0] for sample in range(1, samples))]
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


def inputs_among(files: Sequence[Path], model: Model) -> list[str]:
    """The file of tensors, if any, that holds a model's inputs too: what it was taken with."""
    wanted = {spec.name for spec in model.graph.inputs}
    return [str(f) for f in files if f.suffix == ".npz" and wanted and wanted <= load_arrays(f).keys()][:1]
