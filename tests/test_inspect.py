"""What `parity inspect` says of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from parity.errors import ModelError
from parity.inspect import describe
from tests.builders import X, chain, declared, node, proto_of, saved
from tests.models import RealModel


def test_inputs_outputs_and_operators(tmp_path: Path) -> None:
    """The counts, the declarations, and how each operator would be evaluated."""
    text = describe(saved(tmp_path / "m.onnx", chain()))
    assert "7 nodes, 7 tensors to compare, 5 weights, computes in fp32" in text
    assert "input  x: float32[4, 8]" in text
    assert "output y: float32[4, 8]" in text
    assert "IR 8, opsets: ai.onnx 17" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["4", "MatMul", "torch"] in lines
    assert ["1", "LayerNormalization", "torch"] in lines


def test_levels_and_bodies(tmp_path: Path) -> None:
    """Operators inside an If are counted, unknown ones are said to be, odd declarations are shown."""
    body = helper.make_graph([node("Exp", ["x"], ["t"])], "b", [], [declared("t", None)])
    proto = proto_of(
        [node("If", ["c"], ["y"], then_branch=body, else_branch=body), node("Frobnicate", ["x"], ["z"])],
        [declared("x", ("n", None)), declared("c", (), TensorProto.BOOL), declared("s", None, TensorProto.STRING),
         helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None)])
    text = describe(saved(tmp_path / "m.onnx", proto))
    lines = [line.split() for line in text.splitlines()]
    assert ["2", "Exp", "torch"] in lines
    assert ["1", "Frobnicate", "unknown", "to", "parity"] in lines
    assert "q: sequence, map or optional" in text
    assert "n" in text


def test_a_model_without_nodes(tmp_path: Path) -> None:
    """Nothing to count is no error."""
    assert "0 nodes, 0 tensors" in describe(saved(tmp_path / "m.onnx", proto_of([], outputs=[X])))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    """It is refused like everywhere."""
    (tmp_path / "m.onnx").write_bytes(b"text")
    with pytest.raises(ModelError):
        describe(tmp_path / "m.onnx")


def test_quantised_models_say_so(tmp_path: Path) -> None:
    """The precision that decides the default tolerance is shown."""
    proto = proto_of([node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
                     weights={"s": np.float32(0.1)})
    assert "computes in int8" in describe(saved(tmp_path / "m.onnx", proto))


@pytest.mark.models
def test_real_models_are_described(real_model: RealModel) -> None:
    """Every real model has inputs, outputs and known operators only."""
    text = describe(real_model.path)
    assert "unknown to parity" not in text
    assert "\n  input  " in text
    assert "\n  output " in text
