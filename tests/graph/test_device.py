"""Tensors on another device: what must be moved is moved, and no value changes on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import helper

from parity.graph.device import OnDevice, Placed, lying, moved, value_of
from parity.graph.executor import Executor
from parity.graph.feeds import load_feed, seeded_feed
from parity.graph.model import Model
from parity.graph.ops.call import Value, is_tensor, to_numpy
from tests.builders import CHAIN, chain, declared, node, proto_of
from tests.elsewhere import DEVICE, Elsewhere, simulated_device
from tests.models import FIXTURE_FOLDERS

PICTURE = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
UP, STEPS = np.array([1, 1, 1.5, 2], np.float32), np.array(0.1, np.float32)
# Operators that make tensors of their own on the way: places, weights, or values of types that torch has not.
HAZARDS: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {
    "Resize nearest": ({"mode": "nearest"}, {"x": PICTURE, "": PICTURE, "scales": UP}),
    "Resize cubic": ({"mode": "cubic"}, {"x": PICTURE, "": PICTURE, "scales": UP}),
    "Resize antialias": ({"mode": "linear", "antialias": 1}, {"x": PICTURE, "": PICTURE, "scales": 1 / UP}),
    "MaxPool indices": ({"kernel_shape": [2, 2], "outputs": 2}, {"x": PICTURE}),
    "AveragePool": ({"kernel_shape": [3, 3], "ceil_mode": 1, "strides": [2, 2]}, {"x": PICTURE}),
    "QuantizeLinear int4": ({}, {"x": PICTURE, "scale": STEPS, "zero": np.zeros((), ml_dtypes.int4)}),
    "DequantizeLinear int4": ({}, {"x": PICTURE.astype(ml_dtypes.int4), "scale": STEPS}),
    "DequantizeLinear fp8": ({}, {"x": PICTURE.astype(ml_dtypes.float8_e4m3fn), "scale": STEPS}),
    "OneHot": ({}, {"x": np.arange(3), "depth": np.array(4), "values": np.array([0, 1], np.float32)}),
    "TopK": ({"outputs": 2}, {"x": PICTURE, "k": np.array([2])}),
    "Range": ({}, {"x": np.array(1.0), "limit": np.array(5.0), "delta": np.array(0.5)}),
    "CumSum": ({"reverse": 1}, {"x": PICTURE, "axis": np.array(1)}),
    "Trilu": ({}, {"x": PICTURE, "k": np.array(1)}),
    "NonZero": ({}, {"x": PICTURE}),
}


def one_node(name: str, attributes: dict[str, Any], feed: dict[str, np.ndarray]) -> Model:
    """A model of one operator."""
    attributes = dict(attributes)
    outputs = [f"y{i}" for i in range(attributes.pop("outputs", 1))]
    inputs = [declared(n, v.shape, helper.np_dtype_to_tensor_dtype(v.dtype)) for n, v in feed.items() if n]
    proto = proto_of([node(name.partition(" ")[0], list(feed), outputs, **attributes)], inputs,
                     [declared(n, None) for n in outputs], opset=21, ir=10)
    return Model.from_proto(proto)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """One that does not mix with the CPU."""
    with simulated_device() as simulated:
        yield simulated


def same(left: Value, right: Value) -> bool:
    """Whether two values are of one type and shape, and equal; text and sequences too."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if not (is_tensor(left) and is_tensor(right)):
        return left is None and right is None
    a, b = to_numpy(left), to_numpy(right)
    return a.dtype == b.dtype and a.shape == b.shape and (
        a.tolist() == b.tolist() if a.dtype.kind in "OSU" else a.tobytes() == b.tobytes())


def test_the_simulated_device_does_not_mix(device: torch.device) -> None:
    """What a GPU refuses is refused: tensors of two devices in one operator, and numpy's hand on its memory."""
    there = torch.ones(3).to(device)
    assert isinstance(there, Elsewhere)
    assert (there + 1).device == device
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("name", HAZARDS)
def test_operators_that_make_tensors_make_them_there(name: str, device: torch.device) -> None:
    """Their results lie on the device, and are the CPU's, at the same level of evaluation."""
    attributes, inputs = HAZARDS[name]
    model, feed = one_node(name, attributes, inputs), {n: v for n, v in inputs.items() if n}
    plain, placing = Executor(model), OnDevice(device, model)
    expected, found = plain.run(feed), placing.run(feed)
    assert placing.levels == plain.levels
    for output, value in expected.items():
        assert same(found[output], value), output
        assert not isinstance(value, torch.Tensor) or isinstance(found[output], Elsewhere), output


@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_placing_changes_no_value(folder: Path, device: torch.device) -> None:
    """A whole model's tensors all lie there, with the CPU's bits."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    for mine, other in zip(OnDevice(device, model).steps(feed), Executor(model).steps(feed), strict=True):
        for name, value in other.values.items():
            assert same(mine.values[name], value), name
            assert isinstance(mine.values[name], Elsewhere)


def test_the_callers_own_device_is_back_between_two_nodes() -> None:
    """Weights, inputs, and what each operator makes are there, and nothing of the caller's."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    made: dict[str, Value] = {}
    with simulated_device():
        for step in OnDevice(DEVICE, model).steps(feed):
            made.update(step.values)
            assert torch.ones(1).device.type == "cpu"
    assert set(made) == set(CHAIN)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int64, np.bool_])
def test_numpy_sees_a_placed_tensor(dtype: type, device: torch.device) -> None:
    """Type, shape and size at no price, and the values where they are asked for."""
    array: np.ndarray = np.arange(6).reshape(2, 3).astype(dtype)
    placed = lying(moved(value_of(array), device))
    assert isinstance(placed, Placed)
    assert (placed.dtype, placed.shape, placed.size, placed.nbytes) == (
        array.dtype, array.shape, array.size, array.nbytes)
    assert np.asarray(placed).tobytes() == array.tobytes()
    assert np.asarray(placed.astype(np.float64)).tobytes() == array.astype(np.float64).tobytes()
    assert value_of(placed) is placed.tensor
    assert isinstance(lying(value_of(array)), np.ndarray)
