"""The map of a module and its export, made once and kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from parity.errors import ParityError
from parity.graph.executor import Executor
from parity.graph.feeds import seeded_feed
from parity.graph.flatten import inline_functions
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, tensor_of, to_numpy
from parity.graph.survey import Survey, survey
from parity.source_model.layout import Layout, distance
from parity.source_model.mapping import Fault, How, Match, TensorMap
from parity.source_model.matching import map_tensors
from parity.source_model.place import Place
from parity.source_model.rounded import rounded_weights
from parity.source_model.source import SourceModel
from parity.source_model.trace import Trace

Arrays = Mapping[str, np.ndarray]
# Relative L2 by which two FP32 runs of a network may differ that does not amplify rounding.
_ROUNDING = 1e-5
# The same in FP64 of a module and an export whose constants are rounded to FP32, with some slack for what amplifies;
# and how many units of roundoff of a coarser type.
_ROUNDED, _UNITS = 1e-4, 4
# Of what is written; a map of another version is made anew.
_VERSION = 5


def mapped(source: SourceModel, model: Model, feed: Arrays, *, keep: bool = True) -> TensorMap:
    """The map of a model's tensors onto the activations of the module it was exported from.

    It is made in FP64 on both sides, and confirmed on a seeded second feed of the same shapes where there can be one.

    Args:
        source: the module.
        model: its export.
        feed: a value for every input.
        keep: look in the user's cache folder first, and write there what was made.

    Raises:
        ModelError: one of the two does not run on this feed.
    """
    path = _folder() / f"{_key(source, model, feed)}.json"
    if keep and path.is_file():
        try:
            return loads(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
    found = survey(model, feed)
    flat, trace = found.flat, source.trace(feed, double=True)
    control = _control(model, feed)
    follows = _follows(source, flat, control)
    made = map_tensors(flat, feed, trace, control, lambda: _trace(source, control),
                       strict=not follows)
    made = replace(made, fault=_branched(made.fault, found, trace))
    if not follows and control is not None:
        made = replace(made, elsewhere=_apart(source, model, control))
    if keep:
        _write(path, dumps(made))
    return made


def dumps(made: TensorMap) -> str:
    """A map as JSON."""
    found = {"version": _VERSION, "matches": [asdict(m) for m in made.matches.values()],
             "places": {n: asdict(p) for n, p in made.places.items()}, "onnx_runs": made.onnx_runs,
             "module_runs": made.module_runs, "elsewhere": made.elsewhere,
             "fault": None if made.fault is None else asdict(made.fault)}
    return json.dumps(found)


def loads(text: str) -> TensorMap:
    """A map from JSON.

    Raises:
        ValueError, KeyError, TypeError: it is none, or one of another version.
    """
    found = json.loads(text)
    if found["version"] != _VERSION:
        raise ValueError(f"a map of version {found['version']}")
    matches = [_match(row) for row in found["matches"]]
    places = {name: Place(**place) for name, place in found["places"].items()}
    return TensorMap({m.tensor: m for m in matches}, places, found["onnx_runs"], found["module_runs"],
                     None if found["fault"] is None else _fault(**found["fault"]), found["elsewhere"])


def _match(row: Mapping[str, Any]) -> Match:
    layout = Layout(**{name: tuple(value) for name, value in row["layout"].items()})
    return Match(**{**row, "how": How(row["how"]), "layout": layout, "place": Place(**row["place"])})


def _fault(match: Mapping[str, Any], hidden: Sequence[str], after: Sequence[str], reordered: str, branch: str) -> Fault:
    return Fault(_match(match), tuple(hidden), tuple(after), reordered, branch)


def _control(model: Model, feed: Arrays) -> Arrays | None:
    """Other inputs of the same shapes; None where they cannot be made."""
    try:
        return seeded_feed(model, 1, {name: array.shape for name, array in feed.items()})[0]
    except ParityError:
        return None


def _branched(fault: Fault | None, found: Survey, trace: Trace) -> Fault | None:
    """A fault that another branch explains: where the first that is not the module's is decided, if that is before."""
    if fault is None or len(found.branches) != len(trace.branches):
        return fault
    name = next((n for (n, ours), theirs in zip(found.branches, trace.branches, strict=True) if ours != theirs), None)
    producer = found.flat.graph.producer
    if name is None or name not in producer or producer[name].index > producer[fault.match.tensor].index:
        return fault
    return Fault(fault.match, branch=name)


def _trace(source: SourceModel, control: Arrays | None) -> Trace | None:
    try:
        return None if control is None else source.trace(control, double=True)
    except ParityError:
        return None


def _follows(source: SourceModel, flat: Model, control: Arrays | None) -> bool:
    """Whether the export gives the module's outputs on other inputs, too, so that nothing of the example is baked in.

    In FP32, which takes half the time, and tells as much.
    """
    if control is None:
        return False
    try:
        ours, found = source.run(control), Executor(flat).run(control)
    except ParityError:
        return False
    theirs = [value for o in flat.graph.outputs if isinstance(value := found[o.name], torch.Tensor)]
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and distance(tensor_of(one), other) <= _ROUNDING
        for one, other in zip(ours, theirs, strict=True))


def _apart(source: SourceModel, model: Model, control: Arrays) -> float | None:
    """The largest relative L2 distance of an output of the export from the module's on other inputs, in FP64.

    None where it is no more than rounded constants explain, or one of the two does not run.
    """
    try:
        returned = tree_flatten(source.called(source.wide, {n: _wide(v) for n, v in control.items()}))[0]
        found = Executor(inline_functions(model), Arithmetic.DOUBLE).run(control)
    except ParityError:
        return None
    ours = [leaf for leaf in returned if isinstance(leaf, torch.Tensor)]
    theirs = [value for o in model.graph.outputs if isinstance(value := found[o.name], torch.Tensor)]
    if len(ours) != len(theirs):
        return None
    apart = max((distance(one, other) for one, other in zip(ours, theirs, strict=True) if one.shape == other.shape),
                default=0.0)
    return apart if max(_ROUNDED, _UNITS * rounded_weights(model)[1]) < apart < math.inf else None


def _wide(array: np.ndarray) -> np.ndarray:
    value = tensor_of(array)
    return to_numpy(value.double()) if value.is_floating_point() else array


def _key(source: SourceModel, model: Model, feed: Arrays) -> str:
    digest = hashlib.sha256(f"{_VERSION} {model.sha256} {source.digest}".encode())
    for name, array in feed.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "parity" / "maps"


def _write(path: Path, text: str) -> None:
    """Keep a map where that is possible; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        return
