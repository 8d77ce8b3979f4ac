"""Numbers that would explain a tensor: an epsilon, a slope, a bound, found by least squares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import AttributeProto

from parity.analysis.causes.attributes import Alternative, attributes_of, with_attribute, with_input
from parity.analysis.causes.evidence import relative
from parity.analysis.causes.unit import Unit
from parity.graph.graph import Node

_ITERATIONS = 8
# What epsilons are in the libraries that models come from: PyTorch, Keras, Caffe, Darknet, TensorFlow.
_EPSILONS = (0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_LARGEST_EPSILON = 0.1
# They follow what keeps a number away from zero.
_GUARDED = frozenset({"Sqrt", "Log", "Reciprocal", "Div", "Pow"})


def other_numbers(unit: Unit, node: Node) -> Iterator[Alternative]:
    """The numbers of a node, one at a time, as they must be to explain the tensor; only those that do."""
    for name, attribute in attributes_of(node).items():
        if attribute.type == AttributeProto.FLOAT:
            found = _solved(unit, node, attribute.f, _attribute_tried(unit, node, name),
                            _EPSILONS if name == "epsilon" else ())
            if found is not None:
                cause = "wrong-epsilon" if name == "epsilon" else "wrong-attribute"
                yield Alternative(cause, f"{name} {found:g}", with_attribute(node, name, found),
                                  f"{attribute.f:g}", {}, {name: attribute.f, f"other_{name}": found})
    for position, name in enumerate(node.inputs):
        constant = unit.bench.constant(name) if name else None
        if constant is None or constant.size != 1 or constant.dtype.kind != "f":
            continue
        now = float(constant.reshape(()))
        guarded = guards(unit, node, now)
        starts = _EPSILONS if guarded else _bounds(unit) if node.op == "Clip" else ()
        found = _solved(unit, node, now, _input_tried(unit, node, position, constant), starts)
        if found is not None:
            epsilon = guarded and 0 <= found <= _LARGEST_EPSILON
            what = "epsilon" if epsilon else "constant"
            cause = "wrong-epsilon" if epsilon else "wrong-attribute" if node.op == "Clip" else "weights-differ"
            other = f"{name}/other"
            yield Alternative(cause, f"{what} {found:g}", with_input(node, position, other), f"{now:g}",
                              {other: _like(constant, found)}, {what: now, f"other_{what}": found})


def guards(unit: Unit, node: Node, number: float) -> bool:
    """Whether a constant of a node is an epsilon, which keeps what is read next away from zero."""
    readers = unit.bench.model.graph.readers.get(node.outputs[0], ())
    return node.op in ("Add", "Max", "Clip") and any(r.op in _GUARDED for r in readers) and (
        0 < number <= _LARGEST_EPSILON)


def _bounds(unit: Unit) -> Sequence[float]:
    """Where the candidate's values end."""
    return (float(np.min(unit.candidate)), float(np.max(unit.candidate))) if unit.candidate.size else ()


def _attribute_tried(unit: Unit, node: Node, name: str) -> Callable[[float], np.ndarray | None]:
    return lambda value: unit.tried({node.outputs[0]: with_attribute(node, name, float(value))})


def _input_tried(unit: Unit, node: Node, position: int, constant: np.ndarray) -> Callable[[float], np.ndarray | None]:
    name = f"{node.inputs[position]}/other"
    stand = with_input(node, position, name)
    return lambda value: unit.tried({node.outputs[0]: stand}, {name: _like(constant, value)})


def _like(constant: np.ndarray, value: float) -> np.ndarray:
    return np.full(constant.shape, value, np.float64)


def _solved(unit: Unit, node: Node, now: float, tried: Callable[[float], np.ndarray | None],
            starts: Sequence[float]) -> float | None:
    """The number that explains the tensor, by Gauss-Newton; rounded where that explains it as well."""
    at, value = min(((s, _comparable(unit, tried(s))) for s in (now, *starts)),
                    key=lambda found: np.inf if found[1] is None else relative(found[1], unit.candidate))
    candidate = unit.candidate.astype(np.float64)
    for _ in range(_ITERATIONS):
        if value is None:
            return None
        if at != now and unit.explains(value):
            return _rounded(unit, at, tried)
        step = max(abs(at) * 1e-3, 1e-7)
        moved = _comparable(unit, tried(at + step))
        if moved is None:
            return None
        slope = (moved - value).ravel() / step
        with np.errstate(all="ignore"):
            change = float(slope @ (candidate - value).ravel() / (slope @ slope))
        if not np.isfinite(change) or change == 0:
            return None
        at += change
        value = _comparable(unit, tried(at))
    return None


def _comparable(unit: Unit, value: np.ndarray | None) -> np.ndarray | None:
    usable = value is not None and value.shape == unit.candidate.shape and value.dtype.kind == "f"
    return value.astype(np.float64) if usable and value is not None and np.isfinite(value).all() else None


def _rounded(unit: Unit, number: float, tried: Callable[[float], np.ndarray | None]) -> float:
    for digits in range(1, 5):
        nice = float(f"{number:.{digits}g}")
        if unit.explains(tried(nice)):
            return nice
    return number
