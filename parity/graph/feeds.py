"""Feeds: a value for every input of a model, read from the user's files or made from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from parity.errors import FeedError, ParityError, UnsupportedOp, UsageError
from parity.graph.domains import domain_of
from parity.graph.dumps.dump import declared_dtypes, fitted, split_runner
from parity.graph.dumps.read import load_arrays, read_dump
from parity.graph.dumps.trtexec import read_raw
from parity.graph.flatten import inline_functions
from parity.graph.graph import TensorSpec
from parity.graph.model import Model
from parity.graph.seeding import Bits, machine_memory, memory_to_draw
from parity.graph.shapes import bind, candidates, describe, dims_of, guess_sizes, parse_shape, size_of
from parity.graph.uses import Context

__all__ = ["Feed", "InputSource", "check_feed", "load_arrays", "load_feed", "parse_shape", "seeded_feed"]

Feed: TypeAlias = Mapping[str, np.ndarray]
# What people call raw values, as trtexec's --loadInputs reads them.
_RAW = (".bin", ".raw", ".dat")


@dataclass(frozen=True)
class InputSource:
    """Where an input's values are from: "seeded index < 30522", "file inputs.npz"."""

    name: str
    text: str


def load_feed(model: Model, sources: Sequence[str]) -> tuple[Feed, tuple[InputSource, ...]]:
    """Read a value for every input of a model.

    Nothing is converted: an array of another dtype is refused, with the conversion in the hint, because a
    silent one would compare something else than what the user has. (Strings may be numpy's fixed-width ones.)
    Arrays of an .npz that are not inputs, labels say, are left alone; `load_arrays` has them.

    Args:
        model: whose inputs are wanted.
        sources: each a file or folder that `read_dump` knows, of arrays under the inputs' names; a .npy or .pb for a
            model's only input, a folder of input_0.pb, input_1.pb, … in the model's order; name=FILE for one input,
            which may be raw (.bin, .raw, .dat).

    Returns:
        The feed, in the model's order of inputs, and where each input is from.

    Raises:
        FeedError: a file that cannot be read or holds pickles; an input that is missing or given twice, or has
            another dtype or shape than the model declares.
    """
    wanted = {spec.name: spec for spec in model.graph.inputs}
    found: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for source in sources:
        path, arrays, note = _arrays_for(model, source)
        for name in arrays.keys() & wanted.keys():
            if name in found:
                raise FeedError(f"input {name!r} is given twice, by {origin[name]} and by {path}",
                                "Leave one of them out.")
            found[name], origin[name] = arrays[name], f"file {path.name}{note}"
        if not arrays.keys() & wanted.keys():
            raise FeedError(f"{path} holds {_listed(arrays)}, none of which is an input of the model",
                            f"The model wants {_wanted(model)}. Rename the arrays, or give NAME=FILE.")
    feed = {name: _native(found[name], wanted[name]) for name in wanted if name in found}
    check_feed(model, feed)
    return feed, tuple(InputSource(name, origin[name]) for name in feed)


def check_feed(model: Model, feed: Feed) -> None:
    """Make sure that a feed is what the model declares: names, dtypes, ranks, sizes, and symbols that agree.

    Raises:
        FeedError: it is not; the message names the input, the hint says what the model wants.
    """
    specs = model.graph.inputs
    for spec in specs:
        _refuse_unfeedable(spec)
    missing = [s.name for s in specs if s.name not in feed]
    if missing:
        raise FeedError(f"no value for input {', '.join(map(repr, missing))}", f"The model wants {_wanted(model)}.")
    extra = feed.keys() - {s.name for s in specs}
    if extra:
        raise FeedError(f"the model has no input {_listed(sorted(extra))}", f"The model wants {_wanted(model)}.")
    for spec in specs:
        _check_dtype(spec, feed[spec.name])
    sizes: dict[str, int] = {}
    for _ in range(2):  # the second time, the symbols in sums such as "past + 1" are all known
        for spec in specs:
            bind(spec, feed[spec.name].shape, sizes)


def _check_dtype(spec: TensorSpec, array: np.ndarray) -> None:
    if spec.dtype is None or array.dtype == spec.dtype:
        return
    exact = np.can_cast(array.dtype, spec.dtype, "safe") if array.dtype.kind in "biufV" else False
    loses = "which loses nothing" if exact else "if what that loses does not matter"
    hint = f"Convert it with array.astype({str(spec.dtype)!r}), {loses}, and save it again."
    raise FeedError(f"input {spec.name!r} is {array.dtype}; the model wants {describe(spec)}", hint)


def _refuse_unfeedable(spec: TensorSpec) -> None:
    if spec.dtype is None:
        raise FeedError(f"input {spec.name!r} is a sequence, map or optional; parity feeds tensors only",
                        "Export the model with tensor inputs.")


def _native(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The same values in this machine's byte order and the dtypes that ONNX means: .npz files know no bfloat16."""
    if spec.dtype is not None and array.dtype.type is np.void and array.dtype.itemsize == spec.dtype.itemsize:
        return array.view(spec.dtype)
    if spec.dtype is not None and spec.dtype.kind == "O" and array.dtype.kind in "US":
        return array.astype(object)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _arrays_for(model: Model, source: str) -> tuple[Path, dict[str, np.ndarray], str]:
    """What one `--input` gives, under the names of the model's inputs where it is clear which is meant, and a note."""
    names = [spec.name for spec in model.graph.inputs]
    given = max((n for n in names if source.startswith(f"{n}=")), key=len, default="")
    if given and not Path(source).exists():
        return _array_for(model.graph.inputs[names.index(given)], Path(source[len(given) + 1:]))
    if "=" in source and not split_runner(Path(source))[0].exists():
        raise FeedError(f"the model has no input {source.partition('=')[0]!r}", f"The model wants {_wanted(model)}.")
    path = split_runner(Path(source))[0]
    if path.suffix in _RAW and path.is_file():
        raise FeedError(f"{path} does not say which input it is for",
                        f"Give NAME={path}; the model wants {_wanted(model)}.")
    dump = read_dump(Path(source))
    arrays = fitted(dump, declared_dtypes(model), path)
    note = "".join(f", {text}" for text in dump.notes)
    if path.is_dir() and any(path.glob("input_*.pb")) and not set(names) & arrays.keys():
        return path, dict(zip(names, arrays.values(), strict=False)), note
    if path.suffix not in (".npy", ".pb") or arrays.keys() & set(names):
        return path, arrays, note
    if len(names) != 1:
        raise FeedError(f"{path} does not say which input it is for",
                        f"Give NAME={path}; the model wants {_wanted(model)}.")
    return path, dict(zip(names, arrays.values(), strict=False)), note


def _array_for(spec: TensorSpec, source: Path) -> tuple[Path, dict[str, np.ndarray], str]:
    """What NAME=FILE gives."""
    path = split_runner(source)[0]
    if path.suffix in _RAW:
        return path, {spec.name: read_raw(path, spec)}, ""
    dump = read_dump(source)
    arrays = fitted(dump, {spec.name: spec.dtype}, path)
    if spec.name not in arrays and len(arrays) != 1:
        raise FeedError(f"{path} holds {_listed(arrays)}, but no {spec.name!r}", "Save that array under its name.")
    value = arrays[spec.name] if spec.name in arrays else next(iter(arrays.values()))
    return path, {spec.name: value}, "".join(f", {text}" for text in dump.notes)


def seeded_feed(model: Model, seed: int, shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}), sample: int = 0,
                accepts: Callable[[Feed], None] | None = None) -> tuple[Feed, tuple[InputSource, ...]]:
    """Make a valid value for every input of a model: the same bits for a seed, on every machine.

    Indices stay inside the tables that they index, masks are runs of ones, lengths fit, and so on; all else is
    nearly normal. Where the model leaves sizes open, a few are tried until it runs.

    Args:
        model: whose inputs are wanted.
        seed: any whole number from 0 up.
        shapes: the user's choice, by input name. For a second sample give those of the first, and nothing is tried.
        sample: which one of several feeds of this seed.
        accepts: called with a feed whose sizes were guessed, raises a ParityError to refuse it; None runs the
            model on torch in FP32.

    Returns:
        The feed, in the model's order of inputs, and what each input is.

    Raises:
        FeedError: an input that cannot be made (strings, sequences), a shape that contradicts the model, or open
            sizes for which none was found.
        UsageError: a negative seed.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "Give a whole number from 0 up.")
    model = inline_functions(model)
    given = _given_sizes(model, shapes)
    guess, stretchable = guess_sizes(model, given)
    unranked = [s.name for s in model.graph.inputs if s.shape is None and s.name not in shapes]
    refusal: ParityError | None = None
    for sizes in candidates(guess, stretchable):
        resolved = {s.name: shapes[s.name] if s.name in shapes else _resolved(s, sizes) for s in model.graph.inputs}
        _refuse_too_large(resolved)
        feed, sources = _drawn(model, resolved, seed, sample, stretchable)
        try:
            if stretchable or unranked:
                (accepts or _runs(model))(feed)
        except UnsupportedOp:
            raise  # no size helps
        except ParityError as error:
            refusal = refusal or error
        else:
            return feed, sources
    what = ", ".join([*sorted(stretchable), *(f"the rank of {name!r}" for name in unranked)])
    example = next(s.name for s in model.graph.inputs if s.name not in shapes)
    raise FeedError(f"the model accepts none of the sizes tried for {what}; the first try said: {refusal}",
                    f"Give the shape that it was made for, as in --shape {example}=1x3x224x224.") from refusal


def _given_sizes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The symbols that the user's shapes fix, after a check that they fit the model."""
    specs = {spec.name: spec for spec in model.graph.inputs}
    for spec in specs.values():
        _refuse_unfeedable(spec)
        if spec.dtype is not None and spec.dtype.kind in "OSUc":
            raise FeedError(f"input {spec.name!r} is {describe(spec)}, for which no values can be made",
                            f"Give them with --input {spec.name}=FILE.")
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in specs:
            raise FeedError(f"the model has no input {name!r}", f"The model wants {_wanted(model)}.")
        bind(specs[name], shape, sizes)
    return sizes


def _resolved(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input under an assignment; a scalar where the rank is unknown."""
    return tuple(size_of(dim, sizes) or 0 for dim in dims_of(spec) or ())


def _refuse_too_large(shapes: Mapping[str, tuple[int, ...]]) -> None:
    needed, there = memory_to_draw(shapes.values()), machine_memory()
    if needed > there:
        name, shape = max(shapes.items(), key=lambda item: math.prod(item[1]))
        raise FeedError(f"to make input {name!r} of shape {'x'.join(map(str, shape))} takes "
                        f"{needed / 2**30:,.0f} GiB of memory, and there are {there / 2**30:,.0f}",
                        "Give a smaller --shape.")


def _drawn(model: Model, shapes: Mapping[str, tuple[int, ...]], seed: int, sample: int,
           guessed: Collection[str]) -> tuple[Feed, tuple[InputSource, ...]]:
    context = Context(model, shapes)
    feed: dict[str, np.ndarray] = {}
    sources = []
    for spec in model.graph.inputs:
        domain = domain_of(context, spec)
        feed[spec.name] = domain.draw(Bits(seed, sample, spec.name), shapes[spec.name]).astype(spec.dtype)
        sizes = dict(zip(dims_of(spec) or (), shapes[spec.name], strict=False))
        note = "".join(f", {dim}={sizes[dim]} guessed" for dim in sizes if dim in guessed)
        sources.append(InputSource(spec.name, domain.text + note))
    return feed, tuple(sources)


def _runs(model: Model) -> Callable[[Feed], None]:
    from parity.graph.executor import Executor

    executor = Executor(model)

    def run(feed: Feed) -> None:
        executor.run(feed)

    return run


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names) or "nothing"


def _wanted(model: Model) -> str:
    return ", ".join(f"{s.name} ({describe(s)})" for s in model.graph.inputs) or "no inputs"
