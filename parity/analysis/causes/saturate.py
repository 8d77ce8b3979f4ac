"""INT8 products added up in 16 bits, pair by pair, as AVX2's multiply-add of bytes does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from onnx import helper

from parity.graph.graph import Node

# Multiplications that are worth simulating.
_MOST_PRODUCTS = 3e8
_INT16 = 32767.0


@dataclass(frozen=True)
class PairSums:
    """Integer sums as they come out.

    Attributes:
        words: how the pairs were formed.
        sums: of products, zero points taken off, in the shape of the operator's result.
        largest: magnitude of a pair's sum.
        share: of pairs that saturate.
    """

    words: str
    sums: np.ndarray
    largest: float
    share: float


def pair_sums(node: Node, x: np.ndarray, zero: int, weight: np.ndarray, *, signed: bool) -> Iterator[PairSums]:
    """The sums of a Conv (in two dimensions, one group), MatMul or Gemm on integers.

    Args:
        node: the operator.
        x: integer values of the activation.
        zero: its zero point.
        weight: integer values of the weight, whose zero point is 0.
        signed: whether the activation is int8; kernels for bytes without a sign read it with 128 added.
    """
    for layout in ("channels first", "channels last"):
        if node.op != "Conv" and layout == "channels last":
            return
        found = _matrices(node, x, weight, zero, last=layout == "channels last")
        if found is None:
            return
        rows, columns, shape = found
        for offset in (128, 0) if signed else (0,):
            raw = rows + offset
            sums, largest, share = _saturating(raw, columns)
            exact = sums - (zero + offset) * columns.sum(axis=0)
            words = f"{layout}, {'bytes with 128 added' if offset else 'bytes as they are'}"
            made = exact.reshape(*shape[:-1], -1)
            yield PairSums(words, np.moveaxis(made, -1, 1) if node.op == "Conv" else made, largest, share)


def _matrices(node: Node, x: np.ndarray, weight: np.ndarray, zero: int,
              *, last: bool) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]] | None:
    """The operator as a product of two matrices [rows, K] and [K, columns], and the shape of its result."""
    flags = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
    if node.op in ("MatMul", "Gemm"):
        if weight.ndim != 2 or x.size * weight.shape[1] > _MOST_PRODUCTS:
            return None
        columns = weight.T if flags.get("transB") else weight
        rows = x.T if flags.get("transA") else x
        return rows.reshape(-1, rows.shape[-1]), columns, (*rows.shape[:-1], columns.shape[1])
    if node.op != "Conv" or weight.ndim != 4 or flags.get("group", 1) != 1 or flags.get("auto_pad", b"NOTSET") not in (
            b"NOTSET", b""):
        return None
    top, left, bottom, right = flags.get("pads", [0, 0, 0, 0])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    height, width = weight.shape[2:]
    strides, dilations = flags.get("strides", [1, 1]), flags.get("dilations", [1, 1])
    out = [(padded.shape[2 + i] - dilations[i] * (k - 1) - 1) // strides[i] + 1 for i, k in enumerate((height, width))]
    if out[0] * out[1] * weight.size * len(x) > _MOST_PRODUCTS:
        return None
    patches = torch.nn.functional.unfold(torch.from_numpy(padded), (height, width), dilation=tuple(dilations),
                                         stride=tuple(strides)).numpy().transpose(0, 2, 1)
    if last:
        patches = patches.reshape(*patches.shape[:2], x.shape[1], height * width).swapaxes(2, 3).reshape(patches.shape)
        weight = weight.transpose(0, 2, 3, 1)
    columns = weight.reshape(len(weight), -1).T
    return patches.reshape(-1, patches.shape[-1]), columns, (len(x), out[0], out[1], len(weight))


def _saturating(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, float, float]:
    if rows.shape[1] % 2:
        rows, columns = np.pad(rows, ((0, 0), (0, 1))), np.pad(columns, ((0, 1), (0, 0)))
    sums = np.empty((len(rows), columns.shape[1]))
    largest, beyond, count = 0.0, 0, 0
    for place, column in enumerate(columns.T):
        products = rows * column
        pairs = products[:, ::2] + products[:, 1::2]
        magnitude = np.abs(pairs)
        largest = max(largest, float(magnitude.max(initial=0.0)))
        beyond += int((magnitude > _INT16).sum())
        count += pairs.size
        sums[:, place] = np.clip(pairs, -_INT16 - 1, _INT16).sum(axis=1)
    return sums, largest, beyond / max(count, 1)
