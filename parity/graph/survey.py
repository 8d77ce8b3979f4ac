"""What one FP32 run tells about a model before anything is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.graph.executor import Executor
from parity.graph.flatten import inline_branches, inline_functions
from parity.graph.model import Model
from parity.graph.ops.call import is_tensor, to_numpy


@dataclass(frozen=True)
class Form:
    """What a tensor is, its values aside: element type and shape."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Survey:
    """A model's flat form, and what its tensors are on one feed.

    Attributes:
        flat: functions inlined, and every If replaced by the branch that this feed takes.
        outputs: values of the graph outputs.
        sizes: bytes of each tensor that a node of `flat` makes; sequences, and types that numpy lacks, have none.
        forms: element type and shape of each tensor that a node of `flat` makes, but for sequences.
        branches: of each If of the main graph, in order, the tensor that decides it, and what that was.
    """

    flat: Model
    outputs: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    forms: Mapping[str, Form] = field(default_factory=dict)
    branches: tuple[tuple[str, bool], ...] = ()


def survey(model: Model, feed: Mapping[str, np.ndarray], seed: int = 0) -> Survey:
    """Run a model once on the executor.

    Args:
        model: any model.
        feed: a value for every input.
        seed: of the random operators.

    Raises:
        ModelError: it does not run on these inputs.
    """
    flat = inline_functions(model)
    branches: tuple[tuple[str, bool], ...] = ()
    choices = [node for node in flat.graph.nodes if node.op == "If"]
    if choices:
        scout = Executor(flat, seed=seed)
        scout.run(feed)
        branches = tuple((n.inputs[0], scout.branches[n.outputs[0]]) for n in choices if n.outputs[0] in scout.branches)
        flat = inline_branches(flat, scout.branches)
    results = {o.name for o in flat.graph.outputs}
    sizes: dict[str, int] = {}
    forms: dict[str, Form] = {}
    outputs: dict[str, np.ndarray] = {}
    for step in Executor(flat, seed=seed).steps(feed, keep=results):
        tensors = {n: to_numpy(v) for n, v in step.values.items() if is_tensor(v)}
        sizes.update((n, v.nbytes) for n, v in tensors.items() if v.dtype.kind != "V")
        forms.update((n, Form(v.dtype, v.shape)) for n, v in tensors.items())
        outputs.update((n, v) for n, v in tensors.items() if n in results)
    return Survey(flat, outputs, sizes, forms, branches)
