"""What an operator kernel is given, and how it makes itself known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from onnx import AttributeProto, TensorProto, helper

from parity.graph.graph import Graph, Node
from parity.graph.weights import read_weight

if TYPE_CHECKING:
    from pathlib import Path

Tensor: TypeAlias = torch.Tensor
# A numpy array only where torch has no such dtype (strings, 4-bit types); a list is an ONNX sequence.
Value: TypeAlias = "torch.Tensor | np.ndarray | list[Value] | None"
Kernel: TypeAlias = Callable[..., "Value | tuple[Value, ...]"]


class Arithmetic(Enum):
    """In which types a graph is computed.

    DECLARED keeps every tensor's own type; FP16 and BF16 operators compute in FP32 and round their result, as
    hardware with wide accumulators does. DOUBLE computes every floating-point tensor in FP64, Casts to
    narrower floats included: the gold reference.
    """

    DECLARED = "declared"
    DOUBLE = "double"


_TORCH_DTYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.INT8: torch.int8, TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64, TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16, TensorProto.UINT32: torch.uint32, TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool, TensorProto.COMPLEX64: torch.complex64, TensorProto.COMPLEX128: torch.complex128,
}
FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
HALVES = frozenset({torch.float16, torch.bfloat16})


@dataclass(frozen=True)
class Call:
    """One node being evaluated: its attributes, the arithmetic, and a way to run its bodies.

    Attributes:
        node: the node.
        arithmetic: in which types to compute.
        run_body: runs a sub-graph on positional inputs, in the scope of this node.
        folder: where weights in attributes with external data are looked up.
        seed: for the random operators.
    """

    node: Node
    arithmetic: Arithmetic
    run_body: Callable[[Graph, Sequence[Value]], list[Value]]
    folder: Path | None = None
    seed: int = 0

    @property
    def opset(self) -> int:
        """Version of the operator set that the node's domain is imported at."""
        return self.node.opset

    @property
    def output_count(self) -> int:
        """How many outputs the node declares, omitted ones in the middle included."""
        return len(self.node.proto.output)

    def wants(self, index: int) -> bool:
        """Whether output `index` is asked for."""
        outputs = self.node.proto.output
        return index < len(outputs) and bool(outputs[index])

    def attribute(self, name: str) -> AttributeProto | None:
        """The raw attribute, or None when the node leaves it out."""
        return _attributes(self.node).get(name)

    def has(self, name: str) -> bool:
        """Whether the node gives this attribute."""
        return self.attribute(name) is not None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        found = self.attribute(name)
        return default if found is None else found.i

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute (FP32 in the file)."""
        found = self.attribute(name)
        return default if found is None else found.f

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        found = self.attribute(name)
        return default if found is None else found.s.decode()

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers, or None."""
        found = self.attribute(name)
        return None if found is None else list(found.ints)

    def numbers(self, name: str) -> list[float] | None:
        """An attribute that is a list of floats, or None."""
        found = self.attribute(name)
        return None if found is None else list(found.floats)

    def texts(self, name: str) -> list[str] | None:
        """An attribute that is a list of strings, or None."""
        found = self.attribute(name)
        return None if found is None else [s.decode() for s in found.strings]

    def tensor(self, name: str) -> Value:
        """A tensor attribute in this run's arithmetic, or None."""
        found = self.attribute(name)
        return None if found is None else self.real(from_numpy(read_weight(found.t, self.folder)))

    def body(self, name: str) -> Graph:
        """A sub-graph attribute."""
        return self.node.subgraphs[name]

    def dtype(self, elem_type: int) -> torch.dtype:
        """The torch dtype for an ONNX element type in this run's arithmetic.

        Raises:
            NotImplementedError: torch has no such dtype.
        """
        if elem_type not in _TORCH_DTYPES:
            raise NotImplementedError(f"torch has no {TensorProto.DataType.Name(elem_type)}")
        dtype = _TORCH_DTYPES[elem_type]
        return torch.float64 if self.arithmetic is Arithmetic.DOUBLE and dtype in FLOATS else dtype

    def real(self, value: Value) -> Value:
        """A value in this run's arithmetic: floats become FP64 in DOUBLE, all else stays."""
        return in_arithmetic(value, self.arithmetic)


def in_arithmetic(value: Value, arithmetic: Arithmetic) -> Value:
    """A value as `arithmetic` holds it: floats become FP64 in DOUBLE, all else stays."""
    if isinstance(value, list):
        return [in_arithmetic(v, arithmetic) for v in value]
    if arithmetic is Arithmetic.DOUBLE and isinstance(value, torch.Tensor) and value.dtype in FLOATS:
        return value.double()
    return value


def _attributes(node: Node) -> Mapping[str, AttributeProto]:
    cached = node.__dict__.get("attributes")
    if cached is None:
        cached = node.__dict__["attributes"] = {a.name: a for a in node.proto.attribute}
    return cast("Mapping[str, AttributeProto]", cached)


KERNELS: dict[tuple[str, str], Kernel] = {}
# The operators whose kernels take FP16 and BF16 as they are.
TAKES_HALVES: set[tuple[str, str]] = set()


def kernel(*ops: str, domain: str = "", halves: bool = False) -> Callable[[Kernel], Kernel]:
    """Register a function as the torch kernel of one or more operators.

    The function takes the Call and the node's inputs (None for an omitted one) and returns one output, or a
    tuple. It raises NotImplementedError for what it does not cover, and the executor falls back to the next level.

    Args:
        ops: operator names.
        domain: of the operators.
        halves: FP16 and BF16 tensors are passed and returned as they are, for kernels that move data or mind the
            type themselves. Otherwise they arrive as FP32, and the outputs that share their type are rounded to it.
    """

    def register(function: Kernel) -> Kernel:
        for op in ops:
            KERNELS[domain, op] = function
            if halves:
                TAKES_HALVES.add((domain, op))
        return function

    return register


def from_numpy(array: np.ndarray) -> Value:
    """A numpy array as a torch tensor that shares its memory where it can; stays numpy for dtypes torch lacks."""
    if array.dtype.name == "bfloat16":
        return _shared(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16).reshape(array.shape)
    if array.dtype.kind not in "biufc" or np.dtype(array.dtype.type).isbuiltin != 1 or not array.dtype.isnative:
        return array  # not array.dtype.isbuiltin: it is 0 of a type that was pickled, as from another process
    if array.ndim and not array.flags["C_CONTIGUOUS"]:
        array = np.ascontiguousarray(array)
    return _shared(array)


def _shared(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # read-only memory is fine: no kernel writes in place
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def tensor_of(array: np.ndarray) -> Tensor:
    """A numpy array of a type that torch has, BF16 included, as a tensor that shares its memory where it can.

    Raises:
        TypeError: torch has no such type.
    """
    value = from_numpy(array)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"torch has no {array.dtype}")
    return value


def is_tensor(value: Value) -> bool:
    """Whether a value is a tensor, and not a sequence or absent."""
    return isinstance(value, torch.Tensor | np.ndarray)


def to_numpy(value: Value) -> np.ndarray:
    """A tensor, wherever it lies, as a numpy array; BF16 as ml_dtypes' bfloat16.

    Raises:
        TypeError: the value is a sequence or absent.
    """
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"not a tensor: {type(value).__name__}")
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:
        return value.contiguous().view(torch.int16).numpy().view(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return value.numpy()
