"""Conversions between element types against ONNX Runtime and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, to_numpy
from tests.graph.ops.one_node import check, gradcheck, normal, on_torch, onnx_case, run_ort

T = TensorProto
TYPES = [T.FLOAT, T.DOUBLE, T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64, T.BOOL]


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("opset", [9, 19])
def test_cast(source: int, target: int, opset: int) -> None:
    """Every pair of types: floats truncate, any number but zero is True."""
    x = np.array([[0, 1, 2], [3.7, 100.2, 0.4]]).astype(helper.tensor_dtype_to_np_dtype(source))
    check("Cast", [x], opset, to=target)


@pytest.mark.parametrize("source", [np.int64, np.int32, np.uint16])
@pytest.mark.parametrize("target", [T.INT8, T.UINT8, T.INT16, T.UINT16, T.UINT32])
def test_integers_wrap(source: type[np.generic], target: int) -> None:
    """Of an integer out of range the lower bits are left."""
    check("Cast", [np.array([200, 40000, 65535]).astype(source)], 13, to=target)


def test_negative_floats_truncate() -> None:
    """Truncation is towards zero, and a fraction or NaN is True."""
    x = np.array([-1.7, -0.3, 0.0, np.nan], np.float32)
    check("Cast", [x[:3]], 13, to=T.INT32)
    check("Cast", [x], 13, to=T.BOOL)


@pytest.mark.parametrize("target", [T.FLOAT16, T.BFLOAT16])
def test_halves(target: int) -> None:
    """A narrow target rounds in DECLARED, overflows to infinity, and is FP64 in DOUBLE."""
    x = np.array([1.0001, 3.14159, np.inf, 7e4 if target == T.FLOAT16 else 3.4e38], np.float32)
    [declared] = on_torch("Cast", [x], 13, {"to": target})
    with np.errstate(over="ignore"):
        want = x.astype(helper.tensor_dtype_to_np_dtype(target))
    assert declared.dtype == want.dtype
    np.testing.assert_array_equal(declared.astype(np.float64), want.astype(np.float64))
    [double] = on_torch("Cast", [x], 13, {"to": target}, arithmetic=Arithmetic.DOUBLE)
    np.testing.assert_array_equal(double, x.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.int32, np.float16, np.float64, np.bool_])
def test_cast_like(dtype: type[np.generic]) -> None:
    """The type is that of the second input."""
    x = np.array([0.0, 1.7, -2.2], np.float32)
    [got] = on_torch("CastLike", [x, np.zeros(1, dtype)], 19, {})
    np.testing.assert_array_equal(got, x.astype(dtype), strict=True)


@pytest.mark.parametrize(("source", "target"), [
    (np.float32, T.INT32), (np.int32, T.FLOAT), (np.float64, T.UINT64), (np.int64, T.DOUBLE), (np.int8, T.UINT8)])
def test_bit_cast(source: type[np.generic], target: int) -> None:
    """The bits stay, in DOUBLE those of the declared type too."""
    x = np.array([1, -1, 77]).astype(source)
    want = x.view(helper.tensor_dtype_to_np_dtype(target))
    [declared] = on_torch("BitCast", [x], 26, {"to": target})
    np.testing.assert_array_equal(declared, want, strict=True)
    [double] = on_torch("BitCast", [x], 26, {"to": target}, arithmetic=Arithmetic.DOUBLE)
    np.testing.assert_array_equal(double, want)


def test_types_that_torch_lacks_go_to_the_reference() -> None:
    """Casts to and from strings and FP8 still give what ONNX Runtime gives."""
    model = Model.from_proto(onnx_case("Cast", [np.array([1.5, -2.0], np.float32)], 19, {"to": T.STRING}).model)
    found = Executor(model).run({"x0": np.array([1.5, -2.0], np.float32)})["y0"]
    assert [float(str(v)) for v in np.asarray(found)] == [1.5, -2.0]
    case = onnx_case("Cast", [np.array(["3.25", "-1e3"], dtype=object)], 19, {"to": T.FLOAT})
    numbers = Executor(Model.from_proto(case.model)).run(case.feed)["y0"]
    np.testing.assert_array_equal(to_numpy(numbers), run_ort(case)[0])


def test_unknown_type_is_an_error() -> None:
    """A number that names no ONNX type is refused."""
    model = Model.from_proto(onnx_case("Cast", [normal(2)], 19, {"to": 99}).model)
    with pytest.raises(ModelError):
        Executor(model).run({"x0": normal(2)})


def test_cast_is_differentiable() -> None:
    """Between floats, gradients pass."""
    gradcheck("Cast", [normal(2, 3)], 13, to=T.FLOAT16)
