"""Objects between two processes: what comes out is what went in, whatever its size and type."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.backends.channel import Channel
from parity.errors import BackendFailed
from parity.graph.model import Model
from tests.builders import chain


def passed(message: object) -> object:
    """What the other end receives."""
    ours, theirs = map(Channel, socket.socketpair())
    sender = threading.Thread(target=ours.send, args=(message,))  # a large message fills the socket
    sender.start()
    found = theirs.receive()
    sender.join()
    ours.close()
    theirs.close()
    return found


@given(st.lists(hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.bool_, np.float16, np.complex64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=60)), max_size=4))
@settings(max_examples=40, deadline=None)
def test_arrays_arrive_as_they_were(arrays: list[np.ndarray]) -> None:
    """Every array keeps its type, shape and bits, and the receiver may write into it."""
    found = passed(arrays)
    assert isinstance(found, list)
    for sent, got in zip(arrays, found, strict=True):
        assert (sent.dtype, sent.shape) == (got.dtype, got.shape)
        assert sent.tobytes() == got.tobytes()
        assert got.flags.writeable


@pytest.mark.parametrize("count", [3, 100_000])
def test_odd_arrays_arrive(count: int) -> None:
    """So do transposed and strided ones, text, and the types that numpy does not have itself, however large."""
    whole = np.arange(2 * count, dtype=np.float32)
    for array in (whole.reshape(2, count).T, whole[::2], whole.astype(ml_dtypes.bfloat16),
                  np.array(["tensor", "Ω"] * count, object), np.array(5.0), whole[:0]):
        got = passed(array)
        assert isinstance(got, np.ndarray)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_what_is_received_is_the_receivers() -> None:
    """Writing into a received array does not reach the sender's."""
    sent = np.zeros(100_000)
    got = passed(sent)
    assert isinstance(got, np.ndarray)
    got += 1
    assert not sent.any()


def test_a_model_arrives_without_what_it_can_work_out_again(tmp_path: Path) -> None:
    """A model comes with its weights, folder and path; what it has cached does not travel."""
    model = Model(chain(), tmp_path, tmp_path / "m.onnx")
    assert len(model.graph.nodes) == len(chain().graph.node)
    got = passed((model, model))
    assert isinstance(got, tuple)
    assert got[0] is got[1]
    assert got[0].proto == model.proto
    assert (got[0].folder, got[0].path) == (model.folder, model.path)
    assert "graph" not in vars(got[0])


def test_errors_arrive_with_their_hints() -> None:
    """A ParityError keeps both of its sentences."""
    got = passed(BackendFailed("it broke", "Mend it."))
    assert isinstance(got, BackendFailed)
    assert (got.message, got.hint) == ("it broke", "Mend it.")


def test_a_closed_end_is_an_end_of_file() -> None:
    """Who waits for one that has hung up is told so, and no descriptor stays open."""
    held = Path("/proc/self/fd")
    before = len(list(held.iterdir()))
    ours, theirs = map(Channel, socket.socketpair())
    ours.close()
    assert theirs.waits(0)
    with pytest.raises(EOFError):
        theirs.receive()
    theirs.close()
    assert isinstance(passed(np.zeros(100_000)), np.ndarray)
    assert before == len(list(held.iterdir()))
