"""The report as a test's failure message: about ten lines, the answer first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from parity.report import answer, named, repairs, shares, words
from parity.report.record import Candidate, Layer, Report

_CAUSE = 300  # characters
_MORE = 3  # candidates with a line of their own


def failure(report: Report, candidates: Sequence[Candidate], written: Path | None = None) -> str:
    """What went wrong, for somebody who reads a log.

    Args:
        report: the run.
        candidates: those of its candidates that fail; at least one.
        written: where the report's files are, if they were written.
    """
    lines = [*_outputs(candidates[0]), *blame(report, candidates[0]), *_remedy(report, candidates[0])]
    lines += [("also", f"{words.target(c)}: {words.verdict(c)}") for c in candidates[1:_MORE]]
    if len(candidates) > _MORE:
        lines.append(("also", f"{len(candidates) - _MORE} more: {', '.join(map(words.target, candidates[_MORE:]))}"))
    lines += [("report", told(written)), ("again", words.visible(report.command))]
    return laid_out(f"{subject(report, candidates[0])}: {words.verdict(candidates[0])}", lines)


def laid_out(head: str, lines: Sequence[tuple[str, str]]) -> str:
    """A headline and labelled lines below it; those without text are left out."""
    return "\n".join([head, *(f"  {label:<10} {text}" for label, text in lines if text)])


def subject(report: Report, candidate: Candidate) -> str:
    """What was compared: a model on a target, or one model against another."""
    model = words.visible(report.model.path)
    if candidate.model is None:
        return f"{model} on {words.target(candidate)}"
    return f"{words.target(candidate)} against {model}"


def told(written: Path | None) -> str:
    """Where the report is; nothing where none was written."""
    return "" if written is None else str(written)


def _outputs(candidate: Candidate) -> list[tuple[str, str]]:
    output = worst_output(candidate)
    lines = [("output", _figures(output))] if output is not None else []
    return lines + [("asked", words.task(task)) for task in candidate.tasks if not task.passed][:2]


def blame(report: Report, candidate: Candidate) -> list[tuple[str, str]]:
    """The first bad layer, its share and the cause, as (label, text), as far as they are known."""
    found = candidate.first_bad
    lines: list[tuple[str, str]] = []
    if found is not None:
        layer = words.blamed_layer(candidate)
        at = f", {words.visible(found.source)}" if found.source else ""
        nodes = (candidate.model or report.model).nodes
        label = "beyond" if named.gathered(candidate) else "first bad"
        lines.append((label, (f"{named.called(candidate).removeprefix('beyond ')}, node {found.index:,} of "
                              f"{nodes:,}{at}")))
        lines += [("region", words.region(found))] if found.region else []
        lines.append(("kind", named.kind(candidate)))
        if named.gathered(candidate):
            lines.append(("share", named.sources(candidate)))
        elif layer is not None and layer.share is not None:
            lines.append(("share", f"{shares.percent(layer.share)} of the output error"))
    return lines + [("why", f"{words.visible(each.cause)}: {_short(words.cause(each))}")
                    for each in candidate.diagnoses[:1]]


def _remedy(report: Report, candidate: Candidate) -> list[tuple[str, str]]:
    fix = repairs.best(candidate)
    if fix is not None:
        return [("fix", repairs.sentence(candidate, fix))]
    return [("next", answer.step_for(report, candidate))] if candidate.status == "ok" else []


def worst_output(candidate: Candidate) -> Layer | None:
    """The output that is furthest beyond its limit."""
    return max(candidate.outputs, key=_beyond, default=None)


def _beyond(output: Layer) -> tuple[bool, float]:
    error = math.inf if output.accumulated is None else output.accumulated.rel_l2
    return not output.passed, math.inf if math.isnan(error) else error / (output.tolerance or 1.0)


def _figures(output: Layer) -> str:
    c = output.accumulated
    limit = f" (limit {words.limit(output)})" if output.tolerance is not None or output.limits else ""
    if c is None:
        return f"{words.visible(output.tensor)} cannot be compared: shape {words.shape(output.shape)}"
    return (f"{words.visible(output.tensor)}: relative L2 error {words.number(c.rel_l2)}{limit}, "
            f"max |Δ| {words.number(c.max_abs)}, cosine {c.cosine:.6f}")


def _short(text: str) -> str:
    return text if len(text) <= _CAUSE else f"{text[:_CAUSE - 1]}…"
