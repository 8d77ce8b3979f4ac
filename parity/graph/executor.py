"""Run a Model on torch, node by node: the ruler that every backend is held against.

Each node is evaluated at the first of three levels that knows it: a torch kernel, the operator's ONNX function
body, the numpy reference evaluator on a one-node model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeAlias, cast

import numpy as np
import torch

import parity.graph.ops  # noqa: F401 - registers the kernels
from parity.errors import ModelError, ParityError, UnsupportedOp
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.graph.ops.call import KERNELS, TAKES_HALVES, Arithmetic, Call, Value, from_numpy, in_arithmetic
from parity.graph.ops.fallback import function_body, local_function_body, run_reference
from parity.graph.ops.halves import narrowed, widened
from parity.graph.prepared import Prepared, prepare

# A list is an ONNX sequence.
Feedable: TypeAlias = Mapping[str, np.ndarray] | Mapping[str, torch.Tensor] | Mapping[str, object]
# Given a node, its inputs and what an operator made of them: what it is to have made of them instead.
Rounding: TypeAlias = Callable[[Node, Sequence[Value], list[Value]], list[Value]]


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

    Weights are kept once, in their declared type; in Arithmetic.DOUBLE each is widened where a node reads it, and
    dropped again.

    Attributes:
        levels: for every node that has run, by its first output: the level that evaluated it.
        branches: for every If that has run, by its first output: the branch that was taken.
    """

    def __init__(self, model: Model, arithmetic: Arithmetic = Arithmetic.DECLARED, *, gradients: bool = False,
                 seed: int = 0, rounding: Rounding | None = None) -> None:
        """Make ready to run.

        Args:
            model: what to run.
            arithmetic: in which types.
            gradients: record for torch's autograd.
            seed: for the random operators.
            rounding: is applied to the outputs of each node, those inside of bodies and functions too.
        """
        self.model = model
        self.arithmetic = arithmetic
        self.gradients = gradients
        self.seed = seed
        self.rounding = rounding
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
        wanted = dict.fromkeys([*(o.name for o in self.model.graph.outputs), *capture])
        run = _Run(self, frozenset(wanted))
        scope = self.scope(feed)
        for _ in run.walk(self.model.graph, scope):
            pass
        return {**{n: in_arithmetic(scope[n], self.arithmetic) for n in wanted if n in scope}, **run.captured}

    def steps(self, feed: Feedable, keep: Collection[str] = ()) -> Iterator[Step]:
        """Run the model one main-graph node at a time; a tensor is freed once its last reader has run.

        Args:
            feed: a value for every graph input.
            keep: tensors that are not to be freed.
        """
        yield from _Run(self, frozenset(keep)).walk(self.model.graph, self.scope(feed))

    def scope(self, feed: Feedable) -> dict[str, Value]:
        """The values that are known before any node has run: inputs and weights, the latter in their declared types."""
        given = {name: in_arithmetic(_fed(value), self.arithmetic) for name, value in feed.items()}
        return {**self.prepared(self.model.graph).weights, **given}

    def weights(self, graph: Graph) -> dict[str, Value]:
        """The initializers of a graph of this model, and the values of its Constant nodes, in this arithmetic."""
        return {n: in_arithmetic(w, self.arithmetic) for n, w in self.prepared(graph).weights.items()}

    def prepared(self, graph: Graph) -> Prepared:
        """What all runs of a graph of this model share."""
        return prepare(graph, self.model.folder)

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
        return _Run(self, frozenset()).evaluate(node, inputs, outer or {})


class _Run:
    """One pass over a model: what is wanted from it, and what was captured in sub-graphs so far."""

    def __init__(self, executor: Executor, wanted: frozenset[str]) -> None:
        self.executor = executor
        self.wanted = wanted
        self.captured: dict[str, Value] = {}

    def walk(self, graph: Graph, scope: dict[str, Value]) -> Iterator[Step]:
        """Run the nodes in order, adding to `scope` what they make and dropping what nobody reads any more."""
        prepared = self.executor.prepared(graph)
        for node, unread in zip(graph.nodes, prepared.unread, strict=True):
            made = self.step(node, prepared, scope)
            for name in unread:
                if name not in self.wanted:
                    scope.pop(name, None)
            yield Step(node, made)
            del made  # or it would live until the next node has run

    def step(self, node: Node, prepared: Prepared, scope: dict[str, Value]) -> dict[str, Value]:
        """Run one node, or look up what it made before; `scope` gets what it makes."""
        if node.outputs and node.outputs[0] in prepared.weights:
            self.executor.levels[node.outputs[0]] = Level.TORCH
            return {n: in_arithmetic(prepared.weights[n], self.executor.arithmetic) for n in node.outputs}
        values = self.evaluate(node, [scope[n] if n else None for n in node.inputs], scope)
        made = {n: v for n, v in zip(node.proto.output, values, strict=False) if n}
        scope.update(made)
        return made

    def evaluate(self, node: Node, inputs: Sequence[Value], scope: Mapping[str, Value]) -> list[Value]:
        """Evaluate one node, saying which one it was if that fails."""
        inputs = [in_arithmetic(v, self.executor.arithmetic) for v in inputs]
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
            return self.run_function(local_function_body(node, function), inputs)
        outputs = self.run_kernel(node, inputs, scope)
        if outputs is not None:
            return outputs, Level.TORCH
        body = function_body(node, inputs)
        if body is not None:
            return self.run_function(body, inputs)
        opsets = {**executor.model.opsets, node.domain: node.opset}
        values = run_reference(node, inputs, opsets, executor.model.proto.ir_version, executor.arithmetic)
        return self.rounded(node, inputs, values), Level.REFERENCE

    def run_kernel(self, node: Node, inputs: Sequence[Value], scope: Mapping[str, Value]) -> list[Value] | None:
        """Evaluate one node by its torch kernel; None where there is none, or it does not cover the case."""
        executor, key = self.executor, (node.domain, node.proto.op_type)
        kernel = KERNELS.get(key)
        if kernel is None:
            return None
        if key == ("", "If"):
            executor.branches[node.outputs[0]] = bool(inputs[0])
        call = Call(node, executor.arithmetic, partial(self.run_body, scope), executor.model.folder, executor.seed)
        unchanged = key in TAKES_HALVES
        try:
            made = kernel(call, *(inputs if unchanged else map(widened, inputs)))
        except NotImplementedError:
            return None
        outputs = list(made) if isinstance(made, tuple) else [made]
        return self.rounded(node, inputs, outputs if unchanged else narrowed(node, inputs, outputs))

    def rounded(self, node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        """What an operator made, after the executor's own rounding; the nodes of a body have gone through it."""
        rounding = self.executor.rounding
        return outputs if rounding is None or node.subgraphs else rounding(node, inputs, outputs)

    def run_body(self, outer: Mapping[str, Value], body: Graph, arguments: Sequence[Value]) -> list[Value]:
        """Run a sub-graph on positional inputs in the scope around it, capturing what is wanted from it."""
        scope = {**{n: outer[n] for n in body.captured}, **self.executor.prepared(body).weights}
        scope.update(zip((i.name for i in body.proto.input), arguments, strict=False))
        for step in self.walk(body, scope):
            self.captured.update({n: v for n, v in step.values.items() if n in self.wanted})
        return [in_arithmetic(scope[o.name], self.executor.arithmetic) for o in body.outputs]

    def run_function(self, body: Graph, inputs: Sequence[Value]) -> tuple[list[Value], Level]:
        """Run a function in a scope of its own; its level is the worst among its nodes."""
        names = [i.name for i in body.proto.input]
        given = dict(zip(names, [*inputs, *[None] * (len(names) - len(inputs))], strict=True))
        scope = {**self.executor.prepared(body).weights, **given}
        inner = _Run(self.executor, frozenset())
        outer_levels, self.executor.levels = self.executor.levels, {}
        try:
            for _ in inner.walk(body, scope):
                pass
            worst = max([Level.FUNCTION, *self.executor.levels.values()], key=_RANK.__getitem__)
        finally:
            self.executor.levels = outer_levels
        return [in_arithmetic(scope.get(o.name), self.executor.arithmetic) for o in body.outputs], worst


def _fed(value: object) -> Value:
    if isinstance(value, list):
        return [_fed(v) for v in value]
    return from_numpy(value) if isinstance(value, np.ndarray) else cast("Value", value)


def _describe(value: Value) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return "-" if value is None else f"sequence of {len(value)}"
