"""The executor as a backend: `pytorch` in FP32, `pytorch:fp64` as the gold reference, `pytorch@cuda` on a GPU."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch

from parity.backends.base import Capture, Chunk, Feed, RunOptions
from parity.errors import BackendUnavailable
from parity.graph.device import HOST, Lying, executor_on, lying
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, is_tensor, to_numpy
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
    """One model on the executor.

    Attributes:
        device: where its tensors lie; None for the CPU.
    """

    def __init__(self, model: Model, flat: Model, arithmetic: Arithmetic, options: RunOptions,
                 device: torch.device) -> None:
        self.device = None if device.type == HOST else device
        self._plain = executor_on(self.device, model, arithmetic, seed=options.seed)
        self._flat = executor_on(self.device, flat, arithmetic, seed=options.seed)

    def run(self, feed: Feed) -> Capture:
        """Run once, keeping only the outputs."""
        return self._captured(self._plain, feed, ())

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run once, keeping the outputs and a few more tensors."""
        return self._captured(self._flat, feed, names)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Show the tensors one node at a time."""
        for chunk in self.watch_there(feed, names):
            yield {n: np.asarray(v) for n, v in chunk.items()}

    def watch_there(self, feed: Feed, names: Collection[str]) -> Iterator[Mapping[str, Lying]]:
        """The same, each tensor where it lies."""
        wanted = frozenset(names)
        for step in self._flat.steps(feed):
            yield {n: lying(v) for n, v in step.values.items() if n in wanted and is_tensor(v)}

    def _captured(self, executor: Executor, feed: Feed, names: Collection[str]) -> Capture:
        start = time.perf_counter()
        found = executor.run(feed, capture=names)
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - start
        wanted = dict.fromkeys((*(o.name for o in executor.model.graph.outputs), *names))
        return Capture(_arrays({n: found[n] for n in wanted if n in found}), torch.__version__, self._named(), seconds)

    def _named(self) -> str:
        if self.device is None or self.device.type != "cuda":
            return HOST
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"


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


def _arrays(values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    return {n: to_numpy(v) for n, v in values.items() if is_tensor(v)}
