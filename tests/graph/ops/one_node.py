"""One-node models, run by ONNX Runtime and by the executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto, NodeProto, helper

from parity.graph.executor import Executor, Level
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy

Attribute: TypeAlias = int | float | str | list[int] | list[float]


@dataclass(frozen=True)
class Case:
    """One node with its inputs.

    Attributes:
        op: operator.
        inputs: arrays, None for an omitted one.
        attributes: of the node.
        outputs: how many are asked for.
        domain: of the operator.
        opset: of ONNX's own domain.
    """

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    outputs: int = 1
    domain: str = "com.microsoft"
    opset: int = 17

    @property
    def node(self) -> NodeProto:
        """The node, its inputs named x0, x1 and its outputs y0, y1 and so on."""
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        return helper.make_node(self.op, names, [f"y{i}" for i in range(self.outputs)], domain=self.domain,
                                **self.attributes)

    @property
    def feed(self) -> dict[str, np.ndarray]:
        """The inputs that are given, by name."""
        return {f"x{i}": x for i, x in enumerate(self.inputs) if x is not None}

    @property
    def model(self) -> ModelProto:
        """The model, whose outputs have no declared type."""
        inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                  for n, x in self.feed.items()]
        outputs = [helper.make_empty_tensor_value_info(n) for n in self.node.output]
        graph = helper.make_graph([self.node], "case", inputs, outputs)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


class Draw:
    """Random arrays from a fixed seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def real(self, *shape: int) -> np.ndarray:
        """Standard normal, FP32."""
        return self.random.standard_normal(shape).astype(np.float32)

    def scale(self, *shape: int) -> np.ndarray:
        """Positive scales about 0.05, FP32."""
        return self.random.uniform(0.01, 0.1, shape).astype(np.float32)

    def whole(self, dtype: type[np.integer], *shape: int, limit: int | None = None) -> np.ndarray:
        """Integers over the range of their type, or up to ±limit."""
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if limit is None else (max(-limit, info.min), limit)
        return self.random.integers(low, high + 1, shape).astype(dtype)


def scalar(value: float, dtype: type[np.generic] = np.float32) -> np.ndarray:
    """An array of rank 0."""
    return np.array(value, dtype)


def run_ort(case: Case) -> list[np.ndarray]:
    """What ONNX Runtime's CPU gives, its graph optimiser switched off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, case.feed)]


def run_parity(case: Case, arithmetic: Arithmetic = Arithmetic.DECLARED) -> list[np.ndarray]:
    """What the executor gives, having made sure that a torch kernel gave it."""
    executor = Executor(Model.from_proto(case.model), arithmetic)
    found = executor.run(case.feed)
    assert set(executor.levels.values()) == {Level.TORCH}
    return [to_numpy(found[n]) for n in case.node.output]


def assert_matches(case: Case, rtol: float = 1e-5, atol: float = 2e-6, double_atol: float | None = None) -> None:
    """ONNX Runtime, DECLARED and DOUBLE agree.

    Floats to the tolerances; integers exactly in DECLARED, and in DOUBLE to one step, because FP32 may round a
    quotient across a tie.
    """
    expected, declared, double = run_ort(case), run_parity(case), run_parity(case, Arithmetic.DOUBLE)
    for want, got, exact in zip(expected, declared, double, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert exact.dtype == (np.float64 if want.dtype.kind == "f" else want.dtype)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
            np.testing.assert_allclose(exact, want, rtol=rtol, atol=atol if double_atol is None else double_atol)
        else:
            np.testing.assert_array_equal(got, want)
            np.testing.assert_allclose(exact, want, rtol=0, atol=1)


def assert_differentiable(case: Case, index: int = 0) -> None:
    """The executor's derivative by input `index` is that of the function."""
    model = Model.from_proto(case.model)
    node = model.graph.nodes[0]
    executor = Executor(model, Arithmetic.DOUBLE, gradients=True)
    tensors = [None if x is None else torch.from_numpy(x) for x in case.inputs]

    def function(x: torch.Tensor) -> torch.Tensor:
        values = [*tensors[:index], x, *tensors[index + 1:]]
        y = executor.evaluate(node, values)[0]
        assert isinstance(y, torch.Tensor)
        return y

    leaf = torch.from_numpy(np.asarray(case.inputs[index], np.float64)).requires_grad_()
    assert torch.autograd.gradcheck(function, (leaf,))
