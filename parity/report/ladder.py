"""Where on the way to deployment the error enters, in the words that every renderer shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity.report import markup, words
from parity.report.record import Candidate, Report
from parity.report.rungs import Rung, Stage

WHAT: Mapping[Stage, str] = {
    "truth": "the truth", "types": "its own number types", "export": "the export, on torch",
    "reference": "the reference", "runtime": "the runtime", "optimised": "graph optimisation",
    "precision": "the number format", "compiled": "torch.compile", "other": "what was given beside it"}

# How an answer says it.
_WITH: Mapping[Stage, str] = {
    "truth": "nowhere", "types": "with the model's own number types", "export": "with the export",
    "reference": "with the reference's runtime", "runtime": "with the runtime", "optimised": "with graph optimisation",
    "precision": "with the number format", "compiled": "with torch.compile", "other": "with it"}
_RUNTIME = "with what the runtime does in that number format"


def mark(rung: Rung) -> words.Mark:
    """How a rung did, at a glance."""
    if rung.above is None or rung.output is None:
        return "none"
    return "bad" if not rung.passed else "warn" if rung.first_bad is not None else "good"


def way_to(report: Report, candidate: Candidate) -> tuple[Rung, ...]:
    """The rungs that a candidate stands on, the truth first; the module itself stands for its export."""
    rungs = {rung.name: rung for rung in report.ladder}
    name: str | None = next((r.name for r in report.ladder if r.stage == "export" and r.above == candidate.target),
                            candidate.target)
    way: list[Rung] = []
    while name in rungs:
        way.append(rungs[name])
        name = rungs[name].above
    return tuple(reversed(way))


def entrance(way: Sequence[Rung]) -> Rung | None:
    """The first rung that adds more than is accepted, else the first that hides a bad layer."""
    marked = [rung for rung in way if mark(rung) == "bad"] or [rung for rung in way if mark(rung) == "warn"]
    return marked[0] if marked else None


def sentence(way: Sequence[Rung]) -> str:
    """Where the error enters, in one sentence; empty where there is none, or no ladder."""
    rung = entrance(way)
    if rung is None:
        return ""
    limit = "" if rung.limit is None else f" (accepted: {words.number(rung.limit)})"
    where = f"{_RUNTIME if _by_runtime(rung) else _WITH[rung.stage]}, at {words.visible(rung.name)}"
    if rung.passed:
        return f"An error enters {where}, and the outputs hide it: it adds {words.number(rung.added)}{limit}."
    adds = f"which adds {words.number(rung.added)}" if rung.added is not None else "which changes a shape"
    return f"The error enters {where}, {adds}{limit}."


def _by_runtime(rung: Rung) -> bool:
    """Whether it is the runtime in a number format that goes wrong, and not the format."""
    return rung.stage == "precision" and rung.first_bad is not None and rung.first_bad.kind == "implementation"


def notes(rungs: Sequence[Rung]) -> tuple[str, ...]:
    """What is to be said beside the figures."""
    return tuple(words.line(rung.note) for rung in rungs if rung.note)


def section(report: Report) -> str:
    """The ladder for the HTML report: a picture and a table; empty where there is none."""
    rungs = report.ladder
    if len(rungs) < 2:
        return ""
    table = markup.table(
        "Error of the outputs, rung by rung",
        ("Rung", "What it changes", ">Error", ">Adds", ">Accepted", "First bad layer", "Verdict"), map(_row, rungs))
    said = "".join(f"<p class='quiet'>{markup.text(note)}</p>" for note in notes(rungs))
    picture = markup.beside(
        "", "Error of the outputs and what each rung adds. The table beside it holds the same figures.",
        "Bars are what a rung adds, points the error that has gathered; lines join it to the one it stands on.",
        table, place="ladder-plot", above=True)
    return f"<section aria-labelledby='ladder-title'>{_LEAD}{picture}{said}</section>"


_LEAD = """<h2 id='ladder-title'>Where the error enters</h2>
<p class='lead'>The way from the model in FP64 to each target. <em>Error</em> is the distance of the outputs from the
first rung, everything between included; what a rung <em>adds</em> is their distance from the one it stands on.</p>"""


def _row(rung: Rung) -> tuple[str, ...]:
    after = "" if rung.above is None else f" <small>after {markup.name(rung.above)}</small>"
    found, how = rung.first_bad, mark(rung)
    verdict = {"good": "within", "bad": "beyond", "warn": "hides a bad layer", "none": "–"}[how]
    blamed = "–" if found is None else f"{markup.name(found.tensor)} <small>{markup.text(found.op)}</small>"
    return (markup.name(rung.name), WHAT[rung.stage] + after, words.number(rung.error), words.number(rung.added),
            words.number(rung.limit), blamed, verdict if how == "none" else markup.badge(how, verdict))
