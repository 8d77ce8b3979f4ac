"""What the HTML report says of a candidate: why it is off, where its error comes from, what mends it."""

from __future__ import annotations

from parity.analysis.diagnose import Diagnosis
from parity.fixes.fix import CurvePoint, Fix, KeptLayer
from parity.report import markup, repairs, shares, words
from parity.report.columns import SHARES
from parity.report.modules import depth
from parity.report.record import Candidate
from parity.report.rungs import ModuleErrors


def why(candidate: Candidate) -> str:
    """The causes that fit, each with its evidence."""
    if not candidate.diagnoses:
        return ""
    rows = _rows(candidate)
    return "<h3>Why</h3>" + markup.items(_cause(each, rows.get(each.tensor)) for each in candidate.diagnoses)


def _cause(found: Diagnosis, row: int | None) -> str:
    figures = " · ".join(f"{label} {value}" for label, value in words.evidence(found))
    return (f"<b>{markup.text(found.cause)}</b> {markup.text(words.line(found.message))} "
            f"<small>at {markup.layer(found.tensor, row)}{' · ' * bool(figures)}{markup.text(figures)}</small>")


def account(candidate: Candidate) -> str:
    """The shares of the output error, as a picture and as a table, with what a reader must know of them."""
    found = candidate.attribution
    if found is None:
        return ""
    entries = shares.account(candidate, SHARES)
    said = shares.remarks(candidate, entries)
    parts = [f"<p>{markup.badge(mark, text)}</p>" for mark, text in said if mark == "warn"]
    plain = " ".join(text for mark, text in said if mark != "warn")
    if shares.shown(candidate) is None:
        parts += [f"<p>{markup.text(plain)}</p>", _energies(candidate)]
    else:
        plain += f" Slopes: {words.line(found.slope_rule)}." if found.slope_rule else ""
        rows = [(markup.layer(e.label, e.row) if e.row is not None else markup.text(e.label), markup.text(e.op),
                 shares.percent(e.share)) for e in entries]
        rows.append(("<b>together</b>", "", shares.percent(shares.total(found)).lstrip("+")))
        parts += [markup.beside(
            "shares", "Share of the output error by layer. The table beside it holds the same figures.",
            "A layer's bar is its share of the output error; a bar to the left is an offset.",
            markup.table("Shares of the output error", ("Layer", "Op", ">Share"), rows)),
            f"<p class='quiet'>{markup.text(plain)}</p>"]
    return f"<h3>Where the error comes from</h3>{''.join(parts)}"


def modules(candidate: Candidate) -> str:
    """The layers by module, folded away; a module's name leads to its layers in the table."""
    if not candidate.modules:
        return ""
    rows = _rows(candidate)
    cells = [_module(row, rows.get(row.worst or "")) for row in candidate.modules]
    return "<details class='words'><summary><b>By module</b> <small>errors and shares, rolled up</small></summary>" + (
        markup.table("Errors and shares by module", ("Module", ">Layers", ">To blame", ">Share", ">Largest local error",
                                                     "At", ">At its end"), cells, kind="tall") + "</details>")


def _module(found: ModuleErrors, row: int | None) -> tuple[str, ...]:
    name = found.module.rpartition(".")[2] or "(the model)"
    link = f"<a href='#layers' data-module='{markup.text(found.module)}'>{markup.name(name)}</a>"
    bad = markup.badge("bad", f"{found.bad:,}") if found.bad else "0"
    return (f"{'<i class=step></i>' * depth(found)}{link}", f"{found.layers:,}", bad,
            "–" if found.share is None else shares.percent(found.share), words.number(found.local),
            markup.layer(found.worst, row) if found.worst else "–", words.number(found.accumulated))


def _energies(candidate: Candidate) -> str:
    rows = [(markup.layer(layer.tensor, row), markup.text(layer.op), words.number(layer.energy))
            for row, layer in shares.energies(candidate, SHARES)]
    title = "What each layer would do to the output alone"
    return f"<h4>{title}</h4>{markup.table(title, ('Layer', 'Op', '>Energy'), rows)}" if rows else ""


def fix(candidate: Candidate) -> str:
    """The fix that passes, or the best found: what it gives and costs, the layers kept, and how others say it."""
    found = repairs.best(candidate)
    if found is None:
        return ""
    mark: words.Mark = "good" if found.passed else "bad"
    said = words.line(found.message)
    title = "The fix" if found.passed else "No fix passes; the best found"
    figures = markup.pairs((label, markup.text(value)) for label, value in repairs.figures(found))
    return (f"<h3>{title}</h3><div class='fix {mark}'><p class='culprit'>{markup.badge(mark, said)}</p>{figures}</div>"
            + _kept(found, candidate) + _curve(found) + _tried(candidate)
            + markup.blocks(repairs.TRAINING, found.training)
            + markup.blocks("The same decision in other tools' words", found.words))


def _kept(found: Fix, candidate: Candidate) -> str:
    if not found.kept:
        return ""
    rows = _rows(candidate)
    return "<h4>Layers kept</h4>" + markup.table("Layers kept in higher precision", ("Layer", "Op", "In", "Why"),
                                                 [_kept_row(layer, rows.get(layer.tensor)) for layer in found.kept],
                                                 kind="tall")


def _kept_row(layer: KeptLayer, row: int | None) -> tuple[str, str, str, str]:
    return (markup.layer(layer.tensor, row), markup.text(layer.op), markup.text(layer.precision.upper()),
            markup.text(words.line(layer.why)))


def _curve(found: Fix) -> str:
    if not found.curve:
        return ""
    rows = [_curve_row(point) for point in sorted(found.curve, key=lambda point: point.kept)]
    return "<h4>Layers kept → output error</h4>" + markup.beside(
        "curve", "Output error against the number of layers kept. The table beside it holds the same figures.",
        "Taken on the emulator; the diamond is the fix as measured on the target.",
        markup.table("Output error by layers kept, on the emulator",
                     (">Layers kept", ">Error / limit", ">Multiply-adds", ">Weight bytes"), rows, kind="tall"))


def _curve_row(point: CurvePoint) -> tuple[str, str, str, str]:
    mark: words.Mark = "good" if point.error <= 1 else "bad"
    return (f"{point.kept:,}", markup.badge(mark, words.number(point.error)), f"{point.operations:.1%}",
            f"{point.bytes:.1%}")


def _tried(candidate: Candidate) -> str:
    if len(candidate.fixes) < 2:
        return ""
    rows = [(markup.text(each.strategy), markup.text(words.line(each.message)), words.number(each.before),
             words.number(each.after), markup.badge("good", "passes") if each.passed else markup.badge("bad", "fails"))
            for each in candidate.fixes]
    return "<h4>What was tried</h4>" + markup.table(
        "Fixes that were tried on the target", ("Strategy", "Change", ">Before", ">After", "Verdict"), rows)


def _rows(candidate: Candidate) -> dict[str, int]:
    """Where each tensor stands in the layer table."""
    return {layer.tensor: row for row, layer in enumerate(candidate.tensors)}
