"""Where a side hides tensors: which nodes a fault may be in."""

from __future__ import annotations

import numpy as np

from parity.analysis.region import region_of
from parity.graph.model import Model
from tests.builders import X, node, proto_of

# x → a → b → c ─┐
#     └─→ d ─────┴→ y, which also reads k, made of a weight alone
FORK = Model.from_proto(proto_of(
    [node("Relu", ["x"], ["a"]), node("Exp", ["a"], ["b"]), node("Neg", ["b"], ["c"]), node("Abs", ["a"], ["d"]),
     node("Neg", ["w"], ["k"]), node("Sum", ["c", "d", "k"], ["y"])], [X], weights={"w": np.ones(3, np.float32)}))
LAST = FORK.graph.producer["y"]


def test_a_region_ends_at_visible_tensors() -> None:
    """All nodes since the last visible tensors are in it, in order; what no input can change is not."""
    region = region_of(LAST, FORK, FORK, {"b", "c", "d"})
    assert region is not None
    assert (region.tensors, region.after) == (("b", "c", "d", "y"), ("a",))
    region = region_of(LAST, FORK, FORK, {"c"})
    assert region is not None
    assert (region.tensors, set(region.after)) == (("c", "y"), {"b", "d"})


def test_a_node_whose_inputs_are_visible_is_alone() -> None:
    """There is nobody else to blame, whatever is hidden elsewhere."""
    assert region_of(LAST, FORK, FORK, {"a", "b"}) is None


def test_what_only_the_variant_has_is_not_named() -> None:
    """A Cast that a precision puts in belongs to the node that reads it."""
    cast = [node("Relu", ["x"], ["a"]), node("Cast", ["a"], ["a/fp16"], to=10), node("Exp", ["a/fp16"], ["y"])]
    variant = Model.from_proto(proto_of(cast, [X]))
    reference = Model.from_proto(proto_of([cast[0], node("Exp", ["a"], ["y"])], [X]))
    last = variant.graph.producer["y"]
    assert region_of(last, variant, reference, {"a/fp16"}) is None
    region = region_of(last, variant, reference, {"a", "a/fp16"})
    assert region is not None
    assert (region.tensors, region.after) == (("a", "y"), ("x",))
