"""What TensorRT's tests share: a GPU to build for, and ONNX Runtime standing in where an engine would have to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort

from parity.backends.base import Feed, RunOptions, TensorRtOptions
from parity.backends.trt.build import built, recipe_for
from parity.backends.trt.driver import Device
from parity.backends.trt.layers import EngineTensor, Layer, layers_said
from parity.backends.trt.library import Library, library
from parity.backends.trt.network import Network, parsed, written
from parity.backends.trt.run import Engine
from parity.backends.trt.session import TensorRtSession, mark_debug, mark_outputs
from parity.graph.model import Model

# Compute capability 8.0 is one that TensorRT-RTX builds for without a GPU.
DEVICE = Device(0, "NVIDIA A100", (8, 0), 40 * 2**30, (13, 0))


def rtx() -> Library:
    """TensorRT-RTX, which these tests are run with."""
    return library("tensorrt_rtx")


def network_of(model: Model, folder: Path, *, unfused: bool = False) -> Network:
    """A model, parsed."""
    return parsed(rtx(), written(model, folder, f"model{len(list(folder.iterdir()))}"), unfused=unfused)


def engine_layers(model: Model, feed: Feed, folder: Path, marked: Sequence[str] = (), way: str = "",
                  ) -> tuple[Layer, ...]:
    """What the builder makes of a model with tensors made visible."""
    network = network_of(model, folder, unfused=way == "unfused")
    if way == "outputs":
        mark_outputs(network, marked)
    elif way == "debug":
        mark_debug(network, marked)
    built(rtx(), network, recipe_for(rtx(), network, DEVICE, feed, RunOptions()))
    return layers_said(next(text for _, text in rtx().said if text.startswith("Layers:")))


class StandIn:
    """Runs, on ONNX Runtime, what an engine was built from; a plan that TensorRT did not make is refused.

    Attributes:
        runs: names of what each run returned, in the engine's words.
    """

    runs: list[tuple[str, ...]]

    def __init__(self, network: Network, plan: bytes) -> None:
        assert plan.startswith(b"vtrt")
        self.runs = []
        definition = network.definition
        self.outputs = tuple(definition.get_output(i).name for i in range(definition.num_outputs))
        self._model = network.source.model

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        """The outputs of the network, marked ones included."""
        return self._run(feed, self.outputs)

    def run_showing(self, feed: Feed, wanted: Mapping[str, EngineTensor], *, unfused: bool) -> dict[str, np.ndarray]:
        """Tensors by ONNX name."""
        return self._run(feed, tuple(wanted))

    def layers(self) -> tuple[Layer, ...]:
        """One layer a node."""
        return tuple(Layer(n.outputs[0], n.op, n.outputs) for n in self._model.graph.nodes)

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, feed: Feed, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(self._model.watching(names).proto.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])
        self.runs.append(names)
        return dict(zip(names, cast("list[np.ndarray]", session.run(list(names), dict(feed))), strict=True))


class Session(TensorRtSession):
    """TensorRT's session: everything real but the running.

    Attributes:
        engines: every engine that was loaded.
    """

    def __init__(self, model: Model, options: RunOptions, flat: Model | None = None) -> None:
        self.engines: list[StandIn] = []
        super().__init__(rtx(), DEVICE, model, flat or model, options)

    def _loaded(self, network: Network, plan: bytes) -> Engine:
        self.engines.append(StandIn(network, plan))
        found: Any = self.engines[-1]
        return cast("Engine", found)


def options(folder: Path, memory: int = 2**30, **own: Any) -> RunOptions:
    """Options that keep engines in a folder of the test's own."""
    return RunOptions(memory=memory, tensorrt=TensorRtOptions(engines=folder / "engines", **own))
