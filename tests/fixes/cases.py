"""Small models that lower precision breaks in one known place, and problems made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from parity.analysis.tolerance import Tolerance
from parity.backends.base import Feed, RunOptions
from parity.fixes.problem import Demand, Limits, Problem, problem_of
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.targets import Target
from tests.builders import declared, node, proto_of

WIDTH = 8
FP16, INT8 = Target("onnxruntime", "", "fp16"), Target("onnxruntime", "", "int8")


def weights(count: int, seed: int = 0) -> dict[str, Any]:
    """Square matrices w0, w1, … that keep the variance."""
    random = np.random.default_rng(seed)
    return {f"w{i}": random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / np.float32(WIDTH**0.5)
            for i in range(count)}


def cancelling() -> ModelProto:
    """Two layers that add 1000 and take it away again, between others: what FP16 cannot hold, and nothing else."""
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["b"]), node("Add", ["b", "k"], ["up"]),
             node("Sub", ["up", "k"], ["down"]), node("MatMul", ["down", "w1"], ["c"]), node("Tanh", ["c"], ["d"]),
             node("MatMul", ["d", "w2"], ["e"]), node("Reshape", ["e", "shape"], ["y"])]
    return _model(nodes, {**weights(3), "k": np.float32(1000), "shape": np.array([-1, WIDTH])})


def outlier() -> ModelProto:
    """One channel × 300 before the second of four MatMuls, whose weights undo it: what INT8 cannot hold."""
    values, gain = weights(4), np.ones(WIDTH, np.float32)
    gain[3] = 300
    values["w1"] = values["w1"] / gain[:, None]
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["b", "gain"], ["loud"]),
             node("MatMul", ["loud", "w1"], ["c"]), node("Tanh", ["c"], ["d"]), node("MatMul", ["d", "w2"], ["e"]),
             node("Relu", ["e"], ["f"]), node("MatMul", ["f", "w3"], ["y"])]
    return _model(nodes, {**values, "gain": gain})


def branching() -> ModelProto:
    """The model that cancels, inside the branch of an If that is taken where x sums to more than -1e9."""
    inner = [node("Add", ["b", "k"], ["up"]), node("Sub", ["up", "k"], ["down"])]
    then = helper.make_graph(inner, "then", [], [declared("down", None)])
    other = helper.make_graph([node("Neg", ["b"], ["neg"])], "else", [], [declared("neg", None)])
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["b"]),
             node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "least"], ["yes"]),
             node("If", ["yes"], ["i"], then_branch=then, else_branch=other), node("MatMul", ["i", "w1"], ["y"])]
    return _model(nodes, {**weights(2), "k": np.float32(1000), "least": np.float32(-1e9)})


def rows(count: int, seed: int = 1) -> Feed:
    """An input of so many rows."""
    return {"x": np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)}


def problem(proto: ModelProto | Model, target: Target, folder: Path, feeds: Sequence[Feed] = (), *,
            calibration: Calibration | None = None, tolerance: Tolerance | None = None, demand: Demand | None = None,
            limits: Limits = Limits()) -> Problem:  # noqa: B008 - it is frozen
    """What `parity fix` would search on."""
    model = proto if isinstance(proto, Model) else Model.from_proto(proto)
    return problem_of(model, target, feeds or [rows(32)], calibration, demand or Demand(tolerance), limits,
                      RunOptions(threads=1), folder, folder)


def _model(nodes: Sequence[Any], values: dict[str, Any]) -> ModelProto:
    return proto_of(nodes, [declared("x", ("N", WIDTH), TensorProto.FLOAT)], [declared("y", ("N", WIDTH))], values)
