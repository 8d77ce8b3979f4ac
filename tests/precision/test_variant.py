"""A plan becomes a model, by whichever edits that takes, and what is not as planned is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parity.backends.base import RunOptions
from parity.backends.ort import OnnxRuntime
from parity.errors import UsageError
from parity.graph.model import Model
from parity.precision.calibration import Calibration
from parity.precision.plan import PrecisionPlan, Rule, plan_for
from parity.precision.variant import make_variant
from parity.targets import Target
from tests.models import FIXTURES


@pytest.fixture
def model() -> Model:
    """Two convolutions with a Softmax after them."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((2, 2, 1, 1)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Conv", ["a", "w"], ["c"]),
             helper.make_node("Softmax", ["c"], ["y"], axis=1)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 4, 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


X = np.random.default_rng(1).standard_normal((1, 2, 4, 4)).astype(np.float32)


def on_ort(model: Model) -> np.ndarray:
    """Output y on ONNX Runtime."""
    session = OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    return session.run({"x": X}).outputs["y"]


def test_fp32_is_the_model_itself(model: Model) -> None:
    """Nothing is edited where nothing is asked for."""
    assert make_variant(model, "fp32").model is model


@pytest.mark.parametrize("make", [
    lambda model: "fp16", lambda model: "int8", lambda model: plan_for(model, "int8", [Rule("tensor:a", "fp16")]),
    lambda model: plan_for(model, "fp16", [Rule("tensor:a", "int8")]),
    lambda model: plan_for(model, "fp32", [Rule("tensor:a", "int8"), Rule("op:Softmax", "fp16")]),
], ids=["fp16", "int8", "int8 but fp16", "fp16 but int8", "all three"])
def test_every_mixture_runs_and_keeps_names(model: Model, make: Callable[[Model], PrecisionPlan | str]) -> None:
    """Casts and Q/DQ stand in one graph, and ONNX Runtime runs it near the original."""
    asked = make(model)
    variant = make_variant(model, asked, Calibration.of_feeds(model, [{"x": X}]))  # type: ignore[arg-type]
    onnx.checker.check_model(variant.model.proto, full_check=True)
    assert {"a", "c", "y"} <= variant.model.graph.producer.keys()
    assert np.max(np.abs(on_ort(variant.model) - on_ort(model))) < 0.03
    quantized = {n.outputs[0] for n in variant.model.graph.nodes
                 if n.op == "Conv" and n.inputs[0].endswith("_DequantizeLinear_Output")}
    assert quantized == {n.outputs[0] for n in model.graph.nodes if n.op == "Conv" and variant.plan.of(n) == "int8"}


def test_int8_says_what_its_ranges_are_from(model: Model) -> None:
    """Without samples there is no INT8; with seeded ones the ranges are indicative."""
    with pytest.raises(UsageError, match="int8 needs samples"):
        make_variant(model, "int8")
    variant = make_variant(model, "int8", Calibration.of_feeds(model, [{"x": X}], indicative=True))
    assert variant.indicative
    assert "1 sample made from a seed: they are indicative only" in variant.notes[0]
    given = make_variant(model, "int8", Calibration.of_feeds(model, [{"x": X}]))
    assert not given.indicative
    assert "indicative" not in given.notes[0]


def test_a_quantised_model_is_an_int8_variant_already(model: Model, tmp_path: Path) -> None:
    """Its own plan is read, nothing is added, and a plan that would change it is refused."""
    make_variant(model, "int8", Calibration.of_feeds(model, [{"x": X}])).model.save(tmp_path / "int8.onnx")
    quantized = Model.load(tmp_path / "int8.onnx")
    again = make_variant(quantized, "int8")
    assert again.model is quantized
    assert again.plan.nodes["a"] == "int8"
    assert again.notes == ("The model is quantised already; nothing was added.",)
    mixed = plan_for(quantized, "int8", [Rule("tensor:c", "fp32")])
    with pytest.raises(UsageError, match="quantised already"):
        make_variant(quantized, mixed, Calibration.of_feeds(quantized, [{"x": X}]))


def test_nothing_to_quantise_is_said(model: Model) -> None:
    """A fixture cut down to its activation has no INT8 variant."""
    whole = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    relu = next(n for n in whole.graph.nodes if n.op == "Relu")
    value = np.zeros((1, 4), np.float32)
    part = whole.between({relu.inputs[0]: value}, relu.outputs)
    with pytest.raises(UsageError, match="nothing to quantise"):
        make_variant(part, "int8", Calibration.of_feeds(part, [{relu.inputs[0]: value}]))
