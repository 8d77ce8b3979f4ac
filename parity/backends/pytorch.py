"""The executor as a backend: `pytorch` in FP32, `pytorch:fp64` as the gold reference, `pytorch@cuda` on a GPU."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from parity.backends.base import Capture, Chunk, Feed, RunOptions
from parity.errors import BackendUnavailable
from parity.graph.executor import Executor, Feedable, Step
from parity.graph.graph import Graph, Node
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy
from parity.graph.prepared import Prepared
from parity.targets import Target

_ARITHMETIC = {"fp32": Arithmetic.DECLARED, "fp64": Arithmetic.DOUBLE}


class PyTorch:
    """Runs the ONNX graph node by node on torch."""

    def devices(self) -> list[str]:
        """The CPU, where the executor is the ruler, and every GPU that torch can use."""
        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))]

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> TorchSession:
        """Make a model ready to run.

        Raises:
            BackendUnavailable: a device that torch cannot use here, or a precision that is not emulated.
        """
        device = _device_of(target.device or "cpu")
        if target.precision not in _ARITHMETIC:
            raise BackendUnavailable(f"pytorch:{target.precision} is not emulated yet",
                                     "Use pytorch or pytorch:fp64.")
        torch.set_num_threads(options.threads)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tensorrt.tf32
            torch.backends.cudnn.benchmark = False  # or another kernel might be picked from run to run
        return TorchSession(model, flat, _ARITHMETIC[target.precision], options, device)


class TorchSession:
    """One model on the executor."""

    def __init__(self, model: Model, flat: Model, arithmetic: Arithmetic, options: RunOptions,
                 device: torch.device) -> None:
        make = Executor if device.type == "cpu" else partial(OnDevice, device)
        self._plain = make(model, arithmetic, seed=options.seed)
        self._flat = make(flat, arithmetic, seed=options.seed)
        self._device = device

    def run(self, feed: Feed) -> Capture:
        """Run once, keeping only the outputs."""
        return self._captured(self._plain, feed, ())

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run once, keeping the outputs and a few more tensors."""
        return self._captured(self._flat, feed, names)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Show the tensors one node at a time."""
        wanted = frozenset(names)
        for step in self._flat.steps(feed):
            yield _arrays({n: v for n, v in step.values.items() if n in wanted})

    def _captured(self, executor: Executor, feed: Feed, names: Collection[str]) -> Capture:
        start = time.perf_counter()
        found = executor.run(feed, capture=names)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - start
        wanted = dict.fromkeys((*(o.name for o in executor.model.graph.outputs), *names))
        return Capture(_arrays({n: found[n] for n in wanted if n in found}), torch.__version__, self._named(), seconds)

    def _named(self) -> str:
        if self._device.type != "cuda":
            return self._device.type
        return f"{self._device} ({torch.cuda.get_device_name(self._device)})"


class OnDevice(Executor):
    """The executor with its tensors on another device than the CPU.

    What an operator makes elsewhere, as the numpy reference evaluator does, is brought there before it is read.

    Args:
        device: where tensors live.
        model: what to run.
        arithmetic: in which types.
        seed: for the random operators.
    """

    def __init__(self, device: torch.device, model: Model, arithmetic: Arithmetic, *, seed: int = 0) -> None:
        super().__init__(model, arithmetic, seed=seed, rounding=self._placed)
        self.device = device
        self._prepared: dict[Graph, Prepared] = {}

    def run(self, feed: Feedable, capture: Collection[str] = ()) -> dict[str, Value]:
        """Run the whole model, as `Executor.run` does."""
        with self.device:
            return super().run(feed, capture)

    def steps(self, feed: Feedable, keep: Collection[str] = ()) -> Iterator[Step]:
        """Run the model one node at a time, as `Executor.steps` does."""
        walk = super().steps(feed, keep)
        while True:
            with self.device:  # not across a yield: it holds for all of this thread
                step = next(walk, None)
            if step is None:
                return
            yield step

    def scope(self, feed: Feedable) -> dict[str, Value]:
        """The inputs and the weights, there."""
        return {name: _moved(value, self.device) for name, value in super().scope(feed).items()}

    def prepared(self, graph: Graph) -> Prepared:
        """What all runs share, its weights there."""
        found = self._prepared.get(graph)
        if found is None:
            own = super().prepared(graph)
            found = replace(own, weights={n: _moved(w, self.device) for n, w in own.weights.items()})
            self._prepared[graph] = found
        return found

    def _placed(self, node: Node, inputs: Sequence[Value], outputs: list[Value]) -> list[Value]:
        return [_moved(value, self.device) for value in outputs]


def _device_of(name: str) -> torch.device:
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise BackendUnavailable(f"pytorch has no device {name!r}", "Known: cpu, cuda, cuda:0, cuda:1, and so on.")
    if kind == "cuda" and torch.version.cuda is None:
        raise BackendUnavailable(f"this torch ({torch.__version__}) was built without CUDA",
                                 "pip install --force-reinstall torch")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(f"torch sees {torch.cuda.device_count()} GPUs, so there is no {name!r}",
                                 "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES.")
    return torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device("cpu")


def _moved(value: Value, device: torch.device) -> Value:
    if isinstance(value, list):
        return [_moved(v, device) for v in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _arrays(values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    return {n: to_numpy(_moved(v, torch.device("cpu"))) for n, v in values.items()
            if isinstance(v, torch.Tensor | np.ndarray)}
