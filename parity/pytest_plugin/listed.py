"""Models listed in parity.toml, or under [tool.parity] in pyproject.toml: each with each of its targets is a test.

    targets = ["onnxruntime"]                  # of every model that says nothing else
    [[model]]
    path = "models/cnn.onnx"                   # from the file's folder
    inputs = "models/cnn_inputs.npz"
    targets = ["onnxruntime", "onnxruntime:int8", "tensorrt:fp16"]
    allow = ["tensorrt"]                       # may be missing: the test is skipped
    tolerance = { rel_l2 = 1e-3, "onnxruntime:int8" = { rel_l2 = 0.05 } }
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Final

from parity.errors import ParityError, UsageError
from parity.pytest_plugin.case import Case, located
from parity.targets import Target

FILE = "parity.toml"
# What a model's table may hold: its kind, and a word for it.
_KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    "path": (str, "text"), "name": (str, "text"), "targets": (list, "a list of targets"),
    "inputs": (str, "a path"), "tolerance": ((str, list, dict), "text, a list of texts or a table"),
    "allow": (list, "a list of targets"), "reference": (str, "a target"), "judges": (list, "a list of judges"),
    "labels": (str, "a path"), "calibration": (str, "a path"), "shapes": (dict, "a table of lists"),
    "samples": (int, "a number"), "seed": (int, "a number"), "optimization": (str, "text"),
    "threads": (int, "a number"), "fixes": (bool, "true or false"), "strict": (bool, "true or false"),
    "baseline": (str, "text")}
_DEFAULT: Final = ["onnxruntime"]  # targets of a model that says nothing else
_OWN = frozenset({"path", "name"})  # of one model only
_FIELDS = frozenset(f.name for f in fields(Case))


@dataclass(frozen=True)
class Pair:
    """A model on a target.

    Attributes:
        name: of the test: model and target.
        target: the target.
        case: what to compare.
    """

    name: str
    target: str
    case: Case


def pairs_in(path: Path) -> list[Pair]:
    """The pairs that a file lists, in its order; none where it is a pyproject.toml without [tool.parity].

    Raises:
        UsageError: the file cannot be read, or says something that makes no sense.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})", "Mend the file.") from error
    table = data if path.name == FILE else data.get("tool", {}).get("parity", {})
    try:
        found = list(_pairs(table, path.parent)) if table else []
        if not found and (table or path.name == FILE):
            raise UsageError("no model is listed", 'Write path = "model.onnx" under [[model]].')
    except ParityError as error:
        raise UsageError(f"{path.name}: {error.message}", error.hint) from error
    twice = [name for name, count in Counter(pair.name for pair in found).items() if count > 1]
    if twice:
        raise UsageError(f"{path.name}: two tests are called {twice[0]}", "Give one of the models another `name`.")
    return found


def lists_models(path: Path) -> bool:
    """Whether a file may list models: by its name, and pyproject.toml by what it holds."""
    if path.name == FILE:
        return True
    return path.name == "pyproject.toml" and "tool.parity" in path.read_text(encoding="utf-8", errors="replace")


def _pairs(table: Mapping[str, object], folder: Path) -> Iterator[Pair]:
    shared = {key: value for key, value in table.items() if key != "model"}
    _check(shared, "the file", _KINDS.keys() - _OWN)
    models = table.get("model", [])
    if not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
        raise UsageError("`model` is not a list of tables", "Write [[model]] before each model.")
    listed = {target for each in (table, *models) for target in _texts(each.get("targets"))} | {*_DEFAULT}
    for own in models:
        path = own.get("path")
        if not isinstance(path, str):
            raise UsageError("a model has no `path`", 'Write path = "model.onnx" under [[model]].')
        _check(own, path, _KINDS.keys())
        try:
            whole = {"name": str(PurePath(path).with_suffix("")), **shared, **own}
            targets = _texts(whole.get("targets", _DEFAULT))
            yield from _pairs_of(whole, targets if "tolerance" in own else listed, folder)
        except ParityError as error:
            raise UsageError(f"{path}: {error.message}", error.hint) from error


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _pairs_of(table: Mapping[str, object], limited: Collection[str], folder: Path) -> Iterator[Pair]:
    """A model on each of its targets; `limited` are those that its tolerance may name."""
    targets = _texts(table.get("targets", _DEFAULT))
    if not targets:
        raise UsageError("targets is empty, so there is nothing to compare", 'Write e.g. targets = ["onnxruntime"].')
    plain = {key: value for key, value in table.items() if key in _FIELDS}
    for target in targets:
        Target.parse(target)
        told = {**plain, "model": table["path"], "candidates": [target],
                "tolerance": _tolerance(table.get("tolerance", ()), target, limited)}
        yield Pair(f"{table['name']}[{target}]", target, located(Case(**told), folder))  # type: ignore[arg-type]


def _tolerance(told: object, target: str, targets: Collection[str]) -> object:
    """What a table says for one target: its own limits over those for all."""
    if not isinstance(told, dict):
        return told
    unknown = [key for key, value in told.items() if isinstance(value, dict) and key not in targets]
    if unknown:
        raise UsageError(f"`tolerance` names {unknown[0]!r}, which is none of the targets",
                         f"Targets: {', '.join(sorted(targets))}.")
    return {**{k: v for k, v in told.items() if not isinstance(v, dict)}, **told.get(target, {})}


def _check(table: Mapping[str, object], where: str, known: Collection[str]) -> None:
    for key, value in table.items():
        if key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            raise UsageError(f"{where} has an unknown entry `{key}`",
                             f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(sorted(known))}.")
        kind, meaning = _KINDS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UsageError(f"`{key}` of {where} is {value!r}, not {meaning}", "Mend the entry.")
        if kind is list and not all(isinstance(item, str) for item in value):  # type: ignore[attr-defined]
            raise UsageError(f"`{key}` of {where} holds something else than text", f"Write {meaning}.")
