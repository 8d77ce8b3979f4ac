"""The watched run beside the reference: every tensor on both sides, a stretch of the graph at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parity.analysis.localize import Divergence, divergences
from parity.analysis.match import comparable_tensors
from parity.analysis.measure import measure
from parity.analysis.outputs import OutputFinding
from parity.analysis.streams import Stream
from parity.backends.base import Feed, OnTorch, Session, common_device
from parity.errors import BackendFailed, ModelError, OutputError
from parity.graph.store import TensorStore
from parity.preparation import Ready
from parity.report.record import Status
from parity.sample import INTERRUPTED, Options, Sample

if TYPE_CHECKING:
    import torch

    from parity.graph.device import Lying


@dataclass(frozen=True)
class Walk:
    """How far one watched run went, and what it showed.

    Attributes:
        found: every tensor, in the reference's order.
        moved: largest relative L2 distance between watched and unwatched outputs; None where none was watched.
        shown: the candidate's tensors; None where they were not to be kept.
        status: "ok", or "failed" where it broke off.
        reason: why it did.
    """

    found: Sequence[Divergence]
    moved: float | None
    shown: TensorStore | None
    status: Status
    reason: str

    def hides(self, outputs: Sequence[OutputFinding]) -> bool:
        """Whether watching moved the outputs by as much as their error, so that its tensors do not explain them."""
        error = max((o.comparison.rel_l2 for o in outputs if o.comparison is not None), default=0.0)
        return self.moved is not None and self.moved >= error / 2


def walk(sample: Sample, ready: Ready, what: str, unwatched: Mapping[str, np.ndarray], options: Options, *,
         keep: bool) -> Walk:
    """Walk to the end, or as far as it goes; what was found until then is kept.

    Args:
        sample: the reference.
        ready: the candidate.
        what: to call it when telling of progress.
        unwatched: its outputs when nobody watched.
        options: how to compare.
        keep: whether to keep its tensors.
    """
    flat = sample.survey.flat
    wanted = comparable_tensors(flat)
    shown = TensorStore(options.run.memory) if keep else None
    watching = _Watching(unwatched, shown)
    there = common_device(sample.session, ready.session)
    left = _stream(_chunks(sample.session, sample.feed, wanted, sample.survey.sizes, there), wanted, wanted, options)
    chunks = _chunks(ready.session, sample.feed, ready.shown, ready.sizes, there)
    right = _stream(watching.passing(chunks), ready.shown, ready.order, options)
    names = frozenset(comparable_tensors(ready.variant))
    found: list[Divergence] = []
    status: Status = "ok"
    reason = ""
    try:
        for divergence in divergences(flat, ready.variant, sample.feed, left, right, names, there):
            found.append(divergence)
            options.progress(what, len(found), len(ready.shown))
    except KeyboardInterrupt:
        status, reason = "failed", INTERRUPTED
    except (BackendFailed, ModelError, OutputError) as error:
        status, reason = "failed", str(error)
    return Walk(found, watching.moved, shown, status, reason)


def _chunks(session: Session, feed: Feed, names: Collection[str], sizes: Mapping[str, int],
            there: torch.device | None) -> Iterator[Mapping[str, Lying]]:
    """A session's tensors, left on the device where all sides have them."""
    if there is not None and isinstance(session, OnTorch):
        return session.watch_there(feed, names)
    return session.watch(feed, names, sizes)


def _stream(chunks: Iterator[Mapping[str, Lying]], shown: Collection[str], order: Sequence[str],
            options: Options) -> Stream:
    return Stream(chunks, frozenset(shown), {name: i for i, name in enumerate(order)}, options.run.memory)


def watched(ready: Ready, sample: Sample, options: Options) -> TensorStore:
    """All of the candidate's tensors, from another watched run."""
    store = TensorStore(options.run.memory)
    for chunk in ready.session.watch(sample.feed, ready.shown, ready.sizes):
        for name, value in chunk.items():
            store.put(name, value)
    return store


class _Watching:
    """Notes how far the watched outputs are from the unwatched ones, and keeps what passes."""

    def __init__(self, unwatched: Mapping[str, np.ndarray], shown: TensorStore | None) -> None:
        self.moved: float | None = None
        self._unwatched, self._shown = unwatched, shown

    def passing(self, chunks: Iterator[Mapping[str, Lying]]) -> Iterator[Mapping[str, Lying]]:
        """Pass the chunks on."""
        for chunk in chunks:
            for name in chunk.keys() & self._unwatched.keys():
                self.moved = max(self.moved or 0.0, _distance(self._unwatched[name], chunk[name]))
            if self._shown is not None:
                for name, value in chunk.items():
                    self._shown.put(name, np.asarray(value))
            yield chunk


def _distance(gold: Lying, other: Lying) -> float:
    return measure(gold, other).rel_l2 if gold.shape == other.shape else math.inf
