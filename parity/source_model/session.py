"""The user's module as a target: what it computes, under the names of the ONNX tensors."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from parity.backends.base import Capture, Chunk, Feed
from parity.errors import BackendFailed, BackendUnavailable, ModelError
from parity.graph.model import Model
from parity.graph.ops.call import tensor_of, to_numpy
from parity.source_model.mapping import TensorMap
from parity.source_model.source import SourceModel
from parity.source_model.trace import Trace

# There are more of them in FP64, the run that the map was made from, so that their names do not agree.
_CAST = "_to_copy"


class ModuleSession:
    """The module itself, in its own types or in FP64.

    The plain run is the module as it is. The watched run computes attention and other fused operators in the steps
    that exporters write out, so that they can be shown.

    Args:
        source: the module.
        model: the ONNX graph whose names are shown.
        mapping: of its tensors.
        double: in FP64.
    """

    def __init__(self, source: SourceModel, model: Model, mapping: TensorMap, *, double: bool = False) -> None:
        self._source, self._mapping, self._double = source, mapping, double
        self._outputs = [o.name for o in model.graph.outputs]

    def run(self, feed: Feed) -> Capture:
        """Run as deployed.

        Raises:
            ModelError: the module fails, or returns another number of tensors than the graph.
        """
        start = time.perf_counter()
        if self._double:
            values = [_array(leaf) for leaf in self._source.trace(feed, double=True).returned]
        else:
            values = self._source.run(feed)
        seconds = time.perf_counter() - start
        return Capture(_named(self._source, self._outputs, values), torch.__version__, "cpu", seconds)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """The mapped tensors in the graph's order; those of a branch that is not taken are left out."""
        trace = self._source.trace(feed, double=self._double)
        values = {n: v for n, v in trace.values.items() if self._double or trace.activations[n].op != _CAST}
        for name, value in self._mapping.shown(values):
            if name in names:
                yield {name: _array(value)}

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """What `run` shows: nothing more is to be had of the deployed module without watching it."""
        return self.run(feed)


class CompiledSession:
    """The module under torch.compile.

    The watched run compiles a module that returns, beside its outputs, what its parts return: hooks that are traced
    with it collect those, so that the graph has no breaks, and the parts are outputs of the compiled graph as they
    are of any other watched runtime.

    Args:
        source: the module; TorchScript cannot be compiled.
        model: the ONNX graph whose names are shown.
        mapping: of its tensors.
        trace: of the module, which says what its parts return.
        backend: of torch.compile.

    Raises:
        BackendUnavailable: TorchScript, or no compiler for it here.
    """

    def __init__(self, source: SourceModel, model: Model, mapping: TensorMap, trace: Trace,
                 backend: str = "inductor") -> None:
        if source.scripted:
            raise BackendUnavailable("torch.compile does not take TorchScript", "Give the module itself with --torch.")
        self._source, self._mapping, self._backend = source, mapping, backend
        self._outputs = [o.name for o in model.graph.outputs]
        self._boundaries = [_also_called(trace, name) for _, name in trace.boundaries]
        self._compiled: object = None

    def run(self, feed: Feed) -> Capture:
        """Run as deployed; compiling is not timed.

        Raises:
            BackendFailed: it does not compile, or not run.
        """
        if self._compiled is None:
            self._compiled = torch.compile(self._source.module, backend=self._backend)
            self._call(self._compiled, feed)
        start = time.perf_counter()
        values = self._call(self._compiled, feed)
        seconds = time.perf_counter() - start
        return Capture(_named(self._source, self._outputs, values), torch.__version__, "cpu", seconds)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """What the module's parts return, under the names of the tensors that are the same activations."""
        parts = _Parts(self._source.module)
        with parts:
            values = self._call(torch.compile(parts, backend=self._backend, fullgraph=True), feed)
        activations = {name: tensor_of(value) for names, value
                       in zip(self._boundaries, values[-len(self._boundaries):], strict=False) for name in names}
        outputs = dict(zip(self._outputs, values, strict=False))
        for name, value in self._mapping.shown(activations):
            if name in names and name not in outputs:
                yield {name: _array(value)}
        yield {name: value for name, value in outputs.items() if name in names}

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """What `run` shows: other outputs would be another compiled graph."""
        return self.run(feed)

    def _call(self, compiled: object, feed: Feed) -> list[np.ndarray]:
        try:
            with torch.no_grad():
                returned = self._source.called(compiled, feed)  # type: ignore[arg-type]
        except ModelError as error:
            raise BackendFailed(" ".join(("torch.compile:", error.message, *error.frames)),
                                "Is a C++ compiler installed?") from error
        return [to_numpy(leaf.contiguous()) for leaf in tree_flatten(returned)[0] if isinstance(leaf, torch.Tensor)]


class _Parts(nn.Module):
    """Returns a module's outputs, then what each of its parts returned, in the order in which they did."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._seen: list[torch.Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _Parts:
        self._hooks = [part.register_forward_hook(self._note) for part in self.module.modules()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def forward(self, *arguments: torch.Tensor, **named: torch.Tensor) -> tuple[object, ...]:
        """All at once."""
        self._seen = []
        returned = self.module(*arguments, **named)
        return returned, *self._seen

    def _note(self, part: nn.Module, inputs: object, outputs: object) -> None:
        if isinstance(outputs, torch.Tensor):
            self._seen.append(outputs.clone())  # the next operator may write into it


def _also_called(trace: Trace, name: str) -> list[str]:
    """The activations that are one tensor: a fused operator's, and its last step's."""
    held = trace.values.get(name)
    if held is None:
        return []
    return [m for m in trace.members[trace.activations[name].root]
            if (v := trace.values.get(m)) is not None and v.shape == held.shape and torch.equal(v, held)]


def _named(source: SourceModel, names: list[str], values: list[np.ndarray]) -> dict[str, np.ndarray]:
    if len(names) != len(values):
        raise ModelError(f"{source.name} returns {len(values)} tensors, the graph has {len(names)} outputs",
                         "Is the .onnx an export of this module?")
    return dict(zip(names, values, strict=True))


def _array(value: torch.Tensor) -> np.ndarray:
    return np.asarray(to_numpy(value), order="C")  # a scalar stays one, where ascontiguousarray gives it an axis
