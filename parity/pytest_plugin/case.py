"""One comparison as a test asks for it, still as text, paths and values; nothing here imports anything heavy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from parity.api import AnyModel, Values

    Inputs: TypeAlias = "Values | Sequence[Mapping[str, object]] | str | PathLike[str] | None"
    Calibrated: TypeAlias = "Sequence[Mapping[str, object]] | str | PathLike[str] | None"
    Labels: TypeAlias = "np.ndarray | str | PathLike[str] | None"

# Whether a comparison is held against its baseline: where there is one, always, or never.
Keeping: TypeAlias = Literal["optional", "required", "off"]
_Value = TypeVar("_Value")
KEEPING: tuple[Keeping, ...] = ("optional", "required", "off")


@dataclass(frozen=True)
class Case:
    """What `parity.compare` takes, and what a test may ask beside; see `Parity.assert_parity`."""

    model: AnyModel
    candidates: Sequence[AnyModel] = ("onnxruntime",)
    inputs: Inputs = None
    tolerance: Mapping[str, float] | Sequence[str] | str = ()
    allow: Sequence[str] = ()
    reference: str = "pytorch"
    judges: Sequence[str] = ()
    labels: Labels = None
    calibration: Calibrated = None
    shapes: Mapping[str, Sequence[int]] | None = None
    samples: int = 1
    seed: int = 0
    optimization: str = "all"
    threads: int | None = None
    fixes: bool = True
    strict: bool = False
    baseline: Keeping = "optional"


def located(case: Case, folder: Path) -> Case:
    """The case with its paths taken from a folder: that of the file in which it is written."""
    candidates = [_at(c, folder) if not isinstance(c, str) or looks_like_file(c) else c for c in case.candidates]
    return replace(case, model=_at(case.model, folder), candidates=candidates, inputs=_at(case.inputs, folder),
                   labels=_at(case.labels, folder), calibration=_at(case.calibration, folder))


def _at(value: _Value, folder: Path) -> _Value | Path:
    return folder / fspath(value) if is_path(value) else value


def is_path(value: object) -> TypeGuard[str | PathLike[str]]:
    """Whether it names a file, as far as its type tells."""
    return isinstance(value, (str, PathLike))


def looks_like_file(candidate: str) -> bool:
    """Whether a candidate's text is a path and no target."""
    return "/" in candidate or candidate.endswith((".onnx", ".npz", ".npy", ".safetensors", ".json"))


def name_of(candidate: object, place: int) -> str:
    """What to call a candidate in a test's id: its target, its file, or its place among them."""
    if not is_path(candidate):
        return f"candidate{place}"
    return candidate if isinstance(candidate, str) and not looks_like_file(candidate) else Path(candidate).name


def matches(target: str, wanted: Iterable[str]) -> bool:
    """Whether a candidate is one of these: targets as they are written, or backends in any precision and device."""
    place = target.rpartition(" on ")[2]
    return not {target, place, re.split("[@:]", place)[0]}.isdisjoint(wanted)


def slug(name: str) -> str:
    """A test's name as one file name, told apart by a hash where characters had to go."""
    plain = name.replace("::", "-").replace("[", "-").replace("]", "").replace(":", "-")
    safe = re.sub(r"[^\w.@=,+-]", "-", plain, flags=re.ASCII)[:100].lstrip(".")
    return safe if safe == plain else f"{safe}-{sha256(name.encode()).hexdigest()[:8]}"


def command(case: Case, nodeid: str, folder: Path) -> str:
    """What to type to see the comparison again.

    Args:
        case: the comparison.
        nodeid: of the test.
        folder: where it is to be typed.

    Returns:
        `parity compare …` where everything is in files, else `pytest NODEID`.
    """
    values = (case.model, *case.candidates, *(v for v in (case.inputs, case.labels, case.calibration) if v is not None))
    if not all(is_path(value) for value in values):
        return shlex.join(["pytest", nodeid])
    targets = [str(c) for c in case.candidates if isinstance(c, str) and not looks_like_file(c)]
    files = [c for c in case.candidates if not isinstance(c, str) or looks_like_file(c)]
    paths = [_short(p, folder) for p in (case.model, *files) if is_path(p)]
    return shlex.join(["parity", "compare", *paths, *_options(case, targets, folder)])


def _options(case: Case, targets: Sequence[str], folder: Path) -> list[str]:
    tolerances = [case.tolerance] if isinstance(case.tolerance, str) else case.tolerance
    if isinstance(tolerances, Mapping):
        tolerances = [f"{name}={limit!r}" for name, limit in tolerances.items()]
    files = {"--input": case.inputs, "--labels": case.labels, "--calibration": case.calibration}
    pairs = [("-r", case.reference if case.reference != "pytorch" else ""), *(("-c", t) for t in targets),
             *((name, _short(path, folder)) for name, path in files.items() if is_path(path)),
             *(("--shape", f"{n}={'x'.join(map(str, s))}") for n, s in (case.shapes or {}).items()),
             *(("--tolerance", t) for t in tolerances), *(("--judge", j) for j in case.judges),
             ("--samples", str(case.samples) if case.samples > 1 else ""), ("--seed", str(case.seed or "")),
             ("--optimization", case.optimization if case.optimization != "all" else ""),
             ("--threads", str(case.threads or ""))]
    return [part for pair in pairs if pair[1] for part in pair] + ["--strict"] * case.strict


def _short(path: str | PathLike[str], folder: Path) -> str:
    full = Path(fspath(path))
    return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)
