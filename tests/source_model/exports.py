"""Exports of the test models, by both exporters, and how a map is held against the truth."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic
from parity.graph.scratch import temporary_folder
from parity.graph.survey import survey
from parity.source_model.layout import distance
from parity.source_model.loading import source_of_module
from parity.source_model.mapping import Match, TensorMap
from parity.source_model.matching import map_tensors
from parity.source_model.source import SourceModel
from parity.source_model.trace import Trace
from tests.source_model.models import made

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A module, its export, and runs of both on two inputs.

    Attributes:
        source: the module.
        flat: its export, flat.
        feeds: two of them.
        traces: of the module in FP64.
    """

    source: SourceModel
    flat: Model
    feeds: tuple[Arrays, Arrays]
    traces: tuple[Trace, Trace]

    def mapped(self, flat: Model | None = None) -> TensorMap:
        """The map of the export, or of another graph in its place."""
        return map_tensors(flat or self.flat, self.feeds[0], self.traces[0], self.feeds[1], self.traces[1])


def exported(module: nn.Module, inputs: tuple[Tensor, ...], *, dynamo: bool, opset: int) -> Model:
    """What one of torch's exporters makes of a module."""
    with warnings.catch_warnings(), temporary_folder() as folder:
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(module, inputs, dynamo=True, opset_version=opset, verbose=False)
            assert program is not None
            return Model.from_proto(program.model_proto)
        path = Path(folder) / "model.onnx"
        torch.onnx.export(module, inputs, path, dynamo=False, opset_version=opset)
        return Model.from_proto(onnx.load(str(path)))


def feed_of(model: Model, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Inputs in the graph's order, under its names."""
    return {spec.name: tensor.numpy() for spec, tensor in zip(model.graph.inputs, inputs, strict=True)}


@cache
def case(name: str, *, dynamo: bool, opset: int) -> Case:
    """One of the test models, exported."""
    module, inputs = made(name)
    model = exported(module, inputs, dynamo=dynamo, opset=opset)
    feeds = feed_of(model, inputs), feed_of(model, made(name, 1)[1])
    source = source_of_module(module, name)
    first, second = (source.trace(feed, double=True) for feed in feeds)
    return Case(source, survey(model, feeds[0]).flat, feeds, (first, second))


def wrong_matches(name: str, found: TensorMap, *, dynamo: bool, opset: int) -> Iterator[Match]:
    """The matches that do not hold with other inputs and other weights.

    Every weight of the module is changed by itself, so that what was equal by chance, twins included, is not any more
    (a weight that is tied stays tied); the module is exported again, and each tensor of the new export is held against
    the activation that the map says it is.
    """
    module, inputs = made(name)
    module = copy.deepcopy(module)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1 + 0.3 * torch.rand_like(weight)).add_(0.1 * torch.randn_like(weight))
    model = exported(module, inputs, dynamo=dynamo, opset=opset)
    feed = feed_of(model, made(name, 2)[1])
    flat = survey(model, feed).flat
    names = [n for n in found.matches if n in flat.graph.producer]
    values = Executor(flat, Arithmetic.DOUBLE).run(feed, names)
    trace = source_of_module(module, name).trace(feed, double=True)
    for match in (found.matches[n] for n in names):
        held, value = trace.values.get(match.activation), values[match.tensor]
        assert isinstance(value, torch.Tensor)
        if held is not None and distance(value, match.layout.apply(held)) > 1e-4:
            yield match
