"""Export the user's model to ONNX, with the names and lines that the map is made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.utils._pytree import tree_flatten

from parity.errors import FeedError, ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import from_numpy, is_tensor, to_numpy
from parity.graph.scratch import temporary_folder
from parity.source_model.layout import distance
from parity.source_model.place import frames_of, traced_place
from parity.source_model.source import SourceModel, tensors_of

# Beyond this an output is another one, and not one that rounds otherwise.
_SAME = 1e-2
# What the older exporter knows best.
_OLDER_OPSET = 17


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        model: the ONNX model.
        feed: the example inputs under its names.
        notes: what a reader should know.
    """

    model: Model
    feed: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def export(source: SourceModel, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray],
           opset: int | None = None) -> Exported:
    """Export a model on example inputs.

    Args:
        source: the model; TorchScript, which torch's current exporter does not take, goes through the older one.
        inputs: arrays by the names of `forward`'s parameters, or in their order.
        opset: version to export to; None for the exporter's own choice.

    Raises:
        FeedError: `forward` has no parameter of a name.
        ModelError: it does not run on these inputs; or it cannot be exported, and the exporter's reason.
    """
    if isinstance(inputs, Mapping):
        source.check_names(inputs)
    named = dict(inputs) if isinstance(inputs, Mapping) else {str(i): a for i, a in enumerate(inputs)}
    arguments, keywords = source.arguments(tensors_of(named))
    with _quiet(), torch.no_grad():  # what does not run here is no problem of its export
        leaves = tree_flatten(source.called(source.module, named))[0]
    names = list(inputs) if isinstance(inputs, Mapping) else None
    try:
        with _quiet(), _tensors_alone(source, leaves):
            proto = (_older(source, tuple(arguments), opset, names) if source.scripted
                     else _current(source, tuple(arguments), dict(keywords), opset, names))
    except Exception as error:  # exporters raise anything
        raise ModelError(
            f"{source.name} cannot be exported: {_reason(error)}",
            "Export it yourself, with other settings or the older exporter (torch.onnx.export(…, dynamo=False)), and "
            "give the .onnx beside --torch.", frames_of(error)) from error
    model = Model.from_proto(proto)
    taken = [spec.name for spec in model.graph.inputs]
    if len(taken) != len(named):
        raise ModelError(f"{source.name} takes {len(named)} inputs, and its export {len(taken)} ({', '.join(taken)})",
                         "An input that the model does not use is dropped by the exporter; leave it out.")
    by_name = named if set(taken) == set(named) else dict(zip(taken, named.values(), strict=True))
    return Exported(model, {n: by_name[n] for n in taken}, source.notes)


def check_outputs(source: SourceModel, model: Model, feed: Mapping[str, np.ndarray]) -> None:
    """Make sure that a model's outputs are those of the module, in its order.

    Raises:
        ModelError: another number, another shape, or another order; or one of the two does not run.
    """
    ours = source.run(feed)
    found = Executor(model).run(feed)
    theirs = {o.name: to_numpy(found[o.name]) for o in model.graph.outputs if is_tensor(found[o.name])}
    if len(ours) != len(theirs):
        raise ModelError(f"{source.name} returns {len(ours)} tensors, and {model.name} has {len(theirs)} outputs "
                         f"({', '.join(theirs)})", "Is the .onnx an export of this module, with these options?")
    for position, (name, value) in enumerate(theirs.items()):
        if _apart(ours[position], value) <= _SAME:
            continue
        other = next((i for i, array in enumerate(ours) if i != position and _apart(array, value) <= _SAME), None)
        if other is not None:
            raise ModelError(f"output {name!r} of {model.name} is number {position + 1}, and has the values of number "
                             f"{other + 1} of {source.name}", "Export with the outputs in the module's order.")
        if ours[position].shape != value.shape:
            raise ModelError(f"output {name!r} of {model.name} has shape {value.shape}, and number {position + 1} of "
                             f"{source.name} has {ours[position].shape}", "Is the .onnx an export of this module?")


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    left, right = from_numpy(one), from_numpy(other)
    if one.shape != other.shape or not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        return float("inf")
    return distance(left, right)


def _current(source: SourceModel, arguments: tuple[torch.Tensor, ...], keywords: dict[str, torch.Tensor],
             opset: int | None, names: list[str] | None) -> onnx.ModelProto:
    program = torch.onnx.export(source.program or source.module, arguments, kwargs=keywords or None, dynamo=True,
                                verbose=False, opset_version=opset)
    if program is None:
        raise FeedError("the exporter returned nothing")
    if names is not None:
        _name_inputs(program, names)
    return program.model_proto


def _name_inputs(program: torch.onnx.ONNXProgram, names: Sequence[str]) -> None:
    """Call the inputs what the module does: of one that is returned as it is, the exporter names the output so."""
    graph = program.model.graph
    found = [value.name for value in graph.inputs]
    if len(found) != len(names) or set(found) == set(names):
        return
    others = {value.name: value for node in graph for value in node.outputs}
    for value, name in zip(graph.inputs, names, strict=True):
        if name in others:
            others[name].name = next(free for i in count() if (free := f"{name}_output{i or ''}") not in others)
        value.name = name


def _older(source: SourceModel, arguments: tuple[torch.Tensor, ...], opset: int | None,
           names: list[str] | None) -> onnx.ModelProto:
    with temporary_folder() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(source.module, arguments, path, dynamo=False, input_names=names,
                          opset_version=opset or _OLDER_OPSET)
        return onnx.load(str(path))


def _reason(error: BaseException) -> str:
    """The innermost cause's first line, and the user's: exporters wrap what happened in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = traced_place(str(error), None)
    at = f" (at {place.source}: {place.text})" if place.source else ""
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}{at}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks, and the graphs that they print where they fail, off the user's terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _tensors_alone(source: SourceModel, leaves: Sequence[object]) -> Iterator[None]:
    """Have the model return its tensors and nothing else, where there is more: an ONNX graph has no other outputs.

    Args:
        source: the model.
        leaves: what it returns.
    """
    more = source.program is None and not source.scripted and not all(isinstance(v, torch.Tensor) for v in leaves)
    hook = source.module.register_forward_hook(lambda module, inputs, returned: tuple(
        leaf for leaf in tree_flatten(returned)[0] if isinstance(leaf, torch.Tensor))) if more else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
