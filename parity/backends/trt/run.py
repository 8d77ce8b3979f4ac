"""Running an engine: the feed in, the outputs and what it shows on the way out."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from parity.backends.base import Feed
from parity.backends.trt.layers import EngineTensor, Layer, layers_of
from parity.backends.trt.library import Library
from parity.errors import BackendFailed, BackendUnavailable

# TensorRT's element types that a numpy array can hold; INT4 and FP4 share bytes, which it cannot.
_DTYPES: Mapping[str, np.dtype] = {
    "FLOAT": np.dtype(np.float32), "HALF": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn), "INT8": np.dtype(np.int8), "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64), "BOOL": np.dtype(np.bool_)}


class OutOfMemory(BackendFailed):
    """The GPU has no room for this engine or its tensors; fewer of them may fit."""


def dtype_of(tensor: Any) -> np.dtype | None:
    """The numpy type of a network's tensor; None where numpy cannot hold it."""
    return _DTYPES.get(tensor.dtype.name)


class Engine:
    """A loaded engine. What it holds on the GPU is freed when it is closed.

    Args:
        library: that it was built with.
        plan: the serialized engine.

    Raises:
        BackendFailed: the engine is damaged, or made for another version or GPU.
        OutOfMemory: it does not fit.
        BackendUnavailable: the CUDA runtime that Polygraphy needs is missing.
    """

    def __init__(self, library: Library, plan: bytes) -> None:
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner
        from polygraphy.exception import PolygraphyException

        self._library = library
        with library.listening():
            try:
                self._engine = EngineFromBytes(plan, runtime=lambda: library.trt.Runtime(library.logger))()
            except PolygraphyException as error:
                raise self._failure("cannot load the engine", "Build it with this version, on this GPU.") from error
            self._shown = _listener(library.trt)
            self._runner = TrtRunner(self._engine, debug_listener=self._shown)
            try:
                self._runner.activate()
            except PolygraphyException as error:
                raise self._failure("cannot start the engine", "Close what else uses the GPU.") from error
            except OSError as error:
                raise BackendUnavailable(f"Polygraphy finds no CUDA runtime ({error})",
                                         "pip install nvidia-cuda-runtime") from error

    def close(self) -> None:
        """Free the GPU's memory."""
        self._runner.deactivate()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns."""
        return self._names("OUTPUT")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return self._names("INPUT")

    def _names(self, mode: str) -> tuple[str, ...]:
        names = (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors))
        return tuple(n for n in names if self._engine.get_tensor_mode(n).name == mode)

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        """Run once; returns the outputs by TensorRT's names."""
        self._runner.context.set_all_tensors_debug_state(False)
        return self._run(feed)

    def run_showing(self, feed: Feed, wanted: Mapping[str, EngineTensor], *, unfused: bool) -> dict[str, np.ndarray]:
        """Run once, with debug tensors shown on the way.

        Args:
            feed: the inputs.
            wanted: ONNX name → what the engine calls it, and how it lies in memory where the inspector says so.
            unfused: whether they are shown because no fusion hides them, rather than marked.
        """
        context = self._runner.context
        self._shown.wanted = {tensor.name: tensor for tensor in wanted.values()}
        self._shown.found = {}
        context.set_all_tensors_debug_state(False)
        if unfused:
            context.unfused_tensors_debug_state = True
        for name in self._shown.wanted:
            if self._engine.is_debug_tensor(name):
                context.set_tensor_debug_state(name, True)
        values: dict[str, np.ndarray] = {**self._run(feed), **self._shown.found}
        self._shown.found = {}
        return {name: values[tensor.name] for name, tensor in wanted.items() if tensor.name in values}

    def layers(self, nodes: Mapping[str, str] = MappingProxyType({})) -> tuple[Layer, ...]:
        """What the engine inspector shows of it.

        Args:
            nodes: name of an ONNX node → its first output, where these differ.
        """
        inspector = self._engine.create_engine_inspector()
        return layers_of(inspector.get_engine_information(self._library.trt.LayerInformationFormat.JSON), nodes)

    def _run(self, feed: Feed) -> dict[str, np.ndarray]:
        from polygraphy.exception import PolygraphyException

        inputs = {name: np.ascontiguousarray(feed[name]) for name in self.inputs}
        with self._library.listening():
            try:
                raw = self._runner.infer(inputs, check_inputs=False, return_raw_buffers=True)
            except PolygraphyException as error:
                raise self._failure("fails while running", "Try --builder-level 0, or other inputs.", error) from error
        found = {}
        for name in self.outputs:
            dtype = _DTYPES.get(self._engine.get_tensor_dtype(name).name)
            if dtype is not None:
                shape = tuple(raw[name].shape)
                size = int(np.prod(shape)) * dtype.itemsize
                found[name] = np.array(raw[name].array.ravel()[:size]).view(dtype).reshape(shape)
        return found

    def _failure(self, what: str, hint: str, error: Exception | None = None) -> BackendFailed:
        words = " ".join(text for _, text in self._library.said) + str(error or "")
        message = f"{self._library.title} {what}: {self._library.last_words()}"
        if "out of memory" in words.lower() or "outofmemory" in words.lower() or "CUDA Error: 2." in words:
            return OutOfMemory(message, "Close what else uses the GPU, or lower --memory.")
        return BackendFailed(message, hint)


def laid_out(raw: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Values as they lie in memory, [elements], in the order that their shape means.

    Args:
        raw: every element from the first to the last, gaps included.
        shape: of the tensor.
        strides: elements from one index to the next, one a dimension; none for row-major order.
    """
    if not strides:
        return raw[:math.prod(shape)].reshape(tuple(shape))
    steps = [step * raw.itemsize for step in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(raw, tuple(shape), steps))


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a tensor, gaps included; 0 for an empty one."""
    if not strides or 0 in shape:
        return math.prod(shape)
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def _listener(trt: Any) -> Any:
    """An IDebugListener that copies the tensors that are wanted."""
    from polygraphy import cuda

    class Listener(trt.IDebugListener):
        """Keeps a copy of each wanted tensor, as the engine passes it."""

        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.wanted: Mapping[str, EngineTensor] = {}
            self.found: dict[str, np.ndarray] = {}

        def process_debug_tensor(self, address: Any, location: Any, kind: Any, shape: Any, name: str, stream: int,
                                 ) -> bool:
            """Called by TensorRT."""
            dtype, tensor = _DTYPES.get(kind.name), self.wanted.get(name)
            if dtype is None or tensor is None:
                return True
            known = tensor if tensor.strides else EngineTensor(name, tuple(shape))
            raw = np.empty(extent(known.shape, known.strides), dtype)
            cuda.wrapper().stream_synchronize(stream)
            if location == trt.TensorLocation.HOST:
                ctypes.memmove(raw.ctypes.data, _pointer(address), raw.nbytes)
            else:
                cuda.wrapper().memcpy(raw.ctypes.data, _pointer(address), raw.nbytes, cuda.MemcpyKind.DeviceToHost)
            self.found[name] = laid_out(raw, known.shape, known.strides)
            return True

    return Listener()


def _pointer(address: Any) -> int:
    """An address that the bindings pass as a number, or in a capsule."""
    if isinstance(address, int):
        return address
    unwrap = ctypes.pythonapi.PyCapsule_GetPointer
    unwrap.restype, unwrap.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(unwrap(address, None) or 0)
