"""Fewer rows, the same result."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from parity.graph.executor import Executor
from parity.graph.model import Model
from parity.graph.ops.call import to_numpy
from parity.reduce.expect import by_floor
from parity.reduce.part import Part
from parity.reduce.shrink import one_row, used_rows
from parity.reduce.trials import Shown
from tests.builders import declared, node, proto_of
from tests.reduce.cases import model_of, weights


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-50, 49), min_size=1, max_size=12))
def test_a_table_keeps_the_rows_that_are_looked_up(ids: list[int]) -> None:
    """What is looked up in the small table is what was looked up in the large one; no other row is left."""
    held = {"table": weights("t", rows=50)["t"]}
    model = Model.from_proto(proto_of([node("Gather", ["table", "x"], ["y"])],
                                      [declared("x", (len(ids),), TensorProto.INT64)], weights=held))
    part = Part(model, model, {"x": np.array(ids)})
    fewer = used_rows(part)
    assert fewer is not None
    assert fewer.candidate.weight("table").shape == (len({i % 50 for i in ids}), 8)
    before, after = (to_numpy(Executor(p.candidate).run(p.feed)["y"]) for p in (part, fewer))
    np.testing.assert_array_equal(before, after)


def test_indices_that_are_used_otherwise_stay() -> None:
    """Numbers that something else reads as well are not renamed."""
    model = Model.from_proto(proto_of(
        [node("Gather", ["table", "x"], ["a"]), node("Cast", ["x"], ["b"], to=1), node("Mul", ["a", "b"], ["y"])],
        [declared("x", (8,), TensorProto.INT64)], weights={"table": np.arange(50, dtype=np.float32)}))
    assert used_rows(Part(model, model, {"x": np.arange(8)})) is None


def test_the_worst_row_is_kept() -> None:
    """Of a batch the row that is furthest off is left."""
    model = Model.from_proto(model_of([node("MatMul", ["x", "w0"], ["y"])], weights("w0")))
    part = Part(model, model, {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)})
    expected = by_floor(part)
    got = expected[0].values.copy()
    got[2] += 1
    row = one_row(Shown(part, expected, {"y": got}))
    assert row is not None
    np.testing.assert_array_equal(row.feed["x"], part.feed["x"][2:3])
    assert [i.shape for i in row.candidate.graph.inputs] == [(1, 8)]
