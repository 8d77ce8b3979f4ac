"""Tests of what is known to bring ONNX Runtime's process down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from parity.errors import BackendFailed
from parity.graph.model import Model
from parity.precision.lethal import may_crash, refuse_traps
from tests.builders import X, Y, declared, node, proto_of

I64 = declared("i", (3,), TensorProto.INT64)
J64 = declared("j", (3,), TensorProto.INT64)


@pytest.mark.parametrize(("lines", "lethal"), [
    ([node("Split", ["x"], ["", "y"], axis=1, num_outputs=2)], True),
    ([node("Split", ["x"], ["y", ""], axis=1, num_outputs=2)], True),
    ([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], False),
    ([node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=3)], False),
    ([node("Frobnicate", ["x"], ["", "y"], domain="custom")], False),
])
def test_an_output_left_out(lines: Any, lethal: bool) -> None:
    """One that the operator's schema does not call optional is what brings ONNX Runtime down."""
    proto = proto_of(lines, weights={"w": np.ones((1, 12, 4), np.float32), "r": np.ones((1, 12, 3), np.float32)},
                     opset=18, domains={"custom": 1})
    assert may_crash(Model.from_proto(proto)) is lethal


@pytest.mark.parametrize(("lines", "lethal"), [
    ([node("Div", ["i", "j"], ["y"])], True),
    ([node("Mod", ["i", "j"], ["y"])], True),
    ([node("Mod", ["i", "j"], ["y"], fmod=1)], False),
    ([node("Div", ["i", "two"], ["y"])], False),
    ([node("Div", ["i", "minus"], ["y"])], True),
    ([node("Constant", [], ["c"], value_ints=[3]), node("Div", ["i", "c"], ["y"])], False),
    ([node("Constant", [], ["c"], value_ints=[-1]), node("Div", ["i", "c"], ["y"])], True),
    ([node("Shape", ["x"], ["s"]), node("Size", ["x"], ["n"]), node("Div", ["n", "s"], ["y"])], True),
    ([node("Sqrt", ["x"], ["r"]), node("Div", ["x", "r"], ["y"])], False),
    ([node("Cast", ["i"], ["f"], to=TensorProto.INT8), node("Div", ["f", "f"], ["y"])], False),
])
def test_a_division_by_what_may_be_minus_one(lines: Any, lethal: bool) -> None:
    """Only of 32- and 64-bit integers, and only where the divisor is not known to be another number."""
    proto = proto_of(lines, [X, I64, J64], weights={"two": np.array([2]), "minus": np.array([3, -1, 2])})
    assert may_crash(Model.from_proto(proto)) is lethal


def test_a_division_in_a_branch() -> None:
    """Sub-graphs are looked into."""
    body = helper.make_graph([node("Div", ["i", "j"], ["d"])], "b", [], [declared("d", (3,), TensorProto.INT64)])
    other = helper.make_graph([node("Identity", ["i"], ["e"])], "b", [], [declared("e", (3,), TensorProto.INT64)])
    lines = [node("If", ["t"], ["y"], then_branch=body, else_branch=other)]
    assert may_crash(Model.from_proto(proto_of(lines, [I64, J64, declared("t", (), TensorProto.BOOL)], [Y])))


def test_samples_on_which_it_would_trap_are_refused() -> None:
    """What runs inside this process is kept from them; other samples, and models without such a node, are not."""
    model = Model.from_proto(proto_of([node("Div", ["i", "j"], ["d"], "quotient")], [I64, J64],
                                      [declared("d", (3,), TensorProto.INT64)]))
    fine = {"i": np.array([1, -2**63, 3]), "j": np.array([-1, 1, 0])}
    refuse_traps(model, [fine])
    with pytest.raises(BackendFailed, match=r"node 'quotient' \(Div\) divides the least integer by -1"):
        refuse_traps(model, [fine, {"i": np.array([1, -2**63, 3]), "j": np.array([1, -1, 1])}])
