"""Rescale around an overflow: hold tensors divided by powers of two where operators let a factor pass.

A tensor t is *held at* an exponent e where the graph computes t·2⁻ᵉ. Linear operators take a change of exponent into
their weights; what is positively homogeneous hands it on; a normalisation drops it (its epsilon takes the factor);
Log turns it into a sum; where nothing of the kind follows, a multiplication takes it back. All factors are powers of
two, so that FP32 results differ by underflow at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from parity.fixes.held import Held
from parity.fixes.homogeneous import Kind, role_of
from parity.fixes.patch import Magnitudes, Patch
from parity.fixes.scaled import RULES
from parity.graph.graph import Node
from parity.graph.model import Model

# Other samples have larger values than those that were looked at.
_MARGIN = 2.0


def rescales(model: Model, largest: Mapping[str, float], limit: float) -> list[Patch]:
    """Models in which tensors beyond a format's range are held divided by powers of two.

    Args:
        model: flat.
        largest: the greatest |x| of tensors in FP32 on the samples; one that is missing is taken to fit.
        limit: the largest number that the format holds, e.g. 65504 for FP16. Tensors are brought to half of it.

    Returns:
        At most one patch, for all tensors together; none where no tensor is beyond half the limit, or where those
        that are cannot be held otherwise (they are graph outputs, or a Softmax reads them).
    """
    beyond = {n: v for n, v in largest.items()
              if n not in model.constants and math.isfinite(v) and v * _MARGIN > limit}
    if not beyond:
        return []
    held = Held(model, largest, limit / _MARGIN)
    held.wants.update(_wants(held))
    _rewrite(held)
    edited = held.edit.done()
    exponents = {n: held.exponent(n) for n in beyond if held.exponent(n) >= max(1, held.need(n))}
    fitting = {n: e for n, e in exponents.items() if held.at(n, e) in edited.graph.producer}
    if not fitting:
        return []
    top = max(fitting, key=lambda n: beyond[n])
    low, high = min(fitting.values()), max(fitting.values())
    powers = f"2^{low}" + (f" to 2^{high}" if high > low else "")
    message = (f"{len(fitting)} of the {len(beyond)} tensors beyond {limit / _MARGIN:g} are computed divided by "
               f"{powers} (the largest, {top!r}, reaches {beyond[top]:.3g}), and what follows takes the factor back.")
    return [Patch("rescale", message, tuple(fitting), edited, rescaled=Magnitudes(dict(largest), limit))]


def _rewrite(held: Held) -> None:
    """Hold every tensor at the exponent that is wanted of it, and graph outputs as they were."""
    for node in held.model.graph.nodes:
        concerned = any(map(held.exponent, node.reads)) or any(o in held.wants for o in node.outputs)
        if concerned and not held.model.constants.issuperset(node.outputs):
            made = _rewritten(held, node)
            held.edit.replace(node, [*held.taken(), *made])
    for output in held.model.graph.outputs:
        held.at(output.name, 0)
    held.edit.append(held.taken())


def _rewritten(held: Held, node: Node) -> list[NodeProto]:
    role = role_of(node, held.constants)
    tensors = [*role.data(node), *(node.outputs[:1] if role.gives else ())]
    rule = RULES.get(role.kind)
    made = rule(held, node, role) if rule and all(map(held.is_float, tensors)) else None
    if made is None:
        for name in filter(held.moves, node.reads):
            held.at(name, 0)
        return [node.proto]
    return made


def _wants(held: Held) -> dict[str, int]:
    """At which exponent each tensor is wanted: the one it needs, or that of its only reader, where that is a JOIN."""
    wants: dict[str, int] = {}
    asked: dict[str, int] = {}
    scalable: set[str] = set()
    shut: set[str] = set()
    readers = held.model.graph.readers
    for node in reversed(held.model.graph.nodes):
        role = role_of(node, held.constants)
        out = node.outputs[0] if node.outputs else ""
        for name in node.outputs:
            least = max(held.need(name), asked.get(name, 0))
            if least > 0 and name in scalable - shut and held.is_float(name) and held.moves(name):
                wants[name] = least
        data = [n for n in role.data(node) if held.moves(n)]
        if role.kind is Kind.OTHER:
            continue
        scalable.update(data)
        if role.kind is Kind.SHIFT or (role.kind is Kind.JOIN and role.gives and out in shut):
            shut.update(data)
        if role.kind is Kind.JOIN and role.gives and out in wants:
            for name in data:
                if len(readers[name]) == 1:
                    asked[name] = max(asked.get(name, 0), wants[out])
    return wants
