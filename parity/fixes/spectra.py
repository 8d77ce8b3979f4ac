"""Roots and logarithms of sums of squares, as spectra have them, without the squares.

√(a² + b² + ε) = 2⁻ʲ·m·√((2ʲa/m)² + (2ʲb/m)² + (√(4ʲε)/m)²) for any m > 0 and any j. With the largest of the three for
m no square overflows, and with j so large that √(4ʲε) is a normal number no small constant is lost. FP16 squares
overflow from 256 on and lose digits below 0.008; constants lose theirs below 2⁻¹⁴. An infinite a or b gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from parity.fixes.match import Neighbourhood
from parity.graph.graph import Node

_BROADCASTING_MAX_OPSET = 8
# FP16's smallest normal number.
_NORMAL = 2.0**-14
# √(4ʲε) is to be this large, and j at most so large: then 2ʲa fits FP16 wherever a² does.
_CLEAR, _LARGEST_SHIFT = 2.0**-12, 8


@dataclass(frozen=True)
class _Squares:
    """What a sum is made of: a² + b² + … + ε."""

    parts: tuple[str, ...]
    epsilon: float

    @property
    def shift(self) -> int:
        """The j of the formula above."""
        if self.epsilon == 0:
            return 0
        return max(0, math.ceil(math.log2(_CLEAR / math.sqrt(self.epsilon))))


def magnitude(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """√(a² + b² + ε) as above."""
    found = _squares(near, near.root(node) or "")
    if found is None or len(found.parts) + bool(found.epsilon) < 2:
        return None
    out = node.outputs[0]
    if not found.shift:
        return _root(near, found, out, out)
    root = near.edit.fresh(f"{out}/large")
    back = near.edit.number(f"2^-{found.shift}", 2.0**-found.shift)
    return [*_root(near, found, out, root), near.make("Mul", [root, back], out)]


def log_power(near: Neighbourhood, node: Node) -> list[NodeProto] | None:
    """By log y = 2·(log(2ʲ√y) - log 2ʲ), y = a² + b² + ε with its root as above."""
    found = _squares(near, node.inputs[0]) if node.op == "Log" else None
    if found is None:
        return None
    out = node.outputs[0]
    root, log, difference = (near.edit.fresh(f"{out}/{part}") for part in ("root", "half", "difference"))
    made = [*_root(near, found, out, root), near.make("Log", [root], log)]
    if found.shift:
        shift = near.edit.fresh(f"{out}/shift")
        power = near.edit.number(f"2^{found.shift}", 2.0**found.shift)
        made += [near.make("Log", [power], shift), near.make("Sub", [log, shift], difference)]
    return [*made, near.make("Mul", [difference if found.shift else log, near.edit.number("2", 2.0)], out)]


def _squares(near: Neighbourhood, name: str) -> _Squares | None:
    """The squares and the one small constant that a tensor is the sum of; None where it has other terms."""
    parts: list[str] = []
    epsilon = 0.0
    waiting = [(name, "")]
    while waiting:
        term, beside = waiting.pop()
        added, square = near.maker(term, "Add"), near.square(term)
        constant = near.number(term, beside) if beside else None
        if square is not None:
            parts.append(square)
        elif added is not None:
            waiting += [(a, b) for a, b in near.either(added)]
        elif constant is not None and 0 < constant < _NORMAL and not epsilon:
            epsilon = constant
        else:
            return None
    found = _Squares(tuple(reversed(parts)), epsilon)
    fits = found.shift <= _LARGEST_SHIFT and near.opset >= _BROADCASTING_MAX_OPSET
    return found if parts and fits else None


def _root(near: Neighbourhood, squares: _Squares, prefix: str, output: str) -> list[NodeProto]:
    """Nodes for 2ʲ√(a² + b² + ε)."""
    made: list[NodeProto] = []

    def add(op: str, inputs: Sequence[str], kind: str) -> str:
        output = near.edit.fresh(f"{prefix}/{kind}")
        made.append(near.make(op, inputs, output))
        return output

    parts = list(squares.parts)
    if squares.shift:
        up = near.edit.number(f"2^{squares.shift}", 2.0**squares.shift)
        parts = [add("Mul", [part, up], "shifted") for part in parts]
    sizes = [add("Abs", [part], "size") for part in parts]
    if len(parts) == 1 and not squares.epsilon:
        return [*made, near.make("Identity", sizes, output)]
    if squares.epsilon:
        # A node takes the root: as a weight it would be rounded to FP32.
        constant = near.edit.number(f"{prefix}/epsilon", squares.epsilon * 4.0**squares.shift)
        parts.append(add("Sqrt", [constant], "root_epsilon"))
    least = parts[-1] if squares.epsilon else near.edit.number("2^-14", _NORMAL)
    largest = add("Max", [*sizes, least], "largest")
    ratios = [add("Div", [part, largest], "ratio") for part in parts]
    total, *rest = [add("Mul", [ratio, ratio], "square") for ratio in ratios]
    for square in rest:
        total = add("Add", [total, square], "sum")
    root = add("Sqrt", [total], "ratio_root")
    return [*made, near.make("Mul", [largest, root], output)]
