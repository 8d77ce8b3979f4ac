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
