"""The user's own PyTorch model: exported where there is no .onnx yet, and a target beside its ONNX graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parity.backends.base import Feed, Session
from parity.errors import FeedError, ModelError, UsageError
from parity.graph.dumps.read import load_arrays
from parity.graph.feeds import parse_shape
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.targets import Target

if TYPE_CHECKING:
    from parity.source_model.mapping import TensorMap
    from parity.source_model.source import SourceModel

MODULE = Target("module")
TRUTH = Target("module", "", "fp64")
# Inputs that are tried as integers together: of more there are too many ways to choose.
_MOST_TRIED = 4
# What runs the module itself and not its export, and in which precisions.
_PRECISIONS = {"module": ("fp32", "fp64"), "pytorch.compile": ("fp32",)}


def is_original(target: Target) -> bool:
    """Whether a target is the user's own module rather than a runtime of its export."""
    return target.backend in _PRECISIONS


@dataclass(frozen=True, eq=False)
class Original:
    """The module that a model was exported from, mapped to the tensors of that export.

    Attributes:
        source: the module.
        model: the export.
        mapping: of its tensors.
    """

    source: SourceModel
    model: Model
    mapping: TensorMap

    def open(self, target: Target, feed: Feed) -> Session:
        """A session that runs the module and shows its activations under ONNX names.

        Args:
            target: one for which `is_original` holds.
            feed: on which it is learnt what the parts of a compiled module return.

        Raises:
            BackendUnavailable: it cannot be compiled.
            ModelError: it fails on this feed.
        """
        from parity.source_model.session import CompiledSession, ModuleSession

        if target.backend == MODULE.backend:
            return ModuleSession(self.source, self.model, self.mapping, double=target.precision == "fp64")
        return CompiledSession(self.source, self.model, self.mapping, self.source.trace(feed, double=False))

    def truth(self, feed: Feed) -> Mapping[str, np.ndarray]:
        """The module's outputs in FP64, under the names of its export's.

        Raises:
            ModelError: it fails on this feed.
        """
        return self.open(TRUTH, feed).run(feed).outputs


def original_of(source: SourceModel, model: Model, feed: Feed) -> Original:
    """Map a module to its export.

    Raises:
        ModelError: one of the two does not run on this feed, or their outputs differ in number, shape or order.
        FeedError: the module takes another number of inputs, or it cannot be told which of its arguments they are.
    """
    from parity.source_model.binding import bound
    from parity.source_model.exporting import check_outputs
    from parity.source_model.mapped import mapped

    source = bound(source, model, feed)
    check_outputs(source, model, feed)
    return Original(source, model, mapped(source, model, feed))


def check_originals(targets: Sequence[Target], *, given: bool) -> None:
    """Make sure that what is asked of the user's module can be had.

    Args:
        targets: those asked for.
        given: whether there is a module.

    Raises:
        UsageError: there is none, or a target of a device or precision that a module is not run in.
    """
    for target in filter(is_original, targets):
        if not given:
            raise UsageError(f"{target} runs the PyTorch module itself, and none is given",
                             "Add --torch package.module:factory (in Python: compare the module itself).")
        if target.device or target.precision not in _PRECISIONS[target.backend]:
            known = ", ".join(str(Target(target.backend, "", p)) for p in _PRECISIONS[target.backend])
            raise UsageError(f"the module is not run as {target}", f"Known: {known}.")


def source_of(model: object) -> SourceModel | None:
    """A module or exported program as it is compared; None of anything else. The user's own object is left as it is."""
    from torch import nn
    from torch.export import ExportedProgram

    from parity.source_model.loading import source_of_module
    from parity.source_model.source import SourceModel, copied

    if isinstance(model, ExportedProgram):
        return SourceModel(model.module(check_guards=False), "the exported program", model)
    return source_of_module(copied(model)) if isinstance(model, nn.Module) else None


def read_example(source: SourceModel, files: Sequence[str], shapes: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Inputs to export a model on, from what the command line names.

    Args:
        source: the model.
        files: of arrays under the names of `forward`'s parameters, or NAME=FILE; others in them are left alone.
        shapes: NAME=AxBxC of seeded inputs, FP32 or, where it does not run on these, integers or the type of its
            parameters; neither files nor shapes: what an exported program was made on.
        seed: for these.

    Raises:
        FeedError: a file cannot be read.
        UsageError: nothing says what the inputs are.
    """
    if files:
        found: dict[str, np.ndarray] = {}
        for text in files:
            found.update(_arrays(text))
    elif shapes:
        random = np.random.default_rng(seed)
        found = {n: random.standard_normal(s, np.float32) for n, s in map(parse_shape, shapes)}
    else:
        found = _recorded(source)
    names = _parameters(source)
    if not names:
        return found
    if len(found) == 1 and "" in found:
        found = {names[0]: found[""]}
    known = {n: found[n] for n in names if n in found}
    if not known or (shapes and len(known) < len(found)):
        raise FeedError(f"{source.name} takes {', '.join(names)}, and {', '.join(map(repr, found))} is given",
                        "Give values under these names.")
    return _in_its_types(source, known, seed) if shapes and not files else known


def _in_its_types(source: SourceModel, floats: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Seeded inputs, as few of them integers as the model runs with, and floats of its own type where it takes no FP32.

    They are as they are where it never runs. What reads tables wants integers. 0 and 1 are rows of every table: these
    are only to export on, and the graph then tells what else may stand there.
    """
    random = np.random.default_rng(seed)
    whole = {name: random.integers(0, 2, array.shape) for name, array in floats.items()}
    for kind in dict.fromkeys((np.dtype(np.float32), *_types(source))):
        own = {name: array.astype(kind) for name, array in floats.items()}
        for size in range(min(len(floats), _MOST_TRIED) + 1):
            for names in combinations(floats, size):
                found = {name: whole[name] if name in names else own[name] for name in floats}
                if _runs(source, found):
                    return found
    return floats


def _types(source: SourceModel) -> list[np.dtype]:
    """The floating-point types of a model's parameters."""
    return [to_numpy(weight.reshape(-1)[:1]).dtype for weight in source.module.parameters()
            if weight.is_floating_point() and weight.numel()]


def _runs(source: SourceModel, feed: Feed) -> bool:
    try:
        source.run(feed)
    except (ModelError, FeedError):
        return False
    return True


def _arrays(text: str) -> Mapping[str, np.ndarray]:
    name, equals, file = text.partition("=")
    if not equals or Path(text).exists():
        return load_arrays(Path(text))
    arrays = load_arrays(Path(file))
    if name not in arrays and len(arrays) != 1:
        raise FeedError(f"{file} holds {', '.join(map(repr, arrays))}, but no {name!r}", "Save it under its name.")
    return {name: arrays[name] if name in arrays else next(iter(arrays.values()))}


def _recorded(source: SourceModel) -> dict[str, np.ndarray]:
    """The inputs that an exported program was made on."""
    import torch
    from torch.utils._pytree import tree_flatten

    program = source.program
    if program is None or program.example_inputs is None:
        names = ", ".join(_parameters(source)) or "any"
        raise UsageError(f"{source.name} has to be exported, and nothing says on what inputs (it takes {names})",
                         "Give them with --input FILE, or their shapes with --shape NAME=1x3x224x224.")
    leaves = [to_numpy(leaf) for leaf in tree_flatten(program.example_inputs)[0] if isinstance(leaf, torch.Tensor)]
    return dict(zip(_parameters(source), leaves, strict=False))


def _parameters(source: SourceModel) -> list[str]:
    """The names of what a model is called with; none where it takes any number."""
    import torch

    if source.program is not None:
        return [str(name) for name in source.program.graph_signature.user_inputs]
    if isinstance(source.module, torch.jit.ScriptModule):
        return [a.name for a in source.module._c._get_method("forward").schema.arguments][1:]  # noqa: SLF001
    found = inspect.signature(source.module.forward).parameters.values()
    return [] if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found) else [p.name for p in found]
