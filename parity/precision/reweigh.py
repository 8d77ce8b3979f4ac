"""A ready-made variant judged by the reference's weights: what its file holds must be a rounding of those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from onnx import numpy_helper

from parity.graph.constants import constant_values
from parity.graph.graph import Node
from parity.graph.model import Model, shallow_copy
from parity.graph.ops.call import Value, is_tensor, to_numpy

# Beyond this share of all weights (and a handful), the file was trained or transformed on purpose.
_RETRAINED = 0.2
_HANDFUL = 3
# A format's unit in the last place, relative, and its smallest subnormal: rounding either way is accepted.
_UNITS = {"float16": (2.0**-10, 2.0**-24), "bfloat16": (2.0**-7, 2.0**-133), "float32": (2.0**-20, 2.0**-126)}


@dataclass(frozen=True)
class _Operand:
    """A weight of the variant, the reference's as the variant's format holds it, and whether they are the same."""

    node: Node
    position: int
    rounded: np.ndarray
    right: bool


def with_weights_of(reference: Model, variant: Model) -> tuple[Model, tuple[str, ...]]:
    """Replace every weight of a variant that is more than one rounding step away from the reference's.

    A variant that was changed in many weights was meant to be (quantisation-aware training, equalisation): it is
    returned as it is.

    Args:
        reference: the model in full precision, flat.
        variant: a variant of it from elsewhere, flat; operands are matched by the output and the type of the node.

    Returns:
        The variant, and what to tell of it.

    Raises:
        ModelError: a weight cannot be read.
    """
    variant, told = _paired(variant)
    compared = list(_operands(reference, variant))
    wrong = [o for o in compared if not o.right]
    if not wrong:
        return variant, told
    matrices = [o for o in compared if o.rounded.ndim > 1]
    changed = sum(not o.right for o in matrices)
    if changed > max(_HANDFUL, _RETRAINED * len(matrices)):
        note = (f"{changed} of {len(matrices)} weights are not roundings of the reference's: the variant was "
                "trained or transformed, and is judged by its own.")
        return variant, (*told, note)
    proto = shallow_copy(variant.proto)
    by_output = {o: n for n in proto.graph.node for o in n.output if o}
    for operand in wrong:
        name = f"{operand.node.inputs[operand.position]}/of_reference"
        proto.graph.initializer.append(numpy_helper.from_array(operand.rounded, name))
        by_output[operand.node.outputs[0]].input[operand.position] = name
    notes = tuple(f"Weight {o.node.inputs[o.position]!r} of {o.node.label} is not a rounding of the reference's."
                  for o in wrong)
    return replace(variant, proto=proto), (*told, *notes)


def _paired(variant: Model) -> tuple[Model, tuple[str, ...]]:
    """The variant with every DequantizeLinear on the scale and zero point of the QuantizeLinear before it.

    The two make one rounding; where they disagree, what is dequantised is not what was quantised.
    """
    own, producer = constant_values(variant), variant.graph.producer
    mended: dict[str, tuple[str, ...]] = {}
    for node in variant.graph.nodes:
        before = producer.get(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if before is None or before.op != "QuantizeLinear" or before.inputs[1:] == node.inputs[1:]:
            continue
        pairs = zip_longest(before.inputs[1:], node.inputs[1:], fillvalue="")
        if not all(_same(own.get(a), own.get(b)) for a, b in pairs):
            mended[node.outputs[0]] = before.inputs[1:]
    if not mended:
        return variant, ()
    proto = shallow_copy(variant.proto)
    for node_proto in proto.graph.node:
        if node_proto.output and node_proto.output[0] in mended:
            node_proto.input[1:] = mended[node_proto.output[0]]
    notes = tuple(f"Tensor {name!r} is dequantised with another scale or zero point than it was quantised with."
                  for name in mended)
    return replace(variant, proto=proto), notes


def _same(a: Value, b: Value) -> bool:
    """Whether two scales or zero points are equal; one that is left out is zero."""
    left, right = (to_numpy(v) if is_tensor(v) else np.zeros(()) for v in (a, b))
    return bool(np.array_equal(left, right)) or (not left.any() and not right.any())


def _operands(reference: Model, variant: Model) -> Iterator[_Operand]:
    """Every weight that both have, of nodes of one output and type."""
    right, own = constant_values(reference), constant_values(variant)
    for node in variant.graph.nodes:
        other = reference.graph.producer.get(node.outputs[0]) if node.outputs else None
        if other is None or other.op != node.op:
            continue
        for position, (a, b) in enumerate(zip(other.inputs, node.inputs, strict=False)):
            if a in right and b in own and is_tensor(right[a]) and is_tensor(own[b]):
                weight, found = to_numpy(right[a]), to_numpy(own[b])
                if weight.shape == found.shape and weight.dtype == np.float32 and found.dtype.name in _UNITS:
                    rounded, step = _rounded(variant, b, weight, found, own)
                    with np.errstate(invalid="ignore"):  # Inf is no distance from Inf
                        gap = np.where(rounded == found, 0.0, np.abs(rounded.astype(np.float64) - found))
                    yield _Operand(node, position, rounded, right=bool((gap <= 1.01 * step).all()))


def _rounded(variant: Model, name: str, weight: np.ndarray, found: np.ndarray,
             own: Mapping[str, Value]) -> tuple[np.ndarray, np.ndarray]:
    """The reference's weight as the variant's format holds it, and the format's step at each element."""
    maker = variant.graph.producer.get(name)
    if maker is not None and maker.proto.op_type == "DequantizeLinear":
        scale, quantized = to_numpy(own[maker.inputs[1]]), to_numpy(own[maker.inputs[0]])
        if scale.ndim > 1 or quantized.dtype.kind not in "iu":  # blocks and small floats are taken as they are
            return found, np.zeros(found.shape)
        zero = to_numpy(own[maker.inputs[2]]) if len(maker.inputs) > 2 and maker.inputs[2] else np.zeros_like(scale)
        axis = next((a.i for a in maker.proto.attribute if a.name == "axis"), 1)
        along = [1] * weight.ndim
        if scale.size > 1:
            along[axis] = scale.size
        return _on_grid(weight, scale.reshape(along), zero.astype(np.float64).reshape(along), np.iinfo(quantized.dtype))
    stored = own[maker.inputs[0]] if maker is not None and maker.op == "Cast" else None
    dtype = to_numpy(stored).dtype if is_tensor(stored) else found.dtype
    relative, tiny = _UNITS.get(dtype.name, _UNITS["float32"])
    return weight.astype(dtype).astype(found.dtype), np.abs(weight.astype(np.float64)) * relative + tiny


def _on_grid(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray,
             limits: np.iinfo) -> tuple[np.ndarray, np.ndarray]:
    """A dead scale rounds to nothing: what it stands for is the weight as it is."""
    alive = np.isfinite(scale) & (scale > 0)
    step = np.where(alive, scale, 1.0).astype(np.float64)
    levels = np.clip(np.rint(weight / step) + zero, limits.min, limits.max)
    rounded = np.where(alive, (levels - zero) * step, weight).astype(np.float32)
    return rounded, np.broadcast_to(np.where(alive, step, 0.0), weight.shape)
