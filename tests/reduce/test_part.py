"""Cutting parts out of a model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from parity.errors import ModelError
from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.reduce.part import Whole, ancestors, around, with_constants_folded
from tests.builders import chain, declared, node, proto_of
from tests.faults import all_values
from tests.reduce.cases import model_of, weights


def whole_of(model: Model) -> tuple[Whole, dict[str, np.ndarray]]:
    """A model against itself, with every tensor known."""
    values = all_values(model, {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)})
    return Whole(model, model, values), values


@pytest.mark.parametrize("indices", [[0], [2], [1, 2, 3], [0, 1, 2, 3, 4, 5, 6], [1, 5]])
def test_a_part_computes_what_the_whole_did(indices: list[int]) -> None:
    """Any nodes, cut out with the values at their inputs, give the whole's values at what leaves them."""
    whole, values = whole_of(Model.from_proto(chain()))
    part = whole.part(indices)
    assert {n.outputs[0] for n in part.nodes} == {whole.reference.graph.nodes[i].outputs[0] for i in indices}
    for name, value in Executor(part.candidate).run(part.feed).items():
        np.testing.assert_array_equal(to_numpy(value), values[name])


def test_a_tensor_without_a_value_is_not_cut_at() -> None:
    """What makes it comes along, and a name that nothing makes is an error."""
    whole, values = whole_of(Model.from_proto(chain()))
    hidden = Whole(whole.candidate, whole.reference, {n: v for n, v in values.items() if n != "b"})
    assert [n.op for n in hidden.part([2]).nodes] == ["Relu", "MatMul"]
    with pytest.raises(ModelError, match="no value"):
        Whole(whole.candidate, whole.reference, {}).part([0])


def test_dequantised_factors_stay_together() -> None:
    """An operator on dequantised weights keeps the dequantised input's own node: apart they are another operator."""
    steps = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((8, 8), np.int8)}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("DequantizeLinear", ["w", "s", "z"], ["v"]), node("MatMul", ["d", "v"], ["y"])]
    whole, _ = whole_of(Model.from_proto(model_of(nodes, steps)))
    part = whole.part([3])
    assert [n.op for n in part.nodes] == ["DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert list(part.feed) == ["q"]


def test_constants_are_folded_but_for_quantised_ones() -> None:
    """Nodes on weights alone become weights, of the same values; a DequantizeLinear stays for the runtime to see."""
    held = {**weights("w0"), "s": np.float32(0.1), "z": np.int8(0), "q": np.ones((8, 8), np.int8)}
    nodes = [node("Transpose", ["w0"], ["t"]), node("Add", ["t", "t"], ["u"]), node("MatMul", ["x", "u"], ["a"]),
             node("DequantizeLinear", ["q", "s", "z"], ["v"]), node("MatMul", ["a", "v"], ["y"])]
    folded = with_constants_folded(Model.from_proto(model_of(nodes, held)))
    assert [n.op for n in folded.graph.nodes] == ["MatMul", "DequantizeLinear", "MatMul"]
    assert set(folded.graph.initializers) == {"u", "s", "z", "q"}
    np.testing.assert_array_equal(folded.weight("u"), np.asarray(held["w0"]).T * 2)


def test_neighbours_and_ancestors() -> None:
    """Generations of producers and readers, and all that a tensor is computed by."""
    model = Model.from_proto(chain())
    assert around(model, "c", 0, 0) == {2}
    assert around(model, "c", 1, 0) == {1, 2}
    assert around(model, "c", 1, 2) == {1, 2, 3, 4}
    assert ancestors(model, ["d"]) == [0, 1, 2, 3]


def test_a_part_in_half_precision_is_judged_by_one_in_full() -> None:
    """Where a variant is cut at an FP16 tensor, the reference takes it in its own type: no operator mixes the two."""
    wide = weights("w0", "w1")
    narrow = {name: value.astype(np.float16) for name, value in wide.items()}
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Gemm", ["a", "w1"], ["y"])]
    x = np.ones((4, 8), np.float16)
    whole = Whole(Model.from_proto(proto_of(nodes, [declared("x", (4, 8), TensorProto.FLOAT16)],
                                            [declared("y", None, TensorProto.FLOAT16)], narrow)),
                  Model.from_proto(model_of(nodes, wide)), {"x": x, "a": x})
    part = whole.part([1])
    kinds = [[spec.dtype for spec in model.graph.inputs] for model in (part.candidate, part.reference)]
    assert kinds == [[np.float16], [np.float32]]
    assert {name: value.dtype for name, value in part.reference_feed.items()} == {"a": np.float32}
    assert part.feed["a"].dtype == np.float16
    same = Whole(whole.candidate, whole.candidate, whole.values).part([1])
    assert same.reference_feed is same.feed
