"""Models that are odd, each in one way, and sound: what users hand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, TensorProto, helper
from onnx import numpy_helper as to_onnx

from tests.builders import X, Y, declared, node, proto_of

F32 = np.float32
W = {"w": np.linspace(-1, 1, 12, dtype=F32).reshape(3, 4)}


def branch(nodes: Sequence[Any], output: str) -> Any:
    """A body of an If."""
    return helper.make_graph(list(nodes), "branch", [], [declared(output, None)])


def conditional(operator: str) -> ModelProto:
    """If sum(x) `operator` 0: Sqrt(Abs(x)); else, in a nested If: 2x or Exp(x)."""
    nested = branch([node("If", ["c2"], ["n"], then_branch=branch([node("Mul", ["x", "k"], ["n1"])], "n1"),
                          else_branch=branch([node("Exp", ["x"], ["n2"])], "n2"))], "n")
    return proto_of(
        [node("ReduceSum", ["x"], ["s"], keepdims=0), node(operator, ["s", "z"], ["c"]), node("Not", ["c"], ["c2"]),
         node("If", ["c"], ["i"], then_branch=branch([node("Abs", ["x"], ["t1"]), node("Sqrt", ["t1"], ["t2"])], "t2"),
              else_branch=nested),
         node("Add", ["i", "x"], ["y"])], weights={"z": F32(0), "k": F32(2)})


def loop(trips: int) -> ModelProto:
    """A Loop that adds x to itself, with a scanned output."""
    body = helper.make_graph(
        [node("Add", ["acc", "x"], ["acc2"]), node("Mul", ["acc2", "k"], ["out"]),
         node("Identity", ["cond"], ["cond2"])], "body",
        [declared("it", (), TensorProto.INT64), declared("cond", (), TensorProto.BOOL), declared("acc")],
        [declared("cond2", (), TensorProto.BOOL), declared("acc2"), declared("out")])
    return proto_of([node("Loop", ["m", "", "x"], ["l", "scanned"], body=body), node("Relu", ["l"], ["y"]),
                     node("Exp", ["scanned"], ["e"])], outputs=[Y, declared("e", None)],
                    weights={"m": np.array(trips), "k": F32(0.1)})


def scan() -> ModelProto:
    """A Scan over the rows of x."""
    row = [declared("state", (3,)), declared("item", (3,))]
    body = helper.make_graph([node("Add", ["state", "item"], ["state2"]), node("Mul", ["state2", "k"], ["out"])],
                             "body", row, [declared("state2", (3,)), declared("out", (3,))])
    return proto_of([node("Scan", ["start", "x"], ["last", "rows"], body=body, num_scan_inputs=1),
                     node("Relu", ["rows"], ["y"])], outputs=[Y, declared("last", (3,))],
                    weights={"start": np.zeros(3, F32), "k": F32(0.5)})


def local_function() -> ModelProto:
    """A function of the model's own."""
    nodes = [node("Exp", ["a"], ["t"]), node("Add", ["t", "a"], ["b"])]
    function = helper.make_function("my", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    return proto_of([node("F", ["x"], ["f"], domain="my"), node("Relu", ["f"], ["y"])], domains={"my": 1},
                    functions=[function])


def typed(kind: int, weight: Any) -> ModelProto:
    """MatMul and Relu in another element type."""
    return proto_of([node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])], [declared("x", (2, 3), kind)],
                    [declared("y", None, kind)], {"w": W["w"].astype(weight)})


def sparse() -> ModelProto:
    """A weight that is stored sparsely."""
    values = to_onnx.from_array(np.array([1, 2], F32), "w")
    weight = helper.make_sparse_tensor(values, to_onnx.from_array(np.array([1, 5]), "w_indices"), [3, 4])
    return proto_of([node("MatMul", ["x", "w"], ["y"])], sparse=[weight])


def old_style() -> ModelProto:
    """IR 3, opset 7: weights are listed among the inputs."""
    return proto_of([node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])], [X, declared("w", (3, 4))],
                    weights=W, opset=7, ir=3)


def quantised() -> ModelProto:
    """Q/DQ around a MatMul."""
    weights = {"s": F32(0.02), "zero": np.int8(0), "q_w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
               "s_w": F32(0.1)}
    return proto_of(
        [node("QuantizeLinear", ["x", "s", "zero"], ["q"]), node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
         node("DequantizeLinear", ["q_w", "s_w"], ["w"]), node("MatMul", ["d", "w"], ["a"]),
         node("QuantizeLinear", ["a", "s_w", "zero"], ["q2"]), node("DequantizeLinear", ["q2", "s_w", "zero"], ["y"])],
        weights=weights)


def microsoft() -> ModelProto:
    """Operators of ONNX Runtime's own domain."""
    return proto_of([node("Gelu", ["x"], ["a"], domain="com.microsoft"),
                     node("FusedMatMul", ["a", "w"], ["y"], domain="com.microsoft", alpha=0.5)], weights=W,
                    domains={"com.microsoft": 1})


def kinds(name: str) -> ModelProto:
    """The models by what is odd about them."""
    relu = node("Relu", ["x"], ["a"])
    short = declared("x", (2, 2), TensorProto.FLOAT)
    made: Mapping[str, Callable[[], ModelProto]] = {
        "no node": lambda: proto_of([], outputs=[X]),
        "an output is a weight": lambda: proto_of([relu], outputs=[declared("a"), declared("w", (3, 4))], weights=W),
        "the only output is a weight": lambda: proto_of([relu], outputs=[declared("w", (3, 4))], weights=W),
        "an output is an input": lambda: proto_of([relu], outputs=[declared("a"), X]),
        "an output is read": lambda: proto_of([relu, node("Exp", ["a"], ["y"])], outputs=[declared("a"), Y]),
        "an output twice": lambda: proto_of([relu], outputs=[declared("a"), declared("a")]),
        "an input nobody reads": lambda: proto_of([node("Relu", ["x"], ["y"])], [X, declared("z")]),
        "a result nobody reads": lambda: proto_of([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["unused"])]),
        "one tensor twice into a node": lambda: proto_of([node("Mul", ["x", "x"], ["y"])]),
        "zero elements": lambda: proto_of(
            [relu, node("ReduceSum", ["a"], ["y"], keepdims=0), node("Exp", ["a"], ["e"])], [declared("x", (0, 3))],
            [Y, declared("e", None)]),
        "a scalar": lambda: proto_of([node("Exp", ["x"], ["y"])], [declared("x", ())]),
        "a dynamic batch": lambda: proto_of([node("MatMul", ["x", "w"], ["y"])], [declared("x", ("n", 3))], weights=W),
        "no input": lambda: proto_of(
            [node("Constant", [], ["c"], value_floats=[1.0, 2.0]), node("Exp", ["c"], ["y"])], []),
        "integers and booleans": lambda: proto_of(
            [node("ArgMax", ["x"], ["y"], axis=1, keepdims=0), node("Greater", ["x", "z"], ["b"]),
             node("Cast", ["x"], ["i"], to=TensorProto.INT32)], outputs=[
                declared("y", None, TensorProto.INT64), declared("b", None, TensorProto.BOOL),
                declared("i", None, TensorProto.INT32)], weights={"z": F32(0)}),
        "FP16": lambda: typed(TensorProto.FLOAT16, np.float16),
        "FP64": lambda: typed(TensorProto.DOUBLE, np.float64),
        "BF16 inside": lambda: proto_of([node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
                                         node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]),
        "FP8 inside": lambda: proto_of([node("Cast", ["x"], ["h"], to=TensorProto.FLOAT8E4M3FN),
                                        node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], opset=19, ir=9),
        "INT4 inside": lambda: proto_of(
            [node("QuantizeLinear", ["x", "s", "zero"], ["q"]), node("DequantizeLinear", ["q", "s", "zero"], ["y"])],
            weights={"s": F32(0.1), "zero": np.array(0, ml_dtypes.int4)}, opset=21, ir=10),
        "an output of BF16": lambda: proto_of(
            [node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16), relu],
            outputs=[declared("a"), declared("h", None, TensorProto.BFLOAT16)]),
        "sequences": lambda: proto_of(
            [node("SequenceConstruct", ["x", "x"], ["q"]), node("SequenceInsert", ["q", "x"], ["q2"]),
             node("SequenceAt", ["q2", "k"], ["a"]), node("ConcatFromSequence", ["q2"], ["y"], axis=0)],
            outputs=[declared("a"), Y], weights={"k": np.array(1)}),
        "a sequence for an output": lambda: proto_of(
            [node("SequenceConstruct", ["x", "x"], ["q"]), relu],
            outputs=[declared("a"), helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None)]),
        "an optional": lambda: proto_of(
            [node("Optional", ["x"], ["o"]), node("OptionalGetElement", ["o"], ["e"]), node("Relu", ["e"], ["y"])]),
        "omitted optional inputs": lambda: proto_of(
            [node("Clip", ["x", "", "top"], ["a"]), node("Unsqueeze", ["a", "axes"], ["u"]),
             node("Resize", ["u", "", "scales"], ["y"])],
            weights={"top": F32(0.5), "axes": np.array([0, 1]), "scales": np.array([1, 1, 2, 2], F32)}),
        "an omitted first output": lambda: proto_of(
            [node("LSTM", ["x", "W", "R"], ["", "h"], hidden_size=2), node("Relu", ["h"], ["y"])],
            [declared("x", (4, 1, 3))], weights={"W": np.ones((1, 8, 3), F32), "R": np.ones((1, 8, 2), F32)}),
        "Dropout's mask": lambda: proto_of([node("Dropout", ["x"], ["a", "mask"]), node("Relu", ["a"], ["y"])],
                                           outputs=[Y, declared("mask", None, TensorProto.BOOL)]),
        "Dropout in training": lambda: proto_of(
            [node("Dropout", ["x", "ratio", "train"], ["a"]), node("Relu", ["a"], ["y"])],
            weights={"ratio": F32(0.5), "train": np.array(True)}),
        "random numbers": lambda: proto_of([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])]),
        "an If, then": lambda: conditional("Greater"), "an If, else and nested": lambda: conditional("Less"),
        "a Loop": lambda: loop(3), "a Loop of no trip": lambda: loop(0), "a Scan": scan,
        "a local function": local_function, "a sparse weight": sparse, "IR 3": old_style, "Q/DQ": quantised,
        "com.microsoft": microsoft,
        "sizes that depend on values": lambda: proto_of(
            [relu, node("NonZero", ["a"], ["i"]), node("Transpose", ["i"], ["it"]),
             node("GatherND", ["x", "it"], ["y"])]),
        "NaN on both sides": lambda: proto_of([node("Abs", ["x"], ["p"]), node("Neg", ["p"], ["n"]),
                                               node("Sqrt", ["n"], ["s"]), node("Add", ["s", "x"], ["y"])]),
        "Inf on both sides": lambda: proto_of([node("Mul", ["x", "k"], ["a"]), node("Exp", ["a"], ["y"])],
                                              weights={"k": F32(1e6)}),
        "all zero": lambda: proto_of([node("Mul", ["x", "k"], ["a"]), node("Relu", ["a"], ["y"])],
                                     weights={"k": F32(0)}),
        "an attention mask of -3.4e38": lambda: proto_of(
            [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "mask"], ["b"]), node("Softmax", ["b"], ["y"])],
            weights={**W, "mask": np.array([0, 0, -3.4028235e38, -3.4028235e38], F32)}),
        "huge numbers": lambda: proto_of(
            [node("Mul", ["x", "k"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Sub", ["b", "m"], ["y"])],
            weights={**W, "k": F32(1e30), "m": F32(1e30)}),
        "subnormal numbers": lambda: proto_of([node("Mul", ["x", "k"], ["a"]), node("MatMul", ["a", "w"], ["y"])],
                                              weights={**W, "k": F32(1e-40)}),
        "padding cut away again": lambda: proto_of(
            [node("Pad", ["x", "pads"], ["p"]), node("Sqrt", ["p"], ["r"]), node("Slice", ["r", "from", "to"], ["y"])],
            [short], weights={"pads": np.array([0, 1, 0, 1]), "from": np.array([0, 1]), "to": np.array([2, 3])}),
    }
    return made[name]()


ODD = (
    "no node", "an output is a weight", "the only output is a weight", "an output is an input", "an output is read",
    "an output twice", "an input nobody reads", "a result nobody reads", "one tensor twice into a node",
    "zero elements", "a scalar", "a dynamic batch", "no input", "integers and booleans", "FP16", "FP64",
    "BF16 inside", "FP8 inside", "INT4 inside", "an output of BF16", "sequences", "a sequence for an output",
    "an optional", "omitted optional inputs", "an omitted first output", "Dropout's mask", "an If, then",
    "an If, else and nested", "a Loop", "a Loop of no trip", "a Scan", "a local function", "a sparse weight", "IR 3",
    "Q/DQ", "com.microsoft", "sizes that depend on values", "NaN on both sides", "Inf on both sides", "all zero",
    "an attention mask of -3.4e38", "huge numbers", "subnormal numbers", "padding cut away again",
)
