"""A backend in a process of its own: what a crash, a hang or a leak of the runtime can do ends with that process.

    this process                     its child (worker.py), one for each session
    IsolatedSession.run(feed)  ──►   Session.run(feed)
                               ◄──   Capture, a ParityError, or silence: it died, and its standard error says why
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from parity.backends.base import Backend, Capture, Chunk, Compiled, Feed, RunOptions
from parity.backends.channel import Channel
from parity.backends.worker import Answer, Call, Ended, Leave, More, Refused, Streaming
from parity.errors import BackendFailed
from parity.graph.model import Model
from parity.graph.scratch import temporary_folder
from parity.targets import Target

_LOOK = 0.5  # seconds between two looks at whether a silent child still lives
_ASKING_DEVICES = 60.0  # seconds that a runtime may take to say where it can run
_LAST_WORDS = 300  # characters
_WHILE = {"open": "while it was opening the model", "run": "while it was running the model",
          "watch": "while its tensors were watched", "show": "while a few of its tensors were shown",
          "devices": "when asked for its devices"}


def isolated(path: str, name: str = "") -> Backend:
    """A backend whose sessions each live in a child process.

    Args:
        path: "module:Class" of a `Backend`; imported in the child only.
        name: what to call it when talking to people; the class's name where empty.
    """
    return _Isolated(path, name or path.rpartition(":")[2])


class _Isolated:
    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name

    def devices(self) -> list[str]:
        """The devices that it can run on here, by its own account.

        Raises:
            BackendUnavailable: it cannot run at all, and why.
            BackendFailed: it died of the question.
        """
        child = _Child(self._path, self._name, _ASKING_DEVICES)
        try:
            return cast("list[str]", child.ask("devices"))
        finally:
            child.end()

    def open(self, model: Model, flat: Model, target: Target, options: RunOptions) -> IsolatedSession:
        """Make a model ready to run, in a new process.

        Raises:
            BackendUnavailable: the target cannot run here.
            BackendFailed: the runtime refuses the model, or died of it.
        """
        child = _Child(self._path, str(target), options.patience)
        able = cast("tuple[str, ...]", child.ask("open", model, flat, target, options))
        return IsolatedSession(child, frozenset(able))


class IsolatedSession:
    """A session in a child process, which ends when this is dropped."""

    def __init__(self, child: _Child, able: frozenset[str]) -> None:
        self._child = child
        self._able = able

    def run(self, feed: Feed) -> Capture:
        """Run the model as deployed."""
        return cast("Capture", self._child.ask("run", dict(feed)))

    def show(self, feed: Feed, names: Collection[str]) -> Capture:
        """Run the model as deployed, with a few more outputs."""
        return cast("Capture", self._child.ask("show", dict(feed), tuple(names)))

    def watch(self, feed: Feed, names: Collection[str], sizes: Mapping[str, int]) -> Iterator[Chunk]:
        """Show tensors as the session in the child shows them, in pieces that may be smaller than its own."""
        yield from cast("Iterator[Chunk]", self._child.stream("watch", dict(feed), tuple(names), dict(sizes)))

    def compiled(self) -> Compiled:
        """What the runtime made of the model; nothing where the session does not say."""
        return cast("Compiled", self._child.ask("compiled")) if "compiled" in self._able else Compiled()


class _Child:
    """The process and the way to talk to it.

    Args:
        path: "module:Class" of the backend.
        name: what to call it.
        patience: seconds that an answer may take.
    """

    def __init__(self, path: str, name: str, patience: float) -> None:
        self._name = name
        self._patience = patience
        self._fate = BackendFailed(f"{name} was interrupted", "Run the command again.")
        self._folder = temporary_folder()  # also of all temporary files of the child, so that its death leaves none
        self._said = Path(self._folder.name) / "said.txt"
        ours, theirs = socket.socketpair()
        broken, self._lifeline = os.pipe()
        code = (f"import sys; sys.path[:] = {sys.path!r}; from parity.backends.worker import main; "
                f"main({path!r}, {theirs.fileno()}, {broken})")
        with self._said.open("wb") as said, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                pass_fds=(theirs.fileno(), broken), env={**os.environ, "TMPDIR": self._folder.name},
                start_new_session=True)  # Ctrl-C is for us; and all that it starts can be ended together
        os.close(broken)
        self._channel = Channel(ours)
        self.end = weakref.finalize(self, _end, self._process, self._channel, self._lifeline, self._folder)

    def ask(self, method: str, *arguments: object) -> object:
        """Call a method of the backend or session, and wait for what it returns.

        Raises:
            ParityError: as it raised it there.
            BackendFailed: it died, or took too long.
        """
        answer = self._exchange(Call(method, arguments), method)
        return answer.value if isinstance(answer, Answer) else answer

    def stream(self, method: str, *arguments: object) -> Iterator[object]:
        """Call a method that returns an iterator, and pass on what comes of it, one chunk asked for at a time."""
        opened = self.ask(method, *arguments)
        assert isinstance(opened, Streaming)  # noqa: S101 - as the protocol has it
        try:
            while not isinstance(found := self._exchange(More(opened.stream), method), Ended):
                yield cast("Answer", found).value
        finally:
            with suppress(BackendFailed):
                self._exchange(Leave(opened.stream), method)

    def _exchange(self, request: object, method: str) -> object:
        if not self.end.alive:
            raise self._fate
        try:
            answer = self._answer(request, method)
        except BaseException as error:  # Ctrl-C too: its answer, still to come, would be taken for the next one's
            self._fate = error if isinstance(error, BackendFailed) else self._fate
            self.end()
            raise
        if isinstance(answer, Refused):
            raise answer.error
        return answer

    def _answer(self, request: object, method: str) -> object:
        deadline = time.monotonic() + self._patience
        try:
            self._channel.send(request)
            while not self._channel.waits(_LOOK):
                if self._process.poll() is not None:  # and yet no end of file: what it started lives on
                    raise self._died(method)
                if time.monotonic() > deadline:
                    raise self._hung(method)
            return self._channel.receive()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise self._died(method) from error

    def _died(self, method: str) -> BackendFailed:
        try:
            status = self._process.wait(_LOOK)
        except subprocess.TimeoutExpired:  # it hung up, but goes on
            status = 0
        how = f"exited with status {status}" if status >= 0 else f"died of {_signal_name(-status)}"
        hint = "Try `--optimization off`, and look the model over with `parity inspect MODEL`."
        if status == -signal.SIGKILL:
            hint = "The system does that when memory runs out: free some, or try smaller inputs (`--shape`)."
        elif status == -signal.SIGFPE:
            hint = "A processor does that where the least integer is divided by -1, or any by 0: look at Div and Mod."
        return BackendFailed(f"{self._name} {how} {_WHILE.get(method, '')}{self._last_words()}", hint)

    def _hung(self, method: str) -> BackendFailed:
        return BackendFailed(
            f"{self._name} gave no answer within {self._patience:g} s {_WHILE.get(method, '')}{self._last_words()}",
            f"Where it is only slow, give it longer: PARITY_PATIENCE={4 * self._patience:g} parity …")

    def _last_words(self) -> str:
        with suppress(OSError):
            size = self._said.stat().st_size
            with self._said.open("rb") as said:
                said.seek(max(0, size - 4 * _LAST_WORDS))
                text = " ".join(said.read().decode(errors="replace").split())
            return f"; its last words: {text[-_LAST_WORDS:]}" if text else ""
        return ""


def _end(process: subprocess.Popen[bytes], channel: Channel, lifeline: int, folder: TemporaryDirectory[str]) -> None:
    """End the process and all that it started, and remove what they wrote."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    channel.close()
    os.close(lifeline)
    folder.cleanup()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
