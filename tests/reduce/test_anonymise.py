"""Seeded values of the same distribution."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from parity.graph.model import Model
from parity.reduce.anonymise import anonymised, plain
from parity.reduce.part import Part
from tests.builders import declared, node, proto_of
from tests.reduce.cases import model_of, weights

NUMBERS = arrays.arrays(np.float32, st.tuples(st.integers(2, 6), st.just(8)),
                        elements=st.floats(-1e6, 1e6, width=32))


@settings(deadline=None, max_examples=30)
@given(NUMBERS, st.integers(0, 100))
def test_range_type_and_shape_stay(values: np.ndarray, seed: int) -> None:
    """No seeded value leaves the range of the tensor's own; the same seed gives the same values."""
    model = Model.from_proto(proto_of([node("Relu", ["x"], ["y"])], [declared("x", values.shape)]))
    part = Part(model, model, {"x": values})
    first, again = (next(iter(anonymised(part, seed))).part.feed["x"] for _ in range(2))
    assert (first.dtype, first.shape) == (values.dtype, values.shape)
    assert values.min() - abs(values.min()) * 1e-6 <= first.min()
    assert first.max() <= values.max() + abs(values.max()) * 1e-6
    np.testing.assert_array_equal(first, again)


def test_only_weights_that_both_sides_share_are_replaced() -> None:
    """The same seeded values on both sides; a weight in which they differ is each side's own, and said to be kept."""
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("MatMul", ["a", "w1"], ["y"])]
    held = weights("w0", "w1")
    good, bad = (Model.from_proto(model_of(nodes, {**held, "w1": held["w1"] * np.float32(gain)})) for gain in (1, 1.1))
    found = next(iter(anonymised(Part(bad, good, {"x": np.ones((4, 8), np.float32)}), 0)))
    assert not np.isin(found.part.candidate.weight("w0"), held["w0"]).any()
    np.testing.assert_array_equal(found.part.candidate.weight("w0"), found.part.reference.weight("w0"))
    np.testing.assert_array_equal(found.part.reference.weight("w1"), held["w1"])
    assert "w0" in found.replaced
    assert found.kept == ("w1",)


def test_texts_of_the_exporter_go() -> None:
    """Documentation, and the source lines that exporters leave on nodes, are not sent along."""
    proto = model_of([node("Relu", ["x"], ["y"], doc_string="private/net.py:12")], {})
    proto.graph.node[0].metadata_props.add(key="source", value="private/net.py:12")
    assert b"private" not in plain(Model.from_proto(proto)).proto.SerializeToString()
