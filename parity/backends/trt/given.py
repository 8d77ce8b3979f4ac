"""An engine that the user built: its outputs are compared, and its layers as far as it shows them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from parity.backends.base import Capture, Chunk, Compiled, Feed
from parity.backends.trt.driver import Device
from parity.backends.trt.inspect import notes_on
from parity.backends.trt.layers import EngineTensor
from parity.backends.trt.library import Library
from parity.backends.trt.run import Engine
from parity.errors import BackendFailed
from parity.graph.model import Model
from parity.precision.plan import all_nodes


class GivenEngine:
    """A serialized engine on one GPU.

    Args:
        tensorrt: to load it with.
        device: to run it on.
        path: of the engine.
        model: what it was built from, for the names of nodes.

    Raises:
        BackendFailed: the file cannot be read, or this TensorRT cannot load it.
    """

    def __init__(self, tensorrt: Library, device: Device, path: Path, model: Model) -> None:
        self._tensorrt = tensorrt
        self._device = device
        self._path = path
        self._model = model
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise BackendFailed(f"cannot read {path} ({error})", "Check the path of --engine.") from error
        self._engine = Engine(tensorrt, plan)

    def run(self, feed: Feed) -> Capture:
        """Run the engine."""
        missing = [name for name in self._engine.inputs if name not in feed]
        if missing:
            raise BackendFailed(f"{self._path} wants an input {missing[0]!r}, which the model has not",
                                "Give the model that the engine was built from.")
        start = time.perf_counter()
        outputs = self._engine.run(feed)
        return Capture(outputs, self._tensorrt.version, self._device.name, time.perf_counter() - start)

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run the engine; nothing more can be marked in it than its outputs."""
        return self.run(feed)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Its outputs, and those of its tensors that it was built to show."""
        yield self._engine.run_showing(feed, {name: EngineTensor(name) for name in names}, unfused=False)

    def compiled(self) -> Compiled:
        """Its layers; where it was built without details, their names alone."""
        nodes = {n.proto.name: n.outputs[0] for n in all_nodes(self._model.graph) if n.proto.name and n.outputs}
        layers = self._engine.layers(nodes)
        return Compiled(tuple(layer.summary for layer in layers), notes_on(layers, self._model))
