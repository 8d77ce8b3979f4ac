"""A backend in a process of its own, and every way in which that process can come to grief."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from parity.backends.base import RunOptions, Session
from parity.backends.isolate import IsolatedSession, isolated
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.feeds import load_feed
from parity.graph.model import Model
from parity.graph.survey import survey
from parity.targets import Target
from tests.builders import chain
from tests.models import FIXTURES, ROOT

CRASHING = "tests.backends.crashing:Crashing"
FEED = {"x": np.ones((4, 8), np.float32)}


def opened(how: str, patience: float = 60.0) -> IsolatedSession:
    """A session that comes to grief as `how` says."""
    model = Model.from_proto(chain())
    session = isolated(CRASHING).open(model, model, Target("crashing", how), RunOptions(patience=patience))
    assert isinstance(session, IsolatedSession)
    return session


def ends(pid: int) -> bool:
    """Whether a process ends before long; one that nobody has buried yet has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
    return False


def failure_of(when: str, how: str, patience: float = 60.0) -> BackendFailed:
    """What is said of a child that comes to grief; afterwards nothing of it is left."""
    if when == "open":
        with pytest.raises(BackendFailed) as caught:
            opened(f"open.{how}", patience)
        return caught.value
    session = opened(f"{when}.{how}")
    session._child._patience = patience  # from now on: starting may take its time
    process, folder = session._child._process, Path(session._child._folder.name)
    with pytest.raises(BackendFailed) as caught:
        session.run(FEED) if when == "run" else list(session.watch(FEED, ["a"], {}))
    if how != "raise":
        assert process.returncode is not None
        assert not folder.exists()
        with pytest.raises(BackendFailed) as again:  # it does not come back to life
            session.run(FEED)
        assert again.value.message == caught.value.message
    return caught.value


def test_what_is_asked_is_answered() -> None:
    """Runs, shown tensors, watched ones and devices come from the child as the session there gives them."""
    session = opened("fine")
    found = session.run(FEED)
    np.testing.assert_array_equal(found.outputs["x"], 2 * FEED["x"])
    assert found.outputs["pid"] != os.getpid()
    assert found.outputs["nodes"] == 7
    assert "b" in session.show(FEED, ["b"]).outputs
    chunks = list(session.watch(FEED, ["a", "b"], {"a": 80}))
    assert [list(c) for c in chunks] == [["a", "b"], ["last"]]
    assert chunks[0]["a"].shape == (10,)
    assert session.compiled().layers == ()
    assert isolated(CRASHING).devices() == ["abacus"]


def test_two_streams_at_once() -> None:
    """Streams of one session may be read in turns, with runs in between, and one may be left before its end."""
    session = opened("fine")
    first, second = (session.watch(FEED, names, {}) for names in (["a"], ["b"]))
    assert (list(next(first)), list(next(second))) == (["a"], ["b"])
    session.run(FEED)
    assert list(next(first)) == ["last"]
    second.close()  # type: ignore[attr-defined]
    assert list(first) == []
    assert session.run(FEED).version == "1"


def test_large_chunks_come_in_pieces() -> None:
    """A tensor that is kept does not keep a whole stretch: pieces are of 16 MiB, in the same order."""
    names = [f"t{i}" for i in range(6)]
    chunks = list(opened("fine").watch(FEED, names, dict.fromkeys(names, 10 * 2**20)))
    assert [list(c) for c in chunks] == [["t0", "t1"], ["t2", "t3"], ["t4", "t5"], ["last"]]


@pytest.mark.parametrize("when", ["open", "run", "watch"])
def test_a_segfault_is_a_failure_with_its_last_words(when: str) -> None:
    """A child that reads address 0 has failed, with the signal, the moment and what it printed."""
    found = failure_of(when, "segfault")
    assert "SIGSEGV" in found.message
    assert {"open": "opening", "run": "running", "watch": "watched"}[when] in found.message
    assert found.message.endswith("its last words: engine: about to read address 0")
    assert "`parity inspect MODEL`" in found.hint


def test_a_killed_child_is_told_from_a_crashed_one() -> None:
    """SIGKILL is what a system out of memory sends, and the hint says what helps then."""
    found = failure_of("run", "killed")
    assert "SIGKILL" in found.message
    assert "memory" in found.hint


def test_a_child_that_exits_says_with_what() -> None:
    """A runtime that calls exit() is quoted."""
    assert failure_of("run", "exit").message.endswith(
        "exited with status 7 while it was running the model; its last words: license expired")


@pytest.mark.parametrize("when", ["open", "run", "watch"])
def test_a_hanging_child_is_ended(when: str) -> None:
    """One that gives no answer in time is ended, though it never returns to Python; the hint says how to wait on."""
    found = failure_of(when, "hang", patience=2.0 if when == "open" else 1.0)
    assert "gave no answer within" in found.message
    assert "PARITY_PATIENCE" in found.hint


def test_what_a_child_started_ends_with_it() -> None:
    """A process that a dead child left behind, with the socket in its hands, is neither waited for nor left running."""
    session = opened("run.orphan")
    with pytest.raises(BackendFailed, match=r"exited with status 3 .* its last words: started \d+") as caught:
        session.run(FEED)
    assert ends(int(caught.value.message.split()[-1]))


@pytest.mark.parametrize(("how", "said"), [("raise", "ZeroDivisionError: by the runtime"), ("memory", "MemoryError")])
def test_an_exception_is_a_failure_of_one_line(how: str, said: str) -> None:
    """Whatever a runtime raises arrives as one line, and the child lives on."""
    session = opened(f"watch.{how}")
    with pytest.raises(BackendFailed, match=said) as caught:
        list(session.watch(FEED, ["a"], {}))
    assert "\n" not in caught.value.message
    assert session.run(FEED).version == "1"


def test_a_refusal_crosses_as_it_is() -> None:
    """A ParityError keeps its class, message and hint, and its child is gone."""
    with pytest.raises(BackendUnavailable, match="no such accelerator") as caught:
        opened("open.refuse")
    assert caught.value.hint == "Buy one."


def test_a_dropped_session_ends_its_child_and_its_files() -> None:
    """Memory, on a GPU too, goes back with the process, and its temporary files with it."""
    session = opened("fine")
    shown = session.run(FEED).outputs
    pid, folder = int(shown["pid"]), Path(str(shown["folder"]))
    assert folder.exists()
    assert Path(f"/proc/{pid}").exists()
    del session
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.parent.exists()


def test_an_interrupted_wait_ends_the_child(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Ctrl-C while waiting for a child that hangs reaches the caller, and nothing is left running."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    session = opened("run.hang")
    process = session._child._process
    waits = session._child._channel.waits

    def interrupted(seconds: float) -> bool:
        waits(0)
        signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr(session._child._channel, "waits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.run(FEED)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(BackendFailed, match="interrupted"):
        session.run(FEED)


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """The process that is killed itself can end nobody; its child ends all the same, even where it hangs."""
    code = ("import os, signal\nfrom tests.backends.test_isolate import opened, FEED\n"
            "s = opened('run.hang'); print(s._child._process.pid, flush=True)\n"
            "s._child._channel.send(__import__('parity.backends.worker', fromlist=['Call']).Call('run', (FEED,)))\n"
            "os.kill(os.getpid(), signal.SIGKILL)")
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
                            env={**os.environ, "TMPDIR": str(tmp_path)})  # where it cannot tidy up any more
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert ends(int(parent.stdout))


def test_a_child_imports_what_its_backend_does() -> None:
    """A bare child starts without torch, which nothing in it needs."""
    assert not opened("fine").run(FEED).outputs["torch"]


@pytest.mark.parametrize("memory", [2**14, 2**30])
def test_onnxruntime_isolated_gives_the_same_bits(memory: int) -> None:
    """Plain, shown and watched tensors of a real model are bit for bit those of the runtime in this process."""
    from parity.backends.ort import InProcess

    folder = FIXTURES / "digits_cnn"
    model = Model.load(folder / "model.onnx")
    feed, _ = load_feed(model, [str(folder / "inputs.npz")])
    surveyed = survey(model, feed)
    names = list(surveyed.sizes)
    found = []
    for backend in (InProcess(), isolated("parity.backends.ort:InProcess")):
        session: Session = backend.open(model, surveyed.flat, Target("onnxruntime"), RunOptions(threads=1,
                                                                                               memory=memory))
        watched = {n: v for c in session.watch(feed, names, surveyed.sizes) for n, v in c.items()}
        found.append({**watched, **session.show(feed, names[3:5]).outputs, **session.run(feed).outputs})
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)
