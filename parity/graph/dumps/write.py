"""Write a feed so that other tools load the same bits."""

from __future__ import annotations

import os
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from parity.errors import OutputError
from parity.graph.dumps.polygraphy import feeds_json
from parity.graph.graph import TensorSpec
from parity.graph.model import Model

Feed: TypeAlias = Mapping[str, np.ndarray]
_UNSAFE = re.compile(r"[^0-9A-Za-z._-]")


def write_feeds(feeds: Mapping[Path, Feed], model: Model, path: Path) -> dict[Path, tuple[str, ...]]:
    """Write inputs.npz, Polygraphy's inputs.json, a raw .bin of each input for trtexec, and commands.txt.

    All files appear, or none does. Strings are left out of the raw files, and strings and the types that numpy lacks
    (BF16, FP8) out of the JSON, which then is not written; of a model without inputs, there are only commands.

    Args:
        feeds: a value for every input, by the folder to write to, which is made if it is not there; files of these
            names are replaced.
        model: whose inputs they are.
        path: of the model's file.

    Returns:
        The command lines of each commands.txt, to be typed in its folder.

    Raises:
        OutputError: a file cannot be written.
    """
    said: dict[Path, tuple[str, ...]] = {}
    made: list[Path] = []
    try:
        with ExitStack() as stages:
            staged: list[tuple[Path, Path]] = []
            for folder, feed in feeds.items():
                made += [p for p in (folder, *folder.parents) if not p.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                stage = Path(stages.enter_context(TemporaryDirectory(dir=folder, prefix=".parity-")))
                said[folder] = _write(feed, stage, model, Path(os.path.relpath(path, folder)))
                staged += [(file, folder / file.name) for file in stage.iterdir()]
            for file, place in staged:
                file.replace(place)
    except BaseException as error:
        for folder in sorted(made, key=lambda p: len(p.parts), reverse=True):  # the inner ones first
            with suppress(OSError):  # it holds something after all
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"the inputs cannot be written to {', '.join(map(str, feeds))} ({error})",
                              "Give another folder with -o, or make room.") from error
        raise
    return said


def _write(feed: Feed, folder: Path, model: Model, path: Path) -> tuple[str, ...]:
    raw = {name: a for name, a in feed.items() if a.dtype.kind != "O"}
    files = dict(zip(raw, _file_names(list(raw)), strict=True))
    plain = all(a.dtype.isbuiltin == 1 and a.dtype.kind != "O" for a in feed.values())
    if feed:
        _write_npz(folder / "inputs.npz", feed)
    if feed and plain:
        (folder / "inputs.json").write_text(feeds_json([feed]), encoding="utf-8")
    for name, array in raw.items():
        (folder / files[name]).write_bytes(_little(array).tobytes())
    commands = _commands(raw, files, model, path, plain=plain)
    (folder / "commands.txt").write_text("".join(f"{line}\n" for line in commands), encoding="utf-8")
    return commands


def _write_npz(path: Path, feed: Feed) -> None:
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


def _commands(feed: Feed, files: Mapping[str, str], model: Model, path: Path, *, plain: bool) -> tuple[str, ...]:
    onnx, any_input = shlex.quote(str(path)), bool(model.graph.inputs)
    again = " --input inputs.npz" if any_input else ""
    lines = []
    if plain:
        load = " --load-inputs inputs.json" if any_input else ""
        lines += [f"polygraphy run {onnx} --trt{load} --save-outputs outputs.json",
                  f"parity compare {onnx} outputs.json{again}"]
    if any(set(name) & set(",'") for name in feed):  # trtexec has no way to say such a name
        return tuple(lines)
    given = [f"--loadInputs={','.join(f'{name}:{file}' for name, file in files.items())}"] if files else []
    shapes = [f"{s.name}:{'x'.join(map(str, feed[s.name].shape)) or 'scalar'}" for s in model.graph.inputs
              if s.name in feed and not _is_static(s)]
    given += [f"--shapes={','.join(shapes)}"] if shapes else []
    once = "--iterations=1 --duration=0 --warmUp=0"
    seen = "--markUnfusedTensorsAsDebugTensors --saveAllDebugTensors=numpy,summary --dumpRawBindingsToFile"
    return (*lines, " ".join(["trtexec", f"--onnx={onnx}", *map(shlex.quote, reversed(given)), once, seen]),
            f"parity compare {onnx} .{again}")


def _is_static(spec: TensorSpec) -> bool:
    return spec.shape is not None and all(isinstance(n, int) and n >= 0 for n in spec.shape)
