"""Sizes of graph inputs: what the declaration allows, what a user asks for, what to try where it is left open."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from parity.errors import FeedError, UsageError
from parity.graph.graph import Node, TensorSpec
from parity.graph.model import Model

# Exporters write these where they know no name; two of them are two different unknowns.
_ANONYMOUS = re.compile(r"|\?|\*|-1|none|unk|dynamic", re.IGNORECASE)
_BATCH = re.compile(r"batch|^(n|b|bs|num_samples)$|^unk_", re.IGNORECASE)
_IMAGE_SIDE = re.compile(r"height|width|^(h|w)$", re.IGNORECASE)
_CHANNELS = re.compile(r"channel|^c$", re.IGNORECASE)
_SEQUENCE = re.compile(r"seq|time|frame|token|len|sample|audio|wave|step|^(t|l)$", re.IGNORECASE)
# Tried in this order for every open size at once when the first guess is refused.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1536)


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of an input that an engine is to accept: the smallest, the usual and the largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __contains__(self, shape: tuple[int, ...]) -> bool:
        same_rank = len(shape) == len(self.min) == len(self.max)
        return same_rank and all(a <= b <= c for a, b, c in zip(self.min, shape, self.max, strict=True))


def parse_range(text: str) -> tuple[str, ShapeRange]:
    """Read "x=1x3x224x224", or "x=1x3x224x224/4x3x224x224/16x3x224x224": smallest, usual and largest.

    Returns:
        The input's name and its shapes, three times the same where one is given.

    Raises:
        UsageError: not of that form, or the usual shape is not between the others.
    """
    name, equals, dims = text.rpartition("=")
    if not name or not equals or not re.fullmatch(r"\d+(x\d+)*(/\d+(x\d+)*/\d+(x\d+)*)?", dims):
        raise UsageError(f"shape {text!r} is not of the form NAME=AxBxC or NAME=MIN/OPT/MAX",
                         "Try --shape x=1x3x224x224, or --shape x=1x3x224x224/4x3x224x224/16x3x224x224.")
    shapes = [tuple(int(d) for d in shape.split("x")) for shape in dims.split("/")]
    found = ShapeRange(shapes[0], shapes[len(shapes) // 2], shapes[-1])
    if found.opt not in found or len(found.opt) != len(found.max):
        raise UsageError(f"shape {text!r}: the second is not between the first and the third",
                         "Give the smallest, the usual and the largest shape, of one rank.")
    return name, found


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read what `parse_range` reads: the input's name, and its usual shape.

    Raises:
        UsageError: not of that form.
    """
    name, shapes = parse_range(text)
    return name, shapes.opt


def dims_of(spec: TensorSpec) -> tuple[int | str, ...] | None:
    """The declared shape with a name for every open axis: its symbol, or `input[axis]` where it has none.

    None where the rank is unknown.
    """
    if spec.shape is None:
        return None
    return tuple(_dim(spec.name, axis, dim) for axis, dim in enumerate(spec.shape))


def _dim(name: str, axis: int, dim: int | str) -> int | str:
    anonymous = dim < 0 if isinstance(dim, int) else _ANONYMOUS.fullmatch(dim.strip())
    return f"{name}[{axis}]" if anonymous else dim


def size_of(dim: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis under an assignment of symbols; sums such as "past + 1" are understood."""
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    total = 0
    for term in dim.split("+"):
        known = int(term) if term.strip().isdigit() else sizes.get(term.strip())
        if known is None:
            return None
        total += known
    return total


def describe(spec: TensorSpec) -> str:
    """A declaration in words: `float32 [batch, 3, 224, 224]`."""
    kind = "sequence, map or optional" if spec.dtype is None else "string" if spec.dtype.kind == "O" else spec.dtype
    if spec.shape is None:
        return f"{kind} of any rank"
    return f"{kind} [{', '.join(str(d) if d != '' else '?' for d in spec.shape)}]"


def bind(spec: TensorSpec, shape: Sequence[int], sizes: MutableMapping[str, int]) -> None:
    """Hold a shape against a declaration.

    Args:
        spec: the declaration.
        shape: the actual shape.
        sizes: symbols known so far; those of this input are added.

    Raises:
        FeedError: another rank, a fixed size that differs, or a symbol that already has another size.
    """
    dims = dims_of(spec)
    if dims is None:
        return
    if len(dims) != len(shape):
        raise FeedError(f"input {spec.name!r} has shape {list(shape)}; the model wants rank {len(dims)}",
                        f"It is declared as {describe(spec)}.")
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        wanted = size_of(dim, sizes)
        if wanted is None and isinstance(dim, str) and "+" not in dim:
            sizes[dim] = size
        elif wanted not in (None, size):
            because = "" if isinstance(dim, int) else f" ({dim!r} is {wanted} elsewhere)"
            raise FeedError(f"input {spec.name!r} has shape {list(shape)}; axis {axis} must be {wanted}{because}",
                            f"It is declared as {describe(spec)}.")


def sized_by_weights(model: Model) -> dict[str, int]:
    """Sizes of open axes that follow from the weights next to the inputs: channels of a Conv, rows of a MatMul."""
    sizes: dict[str, int] = {}
    for spec in model.graph.inputs:
        dims = dims_of(spec) or ()
        for node in _first_layers(model, spec.name):
            found = _axis_and_size(model, node, len(dims))
            if found is not None and isinstance(dims[found[0]], str):
                sizes.setdefault(str(dims[found[0]]), found[1])
    return sizes


def _first_layers(model: Model, name: str) -> Iterator[Node]:
    for node in model.graph.readers.get(name, ()):
        if node.op in {"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"}:
            yield from _first_layers(model, node.outputs[0])
        elif node.inputs and node.inputs[0] == name:
            yield node


def _axis_and_size(model: Model, node: Node, rank: int) -> tuple[int, int] | None:
    """Which axis of the node's first input a weight fixes, and at what size."""
    weight = _weight_dims(model, node.inputs[1]) if len(node.inputs) > 1 else ()
    attributes = {a.name: a.i for a in node.proto.attribute}
    op, axis = node.op, None
    if op == "Conv" and len(weight) > 2:
        axis, size = 1, weight[1] * attributes.get("group", 1)
    elif op == "MatMul" and len(weight) >= 2:
        axis, size = rank - 1, weight[-2]
    elif op == "Gemm" and len(weight) == 2 and not attributes.get("transA"):
        axis, size = 1, weight[1 if attributes.get("transB") else 0]
    elif op in {"LSTM", "GRU", "RNN"} and len(weight) == 3:
        axis, size = 2, weight[2]
    elif op in {"BatchNormalization", "InstanceNormalization"} and len(weight) == 1:
        axis, size = 1, weight[0]
    return (axis, size) if axis is not None and 0 <= axis < rank else None


def _weight_dims(model: Model, name: str) -> tuple[int, ...]:
    graph = model.graph
    node = graph.producer.get(name)
    while node is not None and node.op in {"Cast", "Identity", "DequantizeLinear"}:
        name = node.inputs[0]
        node = graph.producer.get(name)
    return tuple(graph.initializers[name].dims) if name in graph.initializers else ()


def guess_sizes(model: Model, given: Mapping[str, int]) -> tuple[dict[str, int], frozenset[str]]:
    """A size for every symbol of the inputs, by what is given, by the weights, else by its name and place.

    Args:
        model: whose inputs are to be sized.
        given: symbols that have a size already.

    Returns:
        The sizes, and the symbols whose size is a mere guess (a batch of 1 is not).
    """
    sizes, open_symbols = {**sized_by_weights(model), **given}, set()
    for spec in model.graph.inputs:
        for axis, dim in enumerate(dims_of(spec) or ()):
            for symbol in _symbols(dim):
                if symbol not in sizes:
                    sizes[symbol] = _guess(symbol, axis, spec)
                    open_symbols |= set() if _is_batch(symbol, axis, spec) else {symbol}
    return sizes, frozenset(open_symbols)


def candidates(guess: Mapping[str, int], open_symbols: Collection[str]) -> Iterator[dict[str, int]]:
    """Assignments of sizes worth trying, in this order: the guess, then one size for all open symbols; at most 12."""
    tried = [dict(guess)]
    yield tried[0]
    for size in SIZES if open_symbols else ():
        assignment = {symbol: size if symbol in open_symbols else n for symbol, n in guess.items()}
        if assignment not in tried:
            tried.append(assignment)
            yield assignment


def _symbols(dim: int | str) -> Iterator[str]:
    if isinstance(dim, str):
        yield from (t.strip() for t in dim.split("+") if not t.strip().isdigit())


def _is_batch(symbol: str, axis: int, spec: TensorSpec) -> bool:
    anonymous_first = axis == 0 and len(spec.shape or ()) > 1 and symbol == f"{spec.name}[0]"
    return anonymous_first or (bool(_BATCH.search(symbol)) and (axis == 0 or "batch" in symbol.lower()))


def _guess(symbol: str, axis: int, spec: TensorSpec) -> int:
    """A size by meaning: 224 is ImageNet's side, 16 a short sentence, 1536 a tenth of a second of 16 kHz sound."""
    rank = len(spec.shape or ())
    sound = spec.dtype is not None and spec.dtype.kind not in "iub" and rank <= 2
    by_name = ((_CHANNELS, 3), (_IMAGE_SIDE, 224), (_SEQUENCE, 1536 if sound else 16))
    by_place = 3 if axis == 1 else 224
    if _is_batch(symbol, axis, spec) or (axis == 0 and rank > 1 and not any(p.search(symbol) for p, _ in by_name)):
        return 1
    return next((size for pattern, size in by_name if pattern.search(symbol)), by_place if rank == 4 else 16)
