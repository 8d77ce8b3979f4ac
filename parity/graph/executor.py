"""Run a Model on torch, node by node: the ruler that every backend is held against.

Each node is evaluated at the first of three levels that knows it: a torch kernel, the operator's ONNX function
body, the numpy reference evaluator on a one-node model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeAlias, cast

import numpy as np
import onnx
import torch

import parity.graph.ops  # noqa: F401 - registers the kernels
from parity.errors import ModelError, ParityError, UnsupportedOp
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.graph.ops.call import HALVES, KERNELS, Arithmetic, Call, Value, from_numpy, in_arithmetic
from parity.graph.ops.fallback import function_body, graph_of_function, run_reference, schema_of
from parity.graph.weights import read_weight

Feedable: TypeAlias = Mapping[str, np.ndarray] | Mapping[str, torch.Tensor]


class Level(str, Enum):
    """How a node was evaluated, best first."""

    TORCH = "torch"
    FUNCTION = "function"
    REFERENCE = "reference"


_RANK = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True)
class Step:
    """One node that has just run, with the values of its outputs by name."""

    node: Node
    values: Mapping[str, Value]


class Executor:
    """Runs one model in one arithmetic.

    Attributes:
        levels: for every node that has run, by its first output: the level that evaluated it.
        branches: for every If that has run, by its first output: the branch that was taken.
    """

    def __init__(self, model: Model, arithmetic: Arithmetic = Arithmetic.DECLARED, *, gradients: bool = False,
                 seed: int = 0) -> None:
        self.model = model
        self.arithmetic = arithmetic
        self.gradients = gradients
        self.seed = seed
        self.levels: dict[str, Level] = {}
        self.branches: dict[str, bool] = {}

    def run(self, feed: Feedable, capture: Collection[str] = ()) -> dict[str, Value]:
        """Run the whole model.

        Args:
            feed: a value for every graph input. With `gradients`, torch tensors that require them are leaves.
            capture: more tensors to return under their ONNX names, those inside sub-graphs included (of a loop
                body: the value of its last iteration).

        Returns:
            The graph outputs and the captured tensors.

        Raises:
            ModelError: a node cannot be evaluated on these values; names the node and its first output.
        """
        wanted = frozenset({*capture, *(o.name for o in self.model.graph.outputs)})
        run = _Run(self, wanted)
        scope = self.scope(feed)
        for _ in run.walk(self.model.graph, scope):
            pass
        return {**{n: scope[n] for n in wanted if n in scope}, **run.captured}

    def steps(self, feed: Feedable, keep: Collection[str] = ()) -> Iterator[Step]:
        """Run the model one main-graph node at a time; a tensor is freed once its last reader has run.

        Args:
            feed: a value for every graph input.
            keep: tensors that are not to be freed.
        """
        yield from _Run(self, frozenset(keep)).walk(self.model.graph, self.scope(feed))

    def scope(self, feed: Feedable) -> dict[str, Value]:
        """The values that are known before any node has run: inputs and weights, in this arithmetic."""
        scope = self.weights(self.model.graph)
        for name, value in feed.items():
            scope[name] = in_arithmetic(_fed(value), self.arithmetic)
        return scope

    def weights(self, graph: Graph) -> dict[str, Value]:
        """The initializers of a graph of this model, in this arithmetic."""
        dense = {n: read_weight(t, self.model.folder) for n, t in graph.initializers.items()}
        sparse = {n: _dense(t) for n, t in graph.sparse_initializers.items()}
        return {n: in_arithmetic(from_numpy(w), self.arithmetic) for n, w in {**dense, **sparse}.items()}

    def evaluate(self, node: Node, inputs: Sequence[Value], outer: Mapping[str, Value] | None = None) -> list[Value]:
        """Evaluate one node on given inputs.

        Args:
            node: any node of the model.
            inputs: one value for each formal input, None for an omitted one; brought into this arithmetic first.
            outer: values of the tensors that its bodies read from outside.

        Returns:
            One value for each declared output; None where an omitted one was not computed.

        Raises:
            ModelError: it cannot be evaluated on these values.
        """
        inputs = [in_arithmetic(v, self.arithmetic) for v in inputs]
        return _Run(self, frozenset()).evaluate(node, inputs, outer or {})


class _Run:
    """One pass over a model: what is wanted from it, and what was captured in sub-graphs so far."""

    def __init__(self, executor: Executor, wanted: frozenset[str]) -> None:
        self.executor = executor
        self.wanted = wanted
        self.captured: dict[str, Value] = {}

    def walk(self, graph: Graph, scope: dict[str, Value]) -> Iterator[Step]:
        """Run the nodes in order, adding to `scope` what they make and dropping what nobody reads any more."""
        remaining = Counter(name for node in graph.nodes for name in node.reads)
        kept = self.wanted | {o.name for o in graph.outputs}
        for node in graph.nodes:
            values = self.evaluate(node, [scope[n] if n else None for n in node.inputs], scope)
            made = {n: v for n, v in zip(node.proto.output, values, strict=False) if n}
            scope.update(made)
            yield Step(node, made)
            remaining.subtract(node.reads)
            for name in (*node.reads, *node.outputs):
                if remaining[name] == 0 and name not in kept and name in graph.producer:
                    scope.pop(name, None)

    def evaluate(self, node: Node, inputs: Sequence[Value], scope: Mapping[str, Value]) -> list[Value]:
        """Evaluate one node, saying which one it was if that fails."""
        try:
            with torch.set_grad_enabled(self.executor.gradients):
                values, level = self.dispatch(node, inputs, scope)
        except ParityError:
            raise
        except NotImplementedError as error:
            raise UnsupportedOp(
                f"node {node.label!r}: operator {node.op} (opset {node.opset}) is not supported here ({error})",
                "Run `parity inspect MODEL` to see how each node would run.") from error
        except Exception as error:
            shapes = ", ".join(_describe(v) for v in inputs)
            raise ModelError(f"node {node.label!r} ({node.op}) fails on inputs [{shapes}]: {error}",
                             "Check the shapes of the inputs (`--shape`).") from error
        if node.outputs:
            self.executor.levels[node.outputs[0]] = level
        return values

    def dispatch(self, node: Node, inputs: Sequence[Value], scope: Mapping[str, Value]) -> tuple[list[Value], Level]:
        """Evaluate one node at the first level that knows it."""
        executor = self.executor
        function = executor.model.functions.get((node.proto.domain, node.proto.op_type))
        if function is not None:
            return self.run_function(graph_of_function(function, node.proto), inputs)
        kernel = KERNELS.get((node.domain, node.proto.op_type))
        if kernel is not None:
            if node.op == "If":
                executor.branches[node.outputs[0]] = bool(inputs[0])
            call = Call(node, executor.arithmetic, partial(self.run_body, scope), executor.model.folder, executor.seed)
            try:
                # The nodes of a body widen for themselves.
                outputs = kernel(call, *(v if node.subgraphs else _widened(v) for v in inputs))
            except NotImplementedError:
                pass  # the next level may know it
            else:
                listed = list(outputs) if isinstance(outputs, tuple) else [outputs]
                return _narrowed(node, inputs, listed), Level.TORCH
        body = function_body(node, inputs)
        if body is not None:
            return self.run_function(body, inputs)
        opsets = {**executor.model.opsets, node.domain: node.opset}
        values = run_reference(node, inputs, opsets, executor.model.proto.ir_version, executor.arithmetic)
        return values, Level.REFERENCE

    def run_body(self, outer: Mapping[str, Value], body: Graph, arguments: Sequence[Value]) -> list[Value]:
        """Run a sub-graph on positional inputs in the scope around it, capturing what is wanted from it."""
        scope = {**outer, **self.executor.weights(body)}
        scope.update(zip((i.name for i in body.proto.input), arguments, strict=False))
        for step in self.walk(body, scope):
            self.captured.update({n: v for n, v in step.values.items() if n in self.wanted})
        return [scope[o.name] for o in body.outputs]

    def run_function(self, body: Graph, inputs: Sequence[Value]) -> tuple[list[Value], Level]:
        """Run a function in a scope of its own; its level is the worst among its nodes."""
        names = [i.name for i in body.proto.input]
        scope = dict(zip(names, [*inputs, *[None] * (len(names) - len(inputs))], strict=True))
        inner = _Run(self.executor, frozenset())
        outer_levels, self.executor.levels = self.executor.levels, {}
        try:
            for _ in inner.walk(body, scope):
                pass
            worst = max([Level.FUNCTION, *self.executor.levels.values()], key=_RANK.__getitem__)
        finally:
            self.executor.levels = outer_levels
        return [scope.get(o.name) for o in body.outputs], worst


def _fed(value: object) -> Value:
    if isinstance(value, list):
        return [_fed(v) for v in value]
    return from_numpy(value) if isinstance(value, np.ndarray) else cast("Value", value)


def _widened(value: Value) -> Value:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALVES else value


def _narrowed(node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
    """Round to FP16/BF16 the outputs whose type the schema ties to an input of that type."""
    halves = [v.dtype if isinstance(v, torch.Tensor) and v.dtype in HALVES else None for v in inputs]
    if node.subgraphs or not any(halves):
        return outputs
    schema = schema_of(node.proto.op_type, node.domain, node.opset)
    if schema is None:  # an operator of another domain: by custom its first float input gives the type
        first = next(d for d in halves if d)
        return [_rounded(v, first) for v in outputs]
    types: dict[str, torch.dtype | None] = {}
    for i, dtype in enumerate(halves):
        if inputs[i] is not None:
            types.setdefault(schema.inputs[min(i, len(schema.inputs) - 1)].type_str, dtype)
    last = len(schema.outputs) - 1
    return [_rounded(v, types.get(schema.outputs[min(i, last)].type_str)) for i, v in enumerate(outputs)]


def _rounded(value: Value, dtype: torch.dtype | None) -> Value:
    return value.to(dtype) if dtype and isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dense.shape)] = values
    return dense


def _describe(value: Value) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return "-" if value is None else f"sequence of {len(value)}"
