"""ONNX Runtime as a backend: stretches, providers that must not fall back, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from parity.backends.base import RunOptions
from parity.backends.ort import OnnxRuntime, OrtSession
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.builders import CHAIN, chain, declared, node, proto_of


def session_of(proto: Any, memory: int = 2**30, level: str = "all", seed: int = 0) -> tuple[OrtSession, Any, Any]:
    """A session on the CPU with the feed and the survey that it is watched with."""
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    options = RunOptions(level, 1, seed, memory)
    return OnnxRuntime().open(model, surveyed.flat, Target("onnxruntime"), options), feed, surveyed


def chunks_of(proto: Any, names: tuple[str, ...], memory: int) -> list[set[str]]:
    """The names of each stretch."""
    session, feed, surveyed = session_of(proto, memory)
    return [set(chunk) for chunk in session.watch(feed, names, surveyed.sizes)]


@pytest.mark.parametrize(("memory", "expected"), [
    (2**30, [set(CHAIN)]), (1, [{n} for n in CHAIN]), (129, [{"a", "b"}, {"c", "d"}, {"e", "f"}, {"y"}]),
])
def test_stretches_hold_what_fits(memory: int, expected: list[set[str]]) -> None:
    """A stretch ends with the node whose outputs fill the memory (each tensor of the chain is 128 bytes)."""
    assert chunks_of(chain(), CHAIN, memory) == expected


def test_a_sequence_is_not_cut_through() -> None:
    """No stretch ends while a sequence is still to be read: it cannot be handed to the next."""
    proto = proto_of(
        [node("Relu", ["x"], ["a"]), node("SequenceConstruct", ["a", "x"], ["s"]), node("Exp", ["a"], ["b"]),
         node("SequenceAt", ["s", "k"], ["c"]), node("Add", ["b", "c"], ["y"])], weights={"k": np.array(0)})
    assert chunks_of(proto, ("a", "b", "c", "y"), 1) == [{"a"}, {"b", "c"}, {"y"}]


def test_types_that_numpy_lacks_are_left_out() -> None:
    """BF16 tensors are neither shown nor handed over, and those around them are right."""
    proto = proto_of([node("Relu", ["x"], ["a"]), node("Cast", ["a"], ["h"], to=TensorProto.BFLOAT16),
                      node("Cast", ["h"], ["b"], to=TensorProto.FLOAT), node("Exp", ["b"], ["y"])],
                     outputs=[declared("y", None), declared("h", None, TensorProto.BFLOAT16)])
    assert chunks_of(proto, ("a", "h", "b", "y"), 1) == [{"a"}, {"b"}, {"y"}]
    session, feed, surveyed = session_of(proto)
    assert set(session.run(feed).outputs) == {"y"}
    np.testing.assert_array_equal(session.run(feed).outputs["y"], surveyed.outputs["y"])


def test_a_dequantised_weight_is_not_cut_from_its_reader() -> None:
    """The watched tensors of a quantised model are the same however it is cut, at full optimisation too."""
    weights = {"s": np.float32(0.02), "zero": np.int8(0), "q_w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4)}
    proto = proto_of(
        [node("QuantizeLinear", ["x", "s", "zero"], ["q"]), node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
         node("DequantizeLinear", ["q_w", "s"], ["w"]), node("MatMul", ["d", "w"], ["y"])], weights=weights)
    found = []
    for memory in (1, 2**30):
        session, feed, surveyed = session_of(proto, memory)
        found.append({n: v for chunk in session.watch(feed, ("q", "d", "y"), surveyed.sizes) for n, v in chunk.items()})
    assert found[0].keys() == found[1].keys() == {"q", "d", "y"}
    np.testing.assert_array_equal(found[0]["y"], found[1]["y"])


@pytest.mark.parametrize("level", ["off", "basic", "extended", "all"])
def test_the_optimisation_level_is_set(level: str) -> None:
    """The level that was asked for is the one that the session runs at."""
    session, _, _ = session_of(chain(), level=level)
    names = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
             "all": "ORT_ENABLE_ALL"}
    options = session._plain.get_session_options()
    assert options.graph_optimization_level.name == names[level]
    assert options.intra_op_num_threads == 1


def test_the_seed_fixes_random_operators() -> None:
    """One seed, one draw; another seed, another one."""
    proto = proto_of([node("RandomNormalLike", ["x"], ["y"])])
    drawn = [session_of(proto, seed=seed)[0].run({"x": np.ones((2, 3), np.float32)}).outputs["y"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_a_provider_that_falls_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the provider asked for is not the one that runs, there is no result."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def on_the_cpu(path: str, options: Any, providers: list[str]) -> Any:
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        return real(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    model = Model.from_proto(chain())
    with pytest.raises(BackendUnavailable, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        OnnxRuntime().open(model, model, Target("onnxruntime", "cuda"), RunOptions())


def test_a_device_that_this_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known device without its provider says what to install."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    model = Model.from_proto(chain())
    with pytest.raises(BackendUnavailable, match="CUDAExecutionProvider") as caught:
        OnnxRuntime().open(model, model, Target("onnxruntime", "cuda"), RunOptions())
    assert "pip install" in caught.value.hint


def test_a_refused_model_is_one_line() -> None:
    """What ONNX Runtime has against a model arrives as the first line of it."""
    model = Model.from_proto(proto_of([node("Frobnicate", ["x"], ["y"])]))
    with pytest.raises(BackendFailed, match="Frobnicate") as caught:
        OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    assert "\n" not in caught.value.message


def test_a_failing_run_is_one_line() -> None:
    """So does what goes wrong while it runs."""
    model = Model.from_proto(proto_of([node("Reshape", ["x", "s"], ["y"])], weights={"s": np.array([5, 7])}))
    session = OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    with pytest.raises(BackendFailed, match="Reshape") as caught:
        session.run({"x": np.ones((2, 3), np.float32)})
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_what_is_written_goes_away_with_the_session() -> None:
    """The folder of cut models and weights is removed when the session is."""
    session, feed, surveyed = session_of(chain(), memory=1)
    assert len(list(session.watch(feed, CHAIN, surveyed.sizes))) == 7
    folder = Path(session._folder.name)
    assert any(folder.iterdir())
    del session
    assert not folder.exists()
