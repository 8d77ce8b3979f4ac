"""Which argument of the module each input of an ONNX graph is, where the names do not say."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
from torch.fx import GraphModule

from parity.errors import FeedError, ParityError
from parity.figures import number
from parity.graph.executor import Executor
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, tensor_of, to_numpy
from parity.source_model.layout import distance
from parity.source_model.source import SourceModel

Arrays = Mapping[str, np.ndarray]
# Ways to hand over the inputs that are tried.
_MOST = 32
# Relative L2 up to which outputs are the same but for rounding, and how much farther the next best way must be where
# the export is wrong and even the best is off.
_SAME, _CLEARLY = 1e-4, 2


def bound(source: SourceModel, model: Model, feed: Arrays) -> SourceModel:
    """The module with the arguments of those inputs that are not named after one, and may be one of several.

    An exporter drops an argument that is None, and the older one gives what follows a name of its own. Tried is every
    way that keeps the order; the one taken is that with which the module returns what the graph does.

    Args:
        source: the module.
        model: its export.
        feed: of the export.

    Raises:
        FeedError: no way is clearly the best.
    """
    ways = list(islice(_ways(source, list(feed)), _MOST))
    if len(ways) < 2:
        return source if not ways else replace(source, given=tuple(ways[0].items()))
    given = [replace(source, given=tuple(way.items())) for way in ways]
    apart = _apart(given, model, feed)
    equal = [i for i, error in enumerate(apart) if error <= _SAME]
    if len(equal) > 1:  # they differ on other inputs perhaps
        control = _apart([given[i] for i in equal], model, _control(model, feed))
        return given[equal[control.index(min(control))]]
    best, second, *_ = sorted(apart)
    if math.isinf(best):
        return source
    if best > _SAME and second < best * _CLEARLY:
        unnamed = ", ".join(map(repr, ways[0]))
        raise FeedError(f"{model.name} does not say which arguments of {source.name} its inputs {unnamed} are, and no "
                        f"way to give them makes its outputs those of the .onnx ({number(best)} at best, relative L2)",
                        "Export with input_names=[…], the names of forward's parameters.")
    return given[apart.index(best)]


def _ways(source: SourceModel, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """The arguments that the inputs may be which are not named after one; nothing where their order says it."""
    if source.scripted or isinstance(source.module, GraphModule):
        return
    parameters = inspect.signature(source.module.forward).parameters
    known = [n for n in names if n in parameters]
    unnamed = [n for n in names if n not in parameters]
    kinds = {p.kind for p in parameters.values()}
    if not unnamed or len(names) >= len(parameters) or not kinds <= {
            inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        return
    needed = {n for n, p in parameters.items() if p.default is p.empty}
    for picked in combinations([n for n in parameters if n not in known], len(unnamed)):
        if needed <= {*known, *picked}:
            yield dict(zip(unnamed, picked, strict=True))


def _apart(sources: Sequence[SourceModel], model: Model, feed: Arrays) -> list[float]:
    """How far the outputs of each are from the graph's: the largest relative L2, infinite where it does not run."""
    try:
        found = Executor(model).run(feed)
    except ParityError:
        return [math.inf] * len(sources)
    theirs = [to_numpy(found[o.name]) for o in model.graph.outputs if is_tensor(found[o.name])]
    errors = []
    for source in sources:
        try:
            ours = source.run(feed)
        except ParityError:
            ours = []
        same = len(ours) == len(theirs) and all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
        errors.append(max((_distance(b, a) for a, b in zip(ours, theirs, strict=True)), default=0.0) if same
                      else math.inf)
    return errors


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    apart = distance(tensor_of(one), tensor_of(other))
    return math.inf if math.isnan(apart) else apart


def _control(model: Model, feed: Arrays) -> Arrays:
    try:
        return seeded_feed(model, 1, {name: array.shape for name, array in feed.items()})[0]
    except ParityError:
        return feed
