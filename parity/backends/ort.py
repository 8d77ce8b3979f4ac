"""ONNX Runtime: as deployed for the verdict, and in watched stretches of the graph for the tensors."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.backends.base import Capture, Chunk, Feed, RunOptions, Session
from parity.backends.providers import CPU, PROVIDERS, absent, cannot_load, listening, placed, provider_of, requested
from parity.backends.trt import driver
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.graph import Node
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder, told
from parity.precision.lethal import may_crash
from parity.targets import Target


class OnnxRuntime:
    """Runs models on ONNX Runtime's execution providers.

    On the CPU in this process; elsewhere, and where the model may bring the process down, in one of its own.
    """

    def devices(self) -> list[str]:
        """The devices whose provider this build of ONNX Runtime holds, where the driver shows a GPU for it.

        That a provider's library loads is known only once a model is opened.

        Raises:
            BackendUnavailable: ONNX Runtime is not installed.
        """
        available = _import().get_available_providers()
        held = [device for device, provider in PROVIDERS.items() if provider in available]
        try:
            return held if held == ["cpu"] or driver.devices() else ["cpu"]
        except BackendUnavailable:
            return ["cpu"]

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> Session:
        """Make a model ready to run.

        Raises:
            BackendUnavailable: no ONNX Runtime, no such device, or a precision that needs a variant of the model.
            BackendFailed: ONNX Runtime refuses the model.
            OutputError: it cannot be put into the folder of temporary files.
        """
        if provider_of(target.device or "cpu") == CPU and not may_crash(model):
            return InProcess().open(model, flat, target, options)
        from parity.backends.isolate import isolated

        return isolated(f"{__name__}:{InProcess.__name__}").open(model, flat, target, options)


class InProcess:
    """ONNX Runtime in this very process, whatever the device."""

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> OrtSession:
        """Make a model ready to run; raises as `OnnxRuntime.open` does."""
        device = target.device or "cpu"
        provider = provider_of(device)
        if target.precision != "fp32":
            raise BackendUnavailable(f"{target}: parity does not make {target.precision} variants yet",
                                     "Give the variant as a file: parity compare MODEL VARIANT.onnx.")
        if provider not in _import().get_available_providers():
            raise BackendUnavailable(f"this build of onnxruntime has no {provider}",
                                     "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'")
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
            with told():
                shared = model.externalised(Path(self._folder.name))
            self._plain = self._session(self._write(shared, "plain"))
        provider = provider_of(device)
        self._placed = device if provider == CPU else placed(device, provider, _placement(self._plain))
        self._flat_source = flat

    @cached_property
    def _flat(self) -> Model:
        """What is watched: cut into many small models that share one file of weights."""
        with told():
            return self._flat_source.externalised(Path(self._folder.name))

    def run(self, feed: Feed) -> Capture:
        """Run the model as deployed."""
        return self._captured(self._plain, feed)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run the model as deployed, with a few more outputs."""
        marked = self._flat.watching(n for n in names if n in self._flat.graph.producer)
        return self._captured(self._session(self._write(marked, "marked")), feed)

    def _captured(self, session: Any, feed: Feed) -> Capture:
        names = [o.name for o in session.get_outputs() if _showable(o.type)]
        inputs = {i.name for i in session.get_inputs()}
        start = time.perf_counter()
        values = self._call(session, names, {n: v for n, v in feed.items() if n in inputs})
        seconds = time.perf_counter() - start
        outputs = {n: v for n, v in zip(names, values, strict=True) if isinstance(v, np.ndarray)}
        return Capture(outputs, self._ort.__version__, self._placed, seconds)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Run stretch by stretch, each fed with what the stretches before it gave."""
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
        try:
            return self._on_provider(path, options)
        except BackendUnavailable:
            raise
        except Exception as error:
            said = _first_line(error).replace(f"Load model from {path} failed:", "").replace(path, "the model")
            raise BackendFailed(f"onnxruntime refuses the model: {said}",  # the file is gone when that is read
                                "Check it with onnx.checker, or run `parity inspect MODEL`.") from error

    def _on_provider(self, path: str, options: Any) -> Any:
        """A session on the device's provider and no other.

        Shape arithmetic that ONNX Runtime itself puts on the CPU is not forbidden, as the option
        session.disable_cpu_ep_fallback would do.
        """
        wanted = provider_of(self._device)
        if wanted == CPU:
            return self._ort.InferenceSession(path, options, providers=[wanted])
        tf32 = self._options.tensorrt.tf32
        if not tf32:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # for the providers that have no option of their own
        providers = requested(self._device, tf32=tf32)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        lines: list[str] = []
        try:
            with listening(lines):
                session = self._ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
        except Exception as error:
            if cannot_load(lines):
                raise absent(wanted, "none", lines) from error
            raise
        if session.get_providers()[0] != wanted:
            raise absent(wanted, session.get_providers()[0], lines)
        return session

    def _write(self, model: Model, name: str) -> str:
        path = Path(self._folder.name) / f"{name}.onnx"
        with told():
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


def _placement(session: Any) -> dict[str, int]:
    """How many nodes each provider got; older versions of ONNX Runtime do not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


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
