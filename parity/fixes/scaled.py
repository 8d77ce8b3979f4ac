"""How each kind of operator is written when its inputs are held divided by powers of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import cycle
from typing import TypeAlias

from onnx import NodeProto, helper

from parity.fixes.held import Held
from parity.fixes.homogeneous import BOUND, VALUES, Kind, Role, degrees_by_name
from parity.graph.graph import Node

# What takes the place of a node; None where it needs its inputs as they were.
Rule: TypeAlias = "Callable[[Held, Node, Role], list[NodeProto] | None]"
# Held so many bits below what the format holds, numbers 2⁻¹⁴ the size of the largest are no longer normal in FP16.
_SPARE = 14
# Bits by which a result may be held lower than it must, to be spared a change of weights.
_LAZY = 4
_CLIP_INPUTS_OPSET = 11
# The default of all normalisations.
_EPSILON = 1e-5
# The smallest normal FP32 number.
_TINY = 2.0**-126


def _join(held: Held, node: Node, role: Role) -> list[NodeProto] | None:
    """All data inputs at one exponent, which the result has too."""
    moving = [n for n in role.data(node) if held.moves(n)]
    results = _results(node) if role.gives else []
    least = max([held.wants.get(o, min(held.need(o), 0)) for o in results]
                + [min(held.need(n), held.exponent(n)) for n in moving], default=0)
    exponents = {held.exponent(n) for n in moving}
    agreed = min(exponents) if len(exponents) == 1 else least
    exponent = agreed if len(exponents) == 1 and agreed >= least else max(least, 0)
    proto = _reading(held, node, dict.fromkeys(role.operands, exponent))
    for attribute in proto.attribute:
        if attribute.name in VALUES.get(node.op, ()):
            attribute.f *= 2.0**-exponent
    return _making(held, node, proto, dict.fromkeys(results, exponent))


def _product(held: Held, node: Node, role: Role) -> list[NodeProto] | None:
    """The exponent of the result is the sum of those of its operands, each times its degree; a weight evens it out."""
    out = node.outputs[0]
    degrees = degrees_by_name(node, role)
    weight = next((n for n in reversed(degrees) if n in held.constants and abs(degrees[n]) == 1), None)
    exponents = {n: held.exponent(n) for n in degrees}
    least = held.wants.get(out, 0)
    if weight is None:
        total = _raised(held, exponents, degrees, least or held.need(out))
    else:
        given = _total(exponents, degrees)
        if out in held.wants and degrees[weight] == 1:
            least = max(least, math.ceil(given) + held.need(weight))
        total = given if given.denominator == 1 and 0 < least <= given <= least + _LAZY else Fraction(least)
        exponents[weight] = int((total - given) / degrees[weight])
    if total is None or _total(exponents, degrees).denominator != 1:
        return None
    reads = {i: exponents[node.inputs[i]] for i in role.degrees}
    proto = _reading(held, node, {**reads, role.offset: int(total)})
    return _making(held, node, proto, {out: int(total)})


def _raised(held: Held, exponents: dict[str, int], degrees: Mapping[str, Fraction], least: int) -> Fraction | None:
    """Raise the operands' exponents in turn until the result's is whole and high enough; None where they cannot."""
    rising = [n for n, degree in degrees.items() if degree > 0 and held.moves(n)]
    turn = cycle(rising)
    total = _total(exponents, degrees)
    while total < least or total.denominator != 1:
        if not rising:
            return None
        exponents[next(turn)] += 1
        total = _total(exponents, degrees)
    return total


def _total(exponents: Mapping[str, int], degrees: Mapping[str, Fraction]) -> Fraction:
    return sum((degrees[n] * e for n, e in exponents.items()), Fraction(0))


def _log(held: Held, node: Node, _: Role) -> list[NodeProto] | None:
    """By log x = log(2⁻ᵉx) + log 2ᵉ."""
    exponent, out = held.exponent(node.inputs[0]), node.outputs[0]
    if exponent == 0:
        return None
    proto = _reading(held, node, {0: exponent})
    proto.output[0] = held.edit.fresh(f"{out}/scaled")
    power = held.edit.number(f"2^{exponent}", 2.0**exponent)
    shift = held.add("Log", [power], held.edit.fresh(f"{out}/shift"))
    return [proto, helper.make_node("Add", [proto.output[0], shift], [out], name=f"{out}/Add")]


def _normalise(held: Held, node: Node, _: Role) -> list[NodeProto] | None:
    """(x - mean)/√(var + epsilon) = (2⁻ᵉx - 2⁻ᵉmean)/√(4⁻ᵉvar + 4⁻ᵉepsilon)."""
    exponent = held.exponent(node.inputs[0])
    proto = _reading(held, node, {0: exponent})
    return [proto] if _scale_epsilon(proto, 2 * exponent) else None


def _batch_norm(held: Held, node: Node, _: Role) -> list[NodeProto] | None:
    """The same for given statistics; what the exponents leave of the result's is taken up by scale and bias."""
    x, _scale, _bias, _mean, variance = node.inputs
    out = node.outputs[0]
    exponent, total = held.exponent(x), held.wants.get(out, 0)
    spread = held.exponent(variance) + held.exponent(variance) % 2
    reads = (exponent, total - exponent + spread // 2, total, exponent, spread)
    proto = _reading(held, node, dict(enumerate(reads)))
    return _making(held, node, proto, {out: total}) if _scale_epsilon(proto, spread) else None


def _scale_epsilon(proto: NodeProto, exponent: int) -> bool:
    """Multiply a node's epsilon by 2^-exponent in place; False where FP32 would not hold it."""
    epsilon = next((a for a in proto.attribute if a.name == "epsilon"), None)
    if epsilon is None:
        proto.attribute.append(helper.make_attribute("epsilon", _EPSILON))
        epsilon = proto.attribute[-1]
    scaled = epsilon.f * 2.0**-exponent
    fits = bool(scaled == 0 or _TINY <= scaled < math.inf)
    epsilon.f = scaled if fits else epsilon.f
    return fits


def _bounded(held: Held, node: Node, _: Role) -> list[NodeProto] | None:
    """f(x) = f(clip(x, ±BOUND)), clipped before the factor is taken back."""
    name = node.inputs[0]
    exponent, out = held.exponent(name), node.outputs[0]
    if exponent <= 0 or held.need(name) <= 0:
        return None
    bound = BOUND * 2.0**-exponent
    clipped, source = held.edit.fresh(f"{out}/clipped"), held.at(name, exponent)
    if node.opset < _CLIP_INPUTS_OPSET:
        held.add("Clip", [source], clipped, min=-bound, max=bound)
    else:
        held.add("Clip", [source, held.edit.number(f"{-bound:g}", -bound), held.edit.number(f"{bound:g}", bound)],
                 clipped)
    proto = _reading(held, node, {0: exponent})
    proto.input[0] = held.times(clipped, held.edit.fresh(f"{out}/argument"), exponent)
    return [proto]


def _reading(held: Held, node: Node, exponents: Mapping[int, int]) -> NodeProto:
    """The node with its inputs at these exponents, by index; all others as they were."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    for i, name in enumerate(node.inputs):
        if name:
            proto.input[i] = held.at(name, exponents.get(i, 0))
    return proto


def _making(held: Held, node: Node, proto: NodeProto, exponents: Mapping[str, int]) -> list[NodeProto]:
    """The node with its results at these exponents, taken back at once where they would be too small."""
    after: list[NodeProto] = []
    for i, name in enumerate(node.proto.output):
        exponent = exponents.get(name, 0)
        proto.output[i] = held.hold(name, exponent)
        least = held.wants.get(name, 0)
        if exponent > least and exponent - held.need(name) > _SPARE:
            after.extend(held.relax(name, least))
    return [proto, *after]


def _results(node: Node) -> list[str]:
    """The outputs of a JOIN that have its inputs' factor; others are indices and masks."""
    return list(node.outputs if node.op == "Split" else node.outputs[:1])


RULES: Mapping[Kind, Rule] = {Kind.JOIN: _join, Kind.PRODUCT: _product, Kind.LOG: _log, Kind.NORMALISE: _normalise,
                              Kind.BATCH_NORM: _batch_norm, Kind.BOUNDED: _bounded}
