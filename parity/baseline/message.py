"""A run that is worse than its baseline, as a test's failure message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from parity.baseline.drift import Drift
from parity.baseline.record import Baseline
from parity.report import words
from parity.report.message import blame, laid_out, subject, told
from parity.report.record import Candidate, Report

_MEANING = {"own": "what the layer itself adds", "error": "the error up to there"}


def regression(report: Report, candidate: Candidate, drifts: Sequence[Drift], accepted: Baseline, path: Path,
               again: str, written: Path | None = None) -> str:
    """Which layer moved, by how much, and what that did to the outputs.

    Args:
        report: the run.
        candidate: the one that is worse than its baseline, while within tolerance.
        drifts: what is worse, in the order of the graph; at least one.
        accepted: the baseline.
        path: its file.
        again: the command that holds the run against the baseline again; a comparison alone would find parity.
        written: the report's main file, if it was written.
    """
    first, layer = drifts[0], drifts[0].layer
    at = f", {words.visible(layer.source)}" if layer.source else ""
    which = f"{'output ' * first.output}{words.visible(layer.tensor)} ({words.visible(layer.op)}){at}"
    lines = [("moved", f"{which}: {_MEANING[first.figure]} is {_change(first)}")]
    later = {d.layer.tensor for d in drifts} - {layer.tensor}
    if later:
        lines.append(("with it", f"{words.plural(len(later), 'tensor')} after it"))
    lines += [("output", _output(drift)) for drift in drifts if drift.output and drift is not first][:1]
    lines += [("since then", _since(report, candidate, accepted)), *blame(report, candidate),
              ("next", _next(first, which)),
              ("baseline", f"{path}; `{again} --parity-update` accepts this run instead"),
              ("report", told(written)), ("again", words.visible(again))]
    return laid_out(f"{subject(report, candidate)}: worse than its baseline, while within tolerance", lines)


def _next(first: Drift, which: str) -> str:
    where = "at" if first.figure == "own" else "before"
    return f"Find what changed {where} {which}; where that is meant, accept it as the new baseline."


def _since(report: Report, candidate: Candidate, accepted: Baseline) -> str:
    """What is not as it was, as far as it is known."""
    facts = candidate.model or report.model
    another = "the model is another file" if facts.path.endswith(".onnx") else (
        "the model, which is in memory, is not the same to the byte (an export holds paths of its sources, too)")
    model = another if facts.sha256 != accepted.sha256 else ""
    version = f"the runtime was {accepted.version}, is {candidate.version}" * (candidate.version != accepted.version)
    known = "; ".join(filter(None, [model, version]))
    return words.visible(known) or "the same model and version of the runtime: the machine, or how it is run, differs"


def _output(drift: Drift) -> str:
    limit = words.number(drift.layer.tolerance)
    return f"{words.visible(drift.layer.tensor)}: relative L2 error {_change(drift)}, limit {limit}"


def _change(drift: Drift) -> str:
    times = f" ({words.number(drift.now / drift.before)} times)" if 0 < drift.before < math.inf else ""
    return (f"{words.number(drift.now)}, was {words.number(drift.before)}{times}; "
            f"rounding explains {words.number(drift.noise)} more")
