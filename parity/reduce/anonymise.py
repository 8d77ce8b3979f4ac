"""Seeded values in place of a part's own, of the same distribution, so that it can be shown to others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from onnx import numpy_helper

from parity.graph.model import Model, shallow_copy
from parity.reduce.part import Part

# Values are drawn by the inverse of the distribution function, linear between this many quantiles: signs, extremes
# and tails stay as they are, so that variances stay positive and indices within their tables.
_QUANTILES = np.linspace(0, 1, 17)


@dataclass(frozen=True, eq=False)
class Anonymised:
    """A part with other values.

    Attributes:
        part: the part.
        replaced: names of the inputs and weights with seeded values.
        kept: names of those, of more than one element, that still have their own.
    """

    part: Part
    replaced: tuple[str, ...]
    kept: tuple[str, ...]


def anonymised(part: Part, seed: int) -> Iterator[Anonymised]:
    """Parts with fewer and fewer seeded values, to be tried in this order.

    Weights in which the two sides differ are kept in each: the fault may be in them. So are integer weights of 32
    and 64 bits, which are shapes and axes.

    Args:
        part: to be replaced.
        seed: of the values.
    """
    weights = _common_weights(part)
    inputs = [n for n, v in part.feed.items() if v.size > 1 and v.dtype.kind in "fiu"]
    floats = [n for n in inputs if part.feed[n].dtype.kind == "f"]
    tried: list[tuple[list[str], list[str]]] = []
    for fed, held in ((inputs, weights), (floats, weights), ([], weights), (inputs, [])):
        if (fed or held) and (fed, held) not in tried:
            tried.append((fed, held))
            yield _with_seeded(part, fed, held, seed)


def plain(model: Model) -> Model:
    """The model without the texts that exporters leave in it: documentation, metadata, source lines."""
    proto = shallow_copy(model.proto)
    proto.graph.name = "repro"
    proto.ClearField("producer_name")
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        for name in ("doc_string", "metadata_props"):
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
    return replace(model, proto=proto)


def _with_seeded(part: Part, inputs: Collection[str], weights: Collection[str], seed: int) -> Anonymised:
    random = np.random.default_rng(seed)
    feed = {n: _drawn(v, random) if n in inputs else v for n, v in part.feed.items()}
    values = {n: _drawn(part.candidate.weight(n), random) for n in weights}
    other = Part(plain(_with_weights(part.candidate, values)), plain(_with_weights(part.reference, values)), feed)
    names = [*(n for n, v in feed.items() if v.size > 1),
             *(n for n, t in other.candidate.graph.initializers.items() if np.prod(t.dims) > 1)]
    replaced = (*inputs, *weights)
    return Anonymised(other, replaced, tuple(n for n in names if n not in replaced))


def _common_weights(part: Part) -> list[str]:
    """Weights that both sides hold alike."""
    both = part.candidate.graph.initializers.keys() & part.reference.graph.initializers.keys()
    return [n for n in part.candidate.graph.initializers if n in both and _drawable(part.candidate.weight(n))
            and _same(part.candidate.weight(n), part.reference.weight(n))]


def _drawable(value: np.ndarray) -> bool:
    return value.size > 1 and (value.dtype.kind == "f" or value.dtype.name in ("int8", "uint8", "bfloat16"))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _drawn(value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Seeded values of the same distribution; NaN and Inf stay where they are."""
    wide = np.asarray(value).astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.any():
        return value
    ends = np.quantile(wide[finite], _QUANTILES)
    drawn = np.where(finite, np.interp(random.random(wide.shape), _QUANTILES, ends), wide)
    return (drawn if value.dtype.kind == "f" or value.dtype.name == "bfloat16" else drawn.round()).astype(value.dtype)


def _with_weights(model: Model, values: dict[str, np.ndarray]) -> Model:
    proto = shallow_copy(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return replace(model, proto=proto)
