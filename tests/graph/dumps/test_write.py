"""A feed written for other tools is the same bits when it is read again."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from parity.errors import OutputError
from parity.graph.dumps.read import load_arrays
from parity.graph.dumps.write import write_feeds
from parity.graph.feeds import Feed, load_feed
from parity.graph.model import Model
from tests.builders import declared, node, proto_of

NAMES = st.text("ab/:._-=ü 0", min_size=1, max_size=6) | st.just("file")
TYPES = st.sampled_from(["<f4", "<f2", "<f8", "<i8", "<i4", "i1", "u1", "?"])


def model_of(feed: Feed) -> Model:
    """A model that takes this feed."""
    specs = [declared(n, a.shape, helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feed.items()]
    outputs = [declared(f"{n}→", a.shape, helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in feed.items()]
    return Model(proto_of([node("Identity", [n], [f"{n}→"]) for n in feed], specs, outputs))


def write_feed(feed: Feed, folder: Path, model: Model, path: Path) -> tuple[str, ...]:
    """Write one feed; returns its commands."""
    return write_feeds({folder: feed}, model, path)[folder]


def raw_files(commands: tuple[str, ...]) -> dict[str, str]:
    """Which file is loaded for which input, by trtexec's own rules: commas, then the last colon."""
    words = shlex.split(next(c for c in commands if c.startswith("trtexec")))
    spec = next(w for w in words if w.startswith("--loadInputs=")).removeprefix("--loadInputs=")
    return {name: file for name, _, file in (part.rpartition(":") for part in spec.split(","))}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, hnp.arrays(TYPES, hnp.array_shapes(min_dims=0, max_dims=3)), min_size=1, max_size=4))
def test_every_form_holds_the_same_bits(tmp_path: Path, feed: dict[str, np.ndarray]) -> None:
    """NaN payloads, minus zero, odd names and all: .npz, Polygraphy's JSON, and raw values for trtexec."""
    model = model_of(feed)
    commands = write_feed(feed, tmp_path, model, tmp_path / "m.onnx")
    raw = [f"{name}={tmp_path / file}" for name, file in raw_files(commands).items()]
    for sources in ([str(tmp_path / "inputs.npz")], [str(tmp_path / "inputs.json")], raw):
        again, _ = load_feed(model, sources)
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in again.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in feed.items()}


def test_types_that_numpy_lacks(tmp_path: Path) -> None:
    """BF16 goes to .npz and raw, and not to Polygraphy's JSON, where numpy would make bytes of it."""
    model = Model(proto_of([node("Identity", ["x"], ["y"])], [declared("x", (3,), TensorProto.BFLOAT16)]))
    feed = {"x": np.array([1, -0.0, 3], ml_dtypes.bfloat16)}
    commands = write_feed(feed, tmp_path, model, tmp_path / "m.onnx")
    assert not (tmp_path / "inputs.json").exists()
    assert not any("polygraphy" in c for c in commands)
    for source in (str(tmp_path / "inputs.npz"), f"x={tmp_path / 'x.bin'}"):
        assert load_feed(model, [source])[0]["x"].tobytes() == feed["x"].tobytes()


def test_the_commands_fit_the_model(tmp_path: Path) -> None:
    """Shapes are given where the model leaves them open, and nowhere else: trtexec refuses them for a static model."""
    feed = {"x": np.zeros((2, 3), np.float32)}
    lines = {}
    for shape in ((2, 3), ("n", 3)):
        model = Model(proto_of([node("Relu", ["x"], ["y"])], [declared("x", shape)]))
        lines[shape] = "\n".join(write_feed(feed, tmp_path / "out", model, tmp_path / "my model.onnx"))
        assert (tmp_path / "out" / "commands.txt").read_text(encoding="utf-8").strip() == lines[shape]
    assert "--shapes" not in lines[2, 3]
    assert "--shapes=x:2x3" in lines["n", 3]
    assert "'../my model.onnx'" in lines[2, 3]


def test_a_scalar_is_called_one(tmp_path: Path) -> None:
    """A static scalar has no shape to give; one of unknown rank is `scalar` to trtexec."""
    for shape, said in (((), False), (None, True)):
        model = Model(proto_of([node("Relu", ["x"], ["y"])], [declared("x", shape)]))
        commands = write_feed({"x": np.zeros((), np.float32)}, tmp_path, model, tmp_path / "m.onnx")
        assert ("--shapes=x:scalar" in " ".join(commands)) is said
        assert "--shapes" not in " ".join(commands).replace("--shapes=x:scalar", "")


def test_a_model_without_inputs_needs_none(tmp_path: Path) -> None:
    """Nothing is to be loaded, so no command loads it, and no empty file stands there."""
    model = Model(proto_of([node("Relu", ["w"], ["y"])], [], weights={"w": np.ones(3, np.float32)}))
    commands = write_feed({}, tmp_path, model, tmp_path / "m.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"commands.txt"}
    assert len(commands) == 4
    assert not any("inputs" in c.lower() or "--input" in c for c in commands)


def test_all_is_written_or_nothing(tmp_path: Path) -> None:
    """A disk that fills up in the second sample leaves neither the first nor half of the second, nor their folders."""
    small, large = {"x": np.zeros(4, np.float32)}, {"x": np.zeros(2**16, np.float32)}
    model = Model(proto_of([node("Relu", ["x"], ["y"])], [declared("x", ("n",))]))
    kept = tmp_path / "kept"
    before = write_feed(small, kept, model, tmp_path / "m.onnx")
    content = {p: p.read_bytes() for p in kept.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        for folders in ((tmp_path / "new" / "0", tmp_path / "new" / "1"), (kept, tmp_path / "new" / "1")):
            with pytest.raises(OutputError, match="cannot be written"):
                write_feeds(dict(zip(folders, (small, large), strict=True)), model, tmp_path / "m.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [kept]
    assert {p: p.read_bytes() for p in kept.iterdir()} == content
    assert before


def test_a_name_that_trtexec_cannot_say(tmp_path: Path) -> None:
    """Commas separate inputs for trtexec, so for such an input it is left out, instead of fed something else."""
    feed = {"a,b": np.zeros(2, np.float32)}
    commands = write_feed(feed, tmp_path, model_of(feed), tmp_path / "m.onnx")
    assert not any("trtexec" in c for c in commands)
    assert load_arrays(tmp_path / "inputs.json")["a,b"].shape == (2,)


def test_strings_are_kept_in_the_npz(tmp_path: Path) -> None:
    """Neither Polygraphy nor trtexec takes strings."""
    model = Model(proto_of([node("Identity", ["s"], ["y"])], [declared("s", (2,), TensorProto.STRING)]))
    feed = {"s": np.array(["a", "é🙂"], object)}
    write_feed(feed, tmp_path, model, tmp_path / "m.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"inputs.npz", "commands.txt"}
    assert load_feed(model, [str(tmp_path / "inputs.npz")])[0]["s"].tolist() == ["a", "é🙂"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in its place is told in one line."""
    (tmp_path / "out").write_text("")
    feed = {"x": np.zeros(1, np.float32)}
    with pytest.raises(OutputError, match="out") as caught:
        write_feed(feed, tmp_path / "out", model_of(feed), tmp_path / "m.onnx")
    assert "-o" in caught.value.hint


def test_polygraphy_loads_the_same_bits(tmp_path: Path) -> None:
    """The real tool runs on what was written, saves what it fed, and its results are what ONNX Runtime makes of it."""
    pytest.importorskip("polygraphy", reason="polygraphy is not installed: 1 test left out")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: 1 test left out")
    feed: dict[str, np.ndarray] = {"in:0": np.array([[np.nan, -0.0, 1e-42], [1, -2, 3]], np.float32),
                                   "/i": np.array([2**62 + 1], np.int64)}
    model = model_of(feed)
    onnx.save(model.proto, str(tmp_path / "m.onnx"))
    write_feed(feed, tmp_path, model, tmp_path / "m.onnx")
    code = "import sys; from polygraphy.tools import main; sys.argv[0] = 'polygraphy'; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, "run", "m.onnx", "--onnxrt", "--load-inputs", "inputs.json",
                    "--save-inputs", "fed.json", "--save-outputs", "outputs.json"], cwd=tmp_path, check=True,
                   capture_output=True)
    assert json.loads((tmp_path / "fed.json").read_text()) == json.loads((tmp_path / "inputs.json").read_text())
    results = load_arrays(tmp_path / "outputs.json")
    assert {n: results[f"{n}→"].tobytes() for n in feed} == {n: a.tobytes() for n, a in feed.items()}
