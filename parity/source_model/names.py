"""Carry lines and module paths over to a model that lost them: simplified, optimised, converted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from parity.graph.executor import Executor
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value
from parity.graph.survey import survey
from parity.source_model.evidence import MOVES
from parity.source_model.mapping import How
from parity.source_model.matching import map_tensors
from parity.source_model.naming import Located
from parity.source_model.place import Place, place_of
from parity.source_model.trace import Activation, Trace


def names_from(original: Model, other: Model, feed: Mapping[str, np.ndarray] | None = None) -> Mapping[str, Place]:
    """Where the tensors of a model come from, by another that still knows.

    Tensors of one name are brought together where they are equal in FP64, and the rest by value and by the graph around
    them; then a node between others has the place that what it reads and what reads it have in common.

    Args:
        original: has the exporter's metadata, or its names.
        other: has lost them.
        feed: of both; None for a seeded one.

    Returns:
        Places by tensor of `other`; those that nothing tells are left out.

    Raises:
        ModelError: one of the two does not run on the feed.
    """
    given = seeded_feed(original, 0)[0] if feed is None else feed
    trace = trace_of_graph(survey(original, given).flat, given)
    flat = survey(other, given).flat
    control = {n: _varied(a) for n, a in given.items()}
    located = {name: Located(name, How.NAME) for node in flat.graph.nodes for name in node.outputs
               if name in trace.values}
    found = map_tensors(flat, given, trace, control, trace_of_graph(survey(original, control).flat, control), located)
    return {name: match.place for name, match in found.matches.items()
            if match.agrees and (match.place.file or match.place.module)}


def trace_of_graph(flat: Model, feed: Mapping[str, np.ndarray]) -> Trace:
    """A run of an ONNX graph in FP64, in the form that runs of PyTorch models have.

    Args:
        flat: functions and branches inlined.
        feed: a value for every input.
    """
    executor = Executor(flat, Arithmetic.DOUBLE)
    nowhere = Place()
    activations = {n: Activation(n, "input", (), n, nowhere) for n in feed}
    activations.update((n, Activation(n, "parameter", (), n, nowhere)) for n in flat.graph.initializers)
    scope: dict[str, Value] = executor.scope(feed)
    values = {n: v for n, v in scope.items() if n in feed and isinstance(v, torch.Tensor) and v.is_floating_point()}
    for step in executor.steps(feed):
        place = place_of(step.node)
        source = step.node.inputs[0] if step.node.inputs else ""
        for name, value in step.values.items():
            root = name
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                values[name] = value
                if step.node.op in MOVES and source in values and values[source].numel() == value.numel():
                    root = activations[source].root
            reads = tuple(n for n in step.node.reads if n in activations)
            activations[name] = Activation(name, step.node.op, reads, root, place)
    return Trace(activations, values, tuple(o.name for o in flat.graph.outputs))


def _varied(array: np.ndarray) -> np.ndarray:
    """Other values of the same kind: what is whole only changes its order, so that indices stay within range."""
    if array.dtype.kind != "f":
        return np.ascontiguousarray(np.flip(array))
    noise = np.random.default_rng(1).normal(size=array.shape)
    return (array + noise * (float(np.std(array)) or 1.0) * 0.3).astype(array.dtype)
