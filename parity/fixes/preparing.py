"""Lines of Python that bring a model file into the form that another tool takes, for the texts of `words`.

Every function gives statements on `model`, a ModelProto that was loaded before; none where nothing needs to be done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress

import onnx
from onnx import TensorProto, shape_inference

from parity.graph.model import Model
from parity.precision.elements import REALS, TypedGraph

# From this IR version on an initializer need not be a graph input, too, and tools count on that.
_FREE_INITIALIZERS_IR, _IR_OF_OPSET_13 = 4, 7


def quoted(text: str) -> str:
    """A Python literal, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def listed(names: Iterable[str], indent: str = "    ") -> str:
    """A Python list, one name a line."""
    return "[\n" + "".join(f"{indent}    {quoted(name)},\n" for name in names) + f"{indent}]"


def patterns(names: Iterable[str]) -> list[str]:
    """Regular expressions that match these names and no others, from their start."""
    return [f"{re.escape(name)}$" for name in names]


def named() -> list[str]:
    """Every node gets a name of its own."""
    return ["# Not every node has a name of its own, so each takes that of its first output.",
            "for node in model.graph.node:",
            "    node.name = next(filter(None, node.output))"]


def raised(model: Model, opset: int, why: str) -> list[str]:
    """An earlier opset becomes this one."""
    now = model.opsets.get("", 1)
    if now >= opset:
        return []
    return [f"# {why} opset {opset}, and the model has {now}.",
            f"model = onnx.version_converter.convert_version(model, {opset})"]


def freed(model: Model) -> list[str]:
    """Weights are no longer inputs."""
    if model.proto.ir_version >= _FREE_INITIALIZERS_IR:
        return []
    return ["# The oldest models list their weights among the inputs, which no tool expects.",
            "weights = {weight.name for weight in model.graph.initializer}",
            "for place in reversed(range(len(model.graph.input))):",
            "    if model.graph.input[place].name in weights:",
            "        del model.graph.input[place]",
            f"model.ir_version = {_IR_OF_OPSET_13}"]


def own_weights(model: Model) -> list[str]:
    """What stays in FP32 shares no weight with what does not; reads KEPT, the names of these nodes."""
    shared = any(tensor.data_type == TensorProto.FLOAT and len(model.graph.readers.get(name, ())) > 1
                 for name, tensor in model.graph.initializers.items())
    if not shared:
        return []
    return ["# A weight stays in FP32 for all of its readers, if for one: what stays in FP32 gets weights of its own.",
            "weights = {weight.name: weight for weight in model.graph.initializer}",
            "for node in model.graph.node:",
            "    if node.name in KEPT or node.op_type in float16.DEFAULT_OP_BLOCK_LIST:",
            "        for place, name in enumerate(node.input):",
            "            if name in weights:",
            "                copy = model.graph.initializer.add()",
            "                copy.CopyFrom(weights[name])",
            '                copy.name = node.input[place] = f"{name}/{node.name}"']


def outputs_apart(model: Model) -> list[str]:
    """No node reads a graph output."""
    if not any(o.name in model.graph.readers and o.name in model.graph.producer for o in model.graph.outputs):
        return []
    return ["# An output is cast to FP32 for the nodes that read it, too: they read what it is made from.",
            "for name in [output.name for output in model.graph.output]:",
            "    if any(name in node.input for node in model.graph.node):",
            "        for node in model.graph.node:",
            '            node.input[:] = [f"{name}/inner" if n == name else n for n in node.input]',
            '            node.output[:] = [f"{name}/inner" if n == name else n for n in node.output]',
            '        last = onnx.helper.make_node("Identity", [f"{name}/inner"], [name], f"{name}/Identity")',
            "        model.graph.node.append(last)"]


def typed(model: Model, real: Collection[str]) -> list[str]:
    """Tensors of which onnx does not find out the type are declared.

    Args:
        model: any model.
        real: its tensors that are FP32.
    """
    known: set[str] = set()
    with suppress(onnx.onnx_cpp2py_export.shape_inference.InferenceError, ValueError):  # too large, or not valid
        inferred = shape_inference.infer_shapes(model.proto).graph
        known = {v.name for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    made = {o for node in model.graph.nodes for o in node.outputs if o in real}
    missing = sorted(made - known)
    if not missing:
        return []
    return ["# onnx does not find out the type of these, without which no Cast is put between them and FP16.",
            f"for name in {listed(missing, '')}:",
            "    model.graph.value_info.append(",
            "        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))"]


def real_tensors(types: TypedGraph) -> set[str]:
    """Floating-point tensors of a graph and of the graphs in it."""
    found = {name for name, element in types.elements.items() if element in REALS}
    return found.union(*(real_tensors(body) for body in types.bodies.values()))


def widening(model: Model) -> list[str]:
    """First outputs of the Casts to FP32."""
    return [n.outputs[0] for n in model.graph.nodes if n.op == "Cast" and any(
        a.name == "to" and a.i == TensorProto.FLOAT for a in n.proto.attribute)]
