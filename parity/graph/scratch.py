"""Temporary files: weights that many edits of a model share, cut models, tensors put aside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from parity.errors import OutputError


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files, removed when its owner lets go.

    Raises:
        OutputError: there is no place for one.
    """
    with told():
        return tempfile.TemporaryDirectory(prefix="parity-")


@contextmanager
def told() -> Iterator[None]:
    """Say in parity's words that temporary files cannot be written.

    Raises:
        OutputError: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        try:
            where = tempfile.gettempdir()
        except OSError:
            where = "any of the folders for them"
        raise OutputError(f"temporary files cannot be written to {where} ({error.strerror or error})",
                          "Free space there, or set TMPDIR to another folder.") from error
