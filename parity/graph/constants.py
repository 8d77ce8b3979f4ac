"""The tensors that no input can change, by value."""

from __future__ import annotations

from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Value


def constant_values(model: Model) -> dict[str, Value]:
    """Every tensor in `model.constants`, in its declared type, by running what computes them.

    Raises:
        ModelError: a weight cannot be read, or a node on constants fails.
    """
    executor = Executor(model)
    values = executor.weights(model.graph)
    for node in model.graph.nodes:
        if node.outputs and all(o in model.constants for o in node.outputs):
            results = executor.evaluate(node, [values[n] if n else None for n in node.inputs], values)
            values.update({n: v for n, v in zip(node.proto.output, results, strict=False) if n})
    return values
