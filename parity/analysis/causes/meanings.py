"""A different operator meaning: what, tried at the candidate's own inputs, gives the candidate's values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import ml_dtypes
import numpy as np

from parity.analysis.causes.attributes import Alternative, alternatives
from parity.analysis.causes.evidence import Diagnosis, Evidence, relative
from parity.analysis.causes.files import settled
from parity.analysis.causes.solve import other_numbers
from parity.analysis.causes.unit import Unit, unit_of
from parity.figures import number
from parity.graph.graph import Node

# With more nodes hidden before a tensor than this, only the last ones are tried otherwise.
_MOST_TRIED = 12
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_MULTIPLIERS = _RECURRENT | frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum",
                                       "com.microsoft::FusedConv", "com.microsoft::FusedMatMul"})


def other_meaning(evidence: Evidence) -> Sequence[Diagnosis]:
    """An attribute, a number, a rounding or an operator that would give what the candidate shows."""
    blamed = evidence.blamed_for("implementation", "nonfinite")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if blamed is None or unit is None:
        return ()
    known = settled(evidence, blamed)
    for node in (n for n in unit.nodes[-_MOST_TRIED:][::-1] if n not in known.nodes):
        for alternative in chain(alternatives(unit, node), other_numbers(unit, node)):
            value = unit.tried({node.outputs[0]: alternative.stand}, alternative.inputs)
            if unit.explains(value):
                return (_told(evidence, unit, node, alternative, value),)
    return ()


def _told(evidence: Evidence, unit: Unit, node: Node, alternative: Alternative,
          value: np.ndarray | None) -> Diagnosis:
    left = relative(value, unit.candidate) if value is not None else np.inf
    where = f"{node.op} {node.label!r}" if node is unit.last else f"{node.op} {node.label!r} before it"
    message = evidence.computed(where, alternative.words, alternative.instead, left, unit.error)
    return Diagnosis(alternative.cause, unit.tensor, message,
                     {"error": unit.error, "left": left, "floor": unit.floor, **alternative.numbers})


def fewer_bits(evidence: Evidence) -> Sequence[Diagnosis]:
    """An FP32 tensor that holds only 16-bit values, or that was computed from operands so rounded."""
    blamed = evidence.blamed_for("implementation")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if unit is None or unit.candidate.dtype != np.float32 or not np.isfinite(unit.candidate).all():
        return ()
    for name, roundoff in _FORMATS:
        narrow = _narrowed(unit.candidate, name)
        own = unit.gold.astype(np.float32)
        if unit.error <= 2 * roundoff and np.array_equal(narrow, unit.candidate) and not np.array_equal(
                _narrowed(own, name), own):
            message = (f"{unit.tensor!r} is FP32, but all its {unit.candidate.size} values are {name} ones: it was "
                       f"rounded on the way, which costs {number(unit.error)} (relative L2).")
            return (Diagnosis("reduced-precision", unit.tensor, message,
                              {"error": unit.error, "roundoff": roundoff, "elements": float(unit.candidate.size)}),)
    left = {name: relative(value, unit.candidate) for name, _ in _FORMATS
            if unit.explains(value := _on_rounded_operands(unit, name)) and value is not None}
    if not left:
        return ()
    message = (f"{unit.last.op} {unit.last.label!r} multiplies operands that were rounded to {' or '.join(left)}: that "
               f"explains the candidate's values to {number(min(left.values()))} (relative L2), where FP32 leaves "
               f"{number(unit.error)}.")
    return (Diagnosis("reduced-precision", unit.tensor, message,
                      {"error": unit.error, "left": min(left.values()), "floor": unit.floor}),)


_FORMATS = (("FP16", 2.0**-11), ("TF32", 2.0**-11), ("BF16", 2.0**-8))


def _narrowed(value: np.ndarray, name: str) -> np.ndarray:
    """FP32 values as a format of fewer bits holds them, to nearest even."""
    wide = np.ascontiguousarray(value, np.float32)
    if name == "TF32":  # the upper 19 of 32 bits
        bits = wide.view(np.uint32).astype(np.uint64)
        kept: np.ndarray = ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)
        return kept
    with np.errstate(over="ignore"):
        return wide.astype(np.float16 if name == "FP16" else ml_dtypes.bfloat16).astype(np.float32)


def _on_rounded_operands(unit: Unit, name: str) -> np.ndarray | None:
    """The tensor from operands of fewer bits; the bias of a product stays as it is."""
    node = unit.last
    if node.op not in _MULTIPLIERS:
        return None
    rounded: dict[str, np.ndarray] = {}
    for position, read in enumerate(node.inputs):
        value = unit.input(read) if read else None
        if value is not None and value.dtype.kind == "f" and not (position == 2 and node.op not in _RECURRENT):
            rounded[read] = _narrowed(value, name)
    return unit.tried({}, rounded)
