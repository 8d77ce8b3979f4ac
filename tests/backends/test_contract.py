"""What every backend in the table must do, whichever runtime is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from parity.analysis.match import comparable_tensors
from parity.backends.base import RunOptions, Session, backend_names, backend_of
from parity.errors import BackendUnavailable, UsageError
from parity.graph.feeds import load_feed, seeded_feed
from parity.graph.model import Model
from parity.graph.survey import Survey, survey
from parity.targets import Target
from tests.builders import CHAIN, chain, declared, node, proto_of
from tests.models import FIXTURE_FOLDERS


def here() -> list[Target]:
    """Every device of every backend that can run on this machine."""
    found = []
    for name in backend_names():
        try:
            found += [Target(name, device) for device in backend_of(Target(name)).devices()]
        except BackendUnavailable:
            continue
    return found


TARGETS = here()
MIXED = proto_of(
    [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("ArgMax", ["b"], ["i"], axis=1),
     node("Greater", ["b", "zero"], ["g"]), node("Cast", ["b"], ["h"], to=TensorProto.FLOAT16),
     node("Cast", ["h"], ["d"], to=TensorProto.DOUBLE), node("Shape", ["w"], ["constant"])],
    outputs=[declared(n, None, kind) for n, kind in {
        "b": TensorProto.FLOAT, "i": TensorProto.INT64, "g": TensorProto.BOOL, "d": TensorProto.DOUBLE,
        "constant": TensorProto.INT64}.items()],
    weights={"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "zero": np.float32(0)})


def opened(model: Model, surveyed: Survey, target: Target, memory: int = 2**30, level: str = "all") -> Session:
    """A session on `target`."""
    return backend_of(target).open(model, surveyed.flat, target, RunOptions(level, threads=1, memory=memory))


def watched(session: Session, feed: Mapping[str, np.ndarray], names: tuple[str, ...],
            surveyed: Survey) -> dict[str, np.ndarray]:
    """All chunks as one, each name seen once."""
    found: dict[str, np.ndarray] = {}
    for chunk in session.watch(feed, names, surveyed.sizes):
        assert not chunk.keys() & found.keys()
        found.update(chunk)
    return found


def test_there_are_backends_to_hold_to_it() -> None:
    """The executor is always there, and ONNX Runtime wherever the tests run."""
    assert {"pytorch", "onnxruntime"} <= {t.backend for t in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("memory", [2**30, 1])
def test_outputs_and_tensors_have_the_models_names_and_types(target: Target, memory: int) -> None:
    """A plain run returns the graph outputs by name, a watched one the wanted tensors, in the model's own types."""
    model = Model.from_proto(MIXED)
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    session = opened(model, surveyed, target, memory)
    capture = session.run(feed)
    kinds = {n: v.dtype.name for n, v in capture.outputs.items()}
    assert kinds == {"b": "float32", "i": "int64", "g": "bool", "d": "float64", "constant": "int64"}
    assert {n: v.shape for n, v in capture.outputs.items()} == {n: v.shape for n, v in surveyed.outputs.items()}
    assert capture.version
    assert capture.device
    assert capture.seconds is not None
    assert capture.seconds >= 0
    names = comparable_tensors(surveyed.flat)
    found = watched(session, feed, names, surveyed)
    assert {n: v.dtype.name for n, v in found.items()} == {
        "a": "float32", "b": "float32", "i": "int64", "g": "bool", "h": "float16", "d": "float64"}


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_only_what_is_wanted_is_shown(target: Target) -> None:
    """Tensors that nobody asked for stay inside, unknown names and inputs are left out."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    session = opened(model, surveyed, target)
    assert set(watched(session, feed, ("c", "f", "ghost", "x", "w0"), surveyed)) == {"c", "f"}
    assert watched(session, feed, (), surveyed) == {}


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_tensors_come_in_graph_order(target: Target) -> None:
    """A chunk never holds a tensor that comes before one of an earlier chunk."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    session = opened(model, surveyed, target, memory=1)
    order = [n for chunk in session.watch(feed, CHAIN, surveyed.sizes) for n in chunk]
    assert order == list(CHAIN)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("folder", FIXTURE_FOLDERS, ids=lambda f: f.name)
def test_memory_changes_the_stretches_not_the_values(target: Target, folder: Path) -> None:
    """However little memory there is, every tensor has the same bits (graph optimisations off)."""
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    surveyed = survey(model, feed)
    names = comparable_tensors(surveyed.flat)
    whole, little = (watched(opened(model, surveyed, target, memory, "off"), feed, names, surveyed)
                     for memory in (2**30, 2**14))
    assert whole.keys() == little.keys()
    assert len(whole) > len(names) // 2
    for name, value in whole.items():
        np.testing.assert_array_equal(value, little[name], err_msg=name)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_session_runs_again_and_leaves_the_feed_alone(target: Target) -> None:
    """Two runs and two watches of one session agree, and the inputs are what they were."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    before = {n: v.copy() for n, v in feed.items()}
    surveyed = survey(model, feed)
    session = opened(model, surveyed, target)
    first, second = (session.run(feed).outputs["y"].copy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    again = [watched(session, feed, CHAIN, surveyed) for _ in range(2)]
    for name in CHAIN:
        np.testing.assert_array_equal(again[0][name], again[1][name])
    for name, value in before.items():
        np.testing.assert_array_equal(feed[name], value)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_what_is_shown_does_not_change_later(target: Target) -> None:
    """A chunk's arrays are the caller's to keep: later stretches and runs do not write into them."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    session = opened(model, surveyed, target, memory=1)
    kept: dict[str, np.ndarray] = {}
    copies: dict[str, np.ndarray] = {}
    for chunk in session.watch(feed, CHAIN, surveyed.sizes):
        kept.update(chunk)
        copies.update({n: v.copy() for n, v in chunk.items()})
    session.run({n: v + 1 for n, v in feed.items()})
    for name, value in kept.items():
        np.testing.assert_array_equal(value, copies[name])


@pytest.mark.parametrize("name", backend_names())
def test_an_unknown_device_is_unavailable(name: str) -> None:
    """A device that nobody has makes the target unavailable, never replaced by another."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    with pytest.raises(BackendUnavailable) as caught:
        opened(model, survey(model, feed), Target(name, "abacus"))
    assert caught.value.hint


def test_an_unknown_backend_is_a_usage_error() -> None:
    """A backend that nobody knows is refused with the names of those known."""
    with pytest.raises(UsageError, match="abacus") as caught:
        backend_of(Target("abacus"))
    assert "pytorch" in caught.value.hint
