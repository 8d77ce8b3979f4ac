"""Polygraphy's JSON: what `--save-inputs`, `--save-outputs` and `--load-inputs` hold.

An array is {"array": base64 of np.save, "polygraphy_class": "ndarray"}, or a torch tensor in the same way, and may be
wrapped as {"values": …}. Inputs are a list of {name: array}, one an iteration. Results are
{"lst": [[runner, [{"outputs": {name: array}, …}, …]], …]}.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from parity.errors import FeedError
from parity.graph.dumps.dump import Dump

_AGAIN = "Save it again with `polygraphy run`."


def is_feed(value: object) -> bool:
    """Whether JSON is names with arrays."""
    return isinstance(value, dict) and bool(value) and all(_payload(v) is not None for v in value.values())


def read_inputs(document: object, path: Path) -> Dump:
    """The first feed of saved inputs: a list of feeds, or one.

    Raises:
        FeedError: a tensor that cannot be decoded.
    """
    feeds = document if isinstance(document, list) else [document]
    return Dump(_arrays(feeds[0], path), _first_of(len(feeds)))


def read_results(document: Mapping[str, object], path: Path, runner: str) -> Dump:
    """The first iteration of a runner's saved results.

    Args:
        document: the JSON of Polygraphy's RunResults.
        path: of the file, for messages.
        runner: its name, or as much of the beginning as tells it from the others; "" for the only one.

    Raises:
        FeedError: no such runner, or several; no iteration; a tensor that cannot be decoded.
    """
    runs = _runs(document.get("lst"), path)
    meant = [name for name in runs if name == runner] or [name for name in runs if name.startswith(runner)]
    if len(meant) != 1:
        listed = ", ".join(map(repr, runs)) or "none"
        wanted = f", {len(meant) or 'none'} of which begin with {runner!r}" if runner else ""
        raise FeedError(f"{path} holds the results of {len(runs)} runners: {listed}{wanted}",
                        f"Say which, as in {shlex.quote(f'{path}:{next(iter(runs))}')}." if runs else _AGAIN)
    iterations = runs[meant[0]]
    outputs = iterations[0].get("outputs") if iterations and isinstance(iterations[0], dict) else None
    return Dump(_arrays(outputs, path), _first_of(len(iterations)))


def feeds_json(feeds: Iterable[Mapping[str, np.ndarray]]) -> str:
    """Feeds in the form that `--load-inputs` reads, bit for bit. Their dtypes must be numpy's own."""
    return json.dumps([{name: _encoded(array) for name, array in feed.items()} for feed in feeds], indent=1)


def _runs(listed: object, path: Path) -> dict[str, list[object]]:
    runs: dict[str, list[object]] = {}
    for entry in listed if isinstance(listed, list) else [listed]:
        match entry:
            case [str(name), [*iterations]]:
                runs[name] = iterations
            case _:
                raise FeedError(f"{path} holds no runners with their iterations", _AGAIN)
    return runs


def _first_of(count: int) -> tuple[str, ...]:
    return (f"the first of {count} iterations",) if count > 1 else ()


def _arrays(feed: object, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(feed, dict):
        raise FeedError(f"{path} holds no tensors in its first iteration", _AGAIN)
    return {name: _decoded(name, value, path) for name, value in feed.items()}


def _payload(value: object) -> tuple[str, str] | None:
    """How an array is encoded ("array" by numpy, "tensor" by torch), and its base64."""
    match value:
        case {"values": inner}:
            return _payload(inner)
        case {"array": str(text)}:
            return "array", text
        case {"tensor": str(text)}:
            return "tensor", text
    return None


def _decoded(name: str, value: object, path: Path) -> np.ndarray:
    payload = _payload(value)
    if payload is None:
        raise FeedError(f"{path}: tensor {name!r} is not in the form of an array", _AGAIN)
    kind, text = payload
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        array = _of_torch(file) if kind == "tensor" else np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise FeedError(f"{path}: tensor {name!r} cannot be decoded ({error})", _AGAIN) from error
    if not isinstance(array, np.ndarray):
        raise FeedError(f"{path}: tensor {name!r} is an archive, not an array", _AGAIN)
    return array


def _of_torch(file: io.BytesIO) -> object:
    import torch

    from parity.graph.ops.call import to_numpy

    value = torch.load(file, weights_only=True, map_location="cpu")
    return to_numpy(value) if isinstance(value, torch.Tensor) else value


def _encoded(array: np.ndarray) -> dict[str, str]:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return {"array": base64.b64encode(file.getvalue()).decode("ascii"), "polygraphy_class": "ndarray"}
