"""The terminal's report: one screen, the answer first."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from parity.fixes.fix import Fix
from parity.report import answer, named, repairs, sections, shares, words
from parity.report.record import Candidate, Layer, Report
from parity.report.terminal import MARK, STYLES, Column, Sheet, figures, pairs, titled
from parity.report.words import elided

_ASCII = str.maketrans({"✓": "+", "✗": "x", "–": "-", "−": "-", "×": "x", "∞": "inf", "…": "~", "Δ": "d", "─": "-",
                        "·": "-", "→": ">"})
# Rows that leave the whole report on one screen.
_BEFORE, _AFTER, _CLOSEST, _OUTPUTS, _SHARES, _KEPT = 3, 5, 5, 8, 5, 4
_MESSAGE = 400  # characters of a cause
_OPERATOR = 18  # and of an operator


def print_report(report: Report, console: Console, *, verbose: bool = False,
                 paths: Mapping[str, Path] | None = None) -> None:
    """Print the report: verdicts, outputs, the first bad layer and its surroundings, notes, files, the next step.

    Args:
        report: the run.
        console: where to; its width, colours and encoding are respected.
        verbose: every tensor of every candidate instead of those around the first bad one.
        paths: the files that were written, by what they are ("report", "layers", ...).
    """
    body = Group(*_blocks(report, console.width, verbose=verbose, paths=paths or {}))
    if console.encoding.lower().startswith("utf"):
        console.print(body)
        return
    drawn = io.StringIO()
    Console(file=drawn, width=console.width, color_system=None).print(body)
    text = drawn.getvalue().translate(_ASCII).encode(console.encoding, "backslashreplace")
    console.out(text.decode(console.encoding), end="", highlight=False)


def _blocks(report: Report, width: int, *, verbose: bool, paths: Mapping[str, Path]) -> Iterable[RenderableType]:
    yield from _verdicts(report)
    ran = [candidate for candidate in report.candidates if candidate.status == "ok"]
    if answer.is_repair(report):
        yield from _fix(ran[0], verbose=verbose)
    if any(candidate.outputs for candidate in ran):
        without = " without the fix" if answer.is_repair(report) else ""
        yield from titled(f"Outputs{without}", _outputs(ran, verbose=verbose))
    chosen = answer.focus(report)
    for place, candidate in enumerate(report.candidates):
        if verbose or place == chosen:
            yield from _first_bad(report, candidate)
            yield from _why(candidate)
            yield from _shares(candidate, width, verbose=verbose)
            if not answer.is_repair(report):
                yield from _fix(candidate, verbose=verbose)
        if verbose and candidate.modules:
            yield from sections.modules(candidate)
        if verbose and candidate.tensors and answer.is_repair(report):
            yield from titled(f"Each layer alone in {words.target(candidate)}", _alone(candidate))
        elif verbose and candidate.tensors:
            title = f"Every tensor on {words.target(candidate)}"
            yield from titled(title, _layers(candidate.tensors, candidate))
        elif place == chosen and not candidate.fixes:
            yield from _surroundings(candidate)
    yield from sections.ladder(report, chosen, verbose=verbose)
    if not verbose:
        yield from _others([candidate for place, candidate in enumerate(report.candidates) if place != chosen])
    yield from _speed(ran)
    yield from _facts(ran, paths, verbose=verbose)
    yield Text.assemble("\n", ("Next: ", "bold"), answer.next_step(report))


def _speed(candidates: Sequence[Candidate]) -> Iterable[RenderableType]:
    timed = [candidate for candidate in candidates if candidate.latency is not None]
    if timed:
        yield Text("\nLatency, unwatched: " + "; ".join(f"{words.target(c)} {words.timing(c)}" for c in timed), "dim")


def _verdicts(report: Report) -> Iterable[RenderableType]:
    seed = f"seed {report.seed}" + (f", {words.plural(report.samples, 'sample')}" if report.samples > 1 else "")
    yield Text.assemble((words.visible(report.model.path), "bold"),
                        (f" · {words.visible(report.reference.target)} is the reference · {seed}\n", "dim"))
    if report.partial:
        yield Text("Interrupted: this is what was measured until then.\n", "bold yellow")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for candidate in report.candidates:
        mark = words.mark(candidate)
        grid.add_row(Text(words.SIGNS[mark], STYLES[mark]), Text(words.target(candidate), "bold"),
                     Text(words.verdict(candidate), STYLES[mark]))
    yield grid if report.candidates else Text("No target was compared.", "dim")


def _outputs(candidates: Sequence[Candidate], *, verbose: bool) -> RenderableType:
    rows = [(candidate, output) for candidate in candidates for output in candidate.outputs]
    rows.sort(key=lambda row: row[1].passed)
    shown = rows if verbose else rows[:_OUTPUTS]
    several = len(candidates) > 1
    lines: list[tuple[str | Text, ...]] = []
    for candidate, output in shown:
        c = output.accumulated
        mark: words.Mark = "good" if output.passed else "bad"
        lines.append((*[words.target(candidate)] * several, words.visible(output.tensor),
                      Text(words.number(c.rel_l2 if c else None), STYLES[mark]), words.limit(output),
                      words.number(c.max_abs if c else None), Text(words.SIGNS[mark], STYLES[mark])))
    limit = Column("limit", "words" if any(output.limits for _, output in shown) else "figure")
    table = Sheet((*[Column("target")] * several, Column("output"), *figures("error"), limit,
                   *figures("max |Δ|", needs=7), MARK), lines)
    left = rows[len(shown):]
    if not left:
        return table
    worse = sum(not output.passed for _, output in left)
    rest = f"{worse:,} beyond" if worse else "all within"
    return Group(table, Text(f"and {len(left):,} more, {rest} tolerance", "dim"))


def _first_bad(report: Report, candidate: Candidate) -> Iterable[RenderableType]:
    found = candidate.first_bad
    if found is None:
        return
    nodes = (candidate.model or report.model).nodes
    rows = [("tensor", words.visible(found.tensor)),
            ("node", ", ".join((words.visible(found.node or "(unnamed)"), words.visible(found.op),
                                f"{found.index:,} of {nodes:,}"))),
            *named.figures(candidate)]
    yield from titled(f"{named.title(candidate)} on {words.target(candidate)}", pairs(rows, emphasised="tensor"))


def _why(candidate: Candidate) -> Iterable[RenderableType]:
    found = [Text.assemble((words.visible(each.cause), "bold"), " ",
                           elided(words.cause(each), _MESSAGE))
             for each in candidate.diagnoses]
    if found:
        yield from titled("Why", *found)


def _shares(candidate: Candidate, width: int, *, verbose: bool) -> Iterable[RenderableType]:
    entries = shares.account(candidate, len(candidate.tensors) if verbose else _SHARES)
    body: list[RenderableType] = []
    attribution = shares.shown(candidate)
    if attribution is not None:
        rows: list[tuple[Text, str, str | Text]] = [
            (Text(entry.label, "" if entry.op else "dim"), entry.op, shares.percent(entry.share))
            for entry in entries]
        total = Text(shares.percent(shares.total(attribution)).lstrip("+"), "dim")
        rows.append((Text("together", "dim"), "", total))
        body.append(Sheet((Column(""), Column("op", needs=18), *figures("share")), rows))
    elif candidate.attribution is not None:
        largest = ", ".join(f"{words.visible(layer.tensor)} {words.number(layer.energy)}"
                            for _, layer in shares.energies(candidate, _BEFORE))
        if largest:
            body.append(Text(elided(f"Most energy (each layer alone): {largest}", 2 * (width - 4))))
    said = shares.remarks(candidate, entries)
    body += [Text(remark, STYLES["warn"]) for mark, remark in said if mark == "warn"]
    plain = " ".join(remark for mark, remark in said if mark != "warn")
    body += [Text(plain, "dim")] if plain else []
    if body:
        yield from titled("Where the error comes from", *body)


def _fix(candidate: Candidate, *, verbose: bool) -> Iterable[RenderableType]:
    fix = repairs.best(candidate)
    if fix is None:
        return
    mark: words.Mark = "good" if fix.passed else "bad"
    said = "" if fix.passed else "no fix passes; the best found: "
    body: list[RenderableType] = [Text(f"{words.SIGNS[mark]} {said}{words.line(fix.message)}", STYLES[mark]),
                                  pairs(repairs.figures(fix), emphasised="")]
    body += _kept(fix, len(fix.kept) if verbose else _KEPT)
    for title, blocks in (("In other tools' words", fix.words), (repairs.TRAINING, fix.training)):
        if blocks and verbose:
            # Lines of code are not wrapped, for they are to be pasted.
            body += [Text(f"{title}, for {words.visible(tool)}:\n{words.lines(text)}", no_wrap=True, overflow="ignore")
                     for tool, text in blocks.items()]
        elif blocks:
            body.append(Text(f"{title}: {', '.join(map(words.visible, blocks))} (-v prints it)", "dim"))
    yield from titled(f"Fix on {words.target(candidate)}", *body)


def _kept(fix: Fix, most: int) -> Iterable[RenderableType]:
    if not fix.kept:
        return
    yield Sheet((Column("keep"), Column("why", "words")),
                [(repairs.name(layer), elided(words.line(layer.why), _MESSAGE)) for layer in fix.kept[:most]])
    if len(fix.kept) > most:
        yield Text(f"and {words.plural(len(fix.kept) - most, 'layer')} more", "dim")


def _others(candidates: Sequence[Candidate]) -> Iterable[RenderableType]:
    lines = [Text.assemble((words.target(candidate), "bold"), f" {named.called(candidate)}")
             for candidate in candidates if candidate.first_bad]
    if lines:
        yield from titled("First bad layer elsewhere", *lines)
    fixes = [Text(repairs.sentence(candidate, fix)) for candidate in candidates
             if (fix := repairs.best(candidate)) is not None]
    if fixes:
        yield from titled("Fixes elsewhere", *fixes)


def _surroundings(candidate: Candidate) -> Iterable[RenderableType]:
    tensors, blamed = candidate.tensors, words.blamed_layer(candidate)
    if blamed is not None:
        place = tensors.index(blamed)
        before, after = (1, 2) if candidate.attribution else (_BEFORE, _AFTER)
        shown = tensors[max(0, place - before):place + after + 1]
        title = "Around it, watched; the named one as deployed" if named.as_deployed(candidate) else "Around it"
        yield from titled(title, _layers(shown, candidate))
        return
    judged = [layer for layer in tensors if words.layer_ratio(layer) is not None]
    closest = sorted(judged, key=lambda layer: words.layer_ratio(layer) or 0, reverse=True)[:_CLOSEST]
    if closest:
        yield from titled(f"Closest to their floor, of {words.plural(len(judged), 'tensor')}",
                           _layers(closest, candidate))


def _layers(layers: Sequence[Layer], candidate: Candidate) -> RenderableType:
    formats = any(layer.precision is not None for layer in candidate.tensors)
    columns = (MARK, Column("tensor"), Column("op", needs=18), *figures(*["format"] * formats, needs=10),
               *figures("rest" if formats else "local", "floor"), *figures("accumulated", needs=9))
    return Sheet(columns, [_layer(layer, candidate, formats=formats) for layer in layers])


def _layer(layer: Layer, candidate: Candidate, *, formats: bool) -> tuple[str | Text, ...]:
    mark = words.layer_mark(layer)
    first = candidate.first_bad is not None and candidate.first_bad.tensor == layer.tensor
    style = "bold red" if first else ""
    return (Text(words.SIGNS[mark], STYLES[mark]), Text(words.visible(layer.tensor), style),
            Text(elided(words.visible(layer.op), _OPERATOR), style), *[words.number(layer.precision)] * formats,
            Text(words.number(words.own_error(layer)), style), words.floor(layer),
            words.number(layer.accumulated.rel_l2 if layer.accumulated else None))


def _alone(candidate: Candidate) -> RenderableType:
    """What every layer does to the outputs when it alone is in low precision, the worst first."""
    rows = [(words.visible(layer.tensor), words.visible(layer.op), words.number(math.sqrt(layer.energy or 0.0)))
            for _, layer in shares.energies(candidate, len(candidate.tensors))]
    return Sheet((Column("tensor"), Column("op", needs=18), *figures("moves the outputs by")), rows)


def _facts(candidates: Sequence[Candidate], paths: Mapping[str, Path], *, verbose: bool) -> Iterable[RenderableType]:
    accuracy = [Text(f"{words.visible(a.output)} on {words.target(c)}: {a.candidate:.1%}, reference {a.reference:.1%}, "
                     f"of {words.plural(a.samples, 'sample')}") for c in candidates for a in c.accuracy]
    if accuracy:
        yield from titled("Accuracy", *accuracy)
    judged = [Text(f"{words.target(c)}: {words.task(t, detail=verbose)}", "" if t.passed else STYLES["bad"])
              for c in candidates for t in c.tasks]
    if judged:
        yield from titled("Judged", *judged)
    notes = [Text((f"{words.target(c)}: " if len(candidates) > 1 else "") + words.line(note))
             for c in candidates for note in c.notes]
    if notes:
        yield from titled("Notes", *notes)
    if paths:
        grid = Table.grid(padding=(0, 2))
        for what, path in paths.items():
            grid.add_row(Text(what, "dim"), Text(words.visible(str(path)), overflow="fold"))
        yield from titled("Written", grid)
