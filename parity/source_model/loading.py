"""Load the user's model: a factory in their package, an exported program (.pt2), or TorchScript (.pt)."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from parity.errors import FeedError, ModelError, UsageError
from parity.graph.dumps.safetensors import read_safetensors
from parity.graph.ops.call import from_numpy
from parity.source_model.place import frames_of
from parity.source_model.source import SourceModel, left_in_training

_FORM = "Give package.module:factory, a program saved by torch.export.save (.pt2) or TorchScript (.pt)."
# What training scripts wrap the weights in.
_WRAPPINGS = ("state_dict", "model_state_dict", "model", "module", "ema")
_NAMED = 4


def load_source(text: str, checkpoint: Path | None = None) -> SourceModel:
    """Load what `--torch` and `--checkpoint` name.

    Args:
        text: "package.module:factory", a callable that returns a module, or a module; a .pt2 or .pt file. The current
            folder is on the path.
        checkpoint: weights: .safetensors, or what torch.load reads without running code.

    Raises:
        UsageError: it names nothing that can be loaded.
        ModelError: the user's code raises, or the weights do not fit.
    """
    path = Path(text)
    if path.suffix in (".pt2", ".pt", ".pth", ".ts"):
        if not path.is_file():
            raise UsageError(f"there is no file at {path}", _FORM)
        if checkpoint is not None:
            raise UsageError(f"{path} brings its own weights", "Leave out --checkpoint.")
        return _program(path) if path.suffix == ".pt2" else _script(path)
    module = _made(text)
    if checkpoint is not None:
        _fill(module, _weights(checkpoint), checkpoint)
    return source_of_module(module, text)


def source_of_module(module: nn.Module, name: str = "") -> SourceModel:
    """A module as it is compared: in evaluation mode, on the CPU.

    Args:
        module: the user's; it is put into evaluation mode.
        name: what to call it.
    """
    training = left_in_training(module)
    return SourceModel(module.eval().cpu(), name or type(module).__name__, training=training)


def _made(text: str) -> nn.Module:
    where, _, name = text.partition(":")
    if not where or not name:
        raise UsageError(f"--torch {text!r} is neither a file nor of the form package.module:factory", _FORM)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and where.startswith(error.name):
            raise UsageError(f"there is no module {where!r} to import --torch from (looked in {here} and the installed "
                             "packages)", "Run parity where your package lies.") from error
        raise ModelError(f"importing {where} fails: {error}", "Install what it needs.", frames_of(error)) from error
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"importing {where} fails: {type(error).__name__}: {error}",
                         "Check that the module can be imported by itself.", frames_of(error)) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{where} has no {name!r}", f"It has {', '.join(_callables(found)) or 'no callables'}.")
        found = getattr(found, part)
    if not isinstance(found, nn.Module):
        found = _called(found, text)
    if not isinstance(found, nn.Module):
        raise UsageError(f"{text} gives a {type(found).__name__}, not a torch.nn.Module", "Return the module itself.")
    return found


def _called(factory: object, text: str) -> object:
    if not callable(factory):
        raise UsageError(f"{text} is a {type(factory).__name__}, neither a module nor a callable that returns one",
                         _FORM)
    needed = _needed(factory)
    if needed:
        raise UsageError(f"{text} needs {', '.join(needed)}, and a factory is called with no arguments",
                         "Write one that needs none.")
    try:
        return factory()
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{text} raises {type(error).__name__}: {error}",
                         "Check that it can be called by itself, with no arguments.", frames_of(error)) from error


def _needed(factory: Callable[..., object]) -> list[str]:
    """The arguments that a callable cannot do without; none where it does not say."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _callables(module: object) -> list[str]:
    return [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")][:8]


def _program(path: Path) -> SourceModel:
    try:
        with warnings.catch_warnings():  # torch warns of its own pickles
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as error:
        raise ModelError(f"{path} is not an exported program that this torch ({torch.__version__}) reads: "
                         f"{_first_line(error)}", "Save it again with torch.export.save.") from error
    return SourceModel(program.module(check_guards=False), str(path), program)


def _script(path: Path) -> SourceModel:
    try:
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call] # torch's own
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is not TorchScript: {_first_line(error)}",
                         "Where it holds weights, give the code with --torch package.module:factory and the file "
                         "with --checkpoint.") from error
    training = ("",) if module.training else ()
    return SourceModel(module.eval(), str(path), training=training)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UsageError(f"there is no checkpoint at {path}", "Check the path.")
    if path.suffix == ".safetensors":
        try:
            return {n: cast("torch.Tensor", from_numpy(a)) for n, a in read_safetensors(path).items()}
        except (FeedError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}", "Save it again.") from error
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds more than weights, which would run code when it is read, and is refused: "
                         f"{_reason(error)}", "Save model.state_dict() alone, or as .safetensors.") from error
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise ModelError(f"{path} is no checkpoint that torch reads: {_first_line(error)}", "Save it again.") from error
    for wrapping in _WRAPPINGS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapping), Mapping):
            found = found[wrapping]
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ModelError(f"{path} holds a {type(found).__name__}, not weights by name", "Save model.state_dict().")
    prefix = "module." if found and all(k.startswith("module.") for k in found) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _fill(module: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put weights into a module, all of them and no others."""
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    shapes = [f"{n} is {tuple(weights[n].shape)}, the module has {tuple(wanted[n].shape)}"
              for n in wanted.keys() & weights.keys() if weights[n].shape != wanted[n].shape]
    problems = [f"{what} {', '.join(names[:_NAMED])}{' …' if len(names) > _NAMED else ''} ({len(names)})"
                for what, names in (("it lacks", missing), ("the module has no", unknown), ("shapes differ:", shapes))
                if names]
    if problems:
        raise ModelError(f"the weights in {path} do not fit the module: {'; '.join(problems)}",
                         "Give the factory that the weights were trained with.")
    module.load_state_dict(dict(weights))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _reason(error: BaseException) -> str:
    """The line of torch's long message that names what was in the file."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), _first_line(error))
