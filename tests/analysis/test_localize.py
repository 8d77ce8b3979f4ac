"""The walk and whom it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from parity.analysis.judge import Judgement
from parity.analysis.localize import Divergence, divergences, first_to_blame
from parity.analysis.measure import measure
from parity.analysis.streams import Stream
from parity.graph.executor import Executor
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.ops.call import from_numpy, to_numpy
from tests.builders import CHAIN, chain, node, proto_of

GOOD = Model.from_proto(chain())
FEED, _ = seeded_feed(GOOD, 0)


def values_of(fault: str = "") -> dict[str, np.ndarray]:
    """Every tensor of the chain."""
    return {n: to_numpy(v) for n, v in Executor(Model.from_proto(chain(fault))).run(FEED, CHAIN).items()}


def walked(candidate: Mapping[str, np.ndarray]) -> list[Divergence]:
    """The walk over what a candidate shows, all in one chunk."""
    right, other = (Stream(iter([values]), frozenset(values)) for values in (values_of(), dict(candidate)))
    return list(divergences(GOOD, GOOD, FEED, right, other, frozenset(CHAIN)))


@pytest.mark.parametrize(("fault", "tensor"), [("w0", "a"), ("w1", "c"), ("w2", "e"), ("w3", "f")])
def test_one_tensor_is_to_blame(fault: str, tensor: str) -> None:
    """Everything downstream is off, but only the faulty operator's own result is to blame."""
    found = walked(values_of(fault))
    assert [d.tensor for d in found] == list(CHAIN)
    assert [d.tensor for d in found if d.to_blame] == [tensor]
    off = [d.tensor for d in found if d.accumulated is not None and not d.accumulated.identical]
    assert off[0] == tensor
    assert off == list(CHAIN[CHAIN.index(tensor):])
    assert [d.index for d in found] == list(range(7))


def test_the_local_error_is_at_the_candidates_own_inputs() -> None:
    """Downstream of a fault the accumulated error stays while the local one is gone."""
    found = {d.tensor: d for d in walked(values_of("w1"))}
    after = found["e"]
    assert after.accumulated is not None
    assert after.local is not None
    assert after.accumulated.rel_l2 > 1e-2
    assert after.local.rel_l2 < 1e-6


@pytest.mark.parametrize("shown", [("r", "s", "y"), ("s", "y")], ids=["shown", "hidden"])
def test_random_numbers_are_nobodys_fault(shown: tuple[str, ...]) -> None:
    """What the candidate drew is not held against the reference's draw; what it made of that is, where it shows it."""
    model = Model.from_proto(proto_of([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["s"]),
                                       node("Relu", ["s"], ["y"])]))
    feed, _ = seeded_feed(model, 0)
    sides = [{n: to_numpy(v) for n, v in Executor(model, seed=seed).run(feed, ("r", "s", "y")).items()}
             for seed in (0, 1)]
    sides[1]["y"] = sides[1]["y"] + np.float32(1)
    expected, seen = Stream(iter([sides[0]]), frozenset(sides[0])), Stream(iter([sides[1]]), frozenset(shown))
    found = list(divergences(model, model, feed, expected, seen, frozenset(shown)))
    assert all(d.drawn and d.accumulated is not None and d.accumulated.rel_l2 > 0.1 for d in found)
    assert [d.tensor for d in found] == list(shown)
    assert [d.tensor for d in found if d.to_blame] == ["y"]


def test_two_faults_are_both_to_blame() -> None:
    """Faults do not hide one another."""
    both = values_of("w1")
    f = both["f"] * np.float32(1.5)
    both["f"], both["y"] = f, to_numpy(Executor(GOOD).evaluate(GOOD.graph.nodes[6], [from_numpy(f)])[0])
    assert [d.tensor for d in walked(both) if d.to_blame] == ["c", "f"]


def test_a_stream_is_read_only_as_far_as_needed() -> None:
    """Chunks are pulled in order, a name that never comes is None, and a dropped tensor is gone."""
    chunks = iter([{"a": np.ones(1)}, {"b": np.ones(2), "c": np.ones(3)}])
    stream = Stream(chunks, frozenset("abcz"))
    assert stream.pull("hidden") is None
    assert stream.values == {}
    a = stream.pull("a")
    assert a is not None
    assert a.shape == (1,)
    assert set(stream.values) == {"a"}
    c = stream.pull("c")
    assert c is not None
    assert c.shape == (3,)
    stream.drop("c")
    stream.drop("never")
    assert set(stream.values) == {"a", "b"}
    assert stream.pull("z") is None


def test_a_hidden_tensor_is_not_looked_for_to_the_end() -> None:
    """Once much was read, a chunk from further down says that it is hidden; until then the order may be another."""
    names = [f"t{i}" for i in range(100)]
    shown = [n for n in names if n != "t3"]
    chunks = ({n: np.ones(10)} for n in shown)
    stream = Stream(chunks, frozenset(names), {n: i for i, n in enumerate(names)}, memory=200)
    for name in names:
        assert (stream.pull(name) is None) is (name == "t3")
        assert sum(v.nbytes for v in stream.values.values()) <= 200 + 80
        stream.drop(name)
    swapped = Stream(iter([{"b": np.ones(10)}, {"a": np.ones(10)}]), frozenset("ab"), {"a": 0, "b": 1}, memory=200)
    assert swapped.pull("a") is not None


def divergence(tensor: str, *, error: float = 0.0, passed: bool = True, nonfinite: bool = False,
               shape_differs: bool = False, nan: bool = False) -> Divergence:
    """A divergence with chosen figures."""
    reference = np.ones(4)
    accumulated = measure(reference, np.where([nan, False, False, False], np.nan, reference * (1 + error)))
    base = walked(values_of())[0]
    judgement = Judgement(accumulated, 1e-6, None, 0.0 if passed else 1.0, passed, nonfinite)
    return replace(base, tensor=tensor, accumulated=None if shape_differs else accumulated,
                   judgement=None if shape_differs else judgement, shape_differs=shape_differs)


def test_whom_to_name() -> None:
    """A node's own fault first; else the first NaN; else, if the outputs fail, the first beyond tolerance."""
    clean, off = divergence("clean"), divergence("off", error=0.1)
    bad, worse = divergence("bad", passed=False), divergence("worse", passed=False, error=0.5)

    def named(*found: Divergence, outputs_fail: bool = False) -> tuple[str, str] | None:
        answer = first_to_blame(found, outputs_fail=outputs_fail, limit=1e-3)
        return None if answer is None else (answer[0].tensor, answer[1])

    assert named(replace(off, drawn=True), outputs_fail=True) is None
    assert named(replace(off, drawn=True), worse, outputs_fail=True) == ("worse", "implementation")
    assert named(divergence("late", nan=True), outputs_fail=True) == ("late", "nonfinite")
    assert named(replace(divergence("late", nan=True), drawn=True), outputs_fail=True) is None
    assert named() is None
    assert named(clean, off) is None
    assert named(clean, off, outputs_fail=True) == ("off", "precision")
    assert named(clean, outputs_fail=True) is None
    assert named(clean, off, bad, worse, outputs_fail=True) == ("bad", "implementation")
    assert named(off, worse, bad) == ("worse", "implementation")
    assert named(clean, divergence("shape", shape_differs=True)) == ("shape", "implementation")
    assert named(off, divergence("inf", passed=False, nonfinite=True, nan=True), bad) == ("inf", "nonfinite")
    assert named(off, divergence("late", nan=True), outputs_fail=True) == ("late", "nonfinite")
