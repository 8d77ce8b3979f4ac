"""Everything that can go wrong, as one tree.

    ParityError                 any of the below; `parity` exits with status 2
    ├── UsageError              an argument that makes no sense
    ├── ModelError              the file is not a model that can be read or run
    │   └── UnsupportedOp       an operator that no level of the executor knows
    ├── FeedError               inputs of the wrong name, dtype or shape, or that cannot be made
    ├── BackendUnavailable      a target that cannot run on this machine
    ├── BackendFailed           a target that started and broke
    ├── MatchError              two sides with nothing in common to compare
    └── OutputError             results that cannot be written

Every error carries a `hint`: the next thing to type or to look at.
"""

from __future__ import annotations


class ParityError(Exception):
    """Base of all errors that parity raises on purpose.

    Attributes:
        message: what happened, on which tensor, node or backend.
        hint: what to do next; empty where nothing sensible can be said.
        frames: lines of the user's own code that it came through, the innermost last.
    """

    def __init__(self, message: str, hint: str = "", frames: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.frames = frames

    def __str__(self) -> str:
        if self.frames:
            return "\n".join((self.message, *(f"  {frame}" for frame in self.frames), self.hint)).rstrip()
        return f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message


class UsageError(ParityError):
    """An argument that makes no sense."""


class ModelError(ParityError):
    """The file is not a model that can be read or run."""


class UnsupportedOp(ModelError):
    """An operator that no level of the executor knows."""


class FeedError(ParityError):
    """Inputs of the wrong name, dtype or shape, or that cannot be made."""


class BackendUnavailable(ParityError):
    """A target that cannot run on this machine; the message is the reason."""


class BackendFailed(ParityError):
    """A target that started and broke; the message holds its last words."""


class MatchError(ParityError):
    """Two sides with nothing in common to compare."""


class OutputError(ParityError):
    """Results that cannot be written."""


class Diverged(AssertionError):
    """What was asserted does not hold: a candidate is beyond its tolerance. No failure of parity's own."""
