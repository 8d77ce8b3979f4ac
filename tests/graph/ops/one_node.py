"""One node, held against ONNX Runtime's own kernel for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto, NodeProto, helper

from parity.graph.executor import Executor, Level
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy

Attribute: TypeAlias = int | float | str | list[int] | list[float] | list[str]


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


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal FP32 values, of their own for each shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def onnx_case(op: str, inputs: Sequence[np.ndarray | None], opset: int, attributes: Mapping[str, Attribute],
              outputs: int = 1) -> Case:
    """A node of ONNX's own domain."""
    return Case(op, tuple(inputs), dict(attributes), outputs, "", opset)


def run_ort(case: Case) -> list[np.ndarray]:
    """What ONNX Runtime's CPU gives, its graph optimiser switched off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, case.feed)]


def run_parity(case: Case, arithmetic: Arithmetic = Arithmetic.DECLARED) -> list[np.ndarray]:
    """What the executor gives, having made sure that a torch kernel gave it."""
    executor = Executor(Model.from_proto(case.model), arithmetic)
    found = executor.run(case.feed)
    assert set(executor.levels.values()) == {Level.TORCH}
    return [to_numpy(found[n]) for n in case.node.output]


def on_torch(op: str, inputs: Sequence[np.ndarray | None], opset: int, attributes: Mapping[str, Attribute],
             outputs: int = 1, arithmetic: Arithmetic = Arithmetic.DECLARED) -> list[np.ndarray]:
    """What the executor gives for a node of ONNX's own domain."""
    return run_parity(onnx_case(op, inputs, opset, attributes, outputs), arithmetic)


def assert_matches(case: Case, rtol: float = 1e-5, atol: float = 2e-6, double_atol: float | None = None) -> None:
    """ONNX Runtime, DECLARED and DOUBLE agree.

    Floats to the tolerances; integers exactly in DECLARED, and in DOUBLE to one step, because FP32 may round a
    quotient across a tie.
    """
    for want, got, exact in _three(case):
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
            np.testing.assert_allclose(exact, want, rtol=rtol, atol=atol if double_atol is None else double_atol)
        else:
            np.testing.assert_array_equal(got, want)
            np.testing.assert_allclose(exact, want, rtol=0, atol=1)


def check(op: str, inputs: Sequence[np.ndarray | None], opset: int, outputs: int = 1, rtol: float = 1e-5,
          **attributes: Attribute) -> None:
    """ONNX Runtime, DECLARED and DOUBLE agree on a node of ONNX's own domain.

    Floats to `rtol` of the largest magnitude; integers exactly.
    """
    for want, got, exact in _three(onnx_case(op, inputs, opset, attributes, outputs)):
        if want.dtype.kind == "f":
            scale = np.abs(want).max(initial=0)
            np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale)
            np.testing.assert_allclose(exact, got, rtol=0, atol=rtol * scale)
        else:
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(exact, want)


def _three(case: Case) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each output by ONNX Runtime, in DECLARED and in DOUBLE, its dtype and shape being right."""
    declared, double = run_parity(case), run_parity(case, Arithmetic.DOUBLE)
    for want, got, exact in zip(run_ort(case), declared, double, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert (exact.dtype, exact.shape) == (np.float64 if want.dtype.kind == "f" else want.dtype, want.shape)
        yield want, got, exact


def assert_differentiable(case: Case, *indices: int) -> None:
    """The executor's derivatives by some inputs, by default the first, are those of the function, in FP64."""
    model = Model.from_proto(case.model)
    executor = Executor(model, Arithmetic.DOUBLE, gradients=True)
    given: list[Value] = [None if x is None else torch.from_numpy(x) for x in case.inputs]
    indices = indices or (0,)
    leaves = [torch.from_numpy(np.asarray(case.inputs[i], np.float64)).requires_grad_() for i in indices]

    def function(*floats: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = list(given)
        for i, value in zip(indices, floats, strict=True):
            values[i] = value
        found = executor.evaluate(model.graph.nodes[0], values)
        return tuple(v for v in found if isinstance(v, torch.Tensor) and v.requires_grad)

    assert torch.autograd.gradcheck(function, leaves)


def gradcheck(op: str, inputs: Sequence[np.ndarray | None], opset: int, outputs: int = 1,
              **attributes: Attribute) -> None:
    """The derivatives of a node of ONNX's own domain by every float input are those of the function."""
    floats = [i for i, v in enumerate(inputs) if v is not None and v.dtype.kind == "f"]
    assert_differentiable(onnx_case(op, inputs, opset, attributes, outputs), *floats)
