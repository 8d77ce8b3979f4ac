"""What a comparison is asked for in Python or by a test, as it was given: checked for sense, and nothing read yet.

This is imported where pytest collects, so it imports nothing heavy.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

from parity.errors import UsageError
from parity.targets import looks_like_file

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from parity.graph.model import Model

AnyModel: TypeAlias = "str | PathLike[str] | ModelProto | Model"
AnySource: TypeAlias = "nn.Module | ExportedProgram"
# One set of inputs: arrays or tensors by name, or in the model's order; one array for a model's only input.
Values: TypeAlias = "Mapping[str, object] | Sequence[object] | np.ndarray | Tensor"
AnyInputs: TypeAlias = "Values | Sequence[Mapping[str, object]] | str | PathLike[str]"
AnySamples: TypeAlias = "Mapping[str, object] | Sequence[Mapping[str, object]] | str | PathLike[str]"
AnyLabels: TypeAlias = "np.ndarray | Sequence[int] | str | PathLike[str]"
AnyTolerance: TypeAlias = "Mapping[str, float] | Sequence[str] | str"

# In place of a command, where none can name what was given.
IN_MEMORY: Final = "parity.compare(...) with the same arguments, which are in memory only"
OPTIMIZATIONS: Final = ("off", "basic", "extended", "all")
MOST_THREADS: Final = 1024
MOST_SEED: Final = 2**63 - 1  # what every runtime takes


# Options of the command line, and the argument of `parity.compare` and key of parity.toml that is each.
_ARGUMENTS: Final = {"--input": "inputs", "--labels": "labels", "--calibration": "calibration", "--shape": "shapes",
                     "--tolerance": "tolerance", "--judge": "judges", "--samples": "samples", "--seed": "seed",
                     "--optimization": "optimization", "--threads": "threads"}
_OPTION = re.compile(rf"`?({'|'.join(_ARGUMENTS)})\b(?! \S+/)"
                     r"(?: (off\b|FILE\b|[^\s=`]+=[^\s/`]+?|\S+\.npz))?`?(?=[\s.,;:)]|$)")


def without_options(text: str) -> str:
    """An error's text for Python and parity.toml, where what is an option of a command is an argument or a key."""
    return _OPTION.sub(_argument, text)


def _argument(option: re.Match[str]) -> str:
    name, value = _ARGUMENTS[option[1]], option[2] or ""
    if name == "shapes" and value:
        tensor, _, sizes = value.rpartition("=")
        return f'`{name}={{"{tensor}": [{sizes.replace("x", ", ")}]}}`'
    return f'`{name}="{value}"`' if name == "optimization" and value else f"`{name}`"


@dataclass(frozen=True)
class Asked:
    """The arguments of `parity.compare`; see there.

    Raises:
        UsageError: one that is unknown or makes no sense; what may stand there is in the hint.
    """

    model: AnyModel | AnySource
    candidates: Sequence[AnyModel] = ()
    inputs: AnyInputs | None = None
    reference: str = "pytorch"
    tolerance: AnyTolerance = ()
    judges: Sequence[str] = ()
    labels: AnyLabels | None = None
    calibration: AnySamples | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    samples: int = 1
    seed: int = 0
    optimization: str = "all"
    threads: int | None = None
    fixes: bool = False

    def __post_init__(self) -> None:
        """Look at everything that can be looked at before a file is read."""
        check_list("candidates", self.candidates, 'targets and models, as in ["onnxruntime:int8", "other.onnx"]')
        check_texts("judges", self.judges, '["top1"]')
        if not isinstance(self.reference, str):
            raise UsageError(f"reference={self.reference!r} is no target", 'Write e.g. reference="pytorch".')
        _check_tolerance(self.tolerance)
        _check_shapes(self.shapes)
        check_whole("samples", self.samples, 1)
        check_whole("seed", self.seed, 0, MOST_SEED)
        if self.threads is not None:
            check_whole("threads", self.threads, 1, MOST_THREADS)
        check_choice("optimization", self.optimization, OPTIMIZATIONS)
        check_flag("fixes", self.fixes)
        if self.inputs is not None and (self.shapes or self.samples > 1):
            raise UsageError("shapes and samples are for seeded inputs, and `inputs` gives the values themselves",
                             "Leave out one or the other.")

    @property
    def tolerances(self) -> list[str]:
        """The limits as `--tolerance` takes them."""
        if isinstance(self.tolerance, Mapping):
            return [f"{name}={float(limit)!r}" for name, limit in self.tolerance.items()]
        return [self.tolerance] if isinstance(self.tolerance, str) else list(self.tolerance)

    @property
    def shape_texts(self) -> list[str]:
        """The shapes as `--shape` takes them."""
        return [f"{name}={'x'.join(map(str, sizes))}" for name, sizes in (self.shapes or {}).items()]

    def command(self, shown: Callable[[str | PathLike[str]], str] = lambda path: fspath(path)) -> str:  # noqa: PLW0108
        """`parity compare …` with everything that bears on the verdict; empty where something is in memory only.

        Args:
            shown: how to write a path.
        """
        named = (self.model, *self.candidates, *(v for v in (self.inputs, self.labels, self.calibration)
                                                 if v is not None))
        if not all(is_path(value) for value in named):
            return ""
        candidates = [c for c in self.candidates if is_path(c)]
        files = [shown(c) for c in candidates if is_file(c)]
        assert is_path(self.model)  # noqa: S101 - looked at above
        options = self._options([fspath(c) for c in candidates if not is_file(c)], shown)
        return shlex.join(["parity", "compare", shown(self.model), *files, *options])

    def _options(self, targets: Sequence[str], shown: Callable[[str | PathLike[str]], str]) -> list[str]:
        files = {"--input": self.inputs, "--labels": self.labels, "--calibration": self.calibration}
        pairs = [("-r", self.reference if self.reference != "pytorch" else ""), *(("-c", t) for t in targets),
                 *((name, shown(path)) for name, path in files.items() if is_path(path)),
                 *(("--shape", text) for text in self.shape_texts), *(("--tolerance", t) for t in self.tolerances),
                 *(("--judge", j) for j in self.judges), ("--samples", str(self.samples) if self.samples > 1 else ""),
                 ("--seed", str(self.seed or "")),
                 ("--optimization", self.optimization if self.optimization != "all" else ""),
                 ("--threads", str(self.threads or ""))]
        return [part for pair in pairs if pair[1] for part in pair]


def is_path(value: object) -> TypeGuard[str | PathLike[str]]:
    """Whether it names a file or a target, as far as its type tells."""
    return isinstance(value, (str, PathLike))


def is_file(candidate: object) -> bool:
    """Whether a candidate is written as a path and not as a target."""
    return is_path(candidate) and not (isinstance(candidate, str) and not looks_like_file(candidate))


def check_list(name: str, value: object, example: str) -> None:
    """Refuse what is no list: a text would be taken for a list of letters."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise UsageError(f"{name}={_short(value)} is no list", f"Give a list of {example}.")


def check_texts(name: str, value: object, example: str) -> None:
    """Refuse what is no list of texts."""
    check_list(name, value, f"texts, as in {example}")
    assert isinstance(value, Sequence)  # noqa: S101 - looked at above
    wrong = next((each for each in value if not isinstance(each, str)), None)
    if wrong is not None:
        raise UsageError(f"{name} holds {_short(wrong)}, which is no text", f"Give a list of texts, as in {example}.")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number within its bounds."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        upto = "up" if most is None else f"to {most}"
        raise UsageError(f"{name}={_short(value)} makes no sense", f"Give a whole number from {least} {upto}.")


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Refuse what is none of a few words."""
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{name}={_short(value)} is unknown", f"Known: {', '.join(known)}.")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}={_short(value)} is neither true nor false", "Give one of these.")


def _check_tolerance(given: object) -> None:
    example = 'Write e.g. tolerance={"rel_l2": 1e-3}, or a precision: tolerance="fp16".'
    if isinstance(given, str):
        return
    if not isinstance(given, (Mapping, Sequence)):
        raise UsageError(f"tolerance={_short(given)} does not say what is to be within it", example)
    if not isinstance(given, Mapping):
        check_texts("tolerance", given, '["rel_l2=1e-3", "top1=0.99"]')
        return
    for name, limit in given.items():
        if isinstance(limit, bool) or not isinstance(limit, Real):
            raise UsageError(f"tolerance of {name} is {_short(limit)}, which is no number", example)


def _check_shapes(given: object) -> None:
    if given is None:
        return
    example = 'Write e.g. shapes={"image": [1, 3, 224, 224]}.'
    if not isinstance(given, Mapping):
        raise UsageError(f"shapes={_short(given)} does not say which inputs they are of", example)
    for name, sizes in given.items():
        if isinstance(sizes, str) or not isinstance(sizes, Sequence) or not all(
                _is_whole(size) and size >= 0 for size in sizes):
            raise UsageError(f"the shape of {name} is {_short(sizes)}, no list of whole numbers from 0 up", example)


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, numpy's too; True is none."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def _short(value: object) -> str:
    """A value on one line, however large it is."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
