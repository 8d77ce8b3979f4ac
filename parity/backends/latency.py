"""How long an unwatched run takes, so that error and speed can be weighed together."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from parity.backends.base import Feed, Session

_RUNS = 7
_BUDGET = 0.5  # seconds, after which no further run is started once there are three


@dataclass(frozen=True)
class Latency:
    """Wall time of one run in seconds, over a few runs after a warm-up.

    Attributes:
        median: what to quote.
        low: the fastest run.
        high: the slowest run.
        runs: how many.
    """

    median: float
    low: float
    high: float
    runs: int


def latency_of(session: Session, feed: Feed) -> Latency:
    """Run a few times; the session has run once before, which was the warm-up.

    Raises:
        BackendFailed: a run breaks.
    """
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < _RUNS and (len(seconds) < 3 or time.perf_counter() - start < _BUDGET):
        before = time.perf_counter()
        taken = session.run(feed).seconds  # without the way to another process and back
        seconds.append(time.perf_counter() - before if taken is None else taken)
    return Latency(statistics.median(seconds), min(seconds), max(seconds), len(seconds))
