"""Which tensors are compared, and with which."""

from __future__ import annotations

import numpy as np
import pytest

from parity.analysis.match import common_names, comparable_tensors, moves_only, takes
from parity.errors import MatchError
from parity.graph.model import Model
from tests.builders import CHAIN, X, chain, declared, node, proto_of


def test_what_is_worth_comparing() -> None:
    """Results of the inputs that somebody reads, in order; neither weights, constants, masks nor dead ends."""
    proto = proto_of(
        [node("Identity", ["w"], ["constant"]), node("Dropout", ["x"], ["d", "mask"]),
         node("Add", ["d", "constant"], ["a"]), node("Exp", ["a"], ["dead"]),
         node("Cast", ["mask"], ["m"], to=1), node("Mul", ["a", "m"], ["y"])],
        outputs=[declared("y"), declared("x"), declared("w", (3,))], weights={"w": np.ones(3, np.float32)})
    assert comparable_tensors(Model.from_proto(proto)) == ("d", "a", "m", "y")
    assert comparable_tensors(Model.from_proto(chain())) == CHAIN
    assert comparable_tensors(Model.from_proto(proto_of([], outputs=[X]))) == ()


def test_the_names_that_both_sides_show() -> None:
    """Only what both have can be compared."""
    assert common_names(["a", "b", "c"], ["c", "b", "z"], "it") == {"b", "c"}


@pytest.mark.parametrize(("reference", "candidate"), [(["a"], ["b"]), (["a"], []), ([], [])])
def test_nothing_in_common_is_an_error(reference: list[str], candidate: list[str]) -> None:
    """Two sides that share no name are told by name, with what each has."""
    with pytest.raises(MatchError, match=r"dump\.npz has no tensor name in common") as caught:
        common_names(reference, candidate, "dump.npz")
    assert all(name in caught.value.message for name in (*reference, *candidate))
    assert caught.value.hint


@pytest.mark.parametrize(("op", "inputs", "expected"), [
    ("Slice", ["t", "s", "e"], True), ("Slice", ["x", "t", "e"], False), ("Gather", ["t", "i"], True),
    ("Gather", ["x", "t"], False), ("Concat", ["x", "t"], True), ("Where", ["c", "t", "t"], True),
    ("Where", ["t", "x", "x"], False), ("Add", ["t", "x"], False), ("Where", ["t", "t", "x"], False),
])
def test_who_only_passes_elements_on(op: str, inputs: list[str], expected: bool) -> None:
    """An operator moves what it takes as data, and computes with what it takes as positions or conditions."""
    attributes = {"axis": 0} if op == "Concat" else {}
    given = [declared(n, None) for n in dict.fromkeys([*inputs, "t"])]
    model = Model.from_proto(proto_of([node(op, inputs, ["y"], **attributes)], given))
    assert takes(model.graph.nodes[0], "t") == expected
    assert moves_only(model, "t") == expected


def test_an_output_is_always_read() -> None:
    """A graph output is read by the user, a tensor without reader by nobody."""
    nodes = [node("Relu", ["x"], ["a"]), node("Flatten", ["a"], ["y"])]
    model = Model.from_proto(proto_of(nodes, outputs=[declared("a"), declared("y", None)]))
    assert not moves_only(model, "a")
    assert not moves_only(model, "y")
    assert not moves_only(model, "x")
