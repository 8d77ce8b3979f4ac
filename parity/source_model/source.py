"""A PyTorch model as parity holds it: a module, an exported program or TorchScript, ready to be run and watched."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_flatten, tree_map_only

from parity.errors import FeedError, ModelError
from parity.graph.ops.call import tensor_of, to_numpy
from parity.source_model.place import Place, frames_of, traced_place
from parity.source_model.recorder import Owners, record
from parity.source_model.trace import Trace

Arrays: TypeAlias = Mapping[str, np.ndarray]
# How torch says that it was given floats in place of something else.
_WHOLE = re.compile(r"\b(Long|Int|Bool|LongTensor|IntTensor|BoolTensor|long|int|int64|integer|integral|bool|indices)\b")


@dataclass(frozen=True, eq=False)
class SourceModel:
    """The user's model.

    Attributes:
        module: in evaluation mode; of an exported program, the module that it unpacks to.
        name: what to call it: "package.module:factory" or a file.
        program: the exported program, where that is what was given.
        training: paths of the modules that behave otherwise in training and were left in that mode.
        given: inputs of an export and the parameters of `forward` that these are, where the names do not say it.
    """

    module: nn.Module
    name: str
    program: ExportedProgram | None = None
    training: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()

    @property
    def scripted(self) -> bool:
        """Whether it is TorchScript, which knows no lines and no owners."""
        return isinstance(self.module, torch.jit.ScriptModule)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        notes = []
        if self.training:
            some = ", ".join(repr(p) for p in self.training[:3]) + (" and more" if len(self.training) > 3 else "")
            notes.append(f"{self.name} was handed over in training mode, in which {some} would draw at random or "
                         "follow the batch; it was compared, and exported, in evaluation mode. Call .eval() before "
                         "exporting.")
        if self.given:
            said = " and ".join(f"{name!r} as {parameter}" for name, parameter in self.given)
            notes.append(f"The .onnx does not name all of its inputs after arguments of {self.name}, so these were "
                         f"tried: it was given {said}, with which it returns what the .onnx does, or nearly.")
        return tuple(notes)

    @cached_property
    def wide(self) -> nn.Module:
        """A copy in FP64."""
        with warnings.catch_warnings():  # torch's, of the gradients of a traced module
            warnings.simplefilter("ignore")
            return copied(self.module).double()

    @cached_property
    def digest(self) -> str:
        """Hash of its weights and of what it is."""
        digest = hashlib.blake2b(f"{self.name} {self.given}".encode(), digest_size=32)  # twice as fast as SHA-256
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(to_numpy(tensor.cpu().contiguous()).reshape(-1).view(np.uint8).data)  # BF16 is no buffer
        return digest.hexdigest()

    def run(self, feed: Arrays) -> list[np.ndarray]:
        """Its outputs, nested ones flattened, as it is deployed: in its own types, nothing watched.

        Raises:
            ModelError: it fails on these inputs.
        """
        with torch.no_grad():
            returned = self.called(self.module, feed)
        return [to_numpy(leaf) for leaf in tree_flatten(returned)[0] if isinstance(leaf, torch.Tensor)]

    def called(self, module: nn.Module, feed: Arrays) -> object:
        """What a module returns for a feed.

        Raises:
            ModelError: it raises; the user's own frames are in the message.
        """
        arguments, named = self.arguments(tensors_of(feed))
        try:
            with unchanged(module):
                return tree_map_only(torch.Tensor, torch.clone, module(*arguments, **named))  # it may be a buffer
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{self.name} does not run on these inputs: {type(error).__name__}: {error}",
                             self._remedy(error, feed, (arguments, named)), frames_of(error)) from error

    def _remedy(self, error: Exception, feed: Arrays, call: tuple[Sequence[torch.Tensor], Mapping[str, torch.Tensor]],
                ) -> str:
        """What to give in place of inputs on which it raises."""
        missing = [] if self.scripted else _missing(self.module, *call)
        if missing:
            return (f"Give {', '.join(missing)} too, with --input FILE, or --shape {missing[0]}=1x3x224x224 for seeded "
                    "values.")
        given = ", ".join(f"{n} is {a.dtype} {'x'.join(map(str, a.shape)) or 'scalar'}" for n, a in feed.items())
        if _WHOLE.search(str(error)) and any(a.dtype.kind == "f" for a in feed.values()):
            return (f"{given}, and it seems to want integers or booleans, which --shape cannot tell: give the values "
                    f"with --input {next(iter(feed))}.npz.")
        return f"{given}: give other shapes with --shape, or the values themselves with --input FILE."

    def trace(self, feed: Arrays, *, double: bool) -> Trace:
        """Run it once and keep all that it makes.

        Args:
            feed: a value for every input.
            double: in FP64.

        Raises:
            ModelError: it fails on these inputs.
        """
        module = self.wide if double else self.module
        tensors = {n: _widened(t) if double else t for n, t in tensors_of(feed).items()}
        known = {name: ("parameter", p) for name, p in (*module.named_parameters(), *module.named_buffers())}
        known.update((name, ("input", tensor)) for name, tensor in tensors.items())
        if isinstance(module, GraphModule):
            placed = _Placed(module)
            return record(lambda: self._guarded(lambda: placed.run(*tensors.values())), known, double=double,
                          place=lambda: placed.place)
        owners = Owners(module)
        arguments, named = self.arguments(tensors)
        with owners.watched(), unchanged(module):
            return record(lambda: self._guarded(lambda: module(*arguments, **named)), known, double=double,
                          place=owners.place, owners=owners)

    def check_names(self, names: Iterable[str]) -> None:
        """Make sure that inputs given by name have those of `forward`'s parameters, as far as these are known.

        Raises:
            FeedError: one has not.
        """
        if self.scripted or isinstance(self.module, GraphModule):
            return
        parameters = inspect.signature(self.module.forward).parameters
        unknown = [name for name in names if name not in parameters]
        if unknown and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            raise FeedError(f"{self.name} takes {', '.join(parameters) or 'no inputs'}, and no "
                            f"{', '.join(map(repr, unknown))}",
                            "Inputs are arrays by the names of forward's parameters, or in their order. Where one of "
                            "these is a dict or a list, wrap it in a module whose forward takes each tensor of its own "
                            "and puts them together.")

    def arguments(self, tensors: Mapping[str, torch.Tensor],
                  ) -> tuple[Sequence[torch.Tensor], Mapping[str, torch.Tensor]]:
        """How a feed is handed to the model: by name where these are known to be `forward`'s, else in order.

        Raises:
            FeedError: it takes another number of inputs.
        """
        if self.scripted or isinstance(self.module, GraphModule):
            return list(tensors.values()), {}
        parameters = inspect.signature(self.module.forward).parameters
        named = {dict(self.given).get(name, name): tensor for name, tensor in tensors.items()}
        if named.keys() <= parameters.keys():
            return [], named
        kinds = [p.kind for p in parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL not in kinds and len(tensors) > len(parameters):
            raise FeedError(f"{self.name} takes {len(parameters)} inputs ({', '.join(parameters)}), the ONNX model "
                            f"has {len(tensors)} ({', '.join(tensors)})", "Is the .onnx an export of this module?")
        return list(tensors.values()), {}

    def _guarded(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:
            raise ModelError(f"{self.name} fails while it is watched: {type(error).__name__}: {error}",
                             "Compare its outputs only, or give a .onnx alone.", frames_of(error)) from error


def copied(module: nn.Module) -> nn.Module:
    """A copy of its own, of modules too that hold what they last computed from their parameters.

    The older `weight_norm` and `spectral_norm` do, and torch copies no tensor that has a gradient function.
    """
    computed = [leaf for part in module.modules() for leaf in tree_flatten(vars(part))[0]
                if isinstance(leaf, torch.Tensor) and not leaf.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in computed})


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back after a run, so that every run finds its caches and counters as they were given."""
    held = {name: (buffer, buffer.detach().clone()) for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                before, value = held.get(name, (buffer, buffer))
                if buffer is not before or not torch.equal(before, value):
                    before.copy_(value)
                    path, _, own = name.rpartition(".")
                    setattr(module.get_submodule(path), own, before)


class _Placed(Interpreter):
    """Runs an exported program, knowing which of its nodes runs now."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.place = Place()

    def run_node(self, n: Node) -> object:
        self.place = traced_place(n.stack_trace or "", n.meta.get("nn_module_stack"))
        return super().run_node(n)


def left_in_training(module: nn.Module) -> tuple[str, ...]:
    """Paths of the modules in training mode that behave otherwise there."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001
    return tuple(name for name, part in module.named_modules() if part.training and isinstance(part, kinds))


def _missing(module: nn.Module, arguments: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of what a module cannot do without, and is not given."""
    signature = inspect.signature(module.forward)
    try:
        given = signature.bind_partial(*arguments, **named).arguments
    except TypeError:
        return []
    return [p.name for p in signature.parameters.values() if p.name not in given and p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def tensors_of(feed: Arrays) -> dict[str, torch.Tensor]:
    """A feed as torch has it; copies, since a module may write into its inputs."""
    return {name: tensor_of(array).clone() for name, array in feed.items()}


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
