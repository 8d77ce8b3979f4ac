"""Write a feed so that other tools load the same bits."""

from __future__ import annotations

import os
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from parity.errors import OutputError
from parity.graph.dumps.polygraphy import feeds_json
from parity.graph.model import Model

_UNSAFE = re.compile(r"[^0-9A-Za-z._-]")


def write_feed(feed: Mapping[str, np.ndarray], folder: Path, model: Model, path: Path) -> tuple[str, ...]:
    """Write inputs.npz, Polygraphy's inputs.json, a raw .bin of each input for trtexec, and commands.txt.

    Strings are left out of the raw files, and strings and the types that numpy lacks (BF16, FP8) out of the JSON,
    which then is not written.

    Args:
        feed: a value for every input.
        folder: made if it is not there; files of these names are replaced.
        model: whose inputs they are.
        path: of the model's file.

    Returns:
        The command lines of commands.txt, to be typed in the folder.

    Raises:
        OutputError: a file cannot be written.
    """
    raw = {name: a for name, a in feed.items() if a.dtype.kind != "O"}
    files = dict(zip(raw, _file_names(list(raw)), strict=True))
    plain = all(a.dtype.isbuiltin == 1 and a.dtype.kind != "O" for a in feed.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_npz(folder / "inputs.npz", feed)
        if plain:
            (folder / "inputs.json").write_text(feeds_json([feed]), encoding="utf-8")
        for name, array in raw.items():
            (folder / files[name]).write_bytes(_little(array).tobytes())
        commands = _commands(raw, files, model, Path(os.path.relpath(path, folder)), plain=plain)
        (folder / "commands.txt").write_text("".join(f"{line}\n" for line in commands), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the inputs cannot be written to {folder} ({error})",
                          "Give another folder with -o, or make room.") from error
    return commands


def _write_npz(path: Path, feed: Mapping[str, np.ndarray]) -> None:
    """Like np.savez, for which an input may not be called `file`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in feed.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                plain = array.astype(np.str_) if array.dtype.kind == "O" else array
                np.lib.format.write_array(file, plain, allow_pickle=False)


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _file_names(names: Sequence[str]) -> list[str]:
    safe = [_UNSAFE.sub("_", name)[:100] for name in names]
    alone = [safe.count(name) == 1 for name in safe]
    return [f"{name}.bin" if single else f"{name}_{i}.bin"
            for i, (name, single) in enumerate(zip(safe, alone, strict=True))]


def _commands(feed: Mapping[str, np.ndarray], files: Mapping[str, str], model: Model, path: Path, *,
              plain: bool) -> tuple[str, ...]:
    onnx = shlex.quote(str(path))
    lines = []
    if plain:
        lines += [f"polygraphy run {onnx} --trt --load-inputs inputs.json --save-outputs outputs.json",
                  f"parity compare {onnx} outputs.json --input inputs.npz"]
    if any(set(name) & set(",'") for name in feed):  # trtexec has no way to say such a name
        return tuple(lines)
    load = shlex.quote("--loadInputs=" + ",".join(f"{name}:{file}" for name, file in files.items()))
    shapes = [f"{s.name}:{'x'.join(map(str, feed[s.name].shape))}" for s in model.graph.inputs
              if s.name in feed and not all(isinstance(n, int) and n >= 0 for n in s.shape or ("",))]
    shape = [shlex.quote("--shapes=" + ",".join(shapes))] if shapes else []
    once = "--iterations=1 --duration=0 --warmUp=0"
    seen = "--markUnfusedTensorsAsDebugTensors --saveAllDebugTensors=numpy,summary --dumpRawBindingsToFile"
    return (*lines, " ".join(["trtexec", f"--onnx={onnx}", *shape, load, once, seen]),
            f"parity compare {onnx} . --input inputs.npz")
