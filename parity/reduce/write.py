"""The files of a repro."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from parity.analysis.tolerance import HALF_FORMATS
from parity.backends.base import Feed
from parity.convert import write_model, write_text
from parity.errors import OutputError
from parity.graph.graph import subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.graph.weights import read_weight
from parity.reduce.bug import SIGNATURE, Story
from parity.reduce.script import RERUN, script_of
from parity.reduce.trials import Shown
from parity.reduce.verify import Ending

# Weights up to this size go into the model's own file; protobuf ends at 2 GB.
_EMBED_BYTES = 2**30


# What a repro consists of; weights of more than protobuf holds lie beside their model.
_FILES = ("repro.onnx", "reference.onnx", "inputs.npz", "expected.npz", "test_repro.py", "BUG.md")


def files_in(folder: Path) -> list[Path]:
    """The files of a repro that a folder holds."""
    known = [*_FILES, *(f"{name}.data" for name in _FILES if name.endswith(".onnx"))]
    return [folder / name for name in known if (folder / name).is_file()]


def ensure_own(folder: Path) -> None:
    """Refuse to put a repro over files that are none of an earlier repro's.

    Raises:
        OutputError: the folder holds a file of such a name that was not written here.
    """
    reported = _holds(folder / "BUG.md", SIGNATURE)
    marks = {"BUG.md": reported, "test_repro.py": _holds(folder / "test_repro.py", RERUN)}
    other = next((file for file in files_in(folder) if not marks.get(file.name, reported)), None)
    if other is not None:
        raise OutputError(f"{other} was not written by parity, and a repro would take its place",
                          "Choose another folder with -o DIR, or move the file.")


def _holds(file: Path, mark: str) -> bool:
    return file.is_file() and mark in file.read_text(encoding="utf-8", errors="replace")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A place for a repro's files that takes the place of the repro in a folder when all is well, and goes otherwise.

    Raises:
        OutputError: the files cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".parity-") as unproven:
            yield Path(unproven)
            made = {file.name: file.replace(folder / file.name) for file in files_in(Path(unproven))}
            for file in files_in(folder):
                if file.name not in made:  # of an earlier repro
                    file.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror or error})",
                          "Choose another folder with -o DIR.") from error


def write_report(story: Story, reference: Ending | None, folder: Path) -> None:
    """Write BUG.md beside the other files.

    Raises:
        OutputError: it cannot be written.
    """
    hashes = {path.name: sha256(path.read_bytes()).hexdigest()
              for path in (folder / "repro.onnx", folder / "reference.onnx") if path.is_file()}
    write_text(story.markdown(hashes, reference), folder / "BUG.md")


def write_repro(shown: Shown, story: Story, folder: Path) -> bool:
    """Write repro.onnx, inputs.npz, expected.npz and test_repro.py, and reference.onnx where that differs.

    Args:
        shown: the part.
        story: what is told of it.
        folder: where to.

    Returns:
        Whether there is a reference.onnx.

    Raises:
        OutputError: a file cannot be written.
    """
    part = shown.part
    known = {**story.symptom.values, **shown.outputs} if shown.failure else shown.outputs
    made = {e.tensor: (known[e.tensor].dtype, known[e.tensor].shape) for e in shown.expected if e.tensor in known}
    models = {"repro.onnx": _finished(part.candidate, made)}
    if story.differs and part.reference_feed is part.feed:
        models["reference.onnx"] = _finished(part.reference, {
            e.tensor: (_widened(made[e.tensor][0]) if story.limited else made[e.tensor][0], e.values.shape)
            for e in shown.expected if e.tensor in made})
    for name, model in models.items():
        write_model(model, folder / name)
    _write_npz(folder / "inputs.npz", part.feed)
    _write_npz(folder / "expected.npz", {e.tensor: _plain(e.values) for e in shown.expected})
    write_text(script_of(story.title, story.claim, shown.expected, story.sides.target, story.options,
                         apart=bool(shown.failure)), folder / "test_repro.py")
    return "reference.onnx" in models


def _widened(kind: np.dtype) -> np.dtype:
    """The type of a tensor of a variant in the model in full precision."""
    return np.dtype(np.float32) if kind.name in HALF_FORMATS else kind


def _finished(model: Model, made: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> Model:
    """The model with its weights inside, and its outputs declared, as onnx.checker wants them."""
    proto = shallow_copy(model.proto)
    proto.graph.name = proto.graph.name or "repro"
    outside = [t for g in subgraph_protos(proto.graph) for t in g.initializer
               if t.data_location == TensorProto.EXTERNAL]
    if sum(int(np.prod(t.dims, dtype=np.int64)) for t in outside) * 4 < _EMBED_BYTES:
        for tensor in outside:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(read_weight(tensor, model.folder)), tensor.name))
    for output in proto.graph.output:
        if output.name in made and made[output.name][0].kind not in "OSU":
            kind, shape = made[output.name]
            output.CopyFrom(helper.make_tensor_value_info(output.name, helper.np_dtype_to_tensor_dtype(kind), shape))
    return replace(model, proto=proto)


def _plain(values: np.ndarray) -> np.ndarray:
    """Values in a type that a file of numpy's can hold."""
    return values.astype(np.float32) if values.dtype.kind == "V" or values.dtype.isbuiltin == 2 else values


def _write_npz(path: Path, arrays: Feed) -> None:
    """Like np.savez, for which a tensor may not be called `file`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                flat = array.astype(np.str_) if array.dtype.kind == "O" else array
                np.lib.format.write_array(file, np.asanyarray(flat), allow_pickle=False)
