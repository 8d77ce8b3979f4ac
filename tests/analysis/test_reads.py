"""Which elements anything reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto

from parity.analysis.reads import read_elements
from parity.graph.model import Model
from tests.builders import declared, node, proto_of

X = np.arange(12, dtype=np.float32).reshape(3, 4)
WEIGHTS = {"from": np.array([0, 1]), "to": np.array([2, 3]), "i": np.array([2, 0]), "flat": np.array([-1]),
           "one": np.array([1]), "zero": np.float32(0), "halves": np.array([2, 2]), "wide": np.array([2, 3, 4])}


def read(nodes: Sequence[NodeProto], *outputs: str) -> np.ndarray:
    """The elements of t = Relu(x), [3, 4], that reach an output or a computation."""
    proto = proto_of([node("Relu", ["x"], ["t"]), *nodes], [declared("x", (3, 4))],
                     [declared(n, None) for n in outputs or ("y",)], WEIGHTS)
    return read_elements(Model.from_proto(proto), {"x": X}, "t", (3, 4))


SLICE = node("Slice", ["t", "from", "to"], ["s"])
INSIDE = np.zeros((3, 4), bool)
INSIDE[0:2, 1:3] = True


@pytest.mark.parametrize("after", [
    [node("Exp", ["s"], ["y"])], [node("Identity", ["s"], ["y"])],
    [node("Transpose", ["s"], ["a"]), node("Reshape", ["a", "flat"], ["b"]), node("Exp", ["b"], ["y"])],
    [node("Concat", ["s", "s"], ["a"], axis=0), node("Exp", ["a"], ["y"])],
    [node("Greater", ["s", "zero"], ["c"]), node("Where", ["c", "s", "zero"], ["y"])],
])
def test_what_a_slice_leaves_behind_is_not_read(after: list[NodeProto]) -> None:
    """Only the elements inside the slice reach anything, however they are moved afterwards."""
    np.testing.assert_array_equal(read([SLICE, *after]), INSIDE)


def test_a_second_reader_reads_the_rest() -> None:
    """One reader that computes on the whole is enough."""
    assert read([SLICE, node("Exp", ["s"], ["y"]), node("Neg", ["t"], ["z"])], "y", "z").all()


def test_an_output_reads_all() -> None:
    """What the user gets is read."""
    assert read([SLICE, node("Exp", ["s"], ["y"])], "y", "t").all()


def test_gathered_rows_are_read() -> None:
    """Of a Gather the rows that the indices name."""
    found = read([node("Gather", ["t", "i"], ["g"]), node("Exp", ["g"], ["y"])])
    np.testing.assert_array_equal(found.any(axis=1), [True, False, True])
    np.testing.assert_array_equal(found.all(axis=1), [True, False, True])


def test_one_part_of_a_split_is_read() -> None:
    """The other part is nobody's."""
    found = read([node("Split", ["t", "halves"], ["a", "b"], axis=1), node("Exp", ["b"], ["y"])])
    np.testing.assert_array_equal(found, np.broadcast_to([False, False, True, True], (3, 4)))


def test_expanded_and_squeezed_elements_are_read() -> None:
    """Copies count, and so do views of another rank."""
    assert read([node("Unsqueeze", ["t", "one"], ["u"]), node("Squeeze", ["u", "one"], ["v"]),
                 node("Expand", ["v", "wide"], ["e"]), node("Exp", ["e"], ["y"])]).all()


def test_what_nobody_reads_at_all() -> None:
    """A tensor whose moved elements end nowhere is not read."""
    assert not read([SLICE, node("Neg", ["x"], ["y"])]).any()
