"""From findings to rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import StringStringEntryProto

from parity.backends.base import RunOptions
from parity.compare import Options, compare
from parity.contenders import Contender
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.report.assemble import accuracies, blamed_row, worst_of
from parity.report.record import Candidate, FirstBad, Layer
from parity.source_model.place import place_of
from parity.targets import Target
from tests.builders import chain

GOOD = Model.from_proto(chain())


def candidate(fault: str = "", seed: int = 0) -> Candidate:
    """The chain, perhaps with a fault, on the executor."""
    feed, _ = seeded_feed(GOOD, seed)
    contender = Contender(Target("pytorch"), Model.from_proto(chain(fault)))
    return compare(GOOD, [contender], [feed], [], options=Options(RunOptions(threads=1))).candidates[0]


def row(found: Candidate, tensor: str) -> Layer:
    """One tensor's row."""
    return next(t for t in found.tensors if t.tensor == tensor)


def test_origins() -> None:
    """Before the fault nothing, at the fault its origin, after it the error is inherited."""
    found = candidate("w1")
    assert {t.tensor: t.origin for t in found.tensors if t.tensor in "abcde"} == {
        "a": None, "b": None, "c": "implementation", "d": "inherited", "e": "inherited"}
    assert [t.tensor for t in found.tensors if not t.passed] == ["c"]


def test_a_row_says_where_and_what() -> None:
    """Name, node, operator, place, type and shape; both comparisons and the floor."""
    found = row(candidate("w1"), "a")
    assert (found.node, found.op, found.index, found.dtype, found.shape) == ("first", "MatMul", 0, "float32", (4, 8))
    assert found.accumulated is not None
    assert found.local is not None
    assert found.floor is not None
    assert found.implementation is not None
    assert found.implementation <= found.floor
    assert found.level == "torch"


TRACE = '''File "/home/me/train.py", line 12, in <module>
  model(x)
File "/home/me/net.py", line 34, in forward
  return self.conv(x)
File "/usr/lib/python3/site-packages/torch/nn/modules/conv.py", line 56, in forward
  return F.conv2d(x)'''


@pytest.mark.parametrize(("trace", "expected"), [
    (TRACE, "/home/me/net.py:34"), ("", None), ("no frame here", None), ('File "x.py"', None),
    ('File "x.py", line', None),
    ('File "/a/site-packages/b.py", line 3, in f', "/a/site-packages/b.py:3"),
    ('File "/a b/c.py", line 3, in f', "/a b/c.py:3"),
    ('File "C:\\\\me\\\\net.py", line 3', "C:\\\\me\\\\net.py:3"),
])
def test_the_users_own_line(trace: str, expected: str | None) -> None:
    """The innermost frame outside installed packages; of a model that is a package itself, the innermost."""
    node = GOOD.graph.nodes[0]
    proto = type(node.proto)()
    proto.CopyFrom(node.proto)
    proto.metadata_props.append(StringStringEntryProto(key="pkg.torch.onnx.stack_trace", value=trace))
    assert place_of(replace(node, proto=proto)).source == expected


def test_a_node_without_a_trace_has_no_source() -> None:
    """Most exporters leave none."""
    assert place_of(GOOD.graph.nodes[0]).source is None


def test_of_several_samples_the_worst() -> None:
    """Each tensor's worst row, a divergence over parity, the earliest fault over later ones."""
    clean, early, late = candidate(), candidate("w0"), candidate("w2")
    assert worst_of([clean]) is clean
    found = worst_of([clean, replace(late, verdict="divergence"), early])
    assert found.verdict == "divergence"
    assert found.first_bad is not None
    assert found.first_bad.tensor == "a"
    assert [t.tensor for t in found.tensors if not t.passed] == ["a", "e"]
    assert [t.tensor for t in found.tensors] == [t.tensor for t in clean.tensors]
    assert row(found, "c").accumulated == row(early, "c").accumulated


def test_a_broken_sample_makes_a_broken_candidate() -> None:
    """A later sample that fails keeps the rows of the earlier ones, but not their verdict."""
    clean = candidate()
    found = worst_of([clean, Candidate("pytorch", "failed", "it broke")])
    assert (found.status, found.reason, found.verdict) == ("failed", "it broke", "error")
    assert found.tensors == clean.tensors
    assert found.outputs == clean.outputs


def test_notes_are_said_once() -> None:
    """The same sentence of several samples is one note."""
    clean = replace(candidate(), notes=("one", "two"))
    assert worst_of([clean, replace(clean, notes=("two", "three"))]).notes == ("one", "two", "three")


def test_accuracies() -> None:
    """Of every output that has a row a label, on both sides; without labels none."""
    right, wrong = np.eye(3), np.eye(3)[[0, 0, 0]]
    found = accuracies({"y": right, "z": np.ones(7), "gone": right}, {"y": wrong, "z": np.ones(7)}, np.arange(3))
    assert [(a.output, a.reference, a.samples) for a in found] == [("y", 1.0, 3)]
    assert found[0].candidate == pytest.approx(1 / 3)
    assert accuracies({"y": right}, {"y": right}, None) == ()


def test_the_row_of_a_tensor_that_is_named_says_so() -> None:
    """A NaN that the operator's inputs explain is named all the same where it comes first, and its row agrees."""
    found = row(candidate("w1"), "a")
    named = FirstBad("a", "first", "MatMul", 0, "nonfinite", None, None)
    made = blamed_row(found, named, deployed=False)
    assert (made.passed, made.origin) == (False, "nonfinite")
    for other in (None, replace(named, tensor="b"), replace(named, kind="precision")):
        assert blamed_row(found, other, deployed=False) == found


def test_the_row_of_a_tensor_found_in_the_deployed_run_has_its_figures() -> None:
    """The watched run's figures are of another error: none of them stands beside a layer that it does not name."""
    found = row(candidate("w1"), "a")
    named = FirstBad("a", "first", "MatMul", 0, "implementation", found.accumulated, None)
    made = blamed_row(replace(found, accumulated=None, passed=True, origin=None), named, deployed=True)
    assert (made.passed, made.origin, made.accumulated) == (False, "implementation", found.accumulated)
    assert (made.local, made.floor, made.precision, made.implementation) == (None, None, None, None)
    inherited = blamed_row(found, replace(named, kind="precision"), deployed=True)
    assert (inherited.passed, inherited.origin) == (True, "inherited")
    assert blamed_row(found, None, deployed=True) == found
