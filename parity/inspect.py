"""What a model holds, in words: `parity inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from parity.analysis.match import comparable_tensors
from parity.analysis.tolerance import model_precision
from parity.graph.executor import Level
from parity.graph.flatten import inline_functions
from parity.graph.graph import Graph, TensorSpec
from parity.graph.model import Model
from parity.graph.ops.call import KERNELS
from parity.graph.ops.fallback import schema_of


def describe(path: Path) -> str:
    """Inputs, outputs, operator counts and the level at which the executor would evaluate each.

    Raises:
        ModelError: the file cannot be read.
    """
    model = Model.load(path)
    flat = inline_functions(model)
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in model.opsets.items())
    lines = [
        f"{model.name}", f"  IR {model.proto.ir_version}, opsets: {opsets}",
        (f"  {len(flat.graph.nodes)} nodes, {len(comparable_tensors(flat))} tensors to compare, "
        f"{len(flat.graph.initializers)} weights, computes in {model_precision(flat)}"),
        *(f"  input  {_declared(spec)}" for spec in flat.graph.inputs),
        *(f"  output {_declared(spec)}" for spec in flat.graph.outputs),
    ]
    counts = Counter((op, level) for op, level in _levels(flat.graph))
    width = max((len(op) for op, _ in counts), default=0)
    lines += [f"  {count:5} {op:{width}}  {level}" for (op, level), count in counts.most_common()]
    return "\n".join(lines)


def _levels(graph: Graph) -> list[tuple[str, str]]:
    found = []
    for node in graph.nodes:
        schema = schema_of(node.proto.op_type, node.domain, node.opset)
        if (node.domain, node.proto.op_type) in KERNELS:
            level = Level.TORCH.value
        elif schema is None:
            level = "unknown to parity"
        else:
            has_body = schema.has_function or schema.has_context_dependent_function
            level = (Level.FUNCTION if has_body else Level.REFERENCE).value
        found.append((node.op, level))
        found += [entry for body in node.subgraphs.values() for entry in _levels(body)]
    return found


def _declared(spec: TensorSpec) -> str:
    if spec.dtype is None:
        return f"{spec.name}: sequence, map or optional"
    return f"{spec.name}: {spec.dtype}" + ("" if spec.shape is None else f"[{', '.join(map(str, spec.shape))}]")
