"""The HTML report: one file that holds everything, asks no network for anything, and runs no script but its own.

The answer is plain HTML, so it needs no script. The figure and the layer table are drawn by report.js from the columns
that `_data` embeds. plotly's script comes from the installed package, compressed; report.js unpacks it into a script
element, which the content security policy lets run because it names the SHA-256 of the unpacked text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from string import Template

from parity.analysis.measure import Comparison
from parity.report import words
from parity.report.record import Candidate, Layer, Report

_DIGITS = 5  # significant digits of a figure in the page; report.json has all of them


def render(report: Report) -> str:
    """The report as one HTML document; the same report gives the same text.

    Write it as UTF-8. It makes no request, and every name in it shows as text, whatever it holds.
    """
    style, script = _part("report.css"), _part("report.js")
    plotly, packed, sheets = _plotly()
    headline = words.headline(report)
    return Template(_part("template.html")).substitute(
        policy=_policy(scripts=(script, plotly), styles=(style, "")),
        style=style, sheets=sheets, script=script, plotly=packed,
        title=_text(f"{headline} {report.model.path}"), model=_name(report.model.path), headline=_text(headline),
        mark=_headline_mark(report), next=_text(words.next_step(report)), targets=_targets(report),
        details="".join(_detail(report, i) for i in range(len(report.candidates))),
        facts=_facts(report), data=_data(report))


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


def _text(text: str) -> str:
    return escape(words.visible(text))


def _name(name: str) -> str:
    """A name in code type, its direction kept to itself."""
    return f"<bdi class='name'>{_text(name)}</bdi>"


def _headline_mark(report: Report) -> words.Mark:
    if report.verdict != "parity":
        return "bad" if report.verdict == "divergence" else "none"
    return "warn" if any(words.mark(candidate) == "warn" for candidate in report.candidates) else "good"


def _badge(mark: words.Mark, text: str) -> str:
    return f"<span class='badge {mark}'><i aria-hidden='true'>{words.SIGNS[mark]}</i> {_text(text)}</span>"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a head that starts with ">" is a column of figures."""
    heads = [(_text(title.lstrip(">")), " class='figure'" * title.startswith(">")) for title in head]
    ths = "".join(f"<th scope='col'{kind}>{title}</th>" for title, kind in heads)
    tds = [[f'<td{kind} data-head="{title}">{cell}</td>' for cell, (title, kind) in zip(row, heads, strict=True)]
           for row in rows]
    trs = "".join(f"<tr>{''.join(row)}</tr>" for row in tds)
    return (f"<div class='wide' role='region' tabindex='0' aria-label='{_text(caption)}'><table>"
            f"<caption>{_text(caption)}</caption><thead><tr>{ths}</tr></thead><tbody>{trs}</tbody></table></div>")


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Label and value (HTML already) as a description list."""
    return "<dl>" + "".join(f"<div><dt>{_text(label)}</dt><dd>{value}</dd></div>" for label, value in rows) + "</dl>"


def _targets(report: Report) -> str:
    if not report.candidates:
        return "<p class='notice'>No target was compared.</p>"
    return _table("Verdict of each target", ("Target", "Verdict", "First bad layer", ">Worst output", ">Latency"),
                  [_target_row(i, candidate) for i, candidate in enumerate(report.candidates)])


def _target_row(place: int, candidate: Candidate) -> Sequence[str]:
    errors = [output.accumulated.rel_l2 for output in candidate.outputs if output.accumulated]
    worst = max(errors, key=lambda e: math.inf if math.isnan(e) else e, default=None)
    name = f"<bdi class='name'>{_text(candidate.target)}</bdi>"
    link = f"<a href='#target-{place}' data-candidate='{place}'>{name}</a>" if candidate.status == "ok" else name
    forecast = " <small>emulated: a forecast</small>" if candidate.emulated else ""
    found = candidate.first_bad
    return (link + forecast, _badge(words.mark(candidate), words.verdict(candidate)),
            f"{_name(found.tensor)} <small>{_text(found.op)}</small>" if found else "–",
            words.number(worst), _text(words.timing(candidate)))


def _detail(report: Report, place: int) -> str:
    candidate = report.candidates[place]
    if candidate.status != "ok":
        return ""
    title = f"<h2 id='target-{place}'>On {_name(candidate.target)}</h2>"
    notes = "".join(f"<li>{_text(words.line(note))}</li>" for note in candidate.notes)
    parts = (title, _first_bad(report, candidate), _outputs(candidate), _accuracy(candidate), _tasks(candidate),
             f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "")
    return (f"<section class='detail' data-candidate='{place}' aria-labelledby='target-{place}'>"
            f"{''.join(parts)}</section>")


def _first_bad(report: Report, candidate: Candidate) -> str:
    found = candidate.first_bad
    if found is None:
        return ""
    nodes = (candidate.model or report.model).nodes
    rows = [("node", f"{_name(found.node or '(unnamed)')} <small>{found.index:,} of {nodes:,}</small>"),
            ("operator", _text(found.op)),
            *((label, _text(value)) for label, value in words.figures(found, words.blamed_layer(candidate)))]
    return (f"<div class='blame'><h3>First bad layer</h3><p class='culprit'>{_name(found.tensor)}</p>{_pairs(rows)}"
            f"<p><a href='#layers' data-first>Show it in the layer table</a></p></div>")


def _outputs(candidate: Candidate) -> str:
    if not candidate.outputs:
        return ""
    return "<h3>Outputs</h3>" + _table(
        "Outputs, from the run that nobody watched",
        ("Output", "Shape", ">Error", ">Limit", ">Model's own noise", ">Max |Δ|", ">Cosine", "Verdict"),
        [_output_row(output) for output in candidate.outputs])


def _output_row(output: Layer) -> Sequence[str]:
    c = output.accumulated
    return (_name(output.tensor), f"{_text(output.dtype)} {words.shape(output.shape)}",
            words.number(c.rel_l2 if c else None), words.number(output.tolerance), words.number(output.noise),
            words.number(c.max_abs if c else None), f"{c.cosine:.6f}" if c else "–",
            _badge("good", "within") if output.passed else _badge("bad", "beyond"))


def _accuracy(candidate: Candidate) -> str:
    if not candidate.accuracy:
        return ""
    rows = [(_name(each.output), f"{each.reference:.1%}", f"{each.candidate:.1%}", f"{each.samples:,}")
            for each in candidate.accuracy]
    return "<h3>Accuracy</h3>" + _table("Task accuracy", ("Output", ">Reference", ">Candidate", ">Samples"), rows)


def _tasks(candidate: Candidate) -> str:
    if not candidate.tasks:
        return ""
    items = "".join(f"<li>{_text(words.task(t)) if t.passed else _badge('bad', words.task(t))}</li>"
                    for t in candidate.tasks)
    return f"<h3>Judged</h3><ul>{items}</ul>"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{words.number(seconds)} s"


def _facts(report: Report) -> str:
    model = report.model
    rows = [("command", f"<code>{_text(report.command)}</code>" if report.command else "not recorded"),
            ("model", (f"{_name(model.path)} <small>{words.plural(model.nodes, 'node')}, "
                      f"{words.plural(model.tensors, 'tensor')}</small>")),
            ("SHA-256", f"<code>{_text(model.sha256)}</code>"),
            ("reference", f"{_name(report.reference.target)} <small>{_seconds(report.reference.seconds)}</small>"),
            ("seed", f"{report.seed}, {words.plural(report.samples, 'sample')}"),
            *((f"input {i.name}", f"{_text(i.dtype)} {words.shape(i.shape)} <small>{_text(i.source)}</small>")
              for i in report.inputs)]
    for c in report.candidates:
        if c.status == "ok":
            moved = f", watching moved the outputs by {words.number(c.watching_moved_outputs)}"
            other = f" · {_name(c.model.path)} <code>{_text(c.model.sha256)}</code>" if c.model else ""
            rows.append((c.target, _text(" ".join(filter(None, (c.version, "on" * bool(c.device), c.device))) or "ran")
                         + _text(moved) * (c.watching_moved_outputs is not None) + other))
    rows += [(name, _text(value)) for name, value in report.environment.items()]
    return _pairs(rows)


# What report.js draws from: columns, since 40,000 rows of named fields would not fit the file size.

_Value = Callable[[Layer], object]


def _of(side: str, metric: str) -> _Value:
    def value(layer: Layer) -> object:
        comparison: Comparison | None = getattr(layer, side)
        return None if comparison is None else getattr(comparison, metric)

    return value


_TEXTS: Mapping[str, _Value] = {
    "tensor": lambda layer: layer.tensor, "node": lambda layer: layer.node, "op": lambda layer: layer.op,
    "source": lambda layer: layer.source, "dtype": lambda layer: layer.dtype,
    "shape": lambda layer: words.shape(layer.shape), "origin": lambda layer: layer.origin,
    "level": lambda layer: layer.level}

_FIGURES: Mapping[str, _Value] = {
    "index": lambda layer: layer.index, "passed": lambda layer: layer.passed,
    "local": _of("local", "rel_l2"), "floor": lambda layer: layer.floor, "local_max_abs": _of("local", "max_abs"),
    "accumulated": _of("accumulated", "rel_l2"), "max_abs": _of("accumulated", "max_abs"),
    "sqnr_db": _of("accumulated", "sqnr_db"), "cosine": _of("accumulated", "cosine"),
    "nonfinite": _of("accumulated", "mismatched_nonfinite"), "precision": lambda layer: layer.precision,
    "implementation": lambda layer: layer.implementation, "share": lambda layer: layer.share,
    "energy": lambda layer: layer.energy}


def _data(report: Report) -> str:
    """The layers as JSON that may stand in a script element: one list a column, texts as places in `strings`."""
    strings: dict[str, int] = {}
    candidates = [_columns(place, candidate, strings) for place, candidate in enumerate(report.candidates)
                  if candidate.status == "ok"]
    text = json.dumps({"focus": words.focus(report), "candidates": candidates, "strings": list(strings)},
                      ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _columns(place: int, candidate: Candidate, strings: dict[str, int]) -> Mapping[str, object]:
    def place_of(text: object) -> int | None:
        return None if text is None else strings.setdefault(words.visible(str(text)), len(strings))

    texts = {name: [place_of(value(layer)) for layer in candidate.tensors] for name, value in _TEXTS.items()}
    figures = {name: [_figure(value(layer)) for layer in candidate.tensors] for name, value in _FIGURES.items()}
    first = words.blamed_layer(candidate)
    return {"place": place, "target": words.visible(candidate.target), "count": len(candidate.tensors),
            "first": None if first is None else candidate.tensors.index(first), "texts": texts,
            "figures": {name: column for name, column in figures.items() if any(v is not None for v in column)}}


def _figure(value: object) -> object:
    if not isinstance(value, float):
        return int(value) if isinstance(value, bool) else value
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    short = f"{value:.{_DIGITS}g}"
    return float(short)
