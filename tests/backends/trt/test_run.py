"""How tensors lie in an engine's memory, and engines that run where there is a GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.analysis.measure import measure
from parity.backends.base import RunOptions, TensorRtOptions, Watch, backend_of
from parity.backends.trt import driver
from parity.backends.trt.driver import devices
from parity.backends.trt.run import Engine, _pointer, extent, laid_out
from parity.backends.trt.session import TensorRtRtx
from parity.errors import BackendFailed
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.backends.trt.standin import rtx
from tests.builders import CHAIN, chain
from tests.engines import PRECISIONS, subject
from tests.models import FIXTURE_FOLDERS


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_values_come_out_in_the_order_of_their_shape(shape: list[int], data: st.DataObject) -> None:
    """Whatever the order of the axes in memory, and with gaps between rows, the tensor is the same."""
    order = data.draw(st.permutations(range(len(shape))))
    gap = data.draw(st.integers(0, 2))
    value = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    padded = [size + (gap if place == len(order) - 1 else 0) for place, size in enumerate(shape[a] for a in order)]
    memory = np.full(padded, np.nan, np.float32)
    memory[tuple(slice(shape[a]) for a in order)] = value.transpose(order)
    strides = [memory.strides[order.index(axis)] // 4 for axis in range(len(shape))]
    flat = memory.ravel()[:extent(shape, strides)]
    np.testing.assert_array_equal(laid_out(flat, shape, strides), value)
    np.testing.assert_array_equal(laid_out(value.ravel(), shape, ()), value)


def test_addresses_are_numbers_or_capsules() -> None:
    """The bindings pass either; both lead to the same place."""
    wrap = ctypes.pythonapi.PyCapsule_New
    wrap.restype, wrap.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    memory = ctypes.create_string_buffer(8)
    address = ctypes.addressof(memory)
    assert _pointer(address) == _pointer(wrap(address, None, None)) == address


@pytest.mark.tensorrt
def test_an_engine_that_cannot_be_loaded_is_one_line() -> None:
    """A damaged engine, or one for another version, is refused with TensorRT's words; so is any where no GPU is."""
    for plan in (b"", b"vtrt" + bytes(200), b"not an engine"):
        with pytest.raises(BackendFailed, match=r"cannot load the engine: .{5}") as caught:
            Engine(rtx(), plan)
        assert "\n" not in caught.value.message


@pytest.fixture
def runnable() -> Target:
    """TensorRT-RTX on this machine's GPU."""
    rtx().check(devices()[0])
    driver.use(devices()[0])
    return Target("tensorrt-rtx")


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_engines_compute_the_model(folder: Path, precision: str, runnable: Target, tmp_path: Path) -> None:
    """Outputs of the engine are near the executor's of the same variant, in whatever precision."""
    model, feed = subject(folder, precision, tmp_path)  # type: ignore[arg-type]
    surveyed = survey(model, feed)
    options = RunOptions(tensorrt=TensorRtOptions(engines=tmp_path))
    found = backend_of(runnable).open(model, surveyed.flat, runnable, options).run(feed).outputs
    for name, want in surveyed.outputs.items():
        assert measure(want, found[name]).rel_l2 < {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}[precision]


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("way", ["outputs", "debug", "unfused"])
@pytest.mark.parametrize("memory", [1, 2**30])
def test_tensors_are_shown_in_every_way(way: Watch, memory: int, runnable: Target, tmp_path: Path) -> None:
    """Each is near the executor's; none is missing unless a fusion hides it."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    options = RunOptions(memory=memory, tensorrt=TensorRtOptions(engines=tmp_path, watch=way))
    session = TensorRtRtx().open(model, surveyed.flat, runnable, options)
    found = {n: v for chunk in session.watch(feed, CHAIN, surveyed.sizes) for n, v in chunk.items()}
    assert found.keys() == set(CHAIN) or way == "unfused"
    expected = session.show(feed, CHAIN).outputs
    for name, value in found.items():
        assert measure(expected[name], value).rel_l2 < 1e-4
