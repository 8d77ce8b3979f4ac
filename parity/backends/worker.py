"""The process in which a backend runs by itself: it opens one model, and does what it is asked until nobody asks.

It imports what the backend imports and no more: started for nothing, it costs little.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from parity.backends.channel import Channel
from parity.errors import BackendFailed, ParityError

_PIECE = 16 * 2**20  # bytes of tensors handed over at a time, so that one kept does not keep many


@dataclass(frozen=True)
class Call:
    """A request: a method of the backend, or of the session that `open` made, with its arguments."""

    method: str
    arguments: tuple[object, ...] = ()


@dataclass(frozen=True)
class More:
    """A request for the next chunk of a stream."""

    stream: int


@dataclass(frozen=True)
class Leave:
    """A request to forget a stream."""

    stream: int


@dataclass(frozen=True)
class Answer:
    """What a method returned."""

    value: object = None


@dataclass(frozen=True)
class Streaming:
    """A method returned an iterator, to be asked under this number."""

    stream: int


@dataclass(frozen=True)
class Ended:
    """A stream has no more chunks."""


@dataclass(frozen=True)
class Refused:
    """A method raised."""

    error: ParityError


def main(path: str, messages: int, lifeline: int) -> None:
    """Serve until the other side hangs up.

    Args:
        path: "module:Class" of the backend.
        messages: descriptor of the socket that requests come through.
        lifeline: descriptor of a pipe that breaks when the process on the other side ends.
    """
    # The kernel then ends this process (SIGIO), even where the runtime never returns to Python.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    try:
        alone = not os.read(lifeline, 1)  # it broke before that
    except BlockingIOError:
        alone = False
    if not alone:
        _serve(Channel(socket.socket(fileno=messages)), path)


def _serve(channel: Channel, path: str) -> None:
    server = _Server(path)
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            answer = server.answer(request)
            channel.send(answer)
        except ParityError as error:
            channel.send(Refused(error))
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is told on the other side
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0]
            channel.send(Refused(BackendFailed(f"{type(error).__name__}: {said}", "Try `--optimization off`.")))


class _Server:
    """One backend, the session that it opened, and the streams that are being read."""

    def __init__(self, path: str) -> None:
        module, _, name = path.partition(":")
        self._backend = getattr(import_module(module), name)()
        self._session: object = None
        self._streams: dict[int, Iterator[object]] = {}

    def answer(self, request: object) -> object:
        if isinstance(request, More):
            found = next(self._streams[request.stream], None)
            return Ended() if found is None else Answer(found)
        if isinstance(request, Leave):
            self._streams.pop(request.stream, None)
            return Answer()
        assert isinstance(request, Call)  # noqa: S101 - there are no other requests
        if request.method == "open":
            self._session = self._backend.open(*request.arguments)
            return Answer(tuple(name for name in dir(self._session) if not name.startswith("_")))
        found = getattr(self._session or self._backend, request.method)(*request.arguments)
        if not isinstance(found, Iterator):
            return Answer(found)
        number = len(self._streams)
        while number in self._streams:
            number += 1
        self._streams[number] = _pieces(found)
        return Streaming(number)


def _pieces(chunks: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    """The same tensors in the same order, not many bytes at a time."""
    for chunk in chunks:
        piece: dict[str, object] = {}
        held = 0
        for name, value in chunk.items():
            piece[name] = value
            held += getattr(value, "nbytes", 0)
            if held >= _PIECE:
                yield piece
                piece, held = {}, 0
        if piece:
            yield piece


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
