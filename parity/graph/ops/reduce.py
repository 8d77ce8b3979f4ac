"""Reductions, scans along an axis, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TypeAlias

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Kernel, Tensor
from parity.graph.ops.dtypes import as_int64, tensor_kernel, via_int64

# Reduces the given axes, of which there is at least one: (x, axes, keep them at length 1).
Reduction: TypeAlias = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = prod(x.shape[a] for a in axes) or 1  # of nothing the mean is 0
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _extreme(of: Callable[[Tensor, list[int], bool], Tensor], sign: int) -> Reduction:
    """A maximum (sign 1) or minimum (-1); over nothing it is the least or the greatest number of the type."""

    def reduction(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if all(x.shape[a] for a in axes):
            return of(x, axes, keep)
        if x.is_floating_point():
            limit: float = -sign * torch.inf
        elif x.dtype is torch.bool:
            limit = sign < 0
        else:
            limit = torch.iinfo(x.dtype).min if sign > 0 else torch.iinfo(x.dtype).max
        shape = torch.sum(x, axes, keep).shape
        return torch.full(shape, limit, dtype=x.dtype)

    return reduction


def _through_double(of: Reduction) -> Reduction:
    """Lets an operator on real numbers take integers: computed in FP64, truncated back."""

    def reduction(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        return of(x, axes, keep) if x.is_floating_point() else of(x.double(), axes, keep).to(x.dtype)

    return reduction


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": _through_double(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSum": _through_double(lambda x, axes, keep: torch.log(torch.sum(x, axes, keep))),
    "ReduceLogSumExp": _through_double(torch.logsumexp),
    "ReduceMax": _extreme(torch.amax, 1),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(torch.amin, -1),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
}


def _reduction(of: Reduction) -> Kernel:
    """A kernel that finds the axes: an attribute in old opsets (18; ReduceSum 13), an input since."""

    @via_int64
    def reduction(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = call.integers("axes") if axes is None else axes.tolist()
        if not listed:
            listed = [] if call.integer("noop_with_empty_axes") else list(range(x.ndim))
        if not listed:  # over an axis of length 1, which leaves the operator's elementwise part
            return of(x.unsqueeze(0), [0], False)
        return of(x, listed, bool(call.integer("keepdims", 1)))

    return reduction


for _name, _of in _REDUCTIONS.items():
    tensor_kernel(_name)(_reduction(_of))


@tensor_kernel("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    """Index of the greatest or least number along an axis; of equals the first, or the last where asked."""
    axis, keep = call.integer("axis"), bool(call.integer("keepdims", 1))
    find = torch.argmax if call.node.proto.op_type == "ArgMax" else torch.argmin
    x = as_int64(x)
    if call.integer("select_last_index"):
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keep)
    return find(x, axis, keep)


@tensor_kernel("CumSum", "CumProd")
@via_int64
def cumulative(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    """Sums or products of all elements up to each; `exclusive` leaves out the element itself."""
    dim = int(axis.reshape(()))
    is_sum = call.node.proto.op_type == "CumSum"
    scan = torch.cumsum if is_sum else torch.cumprod
    if call.integer("reverse"):
        x = x.flip(dim)
    if call.integer("exclusive") and x.shape[dim]:
        neutral = torch.full_like(x.narrow(dim, 0, 1), 0 if is_sum else 1)
        x = torch.cat([neutral, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    result = scan(x, dim, dtype=x.dtype)
    return result.flip(dim) if call.integer("reverse") else result


@tensor_kernel("TopK")
@via_int64
def top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k greatest or least along an axis, in order, and their indices; of equals the lower index comes first."""
    count = call.integer("k") if k is None else int(k.reshape(()))
    axis = call.integer("axis", -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(call.integer("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _along_axis(of: Callable[[Tensor, int], Tensor]) -> Kernel:
    """A kernel along one axis; before opset 13 along all from `axis` on, as one."""

    def along(call: Call, x: Tensor) -> Tensor:
        if call.opset >= 13:
            return of(x, call.integer("axis", -1))
        axis = call.integer("axis", 1) % max(x.ndim, 1)
        return of(x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:])), 1).reshape(x.shape)

    return along


def _hardmax(x: Tensor, axis: int) -> Tensor:
    if not x.numel():
        return x
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1)


tensor_kernel("Softmax")(_along_axis(F.softmax))
tensor_kernel("LogSoftmax")(_along_axis(F.log_softmax))
tensor_kernel("Hardmax")(_along_axis(_hardmax))


@tensor_kernel("MatMul")
@via_int64
def matmul(_: Call, a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices, batched as in numpy."""
    return torch.matmul(a, b)


@tensor_kernel("Gemm")
@via_int64
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """The sum alpha · a · b + beta · c, where a and b may be transposed first and c broadcasts."""
    a = a.T if call.integer("transA") else a
    b = b.T if call.integer("transB") else b
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if not a.is_floating_point():
        if alpha != 1 or beta != 1:
            raise NotImplementedError("integers scaled by a float")
        return a @ b if c is None else a @ b + c
    if c is None:
        return a @ b if alpha == 1 else alpha * (a @ b)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


@tensor_kernel("Einsum")
@via_int64
def einsum(call: Call, *inputs: Tensor) -> Tensor:
    """Sum of products in Einstein's notation."""
    return torch.einsum(call.text("equation"), *inputs)
