"""ONNX Runtime: as deployed for the verdict, and in watched stretches of the graph for the tensors."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.backends.base import Capture, Chunk, Feed, RunOptions
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.graph import Node
from parity.graph.model import Model, temporary_folder
from parity.targets import Target

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntime:
    """Runs models on ONNX Runtime's execution providers."""

    def devices(self) -> list[str]:
        """The devices whose provider this build of ONNX Runtime holds (loading it may still fail).

        Raises:
            BackendUnavailable: ONNX Runtime is not installed.
        """
        available = _import().get_available_providers()
        return [device for device, provider in _PROVIDERS.items() if provider in available]

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> OrtSession:
        """Make a model ready to run.

        Raises:
            BackendUnavailable: no ONNX Runtime, no such device, or a precision that needs a variant of the model.
            BackendFailed: ONNX Runtime refuses the model.
        """
        device = target.device or "cpu"
        if device not in _PROVIDERS:
            raise BackendUnavailable(f"onnxruntime has no device {device!r}", f"Known: {', '.join(_PROVIDERS)}.")
        if target.precision != "fp32":
            raise BackendUnavailable(f"{target}: parity does not make {target.precision} variants yet",
                                     "Give the variant as a file: parity compare MODEL VARIANT.onnx.")
        if device not in self.devices():
            raise BackendUnavailable(
                f"this build of onnxruntime has no {_PROVIDERS[device]}",
                "Install onnxruntime-gpu: pip install 'parity[gpu]'.")
        return OrtSession(model, flat, device, options)


class OrtSession:
    """One model on one execution provider."""

    def __init__(self, model: Model, flat: Model, device: str, options: RunOptions) -> None:
        self._ort = _import()
        self._device = device
        self._options = options
        self._ort.set_seed(options.seed)
        self._folder = temporary_folder()
        if model.path is not None:
            self._plain = self._session(str(model.path))
        else:
            self._plain = self._session(self._write(model.externalised(Path(self._folder.name)), "plain"))
        # The watched run is cut into many small models that share one file of weights.
        self._flat_source = flat
        self._flat: Model | None = None

    def run(self, feed: Feed) -> Capture:
        """Run the model as deployed."""
        names = [o.name for o in self._plain.get_outputs() if _showable(o.type)]
        inputs = {i.name for i in self._plain.get_inputs()}
        start = time.perf_counter()
        values = self._call(self._plain, names, {n: v for n, v in feed.items() if n in inputs})
        seconds = time.perf_counter() - start
        outputs = {n: v for n, v in zip(names, values, strict=True) if isinstance(v, np.ndarray)}
        return Capture(outputs, self._ort.__version__, self._device, seconds)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Run stretch by stretch, each fed with what the stretches before it gave."""
        if self._flat is None:
            self._flat = self._flat_source.externalised(Path(self._folder.name))
        model = self._flat
        wanted = frozenset(names) - model.constants
        values: dict[str, np.ndarray] = dict(feed)
        last_reader = {n: readers[-1].index for n, readers in model.graph.readers.items()}
        for nodes in _stretches(model, sizes, self._options.memory):
            end = nodes[-1].index
            made = [o for node in nodes for o in node.outputs if o not in model.constants]
            shown = [o for o in made if o in wanted or last_reader.get(o, -1) > end]
            if not shown:
                continue
            part = model.between(values, shown)
            session = self._session(self._write(part, f"stretch{end}"))
            inputs = {i.name: values[i.name] for i in part.graph.inputs}
            shown = [o.name for o in session.get_outputs() if _showable(o.type)]
            found = dict(zip(shown, self._call(session, shown, inputs), strict=True))
            yield {n: v for n, v in found.items() if n in wanted and isinstance(v, np.ndarray)}
            values.update(found)
            values = {n: v for n, v in values.items() if last_reader.get(n, -1) > end}

    def _session(self, path: str) -> Any:
        options = self._ort.SessionOptions()
        levels = self._ort.GraphOptimizationLevel
        options.graph_optimization_level = {
            "off": levels.ORT_DISABLE_ALL, "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED, "all": levels.ORT_ENABLE_ALL}[self._options.optimization]
        options.intra_op_num_threads = self._options.threads
        options.log_severity_level = 4  # what matters arrives as an exception
        provider = _PROVIDERS[self._device]
        if self._device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = self._ort.InferenceSession(path, options, providers=[provider])
        except Exception as error:
            raise BackendFailed(f"onnxruntime refuses the model: {_first_line(error)}",
                                "Check it with onnx.checker, or run `parity inspect MODEL`.") from error
        if session.get_providers()[0] != provider:
            raise BackendUnavailable(f"onnxruntime fell back from {provider} to {session.get_providers()[0]}",
                                     "Check that the provider's libraries can be loaded (`ldd`).")
        return session

    def _write(self, model: Model, name: str) -> str:
        path = Path(self._folder.name) / f"{name}.onnx"
        model.save(path)
        return str(path)

    def _call(self, session: Any, names: Sequence[str], feed: Feed) -> list[Any]:
        if not names:  # which to onnxruntime means all
            return []
        try:
            values: list[Any] = session.run(list(names), dict(feed))
        except Exception as error:
            raise BackendFailed(f"onnxruntime fails while running: {_first_line(error)}",
                                "Try `--optimization off`, or other inputs.") from error
        return values


def _stretches(model: Model, sizes: Mapping[str, int], memory: int) -> Iterator[list[Node]]:
    """Cut the nodes, in order, into stretches whose outputs fit the memory.

    No cut is made where a sequence, or another value without a size, is still to be read: it cannot be handed over. Nor
    between a DequantizeLinear and what reads it: of MatMul with quantised weights alone ONNX Runtime makes
    MatMulNBits, which rounds the activations, where it would not have done so in the whole model.
    """
    last_reader = {n: readers[-1].index for n, readers in model.graph.readers.items()}
    nodes: list[Node] = []
    held, uncuttable_until = 0, -1
    for node in model.graph.nodes:
        nodes.append(node)
        for name in node.outputs:
            held += sizes.get(name, 0)
            if name not in model.constants and (name not in sizes or node.proto.op_type == "DequantizeLinear"):
                uncuttable_until = max(uncuttable_until, last_reader.get(name, -1))
        if held >= memory and node.index >= uncuttable_until:
            yield nodes
            nodes, held = [], 0
    if nodes:
        yield nodes


def _showable(kind: str) -> bool:
    """Whether a value of this type, e.g. "tensor(float)", comes out as numpy knows it."""
    return not any(word in kind for word in ("bfloat16", "float8", "float4", "int4", "int2"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime cannot be imported ({error})", "pip install 'parity[cpu]'") from error
    return onnxruntime
