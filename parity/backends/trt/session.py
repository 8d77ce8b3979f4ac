"""TensorRT as a backend: the engine as deployed for the verdict, others beside it for the tensors."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.backends.base import Capture, Chunk, Compiled, Feed, RunOptions, Session
from parity.backends.trt import driver
from parity.backends.trt.build import Recipe, engine_for, recipe_for
from parity.backends.trt.given import GivenEngine
from parity.backends.trt.inspect import notes_on, surfacing
from parity.backends.trt.layers import EngineTensor
from parity.backends.trt.library import Library, Name, library
from parity.backends.trt.network import Network, Source, parsed, written
from parity.backends.trt.run import Engine, dtype_of
from parity.backends.trt.watch import watched
from parity.errors import BackendUnavailable
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.precision.prepare import FUSED_CONV, unfused
from parity.targets import Target


class TensorRt:
    """Runs models on TensorRT. The driver is asked before anything of TensorRT is imported."""

    name: Name = "tensorrt"

    def devices(self) -> list[str]:
        """The GPUs that it can build engines for.

        Raises:
            BackendUnavailable: no driver, no GPU, no TensorRT, or none of the GPUs is known to it.
        """
        found = driver.devices()
        tensorrt = library(self.name)
        refusal: BackendUnavailable | None = None
        known = []
        for device in found:
            try:
                tensorrt.check(device)
                known.append(f"cuda:{device.index}")
            except BackendUnavailable as error:
                refusal = error
        if refusal is not None and not known:
            raise refusal
        return known

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> Session:
        """Make a model ready to run.

        Raises:
            BackendUnavailable: no driver, no GPU, no TensorRT that knows it, or a precision that needs a variant.
            BackendFailed: TensorRT refuses the model.
        """
        if target.precision != "fp32":
            raise BackendUnavailable(f"{target}: TensorRT takes its precision from the model",
                                     "Give the variant as a file: parity compare MODEL VARIANT.onnx.")
        device = driver.device_at(target.device)
        tensorrt = library(self.name)
        tensorrt.check(device)
        driver.use(device)
        if options.tensorrt.engine is not None:
            return GivenEngine(tensorrt, device, options.tensorrt.engine, flat)
        return TensorRtSession(tensorrt, device, model, flat, options)


class TensorRtRtx(TensorRt):
    """Runs models on TensorRT-RTX."""

    name: Name = "tensorrt_rtx"


class TensorRtSession:
    """One model on one GPU.

    Engines are built when the first feed says what shapes they are for.

    Raises:
        BackendFailed: the parser refuses the model.
    """

    def __init__(self, tensorrt: Library, device: driver.Device, model: Model, flat: Model, options: RunOptions,
                 ) -> None:
        self._tensorrt = tensorrt
        self._device = device
        self._options = options
        self._folder = temporary_folder()
        self._notes = _taken_apart(model, tensorrt.title)
        self._plain = parsed(tensorrt, written(unfused(model), Path(self._folder.name), "plain"))
        self._flat_model = flat
        self._flat: Source | None = None
        self._engine: Engine | None = None
        self._recipe: Recipe | None = None
        self._compiled = Compiled()

    def run(self, feed: Feed) -> Capture:
        """Run the model as deployed."""
        engine = self._deployed(feed)
        start = time.perf_counter()
        outputs = engine.run(feed)
        return Capture(outputs, self._tensorrt.version, self._device.name, time.perf_counter() - start)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run the model with a few tensors marked as outputs, the builder optimising all the rest."""
        self._close()
        return Capture(self._marked(feed, tuple(names)), self._tensorrt.version, self._device.name, None)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Run with tensors made visible, in the way that the options name."""
        self._close()  # two engines of one model need not fit
        asked = frozenset(names)
        wanted = [n for n in self.visible() if n in asked]
        way = self._options.tensorrt.watch
        if way == "outputs":
            yield from watched(wanted, sizes, self._options.memory, lambda stretch: self._marked(feed, stretch))
            return
        engine, called = self._debugging(feed, wanted)
        try:
            yield from watched([n for n in wanted if n in called], sizes, self._options.memory, lambda stretch:
                               engine.run_showing(feed, {n: called[n] for n in stretch}, unfused=way == "unfused"))
        finally:
            engine.close()

    def compiled(self) -> Compiled:
        """What the last plain run ran; no layers before it."""
        return self._compiled

    def visible(self) -> tuple[str, ...]:
        """Tensors that can be marked, in the graph's order: what the parser kept, of types that numpy can hold."""
        network = parsed(self._tensorrt, self._source())
        constants = network.source.model.constants
        return tuple(n for n, t in network.tensors().items() if n not in constants and dtype_of(t) is not None)

    def _source(self) -> Source:
        if self._flat is None:
            self._flat = written(unfused(self._flat_model), Path(self._folder.name), "flat")
        return self._flat

    def _deployed(self, feed: Feed) -> Engine:
        """The engine of the plain run; another where a feed does not fit it."""
        recipe = recipe_for(self._tensorrt, self._plain, self._device, feed, self._options)
        if self._engine is None or self._recipe != recipe:
            self._close()
            self._engine, self._recipe = self._engine_for(self._plain, recipe), recipe
            layers = self._engine.layers()
            self._compiled = Compiled(tuple(layer.summary for layer in layers),
                                      (*self._notes, *notes_on(layers, self._plain.source.model)))
        return self._engine

    def _marked(self, feed: Feed, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values of a few tensors, marked as outputs."""
        network = parsed(self._tensorrt, self._source())
        called = mark_outputs(network, names)
        engine = self._engine_for(network, recipe_for(self._tensorrt, network, self._device, feed, self._options,
                                                      watch="outputs", marked=tuple(names)))
        try:
            values = engine.run(feed)
        finally:
            engine.close()
        return {**values, **_onnx_named(values, names, called)}

    def _debugging(self, feed: Feed, names: Sequence[str]) -> tuple[Engine, Mapping[str, EngineTensor]]:
        """An engine that shows tensors while it runs, and what it calls each that it may show."""
        way = self._options.tensorrt.watch
        network = parsed(self._tensorrt, self._source(), unfused=way == "unfused")
        called = {n: EngineTensor(t) for n, t in mark_debug(network, names if way == "debug" else ()).items()}
        recipe = recipe_for(self._tensorrt, network, self._device, feed, self._options, watch=way, marked=tuple(called))
        engine = self._engine_for(network, recipe)
        if way == "unfused":
            surfaces = surfacing(engine.layers(), network.source.model)
            tensors = network.tensors()
            called = {n: surfaces[n] for n in names if n in surfaces and same_shape(surfaces[n], tensors[n])}
            called.update((n, EngineTensor(tensors[n].name)) for n in names if tensors[n].name in engine.outputs)
        return engine, called

    def _engine_for(self, network: Network, recipe: Recipe) -> Engine:
        return engine_for(self._tensorrt, network, recipe, self._options, lambda plan: self._loaded(network, plan))

    def _loaded(self, network: Network, plan: bytes) -> Engine:
        """An engine made of `network`, ready to run."""
        return Engine(self._tensorrt, plan)

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def mark_outputs(network: Network, names: Sequence[str]) -> Mapping[str, str]:
    """Make tensors outputs of a network; returns what TensorRT calls each."""
    tensors = network.tensors()
    present = {network.definition.get_output(i).name for i in range(network.definition.num_outputs)}
    for tensor in (tensors[n] for n in names if n in tensors):
        if tensor.name not in present:
            network.definition.mark_output(tensor)
            present.add(tensor.name)
    return {n: tensors[n].name for n in names if n in tensors}


def mark_debug(network: Network, names: Sequence[str]) -> Mapping[str, str]:
    """Have tensors of a network shown while it runs; returns what TensorRT calls each."""
    tensors = network.tensors()
    for tensor in (tensors[n] for n in names if n in tensors):
        if not network.definition.is_debug_tensor(tensor):
            network.definition.mark_debug(tensor)
    return {n: tensors[n].name for n in names if n in tensors}


def _onnx_named(values: Mapping[str, np.ndarray], names: Sequence[str],
                called: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {n: values[called[n]] for n in names if n in called and called[n] in values}


def same_shape(tensor: EngineTensor, declared: Any) -> bool:
    """Whether an engine's tensor has the shape that the network gives it; -1 stands for any size."""
    shape = tuple(declared.shape)
    return len(shape) == len(tensor.shape) and all(a in (-1, b) for a, b in zip(shape, tensor.shape, strict=True))


def _taken_apart(model: Model, title: str) -> tuple[str, ...]:
    count = sum(node.op == FUSED_CONV for node in model.graph.nodes)
    note = (f"{title} has no {FUSED_CONV}, which ONNX Runtime made: {count} of them were taken apart into Conv and "
            "what follows it. It refuses the file as it is.")
    return (note,) if count else ()
