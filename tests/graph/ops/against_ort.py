"""Hold one operator against ONNX Runtime's own kernel for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto, helper

from parity.graph.executor import Executor, Level
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy


def one_node(op: str, inputs: Sequence[np.ndarray | None], opset: int, attributes: dict[str, Any],
             outputs: int = 1) -> ModelProto:
    """A model of one node with inputs x0, x1… (None: omitted) and outputs y0, y1, and so on."""
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attributes)
    declared = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in zip(names, inputs, strict=True) if v is not None]
    results = [helper.make_empty_tensor_value_info(n) for n in node.output]
    graph = helper.make_graph([node], op, declared, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feed_of(inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """The values of the inputs that are given, by name."""
    return {f"x{i}": v for i, v in enumerate(inputs) if v is not None}


def on_torch(op: str, inputs: Sequence[np.ndarray | None], opset: int, attributes: dict[str, Any],
             outputs: int = 1, arithmetic: Arithmetic = Arithmetic.DECLARED) -> list[np.ndarray]:
    """Run the node by its torch kernel, which it must have."""
    executor = Executor(Model.from_proto(one_node(op, inputs, opset, attributes, outputs)), arithmetic)
    found = executor.run(feed_of(inputs))
    assert executor.levels["y0"] is Level.TORCH
    return [to_numpy(found[f"y{i}"]) for i in range(outputs)]


def on_ort(model: ModelProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Run the node on ONNX Runtime's CPU kernels as they are."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, feed_of(inputs))]


def check(op: str, inputs: Sequence[np.ndarray | None], opset: int, outputs: int = 1, rtol: float = 1e-5,
          **attributes: Any) -> None:
    """Assert that DECLARED equals ONNX Runtime, and DOUBLE equals DECLARED.

    Floats may differ by `rtol` of the largest magnitude; integers must be equal.
    """
    expected = on_ort(one_node(op, inputs, opset, attributes, outputs), inputs)
    declared = on_torch(op, inputs, opset, attributes, outputs)
    double = on_torch(op, inputs, opset, attributes, outputs, Arithmetic.DOUBLE)
    for want, got, gold in zip(expected, declared, double, strict=True):
        assert got.shape == want.shape == gold.shape
        assert got.dtype == want.dtype
        if want.dtype.kind == "f":
            assert gold.dtype == np.float64
            scale = np.abs(want).max(initial=0)
            np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale)
            np.testing.assert_allclose(gold, got, rtol=0, atol=rtol * scale)
        else:
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(gold, want)


def gradcheck(op: str, inputs: Sequence[np.ndarray | None], opset: int, outputs: int = 1,
              **attributes: Any) -> None:
    """Assert that autograd's gradients in every float input equal numerical ones (FP64)."""
    executor = Executor(Model.from_proto(one_node(op, inputs, opset, attributes, outputs)), Arithmetic.DOUBLE,
                        gradients=True)
    node = executor.model.graph.nodes[0]
    values = [None if v is None else torch.from_numpy(v) for v in inputs]
    leaves = [v.double().requires_grad_() for v in values if v is not None and v.is_floating_point()]

    def function(*floats: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(floats)
        given: list[Value] = [next(rest) if v is not None and v.is_floating_point() else v for v in values]
        found = executor.evaluate(node, given)
        return tuple(v for v in found if isinstance(v, torch.Tensor) and v.is_floating_point())

    assert torch.autograd.gradcheck(function, leaves)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed FP32 values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)

