"""The files of a repro."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from parity.analysis.tolerance import HALF_FORMATS
from parity.backends.base import Feed
from parity.convert import write_model, write_text
from parity.errors import OutputError
from parity.graph.graph import subgraph_protos
from parity.graph.model import Model, shallow_copy
from parity.graph.weights import read_weight
from parity.reduce.bug import Story
from parity.reduce.script import script_of
from parity.reduce.trials import Shown

# Weights up to this size go into the model's own file; protobuf ends at 2 GB.
_EMBED_BYTES = 2**30


def write_repro(shown: Shown, story: Story, folder: Path) -> dict[str, Path]:
    """Write repro.onnx, inputs.npz, expected.npz and test_repro.py, and reference.onnx where that differs.

    Args:
        shown: the part.
        story: what is told of it.
        folder: made if it is not there; files of these names are replaced.

    Returns:
        The files, by what they are.

    Raises:
        OutputError: a file cannot be written.
    """
    part = shown.part
    known = {**story.symptom.values, **shown.outputs} if shown.failure else shown.outputs
    made = {e.tensor: (known[e.tensor].dtype, known[e.tensor].shape) for e in shown.expected if e.tensor in known}
    files = {"repro": folder / "repro.onnx", "inputs": folder / "inputs.npz", "expected": folder / "expected.npz",
             "test": folder / "test_repro.py"}
    models = {"repro": _finished(part.candidate, made)}
    if story.differs and part.reference_feed is part.feed:
        files["reference"] = folder / "reference.onnx"
        models["reference"] = _finished(part.reference, {
            e.tensor: (_widened(made[e.tensor][0]) if story.limited else made[e.tensor][0], e.values.shape)
            for e in shown.expected if e.tensor in made})
    else:
        (folder / "reference.onnx").unlink(missing_ok=True)  # of an earlier run
    script = script_of(story.title, story.claim, shown.expected, story.sides.target, story.options,
                         apart=bool(shown.failure))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in models.items():
            write_model(model, files[name])
        _write_npz(files["inputs"], part.feed)
        _write_npz(files["expected"], {e.tensor: _plain(e.values) for e in shown.expected})
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror or error})",
                          "Choose another folder with -o DIR.") from error
    write_text(script, files["test"])
    return files


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
