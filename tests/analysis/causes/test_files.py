"""What two files have otherwise is named, and never what they have alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, numpy_helper

from parity.analysis.diagnose import Diagnosis
from parity.contenders import Contender
from parity.graph.model import Model
from tests.builders import declared, node, proto_of
from tests.causes import ORT, as_if, diagnosed

RANDOM = np.random.default_rng(0)
Weights = Mapping[str, np.ndarray]
WEIGHTS: dict[str, np.ndarray] = {n: RANDOM.normal(size=s).astype(np.float32) for n, s in {
    "w": (8, 4, 3, 3), "b": (8,), "g": (16, 8), "gb": (16,), "m": (8, 8), "ct": (8, 8, 4, 4), "dw": (8, 1, 3, 3),
    "W": (1, 32, 8), "R": (1, 32, 8), "B": (1, 64), "table": (12, 8), "bb": (8,), "bm": (8,)}.items()}
WEIGHTS |= {"bs": np.linspace(0.5, 1.5, 8, dtype=np.float32), "bv": np.linspace(0.3, 2, 8, dtype=np.float32)}
SHAPES = {"Conv": (2, 8, 9, 9), "ConvTranspose": (2, 8, 5, 5), "BatchNormalization": (2, 8, 6, 6), "Gemm": (6, 8),
          "MatMul": (3, 4, 8), "LSTM": (5, 2, 8), "Gather": (2, 7)}
CONV: tuple[str, list[str], dict[str, Any]] = ("Conv", ["u", "w", "b"], {"group": 2, "pads": [1, 1, 1, 1]})
DEPTHWISE: tuple[str, list[str], dict[str, Any]] = ("Conv", ["u", "dw"], {"group": 8})
NORMAL: tuple[str, list[str], dict[str, Any]] = ("BatchNormalization", ["u", "bs", "bb", "bm", "bv"], {})
GEMM: tuple[str, list[str], dict[str, Any]] = ("Gemm", ["u", "g", "gb"], {"transB": 1})
LSTM: tuple[str, list[str], dict[str, Any]] = ("LSTM", ["u", "W", "R", "B"], {"hidden_size": 8})


def file(op: str, inputs: list[str], attributes: Mapping[str, Any], weights: Weights) -> ModelProto:
    """A model of one operator between two others."""
    before = node("Abs" if op == "Gather" else "Tanh", ["x"], ["u"])
    read = inputs if op != "Gather" else inputs[::-1]
    kind = 7 if op == "Gather" else 1
    return proto_of([before, node(op, read, ["t"], **attributes), node("Relu", ["t"], ["y"])],
                    [declared("x", SHAPES[op], kind)], weights=weights)


def told(kind: tuple[str, list[str], dict[str, Any]], weights: Weights, **attributes: Any) -> Diagnosis:
    """The one thing that is said of a file with other weights or attributes."""
    op, inputs, given = kind
    feed = {"x": np.arange(14).reshape(2, 7) % 12} if op == "Gather" else None
    right = Model.from_proto(file(op, inputs, given, WEIGHTS))
    wrong = file(op, inputs, {**given, **attributes}, {**WEIGHTS, **weights})
    found, = diagnosed(right, wrong, feed)
    assert found.tensor == "t"
    assert found.evidence["left"] <= found.evidence["floor"]
    return found


def gates(value: np.ndarray) -> np.ndarray:
    """The gates i, o, f, c in the order i, f, c, o."""
    parts = np.split(value, value.shape[1] // 8, axis=1)
    return np.concatenate([parts[4 * (i // 4) + (0, 2, 3, 1)[i % 4]] for i in range(len(parts))], axis=1)


@pytest.mark.parametrize(("kind", "change", "words"), [
    (NORMAL, lambda w: {"bv": w["bv"] * np.float32(1.02)}, "weight 'bv' times 1.02"),
    (NORMAL, lambda w: {"bm": w["bm"] + np.float32(0.05)}, "weight 'bm' shifted by 0.05"),
    (GEMM, lambda w: {"gb": -w["gb"]}, "weight 'gb' with the sign turned"),
    (GEMM, lambda w: {"gb": w["gb"] * np.float32(2)}, "weight 'gb' times 2"),
    (GEMM, lambda w: {"g": w["g"] * np.float32(1.02)}, "weight 'g' times 1.02"),
    (GEMM, lambda w: {"g": w["g"][[1, 0, *range(2, 16)]]}, "weight 'g' with rows 0 and 1 swapped"),
    (CONV, lambda w: {"b": w["b"] * 0}, "weight 'b' all zero"),
    (CONV, lambda w: {"w": w["w"][[4, 5, 6, 7, 0, 1, 2, 3]]}, "weight 'w' with output channels rolled by 4"),
    (DEPTHWISE, lambda w: {"dw": w["dw"][[3, 1, 0, 2, 4, 7, 6, 5]]},
     "weight 'dw' with output channels in the order [3, 1, 0, 2, 4, 7, 6, 5]"),
    (("ConvTranspose", ["u", "ct"], {}), lambda w: {"ct": w["ct"].swapaxes(0, 1)},
     "weight 'ct' with input channels and output channels swapped"),
    (("MatMul", ["u", "m"], {}), lambda w: {"m": w["m"].reshape(4, 2, 8)[[1, 0, 2, 3]].reshape(8, 8)},
     "weight 'm' with rows, in blocks of 2, in the order [1, 0, 2, 3]"),
    (LSTM, lambda w: {n: gates(w[n]) for n in "WRB"},
     "weights 'W', 'R' and 'B' with gates in the order [0, 2, 3, 1]"),
    (LSTM, lambda w: {"B": np.where(np.arange(64) < 32, w["B"], np.float32(0))},
     "weight 'B' zero in the recurrent half"),
    (("Gather", ["u", "table"], {}), lambda w: {"table": np.roll(w["table"], 1, 0)},
     "weight 'table' with rows rolled by 1"),
])
def test_the_weight_that_differs(kind: tuple[str, list[str], dict[str, Any]],
                                 change: Callable[[Weights], Weights], words: str) -> None:
    """The constant of the file is named and described, not one that would do as well, nor an attribute."""
    said = told(kind, {n: np.ascontiguousarray(v) for n, v in change(WEIGHTS).items()})
    assert said.cause == "weights-differ"
    assert f"the candidate's file has {words}:" in said.message


def test_attributes_that_changed_together() -> None:
    """Neither of them explains anything alone."""
    said = told(CONV, {}, dilations=[2, 2], pads=[2, 2, 2, 2])
    assert "pads [2, 2, 2, 2] instead of [1, 1, 1, 1]" in said.message
    assert "dilations [2, 2] instead of none" in said.message


def test_what_makes_no_difference_is_not_told() -> None:
    """A default that is written out, and weights under other names, beside the one thing that is wrong."""
    op, inputs, given = GEMM
    wrong = file(op, ["u", "onnx::1", "onnx::2"], {**given, "alpha": 1.0, "transA": 0},
                 {"onnx::1": WEIGHTS["g"], "onnx::2": WEIGHTS["gb"] + np.float32(1)})
    found, = diagnosed(Model.from_proto(file(op, inputs, given, WEIGHTS)), wrong)
    assert "has weight 'gb' ('onnx::2' there) shifted by 1:" in found.message


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([NORMAL, GEMM, CONV, LSTM]), st.data())
def test_only_what_differs_is_named(kind: tuple[str, list[str], dict[str, Any]], data: st.DataObject) -> None:
    """Whatever was done to some of an operator's weights, these are named and no others."""
    names = data.draw(st.lists(st.sampled_from(kind[1][1:]), min_size=1, unique=True))
    seed = data.draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    changed = {n: (WEIGHTS[n] * random.uniform(1.1, 2, WEIGHTS[n].shape)).astype(np.float32) for n in names}
    said = told(kind, changed)
    assert said.cause == "weights-differ"
    assert {n for n in kind[1][1:] if repr(n) in said.message} == set(names)


def test_a_bias_that_only_one_has() -> None:
    """A convolution without its bias."""
    right = file(*CONV, WEIGHTS)
    wrong = file("Conv", ["u", "w"], CONV[2], WEIGHTS)
    found, = diagnosed(Model.from_proto(right), wrong)
    assert "has no B 'b':" in found.message
    found, = diagnosed(Model.from_proto(wrong), right)
    assert "has B 'b' instead of none:" in found.message


def _wired(*nodes: NodeProto) -> ModelProto:
    around = [node("Tanh", ["x"], ["u"]), node("Exp", ["x"], ["v"]), node("Relu", ["t"], ["y"])]
    return proto_of([*around[:2], *nodes, around[2]], [declared("x", (2, 8, 6, 6))], weights=WEIGHTS)


@pytest.mark.parametrize(("right", "wrong", "cause", "words"), [
    (node("Sub", ["u", "v"], ["t"]), node("Sub", ["v", "u"], ["t"]), "swapped-operands",
     "its operands the other way round"),
    (node("Add", ["u", "v"], ["t"]), node("Add", ["u", "x"], ["t"]), "swapped-operands", "'x' read instead of 'v'"),
    (node("Concat", ["u", "v", "x"], ["t"], axis=1), node("Concat", ["x", "u", "v"], ["t"], axis=1),
     "swapped-operands", "its inputs in the order [2, 0, 1]"),
    (node("Relu", ["u"], ["t"]), node("LeakyRelu", ["u"], ["t"], alpha=0.3), "wrong-operator",
     "LeakyRelu (alpha 0.3) instead of Relu"),
])
def test_what_an_operator_reads_and_is(right: NodeProto, wrong: NodeProto, cause: str, words: str) -> None:
    """Another operator on the same tensors, and the same operator on others."""
    found, = diagnosed(Model.from_proto(_wired(right)), _wired(wrong))
    assert found.cause == cause
    assert f"the candidate's file has {words}:" in found.message


def test_a_runtime_at_fault_is_not_the_file() -> None:
    """Where the file has what the reference has, and the runtime computes something else, it is told as a guess."""
    right = file(*GEMM, WEIGHTS)
    wrong = as_if(file(*GEMM, {**WEIGHTS, "gb": -WEIGHTS["gb"]}))
    found, = diagnosed(Model.from_proto(right), replace(wrong, model=Model.from_proto(right)))
    assert "was computed as if with beta -1 instead of 1" in found.message


def test_another_form_of_a_part_is_no_difference_of_its_nodes() -> None:
    """A normalisation folded into a convolution, with another epsilon: nothing that the two files share is blamed."""
    right = proto_of([node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *NORMAL[1][1:]], ["t"]),
                      node("Relu", ["t"], ["y"])], [declared("x", (2, 4, 8, 8))], weights=WEIGHTS)
    gain = WEIGHTS["bs"] / np.sqrt(WEIGHTS["bv"] + np.float32(0.01))
    folded = {"fw": WEIGHTS["w"] * gain.reshape(-1, 1, 1, 1), "fb": WEIGHTS["bb"] - WEIGHTS["bm"] * gain}
    wrong = proto_of([node("Conv", ["x", "fw", "fb"], ["t"]), node("Relu", ["t"], ["y"])],
                     [declared("x", (2, 4, 8, 8))], weights=folded)
    found, = diagnosed(Model.from_proto(right), wrong)
    assert (found.cause, found.tensor) == ("wrong-epsilon", "t")
    assert found.evidence["other_epsilon"] == pytest.approx(0.01, rel=0.01)
    assert diagnosed(Model.from_proto(right), Contender(ORT, Model.from_proto(right))) == ()


def test_tensors_under_other_names() -> None:
    """An exporter that calls the tensors inside otherwise, and hands them on through Identity."""
    def chain(inner: str, last: str, weight: np.ndarray) -> ModelProto:
        nodes = [node("Conv", ["x", "w", "b"], [inner], group=2), node("Tanh", [inner], [f"{inner}2"]),
                 node("Conv", [f"{inner}2", "w2"], [last], group=8)]
        end = [] if last == "t" else [node("Identity", [last], ["t"])]
        weights = {**{n: WEIGHTS[n] for n in "wb"}, "w2": weight}
        return proto_of([*nodes, *end, node("Relu", ["t"], ["y"])], [declared("x", SHAPES["Conv"])], weights=weights)

    right = Model.from_proto(chain("h", "t", WEIGHTS["dw"]))
    found, = diagnosed(right, chain("onnx::Conv_3", "onnx::Identity_7", WEIGHTS["dw"][::-1].copy()))
    assert "At Conv 't' the candidate's file has weight 'w2' with output channels reversed:" in found.message
    wrong = chain("onnx::Conv_3", "onnx::Identity_7", WEIGHTS["dw"])
    weight = next(t for t in wrong.graph.initializer if t.name == "w")
    weight.CopyFrom(numpy_helper.from_array(WEIGHTS["w"] * np.float32(1.5), "w"))
    found, = diagnosed(right, wrong)
    assert "At Conv 'h' the candidate's file has weight 'w' times 1.5:" in found.message


def test_a_weight_taken_for_another() -> None:
    """The two projections of one shape exchanged: the file's weight is found among the reference's."""
    nodes = [node("Tanh", ["x"], ["u"]), node("MatMul", ["u", "p"], ["t"]), node("MatMul", ["t", "q"], ["y"])]
    weights = {"p": WEIGHTS["m"], "q": np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32)}
    right, wrong = (proto_of(nodes, [declared("x", (6, 8))], weights=w) for w in (
        weights, {"p": weights["q"], "q": weights["p"]}))
    found, = diagnosed(Model.from_proto(right), wrong)
    assert found.tensor == "t"
    assert "has weight 'p' with the values of 'q':" in found.message


def test_a_constant_of_the_same_value_is_not_guessed_at() -> None:
    """A product and a sum fused to a Gemm with a factor: the weight, equal in both files, is not what was changed."""
    weights = {"m": WEIGHTS["m"], "bb": WEIGHTS["bb"]}
    right = proto_of([node("MatMul", ["x", "m"], ["h"]), node("Add", ["h", "bb"], ["t"]), node("Relu", ["t"], ["y"])],
                     [declared("x", (6, 8))], weights=weights)
    fused = [node("Gemm", ["x", "m", "bb"], ["t"], alpha=1.05), node("Relu", ["t"], ["y"])]
    found = diagnosed(Model.from_proto(right), proto_of(fused, [declared("x", (6, 8))], weights=weights))
    assert not [d.message for d in found if "'m'" in d.message or "'bb'" in d.message]


def test_a_bias_added_from_the_other_side() -> None:
    """The order of a sum's operands does not hide that one of them differs."""
    shift = {"c": WEIGHTS["bb"], "d": WEIGHTS["bb"] * np.float32(3)}
    right, wrong = (
        proto_of([node("Tanh", ["x"], ["u"]), node("Add", operands, ["t"]), node("Relu", ["t"], ["y"])],
                 [declared("x", (6, 8))], weights=shift) for operands in (["u", "c"], ["d", "u"]))
    found, = diagnosed(Model.from_proto(right), wrong)
    assert "has weight 'c' ('d' there) times 3:" in found.message


@pytest.mark.parametrize("axes", [[1], [2]])
def test_what_moved_from_an_attribute_to_an_input(axes: list[int]) -> None:
    """Axes that a later opset reads as an input are the same axes, and other ones are told as axes."""
    around = [node("Tanh", ["x"], ["u"]), node("Relu", ["t"], ["y"])]
    old = proto_of([*around, node("ReduceMean", ["u"], ["t"], axes=[1])], [declared("x", (4, 5, 6))], opset=13)
    new = proto_of([*around, node("ReduceMean", ["u", "axes"], ["t"])], [declared("x", (4, 5, 6))],
                   weights={"axes": np.array(axes)}, opset=18)
    for right, wrong, words in ((old, new, f"axes {axes} instead of [1]"), (new, old, f"axes [1] instead of {axes}")):
        found = diagnosed(Model.from_proto(right), wrong)
        assert [d.cause for d in found] == ["wrong-axis"] * (axes != [1])
        assert all(f"the candidate's file has {words}:" in d.message for d in found)


def test_another_meaning_of_the_same_words() -> None:
    """Softmax over all axes from its own on, as before opset 13."""
    around = [node("Tanh", ["x"], ["u"]), node("Relu", ["t"], ["y"])]
    right, wrong = (proto_of([*around, node("Softmax", ["u"], ["t"], axis=1)], [declared("x", (2, 3, 4))], opset=o)
                    for o in (13, 11))
    found, = diagnosed(Model.from_proto(right), wrong)
    assert found.cause == "other-opset"
    assert "Softmax of opset 11 instead of 13" in found.message


X = RANDOM.normal(size=(2, 4, 8, 8)).astype(np.float32)
SCALE = np.abs(WEIGHTS["w"]).max(axis=(1, 2, 3)) / np.float32(127)
INTEGERS = np.rint(WEIGHTS["w"] / SCALE.reshape(-1, 1, 1, 1)).astype(np.int8)
STEP = np.asarray(np.abs(X).max() / np.float32(127))
HELD: dict[str, np.ndarray] = {"w_quantized": INTEGERS, "w_scale": SCALE, "w_zero": np.zeros(8, np.int8),
                               "x_scale": STEP, "x_zero": np.array(0, np.int8), "other": np.array(10, np.int8),
                               "wide": np.asarray(STEP * np.float32(1.5))}


def quantised(weights: Weights, dequantised: list[str]) -> ModelProto:
    """A convolution of which a file has integers."""
    nodes = [node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
             node("DequantizeLinear", ["xq", *dequantised], ["xd"]),
             node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero"], ["wd"], axis=0),
             node("Conv", ["xd", "wd"], ["t"]), node("Relu", ["t"], ["y"])]
    return proto_of(nodes, [declared("x", X.shape)], weights={**HELD, **weights})


@pytest.mark.parametrize(("weights", "dequantised", "cause", "words"), [
    ({"w_scale": SCALE * np.float32(1.1)}, ["x_scale", "x_zero"], "wrong-scale",
     "weight 'w' ('w_quantized' there) with scale 'w_scale' 1.1 times the one that its integers were made with"),
    ({"w_scale": np.ascontiguousarray(SCALE[::-1])}, ["x_scale", "x_zero"], "wrong-scale",
     "with scales 'w_scale', with channels reversed"),
    ({"w_scale": np.where(np.arange(8) == 3, np.float32(0), SCALE)}, ["x_scale", "x_zero"], "dead-scale",
     "with scale 'w_scale' 0 times the one that its integers were made with in 1 of 8 channels"),
    ({"w_zero": np.full(8, 10, np.int8)}, ["x_scale", "x_zero"], "wrong-zero-point",
     "with zero point 'w_zero' off by +10"),
    ({"w_quantized": np.ascontiguousarray(INTEGERS.swapaxes(2, 3))}, ["x_scale", "x_zero"], "weights-differ",
     "weight 'w' ('w_quantized' there) with height and width swapped"),
    ({"w_quantized": INTEGERS[[1, 0, *range(2, 8)]]}, ["x_scale", "x_zero"], "weights-differ",
     "with channels 0 and 1 swapped"),
    ({}, ["x_scale", "other"], "wrong-zero-point",
     "zero point 'other' of 10 instead of 0, which it was quantised with (off by +10"),
    ({}, ["wide", "x_zero"], "wrong-scale", "scale 'wide' of"),
])
def test_what_a_quantised_file_has_wrong(weights: Weights, dequantised: list[str], cause: str, words: str) -> None:
    """Scales, zero points and integers beside a reference in FP32."""
    right = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                      [declared("x", X.shape)], weights=WEIGHTS))
    found, = diagnosed(right, quantised(weights, dequantised), {"x": X})
    assert found.cause == cause
    assert words in found.message
    assert "of_reference" not in found.message


def test_a_sound_quantised_file() -> None:
    """A rounding of the reference's weights is no other weight."""
    right = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Relu", ["t"], ["y"])],
                                      [declared("x", X.shape)], weights=WEIGHTS))
    assert diagnosed(right, quantised({}, ["x_scale", "x_zero"]), {"x": X}) == ()
