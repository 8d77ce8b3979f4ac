"""One comparison as a test asks for it, still as text, paths and values; nothing here imports anything heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from shlex import join
from typing import Literal, TypeAlias, TypeVar

from parity.asked import (
    AnyInputs,
    AnyModel,
    Asked,
    check_choice,
    check_flag,
    check_texts,
    is_file,
    is_path,
)
from parity.errors import UsageError

# Whether a comparison is held against its baseline: where there is one, always, or never.
Keeping: TypeAlias = Literal["optional", "required", "off"]
_Value = TypeVar("_Value")
# A name from whose file name it can be read again, also where file systems take capitals for small letters.
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*(::[a-z_][a-z0-9_]*)*(\[[a-z0-9_.@=,+-]*\])?")
KEEPING: tuple[Keeping, ...] = ("optional", "required", "off")


@dataclass(frozen=True)
class Case(Asked):
    """What `parity.compare` takes, and what a test may ask beside; see `Parity.assert_parity`.

    Raises:
        UsageError: an argument is unknown or makes no sense.
    """

    candidates: Sequence[AnyModel] = ("onnxruntime",)
    fixes: bool = True
    allow: Sequence[str] = ()
    strict: bool = False
    baseline: Keeping = "optional"

    def __post_init__(self) -> None:
        """Look at everything that can be looked at while tests are collected."""
        super().__post_init__()
        check_texts("allow", self.allow, '["tensorrt"]')
        check_flag("strict", self.strict)
        check_choice("baseline", self.baseline, KEEPING)
        if not self.candidates:
            raise UsageError("candidates is empty, so there is nothing to compare",
                             'Give a list of targets and models, as in ["onnxruntime:int8", "other.onnx"].')


def located(case: Case, folder: Path) -> Case:
    """The case with its paths taken from a folder: that of the file in which it is written."""
    candidates = [_at(c, folder) if is_file(c) else c for c in case.candidates]
    return replace(case, model=_at(case.model, folder), candidates=candidates, inputs=_inputs_at(case.inputs, folder),
                   labels=_at(case.labels, folder), calibration=_at(case.calibration, folder))


def _inputs_at(inputs: AnyInputs | None, folder: Path) -> AnyInputs | None:
    """A file's path, or that in NAME=FILE."""
    if isinstance(inputs, str) and "=" in inputs and not (folder / inputs).exists():
        name, _, file = inputs.partition("=")
        return f"{name}={folder / file}"
    return _at(inputs, folder)


def _at(value: _Value, folder: Path) -> _Value | Path:
    return folder / fspath(value) if is_path(value) else value


def name_of(candidate: object, place: int) -> str:
    """What to call a candidate in a test's id: its target, its file, or its place among them."""
    if not is_path(candidate):
        return f"candidate{place}"
    return Path(candidate).name if is_file(candidate) else fspath(candidate)


def matches(target: str, wanted: Iterable[str]) -> bool:
    """Whether a candidate is one of these: targets as they are written, or backends in any precision and device."""
    place = target.rpartition(" on ")[2]
    return not {target, place, re.split("[@:]", place)[0]}.isdisjoint(wanted)


def slug(name: str) -> str:
    """A test's name as one file name: another for every name, by a hash where characters had to go or are capitals."""
    plain = name.replace("::", ".").replace("[", "-", 1).removesuffix("]")
    if _PLAIN.fullmatch(name) and len(plain) <= 100:
        return plain
    safe = re.sub(r"[^\w.@=,+-]", "-", plain, flags=re.ASCII)[:100].lstrip(".")
    return f"{safe}-{sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def command(case: Case, nodeid: str, folder: Path) -> str:
    """What to type to see the comparison again.

    Args:
        case: the comparison.
        nodeid: of the test, as it is typed in the folder.
        folder: where it is to be typed.

    Returns:
        `parity compare …` where everything is in files, else `pytest NODEID`.
    """
    typed = case.command(lambda path: _short(path, folder))
    return f"{typed}{' --strict' * case.strict}" if typed else join(["pytest", nodeid])


def _short(path: str | PathLike[str], folder: Path) -> str:
    full = Path.cwd() / path
    return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)
