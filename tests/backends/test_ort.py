"""ONNX Runtime as a backend: stretches, providers that must not fall back, and errors in one line."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from parity.backends.base import RunOptions
from parity.backends.ort import InProcess, OnnxRuntime, OrtSession
from parity.backends.providers import CPU, placed
from parity.backends.trt import driver
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.builders import CHAIN, chain, declared, node, proto_of, saved


def session_of(proto: Any, memory: int = 2**30, level: str = "all", seed: int = 0) -> tuple[OrtSession, Any, Any]:
    """A session on the CPU with the feed and the survey that it is watched with."""
    model = Model.from_proto(proto)
    feed, _ = seeded_feed(model, 0)
    surveyed = survey(model, feed)
    options = RunOptions(level, 1, seed, memory)
    return InProcess().open(model, surveyed.flat, Target("onnxruntime"), options), feed, surveyed


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


# What onnxruntime-gpu 1.31.1 wrote on a machine without CUDA, while it took the CPU instead.
LOADER = ("\x1b[1;31m2026-11-21 05:55:28.149803171 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
          "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
          "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
          "/somewhere/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open "
          "shared object file: No such file or directory\n\x1b[m\n")
CUDA = "CUDAExecutionProvider"


def refused(monkeypatch: pytest.MonkeyPatch, device: str, said: str, raised: str = "") -> BackendUnavailable:
    """What opening gives where ONNX Runtime writes `said`, and then raises, or takes the CPU."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def on_the_cpu(path: str, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        assert providers[-1] == (CUDA, {"device_id": "0", "use_tf32": "0"})
        assert enable_fallback == 0
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
        os.write(2, said.encode())
        if raised:
            raise RuntimeError(raised)
        return real(path, providers=["CPUExecutionProvider"])

    model = Model.from_proto(chain())
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "TensorrtExecutionProvider"])
        patch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
        patch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        with pytest.raises(BackendUnavailable) as caught:
            InProcess().open(model, model, Target("onnxruntime", device), RunOptions())
    assert "pip install" in caught.value.hint
    return caught.value


def test_a_provider_that_falls_back_is_unavailable_in_the_loaders_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another provider runs than was asked for there is no result, and the missing library is named."""
    assert refused(monkeypatch, "cuda", LOADER).message == (
        "onnxruntime cannot load CUDAExecutionProvider: libcublasLt.so.13: cannot open shared object file: "
        "No such file or directory")
    found = refused(monkeypatch, "tensorrt", LOADER.replace("cuda", "tensorrt"), "Please install TensorRT libraries")
    assert found.message.startswith("onnxruntime cannot load TensorrtExecutionProvider: libcublasLt.so.13")
    assert "tensorrt" in found.hint


def test_a_provider_that_falls_back_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else ONNX Runtime writes is quoted without time and place; nothing is made up where it is silent."""
    said = "\x1b[0;93m2026-11-21 05:55:28.1 [W:onnxruntime:, x.cc:1 f] No device.\x1b[m\n"
    found = refused(monkeypatch, "cuda", said)
    assert found.message == f"onnxruntime fell back from {CUDA} to CPUExecutionProvider: No device."
    assert refused(monkeypatch, "cuda", "").message == f"onnxruntime fell back from {CUDA} to CPUExecutionProvider"


def test_a_device_that_this_build_lacks() -> None:
    """A known device without its provider says what to install, from the process of its own too."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    model = Model.from_proto(chain())
    for backend in (OnnxRuntime(), InProcess()):
        with pytest.raises(BackendUnavailable, match=CUDA) as caught:
            backend.open(model, model, Target("onnxruntime", "cuda"), RunOptions())
        assert "pip install" in caught.value.hint


def test_a_device_without_a_driver_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a build has a provider proves nothing: without a GPU only the CPU is listed."""
    import onnxruntime

    def no_driver() -> Any:
        raise BackendUnavailable("no driver", "Install it.")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(driver, "devices", no_driver)
    assert OnnxRuntime().devices() == ["cpu"]
    monkeypatch.setattr(driver, "devices", lambda: ("a GPU",))
    assert OnnxRuntime().devices() == ["cpu", "cuda"]


@pytest.mark.parametrize(("counts", "device"), [
    ({}, "cuda"), ({CUDA: 9}, "cuda"), ({CUDA: 7, CPU: 2}, "cuda (2 of 9 nodes on the cpu)")])
def test_nodes_on_the_cpu_are_counted(counts: dict[str, int], device: str) -> None:
    """A device's name says how much of the model ran elsewhere."""
    assert placed("cuda", CUDA, counts) == device


def test_a_provider_without_a_node_does_not_run() -> None:
    """A provider that took no node of the model is not what ran it."""
    with pytest.raises(BackendUnavailable, match="all 9 nodes of the model on the cpu"):
        placed("cuda", CUDA, {CPU: 9})


def test_a_model_that_kills_onnxruntime_is_a_failed_row(tmp_path: Path) -> None:
    """The process that compares lives on, says what happened, and runs the other candidates."""
    from parity.compare import Options, compare
    from parity.contenders import Contender

    proto = proto_of([node("Split", ["x"], ["", "y"], axis=1, num_outputs=2)], [declared("x", (2, 4))],
                     [declared("y", (2, 2))], opset=18)
    model = Model.from_proto(proto)
    report = compare(model, [Contender(Target("onnxruntime")), Contender(Target("pytorch"))],
                     [{"x": np.ones((2, 4), np.float32)}], [], options=Options(RunOptions(threads=1)))
    killed, other = report.candidates
    assert (killed.status, other.status, report.verdict) == ("failed", "ok", "error")
    assert "onnxruntime died of SIGSEGV while it was running the model" in killed.reason


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_an_integer_that_the_processor_cannot_divide_is_a_failed_row(op: str) -> None:
    """ONNX Runtime dies of the least integer by -1; parity says so, and the reference wraps as C does."""
    from parity.compare import Options, compare
    from parity.contenders import Contender

    kinds = [declared(name, (9,), TensorProto.INT64) for name in ("x", "z", "y")]
    model = Model.from_proto(proto_of([node(op, ["x", "z"], ["y"])], kinds[:2], kinds[2:]))
    feed = {"x": np.full(9, -2**63), "z": np.full(9, -1)}
    report = compare(model, [Contender(Target("onnxruntime")), Contender(Target("pytorch"))], [feed], [],
                     options=Options(RunOptions(threads=1)))
    killed, other = report.candidates
    assert (killed.status, other.status, report.verdict) == ("failed", "ok", "error")
    assert "onnxruntime died of SIGFPE while it was running the model" in killed.reason
    assert "look at Div and Mod" in killed.reason


def test_a_refused_model_is_one_line() -> None:
    """What ONNX Runtime has against a model arrives as the first line of it."""
    model = Model.from_proto(proto_of([node("Frobnicate", ["x"], ["y"])]))
    with pytest.raises(BackendFailed, match="Frobnicate") as caught:
        OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    assert "\n" not in caught.value.message


def test_a_refusal_names_no_file_that_is_gone() -> None:
    """The model that ONNX Runtime read lay in a temporary folder, of which nobody needs to hear."""
    model = Model.from_proto(proto_of([node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16), node("Cos", ["b"], ["c"]),
                                       node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)]))
    with pytest.raises(BackendFailed, match="INVALID_GRAPH : This is an invalid model") as caught:
        OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    assert ".onnx" not in caught.value.message


def test_a_failing_run_is_one_line() -> None:
    """So does what goes wrong while it runs."""
    model = Model.from_proto(proto_of([node("Reshape", ["x", "s"], ["y"])], weights={"s": np.array([5, 7])}))
    session = OnnxRuntime().open(model, model, Target("onnxruntime"), RunOptions())
    with pytest.raises(BackendFailed, match="Reshape") as caught:
        session.run({"x": np.ones((2, 3), np.float32)})
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_full_folder_of_temporary_files_is_told(tmp_path: Path) -> None:
    """The watched run needs room for weights and cut models; without it the row has failed, in one line."""
    from parity.compare import Options, compare
    from parity.contenders import Contender

    weights = {"w": np.ones((3, 4096), np.float32)}
    path = saved(tmp_path / "m.onnx", proto_of([node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])],
                                              weights=weights))
    feed = {"x": np.ones((2, 3), np.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        report = compare(Model.load(path), [Contender(Target("onnxruntime"))], [feed], [],
                         options=Options(RunOptions(threads=1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert report.candidates[0].status == "failed"
    assert "temporary files cannot be written to" in report.candidates[0].reason
    assert "TMPDIR" in report.candidates[0].reason


def test_what_is_written_goes_away_with_the_session() -> None:
    """The folder of cut models and weights is removed when the session is."""
    session, feed, surveyed = session_of(chain(), memory=1)
    assert len(list(session.watch(feed, CHAIN, surveyed.sizes))) == 7
    folder = Path(session._folder.name)
    assert any(folder.iterdir())
    del session
    assert not folder.exists()
