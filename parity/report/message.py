"""The report as a test's failure message: about ten lines, the answer first."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from parity.report import answer, repairs, shares, words
from parity.report.record import Candidate, Layer, Report

_CAUSE = 300  # characters


def failure(report: Report, candidates: Sequence[Candidate], written: Path | None = None) -> str:
    """What went wrong, for somebody who reads a log.

    Args:
        report: the run.
        candidates: those of its candidates that fail; at least one.
        written: where the report's files are, if they were written.
    """
    lines: list[tuple[str, str]] = []
    for candidate in candidates[:1]:
        lines += _told(report, candidate)
    lines += [("also", f"{words.target(c)}: {words.verdict(c)}") for c in candidates[1:]]
    if written is not None:
        lines.append(("report", str(written)))
    lines.append(("again", reproduce(report, candidates[0])))
    head = f"{words.visible(report.model.path)} on {words.target(candidates[0])}: {words.verdict(candidates[0])}"
    return "\n".join([head, *(f"  {label:<10} {text}" for label, text in lines if text)])


def reproduce(report: Report, candidate: Candidate) -> str:
    """The command that shows it again."""
    if report.command:
        return words.visible(report.command)
    parts = ["parity", "compare", report.model.path, "-r", report.reference.target, "-c", candidate.target]
    files = dict.fromkeys(i.source.removeprefix("file ") for i in report.inputs if not i.source.startswith("seeded"))
    parts += [part for name in files for part in ("--input", name)] if files else ["--seed", str(report.seed)]
    parts += ["--samples", str(report.samples)] if report.samples > 1 and not files else []
    return words.visible(shlex.join(parts))


def _told(report: Report, candidate: Candidate) -> list[tuple[str, str]]:
    output, found, fix = worst_output(candidate), candidate.first_bad, repairs.best(candidate)
    lines = [("output", _figures(output))] if output is not None else []
    lines += [("asked", words.task(task)) for task in candidate.tasks if not task.passed]
    if found is not None:
        layer = words.blamed_layer(candidate)
        at = f", {words.visible(found.source)}" if found.source else ""
        nodes = (candidate.model or report.model).nodes
        lines.append(("first bad", f"{words.blamed(found)}, node {found.index:,} of {nodes:,}{at}"))
        lines.append(("kind", words.KINDS[found.kind]))
        if layer is not None and layer.share is not None:
            lines.append(("share", f"{shares.percent(layer.share)} of the output error"))
    lines += [("why", f"{words.visible(each.cause)}: {_short(words.cause(each))}") for each in candidate.diagnoses[:1]]
    if fix is not None:
        lines.append(("fix", repairs.sentence(candidate, fix)))
    elif candidate.status == "ok":
        lines.append(("next", answer.next_step(report)))
    return lines


def worst_output(candidate: Candidate) -> Layer | None:
    """The output that is furthest beyond its limit."""
    return max(candidate.outputs, key=_beyond, default=None)


def _beyond(output: Layer) -> tuple[bool, float]:
    error = math.inf if output.accumulated is None else output.accumulated.rel_l2
    return not output.passed, math.inf if math.isnan(error) else error / (output.tolerance or 1.0)


def _figures(output: Layer) -> str:
    c = output.accumulated
    limit = "" if output.tolerance is None else f" (limit {words.number(output.tolerance)})"
    if c is None:
        return f"{words.visible(output.tensor)} cannot be compared: shape {words.shape(output.shape)}"
    return (f"{words.visible(output.tensor)}: relative L2 error {words.number(c.rel_l2)}{limit}, "
            f"max |Δ| {words.number(c.max_abs)}, cosine {c.cosine:.6f}")


def _short(text: str) -> str:
    return text if len(text) <= _CAUSE else f"{text[:_CAUSE - 1]}…"
