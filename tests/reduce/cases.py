"""Models for the tests of parity.reduce, and a reduction as a user asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from parity.backends.base import RunOptions
from parity.contenders import Request
from parity.graph.model import Model
from parity.reduce.pipeline import Order, Repro, reduce_file
from tests.builders import declared, node, proto_of, saved

ONE_THREAD = RunOptions(threads=1)


def weights(*names: str, rows: int = 8, columns: int = 8) -> dict[str, np.ndarray]:
    """Seeded matrices that keep the size of what they multiply."""
    random = np.random.default_rng(0)
    return {n: (random.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32) for n in names}


def model_of(nodes: Sequence[NodeProto], held: Mapping[str, Any], rows: int = 4, width: int = 8) -> ModelProto:
    """A model from x [rows, width] to y."""
    return proto_of(nodes, [declared("x", (rows, width))], [declared("y", None)], held)


def requantised() -> ModelProto:
    """A model quantised twice in a row, of which ONNX Runtime's optimiser makes once: it is off only when unwatched."""
    steps: dict[str, Any] = {"s1": np.float32(0.0313), "s2": np.float32(0.02071), "z": np.int8(0)}
    nodes = [node("QuantizeLinear", ["x", "s1", "z"], ["q1"]), node("DequantizeLinear", ["q1", "s1", "z"], ["d1"]),
             node("QuantizeLinear", ["d1", "s2", "z"], ["q2"]), node("DequantizeLinear", ["q2", "s2", "z"], ["e"]),
             node("MatMul", ["e", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w1"], ["c"]),
             node("Tanh", ["c"], ["d"]), node("MatMul", ["d", "w2"], ["y"])]
    return model_of(nodes, {**steps, **weights("w0", "w1", "w2", rows=64, columns=64)}, 4, 64)


def crashing() -> ModelProto:
    """A model with a Split that leaves out an output: onnx.checker passes it, ONNX Runtime 1.31 dies of it."""
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Split", ["b"], ["c", ""], axis=1),
             node("MatMul", ["c", "w1"], ["d"]), node("Tanh", ["d"], ["y"])]
    return model_of(nodes, {**weights("w0"), **weights("w1", rows=4)})


def looping(gain: float) -> ModelProto:
    """A Loop of three turns in whose body a factor stands."""
    body = helper.make_graph(
        [node("MatMul", ["h", "w1"], ["m"]), node("Mul", ["m", "gain"], ["next"]), node("Identity", ["go"], ["on"])],
        "body", [declared("i", (), TensorProto.INT64), declared("go", (), TensorProto.BOOL), declared("h", (4, 8))],
        [declared("on", (), TensorProto.BOOL), declared("next", (4, 8))], [_scalar(gain)])
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Loop", ["n", "", "a"], ["l"], body=body),
             node("Relu", ["l"], ["y"])]
    return model_of(nodes, {"n": np.int64(3), **weights("w0", "w1")})


def branching(gain: float) -> ModelProto:
    """An If in whose taken branch a factor stands."""
    taken = helper.make_graph([node("Mul", ["a", "gain"], ["t0"]), node("MatMul", ["t0", "w1"], ["t"])], "then", [],
                              [declared("t", (4, 8))], [_scalar(gain)])
    other: GraphProto = helper.make_graph([node("Relu", ["a"], ["o"])], "else", [], [declared("o", (4, 8))])
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("ReduceL2", ["a"], ["r"], keepdims=0),
             node("Greater", ["r", "k"], ["yes"]), node("If", ["yes"], ["i"], then_branch=taken, else_branch=other),
             node("Relu", ["i"], ["y"])]
    return model_of(nodes, {"k": np.float32(-1), **weights("w0", "w1")})


def fused() -> ModelProto:
    """Weights of four bits: ONNX Runtime fuses their MatMul into a kernel that rounds what they are multiplied with."""
    held = {"w0": weights("w0", rows=64, columns=64)["w0"], "s": np.full((2, 32), 0.05, np.float32),
            "q": np.random.default_rng(0).integers(-8, 8, (64, 32)).astype(ml_dtypes.int4)}
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32),
             node("MatMul", ["a", "w"], ["b"]), node("Tanh", ["b"], ["y"])]
    return proto_of(nodes, [declared("x", (4, 64))], [declared("y", (4, 32))], held, opset=21, ir=10)


def _scalar(value: float) -> TensorProto:
    return numpy_helper.from_array(np.float32(value), "gain")


def reduced(folder: Path, proto: ModelProto, other: ModelProto | None = None, target: str = "onnxruntime",
            order: Order = Order(ONE_THREAD)) -> Repro | None:  # noqa: B008 - it is frozen
    """Write the models and reduce; the files go to folder/repro."""
    model = saved(folder / "model.onnx", proto)
    files = () if other is None else (saved(folder / "other.onnx", other),)
    return reduce_file(Request(model, files, targets=[target]), order, folder / "repro")


def repro_of(folder: Path, proto: ModelProto, other: ModelProto | None = None, target: str = "onnxruntime",
             order: Order = Order(ONE_THREAD)) -> Repro:  # noqa: B008 - it is frozen
    """The same where there is something to reduce."""
    found = reduced(folder, proto, other, target, order)
    assert found is not None
    return found


def operators(repro: Repro) -> list[str]:
    """What the file that was written holds."""
    return [n.op for n in Model.load(repro.written["repro.onnx"]).graph.nodes]

