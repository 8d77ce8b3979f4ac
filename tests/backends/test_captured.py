"""Tensors taken elsewhere, standing in for a runtime."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity.backends.captured import CapturedSession
from parity.errors import BackendFailed, FeedError


def test_a_file_shows_what_it_holds(tmp_path: Path) -> None:
    """Its arrays are the outputs and, of those wanted, the tensors; no time is claimed for the run."""
    np.savez(tmp_path / "d.npz", a=np.ones(3, np.float32), y=np.zeros((), np.int64))
    session = CapturedSession(tmp_path / "d.npz")
    capture = session.run({})
    assert set(capture.outputs) == {"a", "y"}
    assert (capture.seconds, capture.device) == (None, "d.npz")
    chunks = list(session.watch({}, ["a", "ghost"], {}))
    assert [set(c) for c in chunks] == [{"a"}]
    np.testing.assert_array_equal(chunks[0]["a"], np.ones(3, np.float32))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_types_that_npz_forgets_are_refused(tmp_path: Path, dtype: type) -> None:
    """Saved by numpy, BF16 and FP8 are raw bytes; guessing which it was could only go wrong."""
    np.savez(tmp_path / "d.npz", h=np.ones(3, dtype))
    with pytest.raises(BackendFailed, match="'h' as raw bytes") as caught:
        CapturedSession(tmp_path / "d.npz")
    assert "astype('float32')" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\3\4 junk", b"text"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """What is no .npz is told with the file's name."""
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(FeedError, match=r"d\.npz"):
        CapturedSession(tmp_path / "d.npz")


def test_pickles_are_refused(tmp_path: Path) -> None:
    """Loading a pickle can run any code."""
    np.savez(tmp_path / "d.npz", a=np.array([{}], dtype=object))
    with pytest.raises(FeedError, match="pickled"):
        CapturedSession(tmp_path / "d.npz")


def test_names_and_types_are_the_models(tmp_path: Path) -> None:
    """What the file cannot say is taken from the model: a name with slashes, an integer type; its notes are kept."""
    (tmp_path / "out.json").write_text('[{"name": "i", "dimensions": "2", "values": [1, 2]},'
                                       ' {"name": "y", "dimensions": "", "values": [0.5]}]')
    session = CapturedSession(tmp_path / "out.json", {"i": np.dtype(np.int32), "y": np.dtype(np.float32)})
    assert {n: v.dtype.name for n, v in session.tensors.items()} == {"i": "int32", "y": "float32"}
    assert len(session.notes) == 1
    assert session.notes[0].startswith("out.json: trtexec exports six digits")
    np.save(tmp_path / "_a_b.npy", np.ones(3, np.float32))
    for source in (tmp_path, tmp_path / "_a_b.npy"):
        assert set(CapturedSession(source, {"/a/b": None}).tensors) == {"/a/b"}


def test_a_runner_is_not_part_of_the_files_name() -> None:
    """FILE:RUNNER shows as the file, whatever slashes are in the runner's name."""
    source = Path(__file__).parents[1] / "graph" / "dumps" / "polygraphy" / "two_runners.json"
    capture = CapturedSession(Path(f"{source}:onnxrt-runner-N1-11/21")).run({})
    assert (capture.device, set(capture.outputs)) == ("two_runners.json", {"/a/Relu_output_0", "h", "y"})


def test_bf16_in_safetensors_is_known(tmp_path: Path) -> None:
    """That format says which type it is, so nothing is refused."""
    values = np.ones(2, ml_dtypes.bfloat16)
    header = b'{"h":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "d.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    assert CapturedSession(tmp_path / "d.safetensors").tensors["h"].dtype == ml_dtypes.bfloat16
