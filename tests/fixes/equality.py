"""Whether an edited model is the model that it was made from, and what either gives in FP16."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from parity.fixes.patch import Patch
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, is_tensor, to_numpy
from parity.precision.variant import make_variant

Tensors = Mapping[str, np.ndarray]


def closed_model(proto: onnx.ModelProto, feed: Tensors) -> Model:
    """A model whose outputs are declared with the types and shapes that they have on a feed."""
    values = {n: to_numpy(v) for n, v in Executor(Model.from_proto(proto)).run(feed).items()}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(
        n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in values.items())
    return Model.from_proto(proto)


def tensors_of(model: Model, feed: Tensors, arithmetic: Arithmetic = Arithmetic.DECLARED) -> dict[str, np.ndarray]:
    """Every numeric tensor that a node of the main graph makes."""
    made = (item for step in Executor(model, arithmetic).steps(feed) for item in step.values.items())
    values = {n: to_numpy(v) for n, v in made if is_tensor(v)}
    return {n: v for n, v in values.items() if v.dtype.kind in "fiub"}


def largest_of(model: Model, feed: Tensors) -> dict[str, float]:
    """The greatest finite |x| of every floating-point tensor."""
    return {n: float(np.abs(v[np.isfinite(v)]).max(initial=0)) for n, v in tensors_of(model, feed).items()
            if v.dtype.kind == "f"}


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative L2 distance of the finite parts; infinite where other places are non-finite."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one)
    if one.shape != other.shape or not np.array_equal(finite, np.isfinite(other)):
        return np.inf
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return np.inf
    gap, size = np.linalg.norm(one[finite] - other[finite]), np.linalg.norm(one[finite])
    return float(gap / size) if size else float(gap)


def assert_equal_model(model: Model, patch: Patch, feed: Tensors, *, fp32: float = 1e-5) -> None:
    """A valid model with the same inputs and outputs; every tensor that both have is the same to 1e-12 in FP64."""
    onnx.checker.check_model(patch.model.proto)
    for side in ("inputs", "outputs"):
        assert getattr(patch.model.graph, side) == getattr(model.graph, side)
    for arithmetic, limit in ((Arithmetic.DOUBLE, 1e-12), (Arithmetic.DECLARED, fp32)):
        before, after = tensors_of(model, feed, arithmetic), tensors_of(patch.model, feed, arithmetic)
        assert {o.name for o in model.graph.outputs} & before.keys() <= after.keys()
        apart = {n: distance(before[n], after[n]) for n in before.keys() & after.keys()}
        assert {n: d for n, d in apart.items() if d > limit} == {}


def fp16_error(model: Model, patched: Model, feed: Tensors) -> float:
    """The largest relative error of an output of `patched` in emulated FP16; infinite where it overflows."""
    exact, rounded = Executor(model).run(feed), Executor(make_variant(patched, "fp16").model).run(feed)
    return max(distance(to_numpy(exact[n]), to_numpy(rounded[n])) for n in exact)
