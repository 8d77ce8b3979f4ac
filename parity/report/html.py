"""The HTML report: one file that holds everything, asks no network for anything, and runs no script but its own.

The answer is plain HTML, so it needs no script. The figures and the layer table are drawn by one script, joined from
the parts in script/, out of the columns that columns.py embeds. plotly's script comes from the installed package,
compressed; the page's own unpacks it into a script element, which the content security policy lets run because it names
the SHA-256 of the unpacked text.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from string import Template

from parity.report import across, answer, courses, findings, ladder, markup, named, runs, words
from parity.report.columns import History, embedded
from parity.report.record import Candidate, Layer, Report
from parity.report.runs import Runs

# In this order: a part may use what stands before it while it is read, and anything once the last one runs.
_SCRIPT = ("page", "data", "table", "plots", "network", "account", "across", "ladder", "layer", "main")


def render(report: Report) -> str:
    """The report as one HTML document; the same report gives the same text.

    Write it as UTF-8. It makes no request, and every name in it shows as text, whatever it holds.
    """
    return _page(report, answer.headline(report), answer.mark(report), answer.next_step(report), _facts(report))


def render_runs(shown: Runs) -> str:
    """Several runs side by side, as one such document.

    Args:
        shown: two or more reports by name, in order: before and after, two devices, a history.
    """
    facts = "".join(f"<h3>{markup.name(name)}</h3>{_facts(report)}" for name, report in shown.items())
    return _page(runs.merged(shown), runs.headline(shown), runs.mark(shown), runs.next_step(shown), facts,
                 before=courses.section(shown), history=[(c.target, c.errors) for c in runs.courses(shown)],
                 names=list(shown))


def _page(report: Report, headline: str, mark: words.Mark, following: str, facts: str, *, before: str = "",
          history: History = (), names: Sequence[str] = ()) -> str:
    style, script = _part("report.css"), "\n".join(_part(f"script/{name}.js") for name in _SCRIPT)
    plotly, packed, sheets = _plotly()
    return Template(_part("template.html")).substitute(
        policy=_policy(scripts=(script, plotly), styles=(style, "")),
        style=style, sheets=sheets, script=script, plotly=packed,
        title=markup.text(f"{headline} {report.model.path}"), model=markup.name(report.model.path),
        headline=markup.text(headline), mark=mark, next=markup.prose(following), runs=before,
        targets=_targets(report), ladder=ladder.section(report),
        details="".join(_detail(report, i) for i in range(len(report.candidates))),
        across=across.section(report), facts=facts, data=embedded(report, history, names))


def _part(name: str) -> str:
    return resources.files("parity.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str, str]:
    """Plotly's script, the same compressed (zlib) in base64, and the style sheets it looks for.

    For maps, which no figure here is, the script adds sheets of its own unless elements of their ids are there. Empty
    ones keep it from trying what the policy would refuse.
    """
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    ids = dict.fromkeys(re.findall(r'getElementById\("([0-9a-f]{64})"\)', script))
    sheets = "".join(f"<style id='{name}'></style>" for name in ids)
    return script, base64.b64encode(zlib.compress(script.encode(), 9)).decode("ascii"), sheets


def _policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """A content security policy that lets exactly these texts run; "" is the empty sheet that plotly adds rules to."""
    return (f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _hashes(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)


def _targets(report: Report) -> str:
    if not report.candidates:
        return "<p class='notice'>No target was compared.</p>"
    return markup.table(
        "Verdict of each target", ("Target", "Verdict", "First bad layer", ">Worst output", ">Latency"),
        [_target_row(i, candidate) for i, candidate in enumerate(report.candidates)])


def _target_row(place: int, candidate: Candidate) -> Sequence[str]:
    errors = [output.accumulated.rel_l2 for output in candidate.outputs if output.accumulated]
    worst = max(errors, key=lambda e: math.inf if math.isnan(e) else e, default=None)
    name = markup.name(candidate.target)
    link = f"<a href='#target-{place}' data-candidate='{place}'>{name}</a>" if candidate.status == "ok" else name
    forecast = " <small>emulated: a forecast</small>" if candidate.emulated else ""
    found = candidate.first_bad
    before, after = named.around(candidate)
    bad = "–" if found is None else (
        f"{before}{markup.name(found.tensor)} <small>{markup.text(found.op)}{after}</small>")
    return (link + forecast, markup.badge(words.mark(candidate), words.verdict(candidate)), bad,
            words.number(worst), markup.text(words.timing(candidate)))


def _detail(report: Report, place: int) -> str:
    candidate = report.candidates[place]
    if candidate.status != "ok":
        return ""
    title = f"<h2 id='target-{place}'>On {markup.name(candidate.target)}</h2>"
    notes = markup.items(markup.prose(words.line(note)) for note in candidate.notes)
    fix = findings.fix(candidate)
    parts = (title, fix * answer.is_repair(report), _first_bad(report, candidate), findings.why(candidate),
             findings.account(candidate), findings.modules(candidate), fix * (not answer.is_repair(report)),
             _outputs(candidate, " without the fix" * answer.is_repair(report)),
             _accuracy(candidate), _tasks(candidate), f"<h3>Notes</h3>{notes}" if candidate.notes else "")
    return (f"<section class='detail' data-candidate='{place}' aria-labelledby='target-{place}'>"
            f"{''.join(parts)}</section>")


def _first_bad(report: Report, candidate: Candidate) -> str:
    found = candidate.first_bad
    if found is None:
        return ""
    nodes = (candidate.model or report.model).nodes
    rows = [("node", f"{markup.name(found.node or '(unnamed)')} <small>{found.index:,} of {nodes:,}</small>"),
            ("operator", markup.text(found.op)),
            *((label, markup.text(value)) for label, value in named.figures(candidate))]
    return (f"<div class='blame'><h3>{named.title(candidate)}</h3><p class='culprit'>{markup.name(found.tensor)}"
            f"{markup.text(words.or_hidden(found))}</p>"
            f"{markup.pairs(rows)}<p><a href='#layers' data-first>Show it in the layer table</a></p></div>")


def _outputs(candidate: Candidate, which: str) -> str:
    if not candidate.outputs:
        return ""
    return f"<h3>Outputs{which}</h3>" + markup.table(
        f"Outputs{which}, from the run that nobody watched",
        ("Output", "Shape", ">Error", ">Limit", ">Model's own noise", ">Max |Δ|", ">Cosine", "Verdict"),
        [_output_row(output) for output in candidate.outputs])


def _output_row(output: Layer) -> Sequence[str]:
    c = output.accumulated
    return (markup.name(output.tensor), f"{markup.text(output.dtype)} {words.shape(output.shape)}",
            words.number(c.rel_l2 if c else None), markup.text(words.limit(output)), words.number(output.noise),
            words.number(c.max_abs if c else None), f"{c.cosine:.6f}" if c else "–",
            markup.badge("good", "within") if output.passed else markup.badge("bad", "beyond"))


def _accuracy(candidate: Candidate) -> str:
    if not candidate.accuracy:
        return ""
    rows = [(markup.name(each.output), f"{each.reference:.1%}", f"{each.candidate:.1%}", f"{each.samples:,}")
            for each in candidate.accuracy]
    return "<h3>Accuracy</h3>" + markup.table("Task accuracy", ("Output", ">Reference", ">Candidate", ">Samples"), rows)


def _tasks(candidate: Candidate) -> str:
    if not candidate.tasks:
        return ""
    return "<h3>Judged</h3>" + markup.items(
        markup.text(words.task(t)) if t.passed else markup.badge("bad", words.task(t)) for t in candidate.tasks)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{words.number(seconds)} s"


def _facts(report: Report) -> str:
    model = report.model
    rows = [("command", f"<code>{markup.text(report.command)}</code>" if report.command else "not recorded"),
            ("model", (f"{markup.name(model.path)} <small>{words.plural(model.nodes, 'node')}, "
                      f"{words.plural(model.tensors, 'tensor')}</small>")),
            ("SHA-256", f"<code>{markup.text(model.sha256)}</code>"),
            ("reference",
             f"{markup.name(report.reference.target)} <small>{_seconds(report.reference.seconds)}</small>"),
            ("seed", f"{report.seed}, {words.plural(report.samples, 'sample')}"),
            *((f"input {i.name}",
               f"{markup.text(i.dtype)} {words.shape(i.shape)} <small>{markup.text(i.source)}</small>")
              for i in report.inputs)]
    for c in report.candidates:
        if c.status == "ok":
            moved = f", watching moved the outputs by {words.number(c.watching_moved_outputs)}"
            other = f" · {markup.name(c.model.path)} <code>{markup.text(c.model.sha256)}</code>" if c.model else ""
            ran = " ".join(filter(None, (c.version, "on" * bool(c.device), c.device))) or "ran"
            rows.append((c.target, markup.text(ran) + moved * (c.watching_moved_outputs is not None) + other))
    rows += [(name, markup.text(value)) for name, value in report.environment.items()]
    return markup.pairs(rows)
