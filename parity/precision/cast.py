"""FP16 and BF16 variants of a model: Casts around what a plan runs in another type, and nothing renamed.

Every tensor of the model keeps its name and its place. Between two nodes of one type it has that type; where it is
needed in another one too, a Cast makes it beside, under the name with "/fp16", "/bf16" or "/fp32" after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from parity.errors import UsageError
from parity.graph.flatten import inline_functions
from parity.graph.graph import subgraph_protos
from parity.graph.model import Model
from parity.precision.choose import Choice, Note, Scope, choose, scope_of, settle
from parity.precision.edit import Edit
from parity.precision.elements import HALVES, REALS, read_types
from parity.precision.narrow import WeightFile
from parity.precision.plan import ELEMENT_OF, PrecisionPlan

# Cast knows BF16 from this opset on.
_BF16_OPSET = 13
# From this IR version on an initializer need not be a graph input, too.
_FREE_INITIALIZERS_IR = 4


def cast_to(model: Model, plan: PrecisionPlan, *, keep_io: bool = True, folder: Path | None = None) -> Model:
    """The variant of a model in which every node computes in the floating-point type that a plan gives it.

    What the plan calls int8, FP64, integers, and inputs that the standard wants in FP32 stay as they are. A node
    that the standard gives no such form, or that reads a weight beyond the type's range, keeps its type or stays
    FP32. `cast_with_notes` says which.

    Args:
        model: its local functions are inlined; one that follows the plan already is returned as it is.
        plan: made for this model.
        keep_io: graph inputs and outputs keep their types; else each takes that of the nodes that read or make it.
        folder: where weights go whose data is in external files; they are copied and converted a piece at a time,
            into one file named after the plan. The variant is to be saved there.

    Raises:
        UsageError: BF16 at an opset below 13, or external weights and no folder.
    """
    return cast_with_notes(model, plan, keep_io=keep_io, folder=folder)[0]


def cast_with_notes(model: Model, plan: PrecisionPlan, *, keep_io: bool = True,
                    folder: Path | None = None) -> tuple[Model, tuple[Note, ...]]:
    """The variant as `cast_to` makes it, and what the plan does not say about it."""
    flat = inline_functions(model)
    wanted = {ELEMENT_OF[p] for p in (plan.default, *plan.nodes.values())}
    opset = flat.opsets.get("", _BF16_OPSET)
    if TensorProto.BFLOAT16 in wanted and opset < _BF16_OPSET:
        raise UsageError(f"{model.name} has opset {opset}, which knows no BF16",
                         f"Convert it to opset {_BF16_OPSET} or later with onnx.version_converter.")
    typed = read_types(flat)
    narrow = not HALVES.isdisjoint({*wanted, *typed.elements.values()})
    root = scope_of(typed, None, flat.folder, measure=narrow)
    _bind_io(root, keep_io=keep_io)
    notes = choose(root, plan)
    settle(root)
    if _unchanged(root):
        return model, tuple(notes)
    external = any(t.data_location == TensorProto.EXTERNAL for t in _stored(flat.proto.graph))
    if external and folder is None:
        raise UsageError(f"the weights of {model.name} are in external files", "Give a folder for the converted ones.")
    location = f"weights.{plan.digest[:12]}.bin"
    proto = _header(flat.proto)
    with ExitStack() as stack:
        file = stack.enter_context((folder / location).open("wb")) if external and folder else None
        edit = Edit(flat, _names(flat.proto.graph), WeightFile(file, location) if file else None)
        edit.write(root, proto.graph)
    if len(proto.graph.initializer) > len(flat.proto.graph.initializer):
        proto.ir_version = max(proto.ir_version, _FREE_INITIALIZERS_IR)
    return Model(proto, folder if external else None), (*notes, *edit.notes)


def _bind_io(root: Scope, *, keep_io: bool) -> None:
    graph = root.typed.graph
    if keep_io:
        root.forced.update((o.name, root.typed.of(o.name)) for o in graph.proto.output)
    else:
        root.given.update((i.name, []) for i in graph.inputs if root.typed.of(i.name) in REALS)


def _unchanged(scope: Scope) -> bool:
    of = scope.typed.of
    return (all(of(name) == element for name, element in scope.home.items())
            and all(e in {0, of(n)} for node in scope.typed.graph.nodes
                    for n, e in zip((*node.inputs, *node.proto.output), _both(scope.choices[node.index]), strict=True))
            and all(_unchanged(body) for body in scope.bodies.values()))


def _both(choice: Choice) -> tuple[int, ...]:
    return (*choice.inputs, *choice.outputs)


def _header(proto: ModelProto) -> ModelProto:
    """All of a model but its graph: copying that would copy the weights."""
    header = ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name, domain=proto.domain,
                        producer_version=proto.producer_version, model_version=proto.model_version,
                        doc_string=proto.doc_string)
    header.opset_import.extend(proto.opset_import)
    header.metadata_props.extend(proto.metadata_props)
    return header


def _names(graph: GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in subgraph_protos(graph):
        names.update(v.name for v in (*inner.input, *inner.output, *inner.value_info, *inner.initializer))
        names.update(t.values.name for t in inner.sparse_initializer)
        names.update(name for node in inner.node for name in (*node.input, *node.output))
    return names


def _stored(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor in a graph's bodies and attributes that may lie in an external file."""
    for inner in subgraph_protos(graph):
        yield from inner.initializer
        yield from (a.t for node in inner.node for a in node.attribute if a.type == AttributeProto.TENSOR)
