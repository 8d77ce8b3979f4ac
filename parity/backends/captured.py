"""Tensors taken elsewhere: a file of them stands in for a runtime."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from parity.backends.base import Capture, Chunk, Feed
from parity.errors import BackendFailed, FeedError
from parity.graph.dumps.dump import Dump, fitted, split_runner
from parity.graph.dumps.read import read_dump
from parity.graph.survey import Form

_LISTED = 3


class CapturedSession:
    """What a file or folder of tensors shows, by ONNX name.

    Args:
        source: whatever `read_dump` reads.
        known: the model's tensors with their declared dtypes (`declared_dtypes`), for files that do not spell names
            or types.
        forms: what the model's tensors are on the inputs of this run; one that is something else in the file cannot
            be compared, and is left out.
        outputs: of the model: where there is one only, an array without a name is that.

    Attributes:
        tensors: by name.
        misfits: in what way those that were left out do not fit, by name.
        notes: what a reader should know about the values.

    Raises:
        FeedError: the file cannot be read, or does not say which tensor is which.
        BackendFailed: it holds tensors of a type that numpy's files forget.
    """

    def __init__(self, source: Path, known: Mapping[str, np.dtype | None] = MappingProxyType({}),
                 forms: Mapping[str, Form] = MappingProxyType({}), outputs: Collection[str] = ()) -> None:
        self._path, _ = split_runner(source)
        dump = read_dump(source)
        found = _named(dump, self._path, known, outputs)
        forgotten = [n for n, v in found.items() if v.dtype.type is np.void]
        if forgotten:
            raise BackendFailed(f"{source} holds {forgotten[0]!r} as raw bytes: numpy's files have no such type",
                                "Save BF16 and FP8 tensors with .astype('float32'), or as .safetensors.")
        found = {name: _real(value) for name, value in found.items()}
        self.misfits = {name: f"{name!r} is {Form(value.dtype, value.shape)} there, and {forms[name]} in the model"
                        for name, value in found.items() if name in forms and not _fits(value, forms[name])}
        self.tensors = {name: value for name, value in found.items() if name not in self.misfits}
        self.notes = tuple(f"{self._path.name}: {note}." for note in (*dump.notes, *_left_out(self.misfits)))

    def check_inputs(self, feed: Feed) -> None:
        """Make sure that the inputs that the file holds are those of this run.

        Raises:
            FeedError: it was taken on others.
        """
        for name in feed.keys() & self.tensors.keys():
            there, here = self.tensors[name], feed[name]
            alike = there.shape == here.shape and (
                np.array_equal(here.astype(there.dtype), there, equal_nan=there.dtype.kind == "f"))
            if not alike:
                raise FeedError(f"{self._path.name} holds input {name!r}, and it is another than that of this run: its "
                                "tensors were taken on other inputs",
                                "Leave out --input to run on those of the file, or take them on the inputs of this run "
                                "(`parity inputs` writes these).")

    def run(self, feed: Feed) -> Capture:
        """All tensors of the file; those named like graph outputs are the outputs. `feed` made them, elsewhere."""
        return Capture(self.tensors, "", self._path.name, None)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """The same as `run`: what was not taken there cannot be shown here."""
        return self.run(feed)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """The wanted tensors, in one stretch."""
        yield {n: v for n, v in self.tensors.items() if n in names}


def _named(dump: Dump, path: Path, known: Mapping[str, np.dtype | None],
           outputs: Collection[str]) -> dict[str, np.ndarray]:
    """The tensors by name; a lone array is one of the name of its file, else the model's only output."""
    found = fitted(dump.named(path.stem), known, path)
    if "" not in dump.arrays or not outputs or not known.keys().isdisjoint(found):
        return found
    if len(outputs) > 1:
        raise FeedError(f"{path} holds one array, and does not say which tensor that is",
                        f"Give it the name of one, as {next(iter(outputs))}.npy, or save it in an .npz.")
    return dict(zip(outputs, found.values(), strict=True))


def _real(value: np.ndarray) -> np.ndarray:
    """Complex numbers that are real ones, as these."""
    return value.real if value.dtype.kind == "c" and not value.imag.any() else value


def _fits(value: np.ndarray, form: Form) -> bool:
    """Whether a tensor can be compared: of the same shape, and of numbers of the same sort, of whatever width."""
    if value.shape != form.shape:
        return False
    there, here = _sort(value.dtype), _sort(form.dtype)
    whole = there == "real" and here == "whole" and np.array_equal(value, np.rint(value.astype(np.float64)))
    return there == here or bool(whole)


def _sort(dtype: np.dtype) -> str:
    return {"b": "whole", "i": "whole", "u": "whole", "f": "real", "V": "real", "c": "complex"}.get(dtype.kind, "text")


def _left_out(misfits: Mapping[str, str]) -> Iterator[str]:
    yield from (f"left out, as {text}" for text in list(misfits.values())[:_LISTED])
    if len(misfits) > _LISTED:
        yield f"left out likewise: {len(misfits) - _LISTED} more"
