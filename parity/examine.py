"""One contender on one sample: the verdict, every tensor, where the error comes from, and why.

    plain run   → outputs → verdict
    watched run → tensors → divergences, in lock step with the reference      (walk.py)
                          → first bad → shares and diagnoses                  (explain.py)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parity.analysis.attribute import Shares
from parity.analysis.outputs import (
    absence_notes,
    drawn_outputs,
    judge_outputs,
    noise_notes,
    random_notes,
    relative_limit,
    value_notes,
)
from parity.analysis.reads import without_unread
from parity.analysis.tolerance import DEFAULTS
from parity.backends.base import compiled_of
from parity.backends.latency import latency_of
from parity.contenders import Contender
from parity.errors import BackendFailed, BackendUnavailable, FeedError, MatchError, ModelError, OutputError
from parity.explain import Case, explain
from parity.figures import number
from parity.graph.model import Model
from parity.preparation import make_ready
from parity.report.assemble import accuracies, blamed_row, layer_of, output_layer, task_results
from parity.report.record import Candidate
from parity.sample import INTERRUPTED, Options, Sample, facts_of
from parity.walk import walk


@dataclass(frozen=True)
class Examined:
    """What one sample showed of a contender.

    Attributes:
        candidate: its row.
        shares: of its output error; None where they were not looked for.
        hidden: watching moved the outputs by as much as the error, so the tensors do not explain the verdict.
        searched: what came of a search in the deployed run; empty where there was none.
        deployed: its outputs when nobody watched.
        precision: whose tolerance applies.
    """

    candidate: Candidate
    shares: Shares | None = None
    hidden: bool = False
    searched: str = ""
    deployed: Mapping[str, np.ndarray] = field(default_factory=dict)
    precision: str = "fp32"


def examine(model: Model, contender: Contender, sample: Sample, options: Options) -> Examined:
    """Run one contender on one sample; what befalls it is in its status."""
    blank = Candidate(str(contender), "ok", asked=contender.asked, emulated=contender.emulated)
    try:
        return _one_sample(model, contender, blank, sample, options)
    except KeyboardInterrupt:
        return Examined(replace(blank, status="failed", reason=INTERRUPTED))
    except BackendUnavailable as error:
        return Examined(replace(blank, status="unavailable", reason=str(error)))
    except (BackendFailed, FeedError, MatchError, ModelError, OutputError) as error:
        return Examined(replace(blank, status="failed", reason=str(error)))


def _one_sample(model: Model, contender: Contender, blank: Candidate, sample: Sample, options: Options) -> Examined:
    ready = make_ready(model, contender, sample.survey, sample.feed, options.calibration, options.run)
    capture = ready.session.run(sample.feed)
    timed = capture.seconds is not None and not contender.emulated
    latency = latency_of(ready.session, sample.feed) if timed else None
    compiled = compiled_of(ready.session)
    tolerance = options.tolerance or DEFAULTS[ready.precision]
    outputs = judge_outputs(sample.outputs, capture.outputs, sample.noise, tolerance)
    tasks = task_results(options.judges, options.task_limits, sample.outputs, capture.outputs, options.labels)
    agrees = all(o.passed for o in outputs) and all(t.passed for t in tasks)
    lower = contender.asked and ready.precision not in ("fp32", "fp64")
    seen = walk(sample, ready, str(contender), capture.outputs, options, keep=options.explain and (lower or not agrees))
    drawn = drawn_outputs(ready.variant)
    # Random numbers are drawn anew, watched or not, and tensors from a file were taken once: neither tells of watching.
    if drawn or contender.tensors is not None:
        seen = replace(seen, moved=None)
    limit = relative_limit(outputs, tolerance, ready.precision)
    found = without_unread(seen.found, ready.variant, sample.feed)
    said = explain(Case(model, contender, ready, sample, capture.outputs, outputs, found, seen, limit, agrees), options)
    flat = sample.survey.flat
    return Examined(replace(
        blank, status=seen.status, reason=seen.reason,
        verdict="error" if seen.status != "ok" else "divergence" if said.diverges else "parity",
        watching_moved_outputs=seen.moved,
        outputs=tuple(output_layer(o, flat.graph.producer.get(o.name)) for o in outputs),
        tensors=tuple(blamed_row(replace(layer_of(d, limit), portrait=said.portraits.get(d.tensor)), said.first_bad,
                                 deployed=bool(said.searched)) for d in found),
        diagnoses=said.diagnoses, first_bad=said.first_bad, version=capture.version, device=capture.device,
        seconds=capture.seconds, latency=latency, compiled=compiled.layers,
        notes=(*ready.notes, *compiled.notes, *absence_notes(sample.outputs, capture.outputs),
               *value_notes(outputs, sample.outputs), *random_notes(ready.variant),
               *noise_notes(outputs, tolerance, drawn)),
        model=None if contender.model is None else facts_of(contender.model, contender.model),
        accuracy=accuracies(sample.outputs, capture.outputs, options.labels), tasks=tasks),
        said.shares, said.hidden, said.searched, capture.outputs, ready.precision)


# Share of the outputs' tolerance from which on it is worth saying that watching changed the result.
_NOTICEABLE = 0.05
_WATCHING_HIDES = ("Watching changes the result{} by as much as the error itself, so no layer is blamed{}: the error "
                   "comes from an optimisation that watching undoes. Try `--optimization off`.")
_WATCHING_MOVES = ("Watching moved the outputs by {} (relative L2): the tensors are those of a run that rounds or "
                   "fuses otherwise than the deployed one.")


def watching_notes(samples: Sequence[Examined]) -> tuple[str, ...]:
    """What is to be said of how far watching changed the result, over all samples of one candidate."""
    found = _search_note(samples)
    hidden = sum(s.hidden and s.candidate.first_bad is None for s in samples)  # else it was found by other means
    if hidden == len(samples):
        return (*found, _WATCHING_HIDES.format("", ""))
    of = f" of {hidden} of {len(samples)} samples"
    notes = (*found, *([_WATCHING_HIDES.format(of, " in these")] if hidden else []))
    moved = max((_noticeable(s.candidate) for s in samples if not s.hidden), default=0.0)
    return (*notes, _WATCHING_MOVES.format(number(moved))) if moved else notes


def _search_note(samples: Sequence[Examined]) -> tuple[str, ...]:
    """What came of searching the deployed run: that of the earliest layer found, for all samples."""
    searched = [s for s in samples if s.searched]
    if not searched:
        return ()
    first = min(searched, key=lambda s: math.inf if s.candidate.first_bad is None else s.candidate.first_bad.index)
    more = len(searched) - 1
    return (first.searched + (f" {more} more of the samples {'was' if more == 1 else 'were'} searched likewise."
                              if more else ""),)


def _noticeable(candidate: Candidate) -> float:
    """How far watching moved the outputs; 0 where that is little beside their tolerance."""
    limit = max((o.tolerance for o in candidate.outputs if o.tolerance is not None), default=math.inf)
    moved = candidate.watching_moved_outputs
    return moved if moved is not None and limit * _NOTICEABLE < moved < math.inf else 0.0
