"""Read tensors from any file or folder that parity knows."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from parity.errors import FeedError, ModelError
from parity.graph.dumps import polygraphy, trtexec
from parity.graph.dumps.dump import Dump, split_runner
from parity.graph.dumps.safetensors import read_safetensors
from parity.graph.weights import dtype_of, read_weight

_NPY = np.lib.format.MAGIC_PREFIX
_NUMBERED = re.compile(r"(\d{4,})_(.+)")


def holds_tensors(source: Path) -> bool:
    """Whether a path is of a kind that tensors are read from."""
    path, _ = split_runner(source)
    return path.is_dir() or path.suffix in _READERS


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `read_dump` finds, by name ("" where a file names none).

    Raises:
        FeedError: as for `read_dump`.
    """
    return dict(read_dump(path).arrays)


def read_dump(source: Path) -> Dump:
    """Read the tensors of a file or folder.

    Args:
        source: an .npz, .npy, .pb (ONNX TensorProto), .safetensors or .json (Polygraphy's saved inputs or results,
            trtexec's exported outputs); a folder of .npy (trtexec's debug tensors), of trtexec's raw bindings, of
            ONNX test data (input_0.pb, …), or of Polygraphy's iterations; FILE:RUNNER for one of several runners.

    Raises:
        FeedError: missing, damaged, of another kind, or with pickles; a runner that must be named.
    """
    path, runner = split_runner(source)
    if path.is_dir():
        return _folder(path, runner)
    if not path.is_file():
        raise FeedError(f"there is no input file at {source}", "Check the path.")
    if path.suffix not in _READERS:
        raise FeedError(f"{path} is of no kind that inputs are read from",
                        "Give an .npz, .npy, .pb, .safetensors or .json file, or NAME=FILE for raw binary values.")
    try:
        dump = _json(path, runner) if path.suffix == ".json" else _READERS[path.suffix](path)
    except (ModelError, DecodeError, ValueError, OSError, EOFError, RecursionError, zipfile.BadZipFile,
            pickle.UnpicklingError) as error:
        if "pickle" in str(error).lower():
            raise FeedError(f"{path} holds pickled Python objects, which can run any code and are not read",
                            "Save plain arrays: np.savez(file, x=array).") from error
        raise FeedError(f"{path} cannot be read as {path.suffix} ({error})", "Save it again.") from error
    if runner and path.suffix != ".json":
        raise FeedError(f"{path} holds no runners, so none is called {runner!r}", f"Give {path}.")
    return dump


def _npz(path: Path) -> Dump:
    if not zipfile.is_zipfile(path):  # numpy takes whatever else it is for a pickle
        raise ValueError("File is not a zip file")
    with np.load(path, allow_pickle=False) as archive:
        return Dump({name: archive[name] for name in archive.files})


def _npy(path: Path) -> Dump:
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    if start != _NPY and not start.startswith(b"\x80"):  # as a pickle does, for which numpy takes whatever else it is
        raise ValueError("it does not start as numpy's files do")
    return Dump({"": np.load(path, allow_pickle=False)})


def _pb(path: Path) -> Dump:
    tensor = onnx.TensorProto.FromString(path.read_bytes())
    dtype_of(tensor.data_type)  # refuses an unknown one
    return Dump({tensor.name: read_weight(tensor, path.parent)})


def _json(path: Path, runner: str = "") -> Dump:
    text = path.read_text(encoding="utf-8")
    try:
        document: object = json.loads(text)
    except json.JSONDecodeError:
        document = trtexec.parse(text)
    first = document[0] if isinstance(document, list) and document else document
    if isinstance(first, dict) and "lst" in first:
        return polygraphy.read_results(first, path, runner)
    if runner:
        raise FeedError(f"{path} holds no runners, so none is called {runner!r}", f"Give {path}.")
    if isinstance(document, list) and isinstance(first, dict) and "dimensions" in first:
        return trtexec.read_outputs(document, path)
    if polygraphy.is_feed(first):
        return polygraphy.read_inputs(document, path)
    raise FeedError(f"{path} is JSON, but neither Polygraphy's inputs or results nor trtexec's outputs",
                    "Save it with `polygraphy run --save-inputs` or `--save-outputs`, or `trtexec --exportOutput`.")


_READERS: Mapping[str, Callable[[Path], Dump]] = MappingProxyType({
    ".npz": _npz, ".npy": _npy, ".pb": _pb, ".safetensors": lambda path: Dump(read_safetensors(path)), ".json": _json})


def _folder(path: Path, runner: str) -> Dump:
    if any(path.glob("input_*.pb")):
        return _test_data(path)
    if any(path.glob("*.npy")) or any(path.glob("*.raw")):
        return _files(path)
    iterations = sorted(f for f in path.glob("*.json") if f.stem.isdecimal())
    if not iterations:
        raise FeedError(f"folder {path} holds no .npy and no input_0.pb",
                        "Give a folder of arrays or of ONNX test data, or a file.")
    dump = _json(iterations[0], runner)
    more = (f"the first of {len(iterations)} iterations",) if len(iterations) > 1 else ()
    return Dump(dump.arrays, (*dump.notes, *more))


def _test_data(path: Path) -> Dump:
    """ONNX test data: input_0.pb, input_1.pb, … in the order of the model's inputs."""
    arrays: dict[str, np.ndarray] = {}
    for file in sorted(path.glob("input_*.pb"), key=lambda f: int(f.stem[6:]) if f.stem[6:].isdigit() else -1):
        name, array = next(iter(load_arrays(file).items()))
        arrays[name if name and name not in arrays else file.stem] = array
    return Dump(arrays)


def _files(path: Path) -> Dump:
    """A folder of one file a tensor: .npy, and the raw bindings that trtexec writes beside them."""
    bindings = trtexec.read_bindings(path)
    listed = trtexec.listed_files(path)
    if listed:
        return Dump({**bindings, **{name: _lone(path / file) for name, file in listed.items()}})
    files = sorted(path.glob("*.npy"))
    numbers = [_NUMBERED.fullmatch(f.stem) for f in files]
    arrays: dict[str, np.ndarray] = {}
    notes: tuple[str, ...] = ()
    if all(numbers):  # trtexec's: one an inference, in the order written
        ordered = sorted((int(m[1]), m[2], f) for m, f in zip(numbers, files, strict=True) if m)
        for _, name, file in ordered:
            if name in arrays:
                notes = ("the first inference of several",)
            else:
                arrays[name] = _lone(file)
    else:
        arrays = {f.stem: _lone(f) for f in files}
    if not arrays and not bindings:
        raise FeedError(f"folder {path} holds .raw files that do not say their shape",
                        "Save them with trtexec --saveAllDebugTensors=numpy.")
    return Dump({**bindings, **arrays}, notes, spelled=False)


def _lone(file: Path) -> np.ndarray:
    return next(iter(load_arrays(file).values()))
