"""A long sum in a type too narrow for it: its terms, added up one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import helper

from parity.analysis.causes.evidence import Diagnosis, Evidence
from parity.analysis.causes.unit import Unit, unit_of
from parity.figures import number

# Elements that are looked at, and terms from which on a sum is long.
_MOST_SUMS, _LEAST_TERMS = 256, 16
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_SUMMED = _PRODUCTS | {"ReduceSum", "ReduceMean", "GlobalAveragePool"}


def accumulation(evidence: Evidence) -> Sequence[Diagnosis]:
    """A long sum added up one term after the other, in a type too narrow for it."""
    blamed = evidence.blamed_for("implementation")
    unit = None if blamed is None else unit_of(evidence, blamed)
    if unit is None or len(unit.nodes) > 1 or unit.last.op not in _SUMMED or unit.gold.shape != unit.candidate.shape:
        return ()
    picked = np.unique(np.linspace(0, unit.gold.size - 1, min(unit.gold.size, _MOST_SUMS)).astype(np.int64))
    terms, scale = sampled_terms(unit, picked)
    if terms is None or terms.shape[1] < _LEAST_TERMS:
        return ()
    sums = terms.sum(axis=1)
    gap = unit.candidate.astype(np.float64).ravel()[picked] - unit.gold.ravel()[picked]
    seen = float(np.linalg.norm(gap)) / (float(np.linalg.norm(sums * scale)) or 1.0)
    for name, dtype in (("FP32", np.float32), ("FP16", np.float16)):
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = np.add.accumulate(terms.astype(dtype), axis=1, dtype=dtype)[:, -1].astype(np.float64)
        made = float(np.linalg.norm(narrow - sums)) / (float(np.linalg.norm(sums)) or 1.0)
        if math.isfinite(made) and made / 3 < seen < made * 3:
            message = (f"{unit.last.op} {unit.last.label!r} adds {terms.shape[1]} terms: one after the other in {name} "
                       f"that errs by {number(made)} (relative L2), and the candidate errs by {number(seen)}.")
            return (Diagnosis("long-accumulation", unit.tensor, message,
                              {"terms": float(terms.shape[1]), "error": seen, "simulated": made}),)
    return ()


def terms_of(unit: Unit) -> int:
    """How many terms each element of a unit's tensor has."""
    x = unit.input(unit.last.inputs[0])
    weight = unit.input(unit.last.inputs[1]) if len(unit.last.inputs) > 1 else None
    if unit.last.op in ("MatMul", "Gemm") and x is not None:
        return int(x.shape[-1])
    if unit.last.op == "Conv" and weight is not None:
        return int(np.prod(weight.shape[1:]))
    return max(int(x.size // max(unit.gold.size, 1)), 1) if x is not None else 1


def sampled_terms(unit: Unit, picked: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The terms [sums, terms] of some elements, and what their sum is multiplied by."""
    node = unit.last
    x = unit.input(node.inputs[0])
    if x is None or x.dtype.kind != "f":
        return None, 1.0
    wide = x.astype(np.float64)
    if node.op not in _PRODUCTS:
        return _summed(unit, wide, picked)
    other = unit.input(node.inputs[1])
    if other is None or wide.ndim < 2 or other.ndim < 2:
        return None, 1.0
    places = np.unravel_index(picked, unit.gold.shape)
    if node.op == "Conv":
        return _convolved(unit, wide, other.astype(np.float64), places), 1.0
    flags = {a.name: a.i for a in node.proto.attribute}
    left, right = (v.T if flags.get(n) else v for n, v in (("transA", wide), ("transB", other.astype(np.float64))))
    batch = unit.gold.shape[:-2]
    rows = np.broadcast_to(left, (*batch, *left.shape[-2:]))[places[:-1]]
    columns = np.broadcast_to(right, (*batch, *right.shape[-2:])).swapaxes(-1, -2)[(*places[:-2], places[-1])]
    return rows * columns, 1.0


def _summed(unit: Unit, wide: np.ndarray, picked: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Of a reduction: the elements that each sum takes up."""
    kept = unit.gold.shape if unit.gold.ndim == wide.ndim else None
    if kept is None:
        axes = tuple(i for i in range(wide.ndim) if wide.shape[i] > 1)
        return (wide.reshape(1, -1) if unit.gold.size == 1 and axes else None), 1.0
    summed = tuple(i for i in range(wide.ndim) if kept[i] == 1 and wide.shape[i] > 1)
    rest = [i for i in range(wide.ndim) if i not in summed]
    terms = wide.transpose(*rest, *summed).reshape(unit.gold.size, -1)[picked]
    return terms, 1.0 / terms.shape[1] if unit.last.op != "ReduceSum" else 1.0


def _convolved(unit: Unit, x: np.ndarray, weight: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of a Conv: every tap of every channel in its group, times its weight."""
    given = {a.name: helper.get_attribute_value(a) for a in unit.last.proto.attribute}
    if given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    rank = x.ndim - 2
    pads = given.get("pads", [0] * 2 * rank)
    padded = np.pad(x, ((0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)))
    row, channel, *at = places
    in_group = weight.shape[1]
    first = channel // (len(weight) // given.get("group", 1)) * in_group
    taps = np.indices(weight.shape[2:]).reshape(rank, -1)
    strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
    where = [(at[i][:, None] * strides[i] + taps[i] * dilations[i])[:, None, :] for i in range(rank)]
    read = padded[(row[:, None, None], (first[:, None] + np.arange(in_group))[:, :, None], *where)]
    terms: np.ndarray = (read * weight.reshape(len(weight), in_group, -1)[channel]).reshape(len(row), -1)
    return terms
