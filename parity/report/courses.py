"""What the HTML report says of several runs: each run, each target through them, and the layers that changed most."""

from __future__ import annotations

from parity.report import answer, markup, runs, words
from parity.report.record import Layer
from parity.report.runs import Course, Runs, Shift

_SHIFTS = 12  # layers that are listed


def section(shown: Runs) -> str:
    """The runs side by side."""
    return (f"<section aria-labelledby='runs-title'><h2 id='runs-title'>Runs</h2>{_runs(shown)}{_courses(shown)}"
            f"{_shifts(shown)}</section>")


def _runs(shown: Runs) -> str:
    rows = [(markup.name(name), markup.name(report.model.path),
             markup.badge(answer.mark(report), answer.headline(report)),
             f"<code>{markup.text(report.command)}</code>" if report.command else "not recorded")
            for name, report in shown.items()]
    return markup.table("The runs", ("Run", "Model", "Answer", "Command"), rows)


def _courses(shown: Runs) -> str:
    found = runs.courses(shown)
    head = ("Target", *(f">{words.visible(name)}" for name in shown), "Change")
    return "<h3>Error through the runs</h3>" + markup.beside(
        "", "Worst output error of each target by run. The table beside it holds the same figures.",
        "Worst output error of each run, as a multiple of its limit; the dashed line is the limit.",
        markup.table("Worst output error as a multiple of its limit", head, [_course(course) for course in found]),
        place="history-plot")


def _course(course: Course) -> tuple[str, ...]:
    return (markup.name(course.target), *(words.number(error) for error in course.errors), markup.badge(*course.change))


def _shifts(shown: Runs) -> str:
    found = runs.shifts(shown, _SHIFTS)
    title = "<h3>Layers that changed most</h3>"
    if not found:
        alike = any(course.comparable for course in runs.courses(shown))
        none = ("No layer that both the first and the last run show changed its own error." if alike else
                "No target ran one model, or two versions of one, in two runs, so no layers are compared.")
        return f"{title}<p>{none}</p>"
    rows = [_shift(shift) for shift in found]
    return title + markup.table("Layers that changed most from the first run to the last",
                                ("Layer", "Op", "Target", ">Local error", ">Accumulated error", "Judged"), rows)


def _shift(shift: Shift) -> tuple[str, ...]:
    before, after = shift.before, shift.after
    mark: words.Mark = "good" if after.passed else "bad"
    judged = (_judged(after), ) if _judged(before) == _judged(after) else (_judged(before), _judged(after))
    return (markup.name(after.tensor), markup.text(after.op), markup.name(shift.target),
            *(f"{_error(before, side)} → {_error(after, side)}" for side in ("local", "accumulated")),
            markup.badge(mark, " → ".join(judged)))


def _error(layer: Layer, side: str) -> str:
    found = layer.local if side == "local" else layer.accumulated
    return words.number(None if found is None else found.rel_l2)


def _judged(layer: Layer) -> str:
    return "not to blame" if layer.passed else layer.origin or "bad"
