"""Python objects between two processes: small ones through a socket, arrays through memory that both map.

A message is the pickle of an object and, out of band, the bytes of its arrays: numpy leaves them there, and so is done
here with the weights inside a model. Once they are many, all go into one anonymous file whose descriptor is handed
over: nothing of it has a name, so nothing is left behind however either side ends.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import IO, Any

from onnx import ModelProto

from parity.graph.model import Model

_INLINE = 1 << 16  # bytes up to which mapping a file costs more than copying through the socket
_ALIGN = 64  # bytes, as numpy aligns its own
_HEAD = struct.Struct("<I?")  # how many parts, and whether they lie in a file


class Channel:
    """One end of a connected Unix socket.

    Args:
        end: the socket, which is this channel's from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: object) -> None:
        """Hand an object over.

        Raises:
            OSError: nobody listens any more, or there is no memory to hand it over in.
        """
        parts = _pickled(message)
        sizes = [len(p) for p in parts]
        head, table = _HEAD.pack(len(parts), sum(sizes) > _INLINE), struct.pack(f"<{len(parts)}Q", *sizes)
        if sum(sizes) <= _INLINE:
            self._end.sendall(b"".join([head, table, *parts]))
            return
        with _anonymous_file() as file:
            for part in parts:
                file.write(part)
                file.write(bytes(-len(part) % _ALIGN))
            file.flush()
            socket.send_fds(self._end, [head], [file.fileno()])
            self._end.sendall(table)

    def receive(self) -> object:
        """Wait for an object; its arrays are private to the receiver, and may be written into.

        Raises:
            EOFError: the other side is gone.
        """
        head, files, _, _ = socket.recv_fds(self._end, _HEAD.size, 1)
        try:
            head += self._exactly(_HEAD.size - len(head))
            count, shared = _HEAD.unpack(head)
            sizes = struct.unpack(f"<{count}Q", self._exactly(8 * count))
            if not shared:
                return _unpickled([self._exactly(size) for size in sizes])
            ends = [0]
            for size in sizes:
                ends.append(ends[-1] + size + -size % _ALIGN)
            view = memoryview(mmap.mmap(files[0], ends[-1], access=mmap.ACCESS_COPY))
            return _unpickled([view[start:start + size] for start, size in zip(ends, sizes, strict=False)])
        finally:
            for file in files:
                os.close(file)

    def waits(self, seconds: float) -> bool:
        """Whether something came, or the other side left, within that time."""
        return bool(wait([self._end], seconds))

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _exactly(self, size: int) -> bytearray:
        found = bytearray(size)
        view = memoryview(found)
        while view:
            got = self._end.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return found


class _Pickler(pickle.Pickler):
    """Leaves out what a model can work out again, and the bytes of its weights."""

    def reducer_override(self, thing: object) -> Any:
        if isinstance(thing, Model):
            return Model, (thing.proto, thing.folder, thing.path)
        if isinstance(thing, ModelProto):
            return ModelProto.FromString, (pickle.PickleBuffer(thing.SerializeToString()),)
        return NotImplemented


def _pickled(message: object) -> list[bytes | memoryview]:
    body, aside = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(body, protocol=5, buffer_callback=aside.append).dump(message)
    return [body.getvalue(), *(buffer.raw() for buffer in aside)]


def _unpickled(parts: Sequence[bytearray | memoryview]) -> object:
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - both ends are this very program


def _anonymous_file() -> IO[bytes]:
    """Memory where the system has it without a name (/dev/shm may be tiny in a container), else a nameless file."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("parity"), "w+b")
    return tempfile.TemporaryFile()
