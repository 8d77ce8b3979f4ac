"""TensorRT's session: real parsing, marking, building and keeping, and ONNX Runtime where an engine would run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from onnx import TensorProto

from parity.backends.trt import build, driver
from parity.backends.trt.build import Recipe
from parity.backends.trt.library import Library
from parity.backends.trt.network import Network
from parity.backends.trt.run import OutOfMemory
from parity.backends.trt.session import TensorRt, TensorRtRtx
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.backends.trt.standin import Session, StandIn, options
from tests.builders import CHAIN, chain, declared, node, proto_of
from tests.models import FIXTURES, RealModel

pytestmark = pytest.mark.tensorrt


def values_of(session: Session, feed: dict[str, np.ndarray], names: tuple[str, ...],
              sizes: dict[str, int]) -> list[dict[str, np.ndarray]]:
    """The chunks of a watched run."""
    return [dict(chunk) for chunk in session.watch(feed, names, sizes)]


def test_the_plain_run_returns_the_outputs(tmp_path: Path) -> None:
    """Outputs have the model's names and values, and the engine is kept for the next session."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    capture = Session(model, options(tmp_path)).run(feed)
    np.testing.assert_allclose(capture.outputs["y"], survey(model, feed).outputs["y"], rtol=1e-5)
    assert capture.version
    assert capture.device == "NVIDIA A100"
    assert len(list((tmp_path / "engines").glob("*.plan"))) == 1


def test_a_kept_engine_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second session loads the first one's engine; where that is damaged, the third builds another."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    builds: list[Recipe] = []
    real = build.built

    def counted(tensorrt: Library, network: Network, recipe: Recipe, timing_cache: Path | None) -> bytes:
        builds.append(recipe)
        return real(tensorrt, network, recipe, timing_cache)

    monkeypatch.setattr(build, "built", counted)
    for damage, expected in ((False, 1), (False, 1), (True, 2), (False, 2)):
        if damage:
            plan = next((tmp_path / "engines").glob("*.plan"))
            plan.write_bytes(plan.read_bytes()[:-1] + b"!")
        Session(model, options(tmp_path)).run(feed)
        assert len(builds) == expected


def test_an_engine_that_does_not_load_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole engine that TensorRT refuses is replaced, after an update of the driver say; no room is not that."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    Session(model, options(tmp_path)).run(feed)
    real, refusals = StandIn.__init__, [BackendFailed("for another version"), OutOfMemory("out of memory")]

    def once(self: StandIn, network: Network, plan: bytes) -> None:
        if refusals:
            raise refusals.pop(0)
        real(self, network, plan)

    monkeypatch.setattr(StandIn, "__init__", once)
    with pytest.raises(OutOfMemory):  # the second load, of what was built again
        Session(model, options(tmp_path)).run(feed)
    refusals.append(OutOfMemory("out of memory"))
    with pytest.raises(OutOfMemory):
        Session(model, options(tmp_path)).run(feed)
    assert refusals == []
    assert Session(model, options(tmp_path)).run(feed).outputs.keys() == {"y"}


def test_one_engine_serves_runs_of_one_shape(tmp_path: Path) -> None:
    """Runs on the same shapes load one engine; another batch has another built."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    session = Session(model, options(tmp_path))
    for batch, engines in ((1, 1), (1, 1), (3, 2)):
        feed, _ = seeded_feed(model, 0, {"image": (batch, 1, 8, 8)})
        assert session.run(feed).outputs["logits"].shape == (batch, 10)
        assert len(session.engines) == engines


@pytest.mark.parametrize(("way", "engines"), [("outputs", 7), ("debug", 1)])
def test_tensors_are_watched_within_the_memory(tmp_path: Path, way: Literal["outputs", "debug"], engines: int) -> None:
    """With room for one tensor at a time, outputs take an engine each, and debug tensors a run each of one engine."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    session = Session(model, options(tmp_path, memory=1, watch=way))
    chunks = values_of(session, dict(feed), (*CHAIN, "ghost", "x", "w0"), dict(surveyed.sizes))
    assert [set(chunk) for chunk in chunks] == [{name} for name in CHAIN]
    assert len(session.engines) == engines
    expected = Session(model, options(tmp_path)).show(feed, CHAIN).outputs
    for chunk in chunks:
        for name, value in chunk.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-7)


def test_a_few_tensors_are_shown_beside_the_outputs(tmp_path: Path) -> None:
    """`show` returns the outputs and the tensors that were asked for, of one engine."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    feed, _ = seeded_feed(model, 0)
    session = Session(model, options(tmp_path))
    assert session.show(feed, ["relu_1", "ghost"]).outputs.keys() == {"logits", "relu_1"}
    assert session.engines[0].outputs == ("logits", "relu_1")


def test_a_branch_that_is_taken_is_watched(tmp_path: Path, fixture_model: RealModel) -> None:
    """The plain run is of the model as it is, the watched one of its flat form."""
    branch = proto_of([node("Relu", ["x"], ["inner"])], outputs=[declared("inner", (2, 3))]).graph
    del branch.input[:]
    other = proto_of([node("Exp", ["x"], ["outer"])], outputs=[declared("outer", (2, 3))]).graph
    del other.input[:]
    proto = proto_of([node("If", ["c"], ["y"], then_branch=branch, else_branch=other)],
                     inputs=[declared("x"), declared("c", (), TensorProto.BOOL)], outputs=[declared("y")])
    model = Model.from_proto(proto)
    feed = {"x": np.array([[-1, 0, 1], [2, -3, 4]], np.float32), "c": np.array(True)}
    surveyed = survey(model, feed)
    session = Session(model, options(tmp_path), surveyed.flat)
    np.testing.assert_array_equal(session.run(feed).outputs["y"], np.maximum(feed["x"], 0))
    names = tuple(n for n in surveyed.flat.graph.producer)
    found = {n for chunk in session.watch(feed, names, surveyed.sizes) for n in chunk}
    assert "y" in found


def test_what_does_not_fit_is_shown_in_smaller_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the GPU's memory ends, a stretch is halved; every tensor is seen all the same, once."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    real = StandIn.run

    def small(self: StandIn, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(self.outputs) > 3:
            raise OutOfMemory("out of memory")
        return real(self, feed)

    monkeypatch.setattr(StandIn, "run", small)
    session = Session(model, options(tmp_path))
    found = [n for chunk in session.watch(feed, CHAIN, survey(model, feed).sizes) for n in chunk]
    assert sorted(found) == sorted(CHAIN)


def test_what_the_engine_is_made_of_is_told(tmp_path: Path) -> None:
    """After a plain run the session tells the engine's layers; before it, none."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    session = Session(model, options(tmp_path))
    assert session.compiled().layers == ()
    session.run(feed)
    assert [layer.covers for layer in session.compiled().layers] == [(name,) for name in CHAIN]


def test_a_fused_convolution_is_taken_apart(tmp_path: Path) -> None:
    """ONNX Runtime's FusedConv, which the parser refuses, runs as Conv and Relu, and that is told."""
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)}
    proto = proto_of([node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu")],
                     inputs=[declared("x", (1, 3, 5, 5))], outputs=[declared("y", (1, 4, 3, 3))], weights=weights,
                     domains={"com.microsoft": 1})
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    session = Session(model, options(tmp_path))
    np.testing.assert_allclose(session.run(feed).outputs["y"], survey(model, feed).outputs["y"], rtol=1e-5, atol=1e-6)
    assert "FusedConv" in session.compiled().notes[0]


def test_an_operator_that_is_refused_is_named(tmp_path: Path) -> None:
    """The message has the operator, the node, its tensor and the parser's words, in one line."""
    proto = proto_of([node("Relu", ["x"], ["a"]), node("Frobnicate", ["a"], ["y"], name="odd", domain="com.example")],
                     domains={"com.example": 1})
    with pytest.raises(BackendFailed, match=r"refuses operator com\.example::Frobnicate \(odd, which makes 'y'\): .+"):
        Session(Model.from_proto(proto), options(tmp_path))


@pytest.mark.parametrize("backend", [TensorRt, TensorRtRtx])
def test_without_a_driver_nothing_is_imported(backend: type[TensorRt], monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is asked first: where there is none, the reason says so, whatever else is missing."""
    monkeypatch.setattr(driver, "_LIBRARY", "libcuda-that-is-not-there.so")
    model = Model.from_proto(chain())
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        backend().devices()
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        backend().open(model, model, Target("tensorrt"), options(Path()))
    with pytest.raises(BackendUnavailable, match="precision from the model"):
        backend().open(model, model, Target("tensorrt", "", "fp16"), options(Path()))
