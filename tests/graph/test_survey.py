"""What one run tells of a model before anything is compared."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from parity.errors import ModelError
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from tests.builders import CHAIN, X, Y, chain, declared, node, proto_of


def test_outputs_and_sizes() -> None:
    """The outputs are those of a run, and every tensor's size in bytes is known."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    found = survey(model, feed)
    assert found.flat is model
    assert found.outputs["y"].shape == (4, 8)
    np.testing.assert_allclose(found.outputs["y"].sum(axis=1), 1, rtol=1e-6)
    assert found.sizes == dict.fromkeys(CHAIN, 4 * 8 * 4)


def conditional() -> Model:
    """If c: t1 = Exp(x); else e1 = Neg(x); then y = Relu of it."""
    then, other = (helper.make_graph([node(op, ["x"], [name])], "b", [], [declared(name, None)])
                   for op, name in (("Exp", "t1"), ("Neg", "e1")))
    return Model.from_proto(proto_of(
        [node("If", ["c"], ["i"], then_branch=then, else_branch=other), node("Relu", ["i"], ["y"])],
        [X, declared("c", (), TensorProto.BOOL)]))


@pytest.mark.parametrize(("taken", "inside", "op"), [(True, "t1", "Exp"), (False, "e1", "Neg")])
def test_the_branch_that_is_taken_is_inlined(taken: bool, inside: str, op: str) -> None:
    """Tensors of the branch that these inputs take have a name in the flat graph; the other branch is gone."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = survey(conditional(), {"x": x, "c": np.array(taken)})
    assert [n.op for n in found.flat.graph.nodes] == [op, "Identity", "Relu"]
    assert set(found.sizes) == {inside, "i", "y"}
    np.testing.assert_allclose(found.outputs["y"], np.exp(x) if taken else np.maximum(-x, 0), rtol=1e-6)


def test_what_cannot_be_handed_over_has_no_size() -> None:
    """Sequences, and types that numpy lacks, have none: runtimes cannot take them as inputs."""
    model = Model.from_proto(proto_of(
        [node("SequenceConstruct", ["x", "x"], ["s"]), node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
         node("ConcatFromSequence", ["s"], ["a"], axis=0), node("Cast", ["h"], ["b"], to=TensorProto.FLOAT),
         node("Concat", ["a", "b"], ["y"], axis=0)], outputs=[Y]))
    feed, _ = seeded_feed(model, 0)
    assert set(survey(model, feed).sizes) == {"a", "b", "y"}


def test_a_model_that_does_not_run_on_these_inputs() -> None:
    """The node is named."""
    fold = node("Reshape", ["x", "s"], ["y"], name="folding")
    model = Model.from_proto(proto_of([fold], weights={"s": np.array([7])}))
    with pytest.raises(ModelError, match="folding"):
        survey(model, {"x": np.ones((2, 3), np.float32)})
