"""Where calibration samples come from: files streamed sample by sample, or feeds in memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from parity.errors import FeedError
from parity.graph.feeds import Feed, check_feed, load_arrays
from parity.graph.model import Model
from parity.graph.shapes import dims_of

# Names that exporters and users give to a batch axis. An axis of any other name may be time, and is not cut.
_BATCH_NAMES = frozenset({"batch", "batch_size", "batchsize", "bs", "b", "n"})
# Rows of a symbolic batch that are run together; the ranges do not depend on it.
_ROWS = 16

_Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorRange:
    """The range of one tensor that is to be quantised.

    Attributes:
        lowest: least value to represent.
        highest: greatest value to represent.
        dtype: the tensor's own: float16 or float32.
    """

    lowest: float
    highest: float
    dtype: np.dtype

    @property
    def usable(self) -> bool:
        """Whether it is finite."""
        return math.isfinite(self.lowest) and math.isfinite(self.highest)


@dataclass(frozen=True)
class Calibration:
    """Samples to observe ranges on; each iteration reads them anew, one at a time.

    Attributes:
        samples: opens the stream of feeds.
        count: how many feeds there are.
        source: what they are, for people: "folder images, 12 samples".
        indicative: not the user's data, so that the ranges show what to expect and no more.
        seen: ranges that were observed on these samples, by tensor, for every model and way to find them.
    """

    samples: Callable[[], Iterator[Feed]]
    count: int
    source: str
    indicative: bool = False
    seen: dict[str, dict[str, TensorRange]] = field(default_factory=dict, compare=False, repr=False)

    def __iter__(self) -> Iterator[Feed]:
        return self.samples()

    def __len__(self) -> int:
        return self.count

    @staticmethod
    def of_feeds(model: Model, feeds: Sequence[Feed], *, indicative: bool = False) -> Calibration:
        """Calibrate on feeds in memory.

        Args:
            model: whose inputs they are.
            feeds: one or more.
            indicative: they were made from a seed.

        Raises:
            FeedError: there are none, or one does not fit the model.
        """
        if not feeds:
            raise FeedError("there is no sample to calibrate on", "Give at least one feed.")
        for feed in feeds:
            check_feed(model, feed)
        what = f"{_counted(len(feeds))} {'made from a seed' if indicative else 'in memory'}"
        return Calibration(partial(iter, feeds), len(feeds), what, indicative)

    @staticmethod
    def load(model: Model, path: Path) -> Calibration:
        """Calibrate on files; headers are checked now, data is read when it is needed.

        Args:
            model: whose inputs are wanted.
            path: an .npz of arrays under the inputs' names, a .npy for a model's only input, or a folder of either.
                Arrays longer than the model's batch of 1, or than 16 rows of a symbolic axis called a batch, are cut
                into samples along it. Arrays of an .npz that are not inputs, labels say, are left alone.

        Raises:
            FeedError: a file that cannot be read, or arrays of the wrong name, dtype or shape; names the file.
        """
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix in (".npy", ".npz"))
            if not files:
                raise FeedError(f"folder {path} holds no .npy or .npz file", "Put one sample in each file.")
        else:
            files = [path]
        plans = [_plan(model, file) for file in files]
        count = sum(plan.samples for plan in plans)
        what = f"{'folder' if path.is_dir() else 'file'} {path.name}, {_counted(count)}"
        return Calibration(lambda: (feed for plan in plans for feed in plan.read()), count, what)


@dataclass(frozen=True)
class _File:
    """One file and how it is cut.

    Attributes:
        path: .npy or .npz.
        arrays: the name in the file of each input.
        cut: the inputs whose first axis is cut.
        rows: rows in a sample.
        total: rows in the file; 0 where nothing is cut.
    """

    path: Path
    arrays: Mapping[str, str]
    cut: frozenset[str] = frozenset()
    rows: int = 1
    total: int = 0

    @property
    def samples(self) -> int:
        return -(-self.total // self.rows) if self.cut else 1

    def read(self) -> Iterator[Feed]:
        """One feed after the other; only the inputs that are not cut, and one sample, are held."""
        with ExitStack() as stack:
            whole = {n: _rows(stack, self.path, a, None) for n, a in self.arrays.items() if n not in self.cut}
            fixed = {n: next(stream) for n, stream in whole.items()}
            streams = {n: _rows(stack, self.path, self.arrays[n], self.rows) for n in sorted(self.cut)}
            for _ in range(self.samples):
                yield {n: fixed[n] if n in fixed else next(streams[n]) for n in self.arrays}


def _plan(model: Model, path: Path) -> _File:
    """Match a file's arrays with the model's inputs, and decide how to cut them."""
    headers = _headers(path)
    names = [spec.name for spec in model.graph.inputs]
    if path.suffix == ".npy" and len(names) == 1:
        headers = {names[0]: headers[""]}
    found = [n for n in names if n in headers]
    if len(found) < len(names):
        missing = ", ".join(repr(n) for n in names if n not in headers)
        held = ", ".join(repr(n) for n in headers if n) or "one array without a name"
        raise FeedError(f"calibration file {path} has no array for input {missing}; it holds {held}",
                        "Save each sample with np.savez(file, **{input_name: array}).")
    arrays = {n: "" if path.suffix == ".npy" else n for n in names}
    shapes = {n: headers[n][0] for n in names}
    cut, rows = _cut(model, shapes)
    totals = {shapes[n][0] for n in cut}
    if len(totals) > 1:
        counts = ", ".join(f"{n!r} {shapes[n][0]}" for n in sorted(cut))
        raise FeedError(f"calibration file {path}: the inputs have different numbers of rows ({counts})",
                        "Give one row a sample in each.")
    file = _File(path, arrays, cut, rows, totals.pop() if totals else 0)
    for n in cut:
        shapes[n] = (min(rows, file.total), *shapes[n][1:])
    # check_feed looks at types and shapes only, and these stand-ins take no memory.
    stand_ins = {n: np.broadcast_to(np.empty((), headers[n][1].newbyteorder("=")), shapes[n]) for n in names}
    try:
        check_feed(model, stand_ins)
    except FeedError as error:
        raise FeedError(f"calibration file {path}: {error.message}", error.hint) from error
    return file


def _cut(model: Model, shapes: _Shapes) -> tuple[frozenset[str], int]:
    """The inputs whose first axis is a batch longer than one run takes, and how many rows a run takes."""
    dims = {spec.name: dims_of(spec) or () for spec in model.graph.inputs}
    longer = {n for n, shape in shapes.items() if shape and len(dims[n]) == len(shape)}
    single = frozenset(n for n in longer if dims[n][0] == 1 and shapes[n][0] > 1)
    if single:
        return single, 1
    symbols = {str(dims[n][0]) for n in longer if isinstance(dims[n][0], str) and shapes[n][0] > _ROWS}
    for symbol in sorted(s for s in symbols if s.lower() in _BATCH_NAMES):
        if not any(symbol in d[1:] for d in dims.values()):
            return frozenset(n for n, d in dims.items() if d and d[0] == symbol), _ROWS
    return frozenset(), 1


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array in a file, without its data."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                found = {"": _header(stream)}
        else:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.namelist() if m.endswith(".npy")]
                found = {}
                for member in members:
                    with archive.open(member) as stream:
                        found[member.removesuffix(".npy")] = _header(stream)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        load_arrays(path)  # it says best what is wrong with the file
        raise FeedError(f"calibration file {path} cannot be read ({error})", "Save it again.") from error
    if any(dtype.hasobject for _, dtype, _ in found.values()):
        load_arrays(path)
    return {n: (shape, dtype) for n, (shape, dtype, _) in found.items()}


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, dtype, fortran


def _rows(stack: ExitStack, path: Path, name: str, rows: int | None) -> Iterator[np.ndarray]:
    """An array in pieces of some rows along its first axis (None: in one piece), read as they are asked for."""
    if path.suffix == ".npy":
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
    else:
        stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(f"{name}.npy"))
    shape, dtype, fortran = _header(stream)
    native = dtype.newbyteorder("=")
    if fortran and len(shape) > 1:  # its rows are scattered over the file
        yield from _pieces(load_arrays(path)[name].astype(native, copy=False), rows)
        return
    done, total = 0, shape[0] if rows is not None else 1
    while done < total:
        size = shape if rows is None else (min(rows, total - done), *shape[1:])
        data = stream.read(int(np.prod(size, dtype=np.int64)) * dtype.itemsize)
        try:
            piece = np.frombuffer(data, dtype).reshape(size)
        except ValueError as error:
            raise FeedError(f"calibration file {path} is truncated in array {name!r}", "Save it again.") from error
        yield piece.astype(native, copy=False)
        done += 1 if rows is None else size[0]


def _pieces(array: np.ndarray, rows: int | None) -> Iterator[np.ndarray]:
    if rows is None:
        yield np.ascontiguousarray(array)
        return
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start:start + rows])


def _counted(count: int) -> str:
    return f"{count} sample" if count == 1 else f"{count} samples"
