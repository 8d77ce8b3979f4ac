"""trtexec's files: `--exportOutput`, `--loadInputs`, `--saveAllDebugTensors`, `--dumpRawBindingsToFile`.

Raw files hold values in C order, little-endian, without shape or type. Exported outputs are a JSON list of
{"name": …, "dimensions": "1x10" or "(1, 10)", "values": […]}, with values in six digits and without a type.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from parity.errors import FeedError
from parity.graph.dumps.dump import Dump
from parity.graph.graph import TensorSpec
from parity.graph.shapes import describe

_SIX_DIGITS = "trtexec exports six digits, which is coarser than FP32: small errors are its rounding"
_UNPRINTABLE = re.compile(r"(?<=[\[,])(\s*-?)(nan|inf)(?=\s*[,\]])")
_BINDING = re.compile(r"(?P<name>.+)\.(?:input|output)\.(?P<sizes>[\d.]*)\.(?P<kind>\w+)\.raw")
_DTYPES = {
    "fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn), "int64": np.dtype("<i8"), "int32": np.dtype("<i4"),
    "int8": np.dtype("i1"), "uint8": np.dtype("u1"), "bool": np.dtype("?")}


def parse(text: str) -> object:
    """JSON in which numbers may also be nan and inf, as C++ prints them.

    Raises:
        ValueError: it is not even that.
    """
    return json.loads(_UNPRINTABLE.sub(lambda m: f"{m[1].replace('-', '')}NaN" if m[2] == "nan"
                                       else f"{m[1]}Infinity", text))


def read_outputs(document: list[object], path: Path) -> Dump:
    """The tensors of an `--exportOutput` file.

    Raises:
        FeedError: an entry of another form, or with more or fewer values than its dimensions say.
    """
    arrays = {}
    for entry in document:
        match entry:
            case {"name": str(name), "dimensions": str() | list() as dimensions, "values": [*values]}:
                sizes = tuple(int(n) for n in re.findall(r"-?\d+", str(dimensions)))
            case _:
                raise FeedError(f"{path} holds an entry without name, dimensions and values",
                                "Save it again with trtexec --exportOutput.")
        if not all(isinstance(v, int | float) for v in values):
            raise FeedError(f"{path}: tensor {name!r} has a value that is not a number",
                            "Save it again with trtexec --exportOutput.")
        if min(sizes, default=0) < 0 or len(values) != np.prod(sizes, dtype=np.int64):
            raise FeedError(f"{path}: tensor {name!r} has {len(values)} values for dimensions {dimensions}",
                            "The file is damaged or cut off; copy it again.")
        arrays[name] = np.asarray(values, None if values else np.int64).reshape(sizes)
    coarse = any(a.dtype.kind == "f" for a in arrays.values())
    return Dump(arrays, (_SIX_DIGITS,) if coarse else (), typed=False)


def read_raw(path: Path, spec: TensorSpec) -> np.ndarray:
    """The values of one input, in the type and shape that the model declares.

    Args:
        path: raw values, as for `--loadInputs`.
        spec: of the input; one size may be open.

    Raises:
        FeedError: the file cannot be read, or its length does not fit the declaration.
    """
    if spec.dtype is None or spec.dtype.kind == "O" or spec.shape is None:
        raise FeedError(f"input {spec.name!r} is {describe(spec)}, so {path} does not say its values",
                        "Give a .npy, which holds its type and shape.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeedError(f"there is no input file at {path}", "Check the path.") from error
    open_axes = [i for i, size in enumerate(spec.shape) if not isinstance(size, int) or size < 0]
    sizes = [1 if i in open_axes else int(size) for i, size in enumerate(spec.shape)]
    need = int(np.prod(sizes, dtype=np.int64)) * spec.dtype.itemsize
    if len(open_axes) == 1 and need and len(data) % need == 0:
        sizes[open_axes[0]] = len(data) // need
    elif open_axes or len(data) != need:
        raise FeedError(f"{path} is {len(data)} bytes; input {spec.name!r} is {describe(spec)}"
                        + (f", {need} bytes" if not open_axes else ""),
                        "Check the type and shape, or give a .npy, which holds them.")
    return np.frombuffer(data, spec.dtype.newbyteorder("<")).reshape(sizes).astype(spec.dtype)


def read_bindings(folder: Path) -> dict[str, np.ndarray]:
    """What `--dumpRawBindingsToFile` wrote: files NAME.output.1.10.fp32.raw, by the names in them.

    Raises:
        FeedError: a file of another length than its name says, or of a type that is unknown.
    """
    arrays = {}
    for file in sorted(folder.glob("*.raw")):
        match = _BINDING.fullmatch(file.name)
        if match is None:
            continue
        sizes = tuple(int(n) for n in match["sizes"].split(".") if n)
        dtype = _DTYPES.get(match["kind"])
        if dtype is None:
            raise FeedError(f"{file} is {match['kind']}; known are {', '.join(_DTYPES)}", "Remove it from the folder.")
        data = file.read_bytes()
        need = int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize
        if len(data) != need:
            raise FeedError(f"{file} is {len(data)} bytes, and its name says {need}", "Copy it again.")
        arrays[match["name"]] = np.frombuffer(data, dtype).reshape(sizes).copy()
    return arrays


def listed_files(folder: Path) -> dict[str, str]:
    """Which .npy is which tensor, by the tensor_summary.json of `--saveAllDebugTensors=numpy,summary`; empty without.

    Raises:
        FeedError: the file is not readable as such.
    """
    path = folder / "tensor_summary.json"
    if not path.is_file():
        return {}
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FeedError(f"{path} cannot be read ({error})", "Remove it, or save it again.") from error
    found: dict[str, str] = {}
    match document:
        case {"tensors": [*entries]}:
            for entry in entries:
                match entry:
                    case {"name": str(name), "files": {"numpy": str(file)}}:
                        found.setdefault(name, Path(file).name)  # trtexec writes it beside the list
    return found
