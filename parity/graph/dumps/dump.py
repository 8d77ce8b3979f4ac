"""Arrays out of a file, and under which names of the model they belong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parity.errors import FeedError
from parity.graph.model import Model

# What the tools put in a file's name is this much of a tensor's: trtexec keeps . _ - and the comma, others less.
_UNSPELLABLE = re.compile(r"[^0-9A-Za-z]")
# trtexec widens what numpy has no type for, and says so after the name.
_WIDENED = re.compile(r"_to_(?:float|int8)$")
# trtexec cuts the middle out of a long file name.
_ELISION = "..."


@dataclass(frozen=True)
class Dump:
    """What a file or folder of tensors holds.

    Attributes:
        arrays: by name; "" for the only array of a file that names none.
        notes: what a reader should know about the values.
        spelled: whether the names are the tensors' own; False where they are from file names, which hold no / or :.
        typed: whether the dtypes are the tensors' own; False where the file holds numbers only.
    """

    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()
    spelled: bool = True
    typed: bool = True

    def named(self, name: str) -> Dump:
        """The same, with a file's name for an array that has none."""
        if "" not in self.arrays:
            return self
        return replace(self, arrays={key or name: a for key, a in self.arrays.items()}, spelled=False)


def split_runner(source: Path) -> tuple[Path, str]:
    """Read FILE:RUNNER: the file, and a runner's name or "". Runners' names hold colons and slashes themselves."""
    text = str(source)
    if not source.exists():
        for colon in (i for i, c in enumerate(text) if c == ":"):
            if Path(text[:colon]).exists():
                return Path(text[:colon]), text[colon + 1:]
    return source, ""


def declared_dtypes(model: Model) -> dict[str, np.dtype | None]:
    """Every tensor that a model computes or is fed, with its dtype where the model declares it."""
    specs = {s.name: s.dtype for s in (*model.graph.inputs, *model.graph.outputs)}
    return {**{name: None for node in model.graph.nodes for name in node.outputs if name}, **specs}


def fitted(dump: Dump, known: Mapping[str, np.dtype | None], path: Path) -> dict[str, np.ndarray]:
    """The arrays of a dump under the names, and in the dtypes, that a model has for them.

    Where a file's name could not spell the tensor's (/ and : became _), the tensor is the one that it would be for.

    Args:
        dump: what was read.
        known: the model's tensors, with dtypes where declared; an array that is none of them keeps its name.
        path: of the dump, for messages.

    Raises:
        FeedError: a file that may be for either of two tensors, or two files for one.
    """
    alike = defaultdict(list)
    for name in known:
        alike[_key(name)].append(name)
    found: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for stored, array in dump.arrays.items():
        meant = [stored] if dump.spelled and stored in known else [
            n for n in _meant(stored, alike) if n == stored or n not in dump.arrays]
        if len(meant) > 1:
            raise FeedError(f"{path}: {stored!r} may be tensor {meant[0]!r} or tensor {meant[1]!r}",
                            "Save the tensors in an .npz, under their own names; with trtexec, use "
                            "--saveAllDebugTensors=numpy,summary, which lists them.")
        name = meant[0] if meant else stored
        if name in found:
            raise FeedError(f"{path}: both {origin[name]!r} and {stored!r} may be tensor {name!r}",
                            "Remove or rename one of them.")
        found[name], origin[name] = array if dump.typed else _typed(array, known.get(name)), stored
    return found


def _key(name: str) -> str:
    return _UNSPELLABLE.sub("_", name)


def _meant(stored: str, alike: Mapping[str, list[str]]) -> Iterator[str]:
    for spelling in dict.fromkeys((stored, _WIDENED.sub("", stored))):
        if _key(spelling) in alike:
            yield from alike[_key(spelling)]
            return
        head, elided, tail = spelling.partition(_ELISION)
        if elided:
            long = [names for key, names in alike.items() if key.startswith(_key(head)) and key.endswith(_key(tail))]
            yield from (name for names in long for name in names)
            if long:
                return


def _typed(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Numbers without a type, in the one declared; in FP32 where that is another floating type, or none is declared."""
    if dtype is not None and dtype.kind in "iub" and array.dtype.kind in "iu":
        fitting = array.astype(dtype)
        return fitting if np.array_equal(fitting, array) else array
    return array.astype(np.float64 if dtype == np.float64 else np.float32)
