"""What each node of a model costs: multiply-adds and bytes of weights, and how many Casts a model holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import AttributeProto, TensorProto

from parity.graph.executor import Executor
from parity.graph.feeds import Feed
from parity.graph.graph import Graph, Node, subgraph_protos
from parity.graph.model import Model
from parity.graph.weights import dtype_of

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Cost:
    """What a node costs.

    Attributes:
        operations: multiply-adds of one run.
        weight_bytes: of the weights that it is the first to read, in the types in which the model stores them.
    """

    operations: int = 0
    weight_bytes: int = 0


def shapes_of(model: Model, feed: Feed) -> dict[str, Shape]:
    """The shape of every tensor of the main graph on one feed; a sequence has none.

    Raises:
        ModelError: the model does not run on this feed.
    """
    executor = Executor(model)
    shapes = {n: tuple(v.shape) for n, v in feed.items()}
    shapes.update((n, tuple(v.shape)) for n, v in executor.weights(model.graph).items() if isinstance(v, torch.Tensor))
    for step in executor.steps(feed):
        shapes.update((n, tuple(v.shape)) for n, v in step.values.items() if isinstance(v, torch.Tensor | np.ndarray))
    return shapes


def costs(model: Model, shapes: Shapes) -> dict[str, Cost]:
    """The cost of every node of the main graph, by its first output.

    Multiply-adds are those of the plain algorithm, for Conv, ConvTranspose, DeformConv, Gemm, MatMul, Einsum of two
    operands, LSTM, GRU, RNN, Attention, and for Microsoft's fused and quantised forms of them. All else is 0, as
    element-wise operators and reductions are beside these; so is a node with a tensor of unknown shape, and what
    depends on no input, since it is computed once. An If, Loop or Scan costs what its bodies do in one turn.

    A weight belongs to the first node in order that reads it, directly or through what is computed from weights
    alone, so that the bytes of all nodes together are those that the model stores and uses.

    Args:
        model: flat, where what is inside If is to be counted by node.
        shapes: of the tensors, such as `shapes_of` finds; those of weights need not be among them.
    """
    return _Counter(model, shapes).of(model.graph, set())


def shares(costs: Mapping[str, Cost], kept: Collection[str]) -> tuple[float, float]:
    """The share that some nodes have of all multiply-adds, and of all weight bytes; 0 where there are none at all.

    Args:
        costs: of all nodes.
        kept: first outputs of the nodes.
    """
    chosen = [costs[name] for name in set(kept) if name in costs]
    operations = sum(c.operations for c in costs.values()), sum(c.operations for c in chosen)
    size = sum(c.weight_bytes for c in costs.values()), sum(c.weight_bytes for c in chosen)
    return operations[1] / (operations[0] or 1), size[1] / (size[0] or 1)


def added_casts(before: Model, after: Model) -> int:
    """How many Casts one model holds more than another (fewer: negative), sub-graphs and functions included."""
    return _casts(after) - _casts(before)


def _casts(model: Model) -> int:
    bodies = [graph.node for graph in subgraph_protos(model.proto.graph)]
    bodies.extend(function.node for function in model.proto.functions)
    return sum(node.op_type == "Cast" for nodes in bodies for node in nodes)


class _Counter:
    """One count of a model's nodes, bodies included."""

    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.constants = model.constants
        self.shapes: dict[str, Shape] = dict(shapes)
        for graph in subgraph_protos(model.proto.graph):
            self.shapes.update((t.name, tuple(t.dims)) for t in graph.initializer)
            self.shapes.update((s.values.name, tuple(s.dims)) for s in graph.sparse_initializer)

    def of(self, graph: Graph, counted: set[str]) -> dict[str, Cost]:
        """The cost of each node of a graph; `counted` holds the weights that are some node's already."""
        stored = {n: _nbytes(t) for n, t in graph.initializers.items()}
        stored.update((n, _nbytes(s.values) + _nbytes(s.indices)) for n, s in graph.sparse_initializers.items())
        known = {*stored, *self.constants}
        found: dict[str, Cost] = {}
        for node in graph.nodes:
            if node.op == "Constant" or known.issuperset(node.outputs):
                known.update(node.outputs)
                continue
            cost = Cost(self.operations(node), self.unclaimed(graph, node, stored, known, counted))
            for body in node.subgraphs.values():
                inner = self.of(body, counted.difference(body.initializers)).values()
                cost = Cost(cost.operations + sum(c.operations for c in inner),
                            cost.weight_bytes + sum(c.weight_bytes for c in inner))
            found[node.outputs[0]] = cost
        return found

    def operations(self, node: Node) -> int:
        """Multiply-adds of one node."""
        rule = _RULES.get(node.op)
        if rule is None or not node.outputs or node.outputs[0] not in self.shapes:
            return 0
        read = [self.shapes.get(name) for name in node.inputs]
        return rule(_Operands(node, read, self.shapes[node.outputs[0]]))

    def unclaimed(self, graph: Graph, node: Node, stored: Mapping[str, int], known: Collection[str],
                  counted: set[str]) -> int:
        """Bytes of the weights behind a node that no node before it has read."""
        size, stack = 0, list(node.reads)
        while stack:
            name = stack.pop()
            maker = graph.producer.get(name)
            if name not in known or name in counted:
                continue
            counted.add(name)
            size += stored.get(name, 0)
            if maker is not None:
                size += sum(_nbytes(a.t) for a in maker.proto.attribute if a.type == AttributeProto.TENSOR)
                stack.extend(maker.reads)
        return size


@dataclass(frozen=True)
class _Operands:
    """A node with the shapes of what it reads (None where one is unknown or left out) and of its first output."""

    node: Node
    read: list[Shape | None]
    made: Shape

    def shape(self, place: int) -> Shape | None:
        """The shape of one input."""
        return self.read[place] if place < len(self.read) else None

    def number(self, name: str) -> int:
        """An integer attribute, 0 where it is not set."""
        return next((int(a.i) for a in self.node.proto.attribute if a.name == name), 0)


_Rule = Callable[[_Operands], int]


def _convolution(weight: int) -> _Rule:
    """Each output element sums over the channels of its group and the kernel: weight [out, in / groups, ...]."""
    def count(operands: _Operands) -> int:
        shape = operands.shape(weight)
        return math.prod(operands.made) * math.prod(shape[1:]) if shape else 0

    return count


def _transposed_convolution(operands: _Operands) -> int:
    """Each input element is spread over the channels of its group and the kernel: weight [in, out / groups, ...]."""
    source, weight = operands.shape(0), operands.shape(1)
    return math.prod(source) * math.prod(weight[1:]) if source and weight else 0


def _product(operands: _Operands) -> int:
    """Each output element of a matrix product sums over the axis that is contracted, of Microsoft's fused form too."""
    left, axis = operands.shape(0), -1
    if operands.number("transA"):
        axis = 0 if operands.number("transBatchA") else -2
    return math.prod(operands.made) * left[axis] if left else 0


def _packed_product(operands: _Operands) -> int:
    return math.prod(operands.made) * operands.number("K")


def _einsum(operands: _Operands) -> int:
    """Of two operands: the product of the sizes of all axes that the equation names, each once."""
    equation = next(a.s.decode() for a in operands.node.proto.attribute if a.name == "equation").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) != 2 or any(shape is None for shape in operands.read):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands.read, strict=True):
        assert shape is not None  # noqa: S101 - looked at above
        head, dots, tail = term.partition("...")
        broadcast = len(shape) - len(head) - len(tail) if dots else 0
        # Axes behind the dots line up from the right, as in broadcasting.
        labels = [*head, *(f"...{n}" for n in range(broadcast, 0, -1)), *tail]
        for label, size in zip(labels, shape, strict=False):
            sizes[label] = max(size, sizes.get(label, 1)) if size else 0
    return math.prod(sizes.values())


def _recurrent(operands: _Operands) -> int:
    """Every step of every sequence multiplies with both matrices, input [time, batch, in] or [batch, time, in]."""
    source, weight, recurrence = (operands.shape(place) for place in range(3))
    if not source or not weight or not recurrence:
        return 0
    return source[0] * source[1] * (math.prod(weight) + math.prod(recurrence))


def _attention(key: int, past: int) -> _Rule:
    """Scores of every query with every key, past ones included, and as many products with values.

    Queries and results may be [batch, tokens, heads * width] or [batch, heads, tokens, width].
    """
    def count(operands: _Operands) -> int:
        query, keys, before = operands.shape(0), operands.shape(key), operands.shape(past)
        if not query or not keys or len(keys) < 3:
            return 0
        total = keys[-2] + (before[-2] if before else 0)
        return total * (math.prod(query) + math.prod(operands.made))

    return count


def _projected_attention(operands: _Operands) -> int:
    """Microsoft's Attention: first the products that make queries, keys and values, weight [in, widths of the three].

    Its past is [2, batch, heads, tokens, width].
    """
    source, weight = operands.shape(0), operands.shape(1)
    if not source or not weight:
        return 0
    past = operands.shape(4 if operands.node.proto.op_type == "Attention" else 8)
    rows, total = math.prod(source[:-1]), source[-2] + (past[-2] if past else 0)
    values = operands.made[-1]
    queries = (weight[-1] - values) // 2
    return rows * math.prod(weight) + rows * total * (queries + values)


_RULES: Mapping[str, _Rule] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "DeformConv": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention(1, 4),
    "com.microsoft::FusedConv": _convolution(1),
    "com.microsoft::FusedMatMul": _product,
    "com.microsoft::TransposeMatMul": _product,
    "com.microsoft::FusedGemm": _product,
    "com.microsoft::GemmFastGelu": _product,
    "com.microsoft::QGemm": _product,
    "com.microsoft::MatMulIntegerToFloat": _product,
    "com.microsoft::DynamicQuantizeMatMul": _product,
    "com.microsoft::MatMulNBits": _packed_product,
    "com.microsoft::Attention": _projected_attention,
    "com.microsoft::QAttention": _projected_attention,
    "com.microsoft::MultiHeadAttention": _attention(1, 6),
}
_HALF_A_BYTE = frozenset({TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1})


def _nbytes(tensor: TensorProto) -> int:
    """Bytes of a weight's values as they are stored."""
    count = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in _HALF_A_BYTE:
        return (count + 1) // 2
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return count * int(dtype_of(tensor.data_type).itemsize)
