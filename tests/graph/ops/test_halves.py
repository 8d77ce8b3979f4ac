"""FP16 and BF16 around the kernels: what is rounded, and what is passed on as it is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, parser

from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from tests.graph.ops.one_node import Attribute, normal, on_torch

HALVES = [np.float16, ml_dtypes.bfloat16]
# Signed zeros, subnormals, infinities, NaN: what moves data keeps their bits.
SPECIAL = np.array([[0.0, -0.0, 6e-8], [np.inf, -np.inf, np.nan]])


def ints(*values: int) -> np.ndarray:
    """A shape or a list of axes."""
    return np.array(values, np.int64)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("op", "others", "opset", "attributes", "expected"), [
    ("Identity", [], 16, {}, SPECIAL),
    ("Reshape", [ints(3, -1)], 14, {}, SPECIAL.reshape(3, 2)),
    ("Transpose", [], 13, {}, SPECIAL.T),
    ("Slice", [ints(1), ints(9)], 13, {}, SPECIAL[1:]),
    ("Gather", [ints(2, 0)], 13, {"axis": 1}, SPECIAL[:, [2, 0]]),
    ("GatherElements", [ints(1)[None]], 13, {"axis": 1}, SPECIAL[:1, 1:2]),
    ("Expand", [ints(2, 2, 3)], 13, {}, np.stack([SPECIAL, SPECIAL])),
    ("Tile", [ints(1, 2)], 13, {}, np.hstack([SPECIAL, SPECIAL])),
    ("Unsqueeze", [ints(0)], 13, {}, SPECIAL[None]),
    ("Pad", [ints(0, 1, 0, 0)], 13, {}, np.pad(SPECIAL, ((0, 0), (1, 0)))),
    ("Where", [], 16, {}, SPECIAL),
    ("Cast", [], 13, {"to": TensorProto.DOUBLE}, None),
])
def test_what_moves_data_keeps_every_bit(dtype: type[np.generic], op: str, others: list[np.ndarray], opset: int,
                                         attributes: dict[str, Attribute], expected: np.ndarray | None) -> None:
    """Moved elements of 16 bits are the very same, type included."""
    x = SPECIAL.astype(dtype)
    inputs = [np.array(True), x, x] if op == "Where" else [x, *others]
    [got] = on_torch(op, inputs, opset, attributes)
    want = x.astype(np.float64) if expected is None else expected.astype(dtype)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(np.ascontiguousarray(got).view(np.uint8), np.ascontiguousarray(want).view(np.uint8))


@pytest.mark.parametrize("dtype", HALVES)
def test_types_that_a_kernel_minds_itself(dtype: type[np.generic]) -> None:
    """EyeLike takes the type of its input, BitCast its bits."""
    x = normal(2, 3).astype(dtype)
    [eye] = on_torch("EyeLike", [x], 9, {})
    np.testing.assert_array_equal(eye, np.eye(2, 3).astype(dtype), strict=True)
    [bits] = on_torch("BitCast", [x], 26, {"to": TensorProto.INT16})
    np.testing.assert_array_equal(bits, x.view(np.int16))


@pytest.mark.parametrize("dtype", HALVES)
def test_sequences_keep_the_types_of_their_elements(dtype: type[np.generic]) -> None:
    """A sequence takes and gives back 16-bit tensors unchanged."""
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    name = "float16" if elem_type == TensorProto.FLOAT16 else "bfloat16"
    proto = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g ({name}[3] x) => ({name}[3] y, {name}[6] z) {{
        s = SequenceConstruct(x, x)
        zero = Constant <value_int = 0> ()
        y = SequenceAt(s, zero)
        z = ConcatFromSequence <axis = 0> (s)
    }}""")
    x = SPECIAL[0].astype(dtype)
    found = Executor(Model.from_proto(proto)).run({"x": x}, capture=["s"])
    np.testing.assert_array_equal(to_numpy(found["y"]), x, strict=True)
    np.testing.assert_array_equal(to_numpy(found["z"]), np.concatenate([x, x]), strict=True)
    assert isinstance(found["s"], list)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("opset", [19, 23])
def test_dequantize_gives_the_type_of_the_scale(dtype: type[np.generic], opset: int) -> None:
    """Without `output_dtype`, 16-bit scales give 16-bit results, computed in FP32 and rounded once; FP64 in DOUBLE."""
    q, scale = np.arange(-128, 128, dtype=np.int8), np.array(0.0371).astype(dtype)
    [got] = on_torch("DequantizeLinear", [q, scale], opset, {})
    want = q.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(got, want.astype(dtype), strict=True)
    [double] = on_torch("DequantizeLinear", [q, scale], opset, {}, arithmetic=Arithmetic.DOUBLE)
    np.testing.assert_array_equal(double, q.astype(np.float64) * scale.astype(np.float64), strict=True)


def test_output_dtype_of_dequantize() -> None:
    """`output_dtype` has the last word."""
    [got] = on_torch("DequantizeLinear", [np.array([3], np.int8), np.array(0.5, np.float16)], 23,
                     {"output_dtype": TensorProto.FLOAT})
    np.testing.assert_array_equal(got, np.array([1.5], np.float32), strict=True)


def test_bf16_arithmetic_is_rounded_from_fp32() -> None:
    """A product of BF16 tensors is the FP32 product, rounded."""
    a, b = (normal(4, 50, seed=i).astype(ml_dtypes.bfloat16) for i in range(2))
    [got] = on_torch("Mul", [a, b], 14, {})
    want = torch.from_numpy(a.astype(np.float32) * b.astype(np.float32)).bfloat16().float().numpy()
    assert got.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got.astype(np.float32), want)
