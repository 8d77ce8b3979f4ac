"""A different operator meaning is found by trying it, and nothing is said where none explains the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto

from parity.analysis.diagnose import Diagnosis
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from tests.builders import declared, node, proto_of
from tests.causes import as_if, diagnosed, saved_tensors, taken_elsewhere

RANDOM = np.random.default_rng(0)
WEIGHTS: dict[str, Any] = {
    "w": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32), "c": np.linspace(-1, 1, 3, dtype=np.float32),
    "v": np.linspace(0.5, 2, 3, dtype=np.float32), "m": RANDOM.normal(size=(8, 8)).astype(np.float32),
    "g": np.linspace(0.5, 2, 8, dtype=np.float32), "sizes": np.array([1, 1, 2, 2], np.float32), "axes": np.array([2]),
    "eps": np.float32(1e-5), "low": np.float32(-0.5), "high": np.float32(0.5)}
IMAGE = declared("x", (2, 3, 8, 8))


def named(right: NodeProto, wrong: NodeProto, *, known: bool = True, opset: int = 18,
          **weights: Any) -> tuple[Diagnosis, ...]:
    """What is said where one node of y = 2 f(u), u = 2 tanh x, is another one in the candidate's file.

    Or, where that is not known, in what a runtime makes of the reference's.
    """
    around = [node("Tanh", ["x"], ["tanh"]), node("Add", ["tanh", "tanh"], ["u"]), node("Add", ["t", "t"], ["y"])]
    protos = [proto_of([*around, n], [IMAGE], weights={**WEIGHTS, **extra}, opset=opset)
              for n, extra in ((right, {}), (wrong, weights))]
    return diagnosed(Model.from_proto(protos[0]), protos[1] if known else as_if(protos[1]))


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
@pytest.mark.parametrize(("op", "inputs", "right", "wrong", "cause"), [
    ("Softmax", ["u"], {"axis": 1}, {"axis": -1}, "wrong-axis"),
    ("LogSoftmax", ["u"], {"axis": -1}, {"axis": 1}, "wrong-axis"),
    ("Concat", ["u", "x"], {"axis": 1}, {"axis": 2}, "wrong-axis"),
    ("LayerNormalization", ["u", "g"], {"axis": -1, "epsilon": 1e-5}, {"axis": -1, "epsilon": 1e-2}, "wrong-epsilon"),
    ("BatchNormalization", ["u", "v", "c", "c", "v"], {}, {"epsilon": 1e-3}, "wrong-epsilon"),
    ("InstanceNormalization", ["u", "v", "c"], {}, {"epsilon": 0.01}, "wrong-epsilon"),
    ("LeakyRelu", ["u"], {"alpha": 0.01}, {"alpha": 0.1}, "wrong-attribute"),
    ("Elu", ["u"], {"alpha": 1.0}, {"alpha": 0.5}, "wrong-attribute"),
    ("HardSigmoid", ["u"], {}, {"alpha": 1 / 6}, "wrong-attribute"),
    ("Conv", ["u", "w"], {"pads": [0, 0, 1, 1]}, {"pads": [1, 1, 0, 0]}, "wrong-padding"),
    ("Conv", ["u", "w"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
     "wrong-padding"),
    ("AveragePool", ["u"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
     {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, "wrong-padding"),
    ("MaxPool", ["u"], {"kernel_shape": [3, 3], "strides": [2, 2]},
     {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "wrong-padding"),
    ("Transpose", ["u"], {"perm": [0, 1, 3, 2]}, {"perm": [0, 1, 2, 3]}, "wrong-permutation"),
    ("Resize", ["u", "", "sizes"], {"mode": "linear"},
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "wrong-resize-mode"),
    ("Resize", ["u", "", "sizes"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}, "wrong-resize-mode"),
    ("Resize", ["u", "", "sizes"], {"mode": "cubic"}, {"mode": "cubic", "cubic_coeff_a": -0.5}, "wrong-resize-mode"),
])
def test_an_attribute_is_named(op: str, inputs: list[str], right: dict[str, Any], wrong: dict[str, Any],
                               cause: str, known: bool) -> None:
    """The one attribute that differs, at its own tensor, with the error that is left without it."""
    found = named(node(op, inputs, ["t"], **right), node(op, inputs, ["t"], **wrong), known=known)
    assert [(d.cause, d.tensor) for d in found] == [(cause, "t")]
    assert found[0].evidence["left"] <= found[0].evidence["floor"]
    assert not found[0].evidence["error"] < 10 * found[0].evidence["left"]
    assert ("the candidate's file has" if known else "as if") in found[0].message


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
@pytest.mark.parametrize(("right", "wrong"), [
    ("Relu", "LeakyRelu"), ("Relu", "Identity"), ("Sigmoid", "HardSigmoid"), ("Tanh", "Softsign"), ("Erf", "Tanh"),
    ("GlobalAveragePool", "GlobalMaxPool"), ("Exp", "Softplus"), ("Neg", "Identity"), ("Floor", "Round")])
def test_another_operator_is_named(right: str, wrong: str, known: bool) -> None:
    """One operator for another."""
    found = named(node(right, ["u"], ["t"]), node(wrong, ["u"], ["t"]), known=known)
    assert [d.tensor for d in found] == ["t"]
    assert found[0].cause in ("wrong-operator", "wrong-rounding")
    assert wrong in found[0].message or found[0].cause == "wrong-rounding"


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
@pytest.mark.parametrize(("op", "inputs", "attributes", "shape", "cause"), [
    ("GRU", ["u", "gw", "gr", "gb"], {"hidden_size": 4, "linear_before_reset": 1}, (5, 2, 8), "wrong-attribute"),
    ("ArgMax", ["u"], {"axis": -1, "select_last_index": 1}, (4, 8), "wrong-attribute"),
    ("Gemm", ["u", "m"], {"transB": 1}, (4, 8), "transposed-operand"),
    ("Gelu", ["u"], {"approximate": "tanh"}, (4, 8), "wrong-attribute"),
    ("CumSum", ["u", "axis"], {"reverse": 1}, (4, 8), "wrong-attribute"),
    ("DepthToSpace", ["u"], {"blocksize": 2, "mode": "CRD"}, (1, 8, 4, 4), "wrong-attribute"),
])
def test_a_flag_is_named(op: str, inputs: list[str], attributes: dict[str, Any], shape: tuple[int, ...],
                         cause: str, known: bool) -> None:
    """A flag that the candidate has, and the reference leaves at its default."""
    fixed = {n: v for n, v in attributes.items() if n in ("hidden_size", "blocksize", "axis")}
    weights = {**WEIGHTS, "axis": np.array(1), "gw": RANDOM.normal(size=(1, 12, 8)).astype(np.float32),
               "gr": RANDOM.normal(size=(1, 12, 4)).astype(np.float32),
               "gb": RANDOM.normal(size=(1, 24)).astype(np.float32)}
    kind = 7 if op == "ArgMax" else 1
    protos = [proto_of([node("Round", ["x"], ["u"]), node(op, inputs, ["t"], **given), node("Neg", ["t"], ["y"])],
                       [declared("x", shape)], [declared("y", None, kind)], weights, opset=20)
              for given in (fixed, attributes)]
    found = diagnosed(Model.from_proto(protos[0]), protos[1] if known else as_if(protos[1]))
    assert [(d.cause, d.tensor) for d in found] == [(cause, "t")]


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
def test_swapped_operands(known: bool) -> None:
    """The difference taken the other way round."""
    found = named(node("Sub", ["u", "g"], ["t"]), node("Sub", ["g", "u"], ["t"]), known=known)
    assert [d.cause for d in found] == ["swapped-operands"]


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
def test_other_axes_given_as_an_input(known: bool) -> None:
    """ReduceMean over another axis, which since opset 18 is an input."""
    found = named(node("ReduceMean", ["u", "axes"], ["t"]), node("ReduceMean", ["u", "other"], ["t"]),
                  known=known, other=np.array([3]))
    assert [d.cause for d in found] == ["wrong-axis"]
    assert "[3]" in found[0].message


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
def test_a_bound_of_clip(known: bool) -> None:
    """Another upper bound, found from where the values end."""
    found = named(node("Clip", ["u", "low", "high"], ["t"]), node("Clip", ["u", "low", "other"], ["t"]),
                  known=known, other=np.float32(0.25))
    assert [d.cause for d in found] == ["wrong-attribute"]
    assert found[0].evidence["other_constant"] == 0.25


def test_rounding_toward_zero(tmp_path: Path) -> None:
    """A quantiser that cuts off where it should round."""
    weights = {"s": np.float32(0.1), "z": np.int8(3)}
    model = Model.from_proto(proto_of(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])], [IMAGE],
        weights=weights))
    feed, _ = seeded_feed(model, 0)
    cut = (np.trunc(feed["x"] / np.float32(0.1)) + 3).clip(-128, 127).astype(np.int8)
    found = diagnosed(model, saved_tensors(tmp_path, taken_elsewhere(model, feed, "q", lambda q: cut)), feed)
    assert [(d.cause, d.tensor) for d in found] == [("wrong-rounding", "q")]
    assert "toward zero" in found[0].message


def test_half_away_from_zero(tmp_path: Path) -> None:
    """Round's ties to even taken the other way."""
    model = Model.from_proto(proto_of([node("Round", ["x"], ["t"]), node("Add", ["t", "t"], ["y"])], [IMAGE]))
    feed = {"x": (np.arange(384, dtype=np.float32).reshape(2, 3, 8, 8) - 200) / 2}
    away = np.sign(feed["x"]) * np.floor(np.abs(feed["x"]) + np.float32(0.5))
    found = diagnosed(model, saved_tensors(tmp_path, taken_elsewhere(model, feed, "t", lambda t: away)), feed)
    assert [d.cause for d in found] == ["wrong-rounding"]
    assert "half away" in found[0].message


def test_gelu_by_tanh_behind_a_fusion(tmp_path: Path) -> None:
    """The Erf inside a GELU that the candidate shows only as a whole, computed as a tanh."""
    nodes = [node("Mul", ["x", "r"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["c"]),
             node("Mul", ["x", "c"], ["d"]), node("Mul", ["d", "half"], ["t"]), node("Add", ["t", "t"], ["y"])]
    weights = {"r": np.float32(0.5**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    model = Model.from_proto(proto_of(nodes, [IMAGE], weights=weights))
    feed = {"x": RANDOM.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    x = feed["x"].astype(np.float64)
    gelu = (x * 0.5 * (1 + np.tanh((2 / np.pi)**0.5 * (x + 0.044715 * x**3)))).astype(np.float32)
    shown = {"t": gelu, "y": gelu + gelu}
    found = diagnosed(model, saved_tensors(tmp_path, shown), feed)
    assert [(d.cause, d.tensor) for d in found] == [("wrong-operator", "t")]
    assert "tanh" in found[0].message


@pytest.mark.parametrize(("dtype", "words"), [(np.float16, "FP16"), ("bfloat16", "BF16")])
def test_a_rounded_tensor(tmp_path: Path, dtype: Any, words: str) -> None:
    """An FP32 tensor all of whose values are 16-bit ones."""
    import ml_dtypes

    narrow = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    model = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Add", ["t", "t"], ["y"])], [IMAGE],
                                      weights=WEIGHTS))
    feed, _ = seeded_feed(model, 0)
    tensors = taken_elsewhere(model, feed, "t", lambda t: t.astype(narrow).astype(np.float32))
    found = diagnosed(model, saved_tensors(tmp_path, tensors), feed)
    assert [(d.cause, d.tensor) for d in found] == [("reduced-precision", "t")]
    assert words in found[0].message


def test_rounded_operands(tmp_path: Path) -> None:
    """A convolution on TF32 operands, its sums in FP32."""
    from parity.analysis.causes.meanings import _narrowed

    model = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Add", ["t", "t"], ["y"])], [IMAGE],
                                      weights=WEIGHTS))
    feed, _ = seeded_feed(model, 0)
    rounded = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"])], [IMAGE], [declared("t", None)],
                                        weights={"w": _narrowed(WEIGHTS["w"], "TF32")}))
    made = taken_elsewhere(rounded, {"x": _narrowed(feed["x"], "TF32")}, "t", lambda t: t)["t"]
    found = diagnosed(model, saved_tensors(tmp_path, taken_elsewhere(model, feed, "t", lambda t: made)), feed)
    assert [(d.cause, d.tensor) for d in found] == [("reduced-precision", "t")]
    assert "TF32" in found[0].message


@settings(max_examples=12, deadline=None)
@given(st.floats(1e-4, 1e-1))
def test_an_epsilon_is_found_to_its_digits(epsilon: float) -> None:
    """Whatever epsilon the candidate has, it is said within a percent."""
    found = named(*(node("BatchNormalization", ["u", "v", "c", "c", "v"], ["t"], epsilon=e) for e in (1e-5, epsilon)),
                  known=False)
    assert [d.cause for d in found] == ["wrong-epsilon"]
    assert found[0].evidence["other_epsilon"] == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize("known", [True, False], ids=["file", "runtime"])
def test_an_epsilon_spelt_out(known: bool) -> None:
    """The constant added before a square root."""
    found = named(node("Add", ["u", "eps"], ["t"]), node("Add", ["u", "other"], ["t"]), known=known,
                  other=np.float32(1e-3))
    assert [d.cause for d in found] == ["weights-differ"]  # nothing shows that it is an epsilon
    nodes = [[node("Mul", ["x", "x"], ["s"]), node("Add", ["s", e], ["t"]), node("Sqrt", ["t"], ["y"])]
             for e in ("eps", "other")]
    protos = [proto_of(n, [IMAGE], weights={**WEIGHTS, "other": np.float32(1e-3)}) for n in nodes]
    found = diagnosed(Model.from_proto(protos[0]), protos[1] if known else as_if(protos[1]))
    assert [(d.cause, d.tensor) for d in found] == [("wrong-epsilon", "t")]
    assert found[0].evidence["other_epsilon"] == pytest.approx(1e-3)


def test_nothing_is_said_of_what_no_alternative_explains(tmp_path: Path) -> None:
    """Noise on a tensor is no meaning of its operator."""
    model = Model.from_proto(proto_of([node("Conv", ["x", "w"], ["t"]), node("Add", ["t", "t"], ["y"])], [IMAGE],
                                      weights=WEIGHTS))
    feed, _ = seeded_feed(model, 0)
    noise = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)
    tensors = taken_elsewhere(model, feed, "t", lambda t: t * (1 + 0.1 * noise))
    assert diagnosed(model, saved_tensors(tmp_path, tensors), feed) == ()
