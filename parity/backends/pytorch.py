"""The executor as a backend: `pytorch` in FP32, `pytorch:fp64` as the gold reference."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch

from parity.backends.base import Capture, Chunk, Feed, RunOptions
from parity.errors import BackendUnavailable
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import Arithmetic, Value, to_numpy
from parity.targets import Target

_ARITHMETIC = {"fp32": Arithmetic.DECLARED, "fp64": Arithmetic.DOUBLE}


class PyTorch:
    """Runs the ONNX graph node by node on torch."""

    def devices(self) -> list[str]:
        """The CPU; the executor is the ruler, and it is kept where its arithmetic is known."""
        return ["cpu"]

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> TorchSession:
        """Make a model ready to run.

        Raises:
            BackendUnavailable: another device than the CPU, or a precision that is not emulated.
        """
        if target.device not in ("", "cpu"):
            raise BackendUnavailable(f"pytorch runs on the cpu only, not on {target.device!r}", "Use `pytorch`.")
        if target.precision not in _ARITHMETIC:
            raise BackendUnavailable(f"pytorch:{target.precision} is not emulated yet",
                                     "Use pytorch or pytorch:fp64.")
        torch.set_num_threads(options.threads)
        return TorchSession(model, flat, _ARITHMETIC[target.precision], options)


class TorchSession:
    """One model on the executor."""

    def __init__(self, model: Model, flat: Model, arithmetic: Arithmetic, options: RunOptions) -> None:
        self._plain = Executor(model, arithmetic, seed=options.seed)
        self._flat = Executor(flat, arithmetic, seed=options.seed)

    def run(self, feed: Feed) -> Capture:
        """Run once, keeping only the outputs."""
        start = time.perf_counter()
        found = self._plain.run(feed)
        seconds = time.perf_counter() - start
        outputs = {o.name: found[o.name] for o in self._plain.model.graph.outputs}
        return Capture(_arrays(outputs), torch.__version__, "cpu", seconds)

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Show the tensors one node at a time."""
        wanted = frozenset(names)
        for step in self._flat.steps(feed):
            yield _arrays({n: v for n, v in step.values.items() if n in wanted})


def _arrays(values: Mapping[str, Value]) -> dict[str, np.ndarray]:
    return {n: to_numpy(v) for n, v in values.items() if isinstance(v, torch.Tensor | np.ndarray)}
