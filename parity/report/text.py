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
from parity.report.terminal import STYLES, columns, elided_text, pairs, titled
from parity.report.words import elided

_ASCII = str.maketrans({"✓": "+", "✗": "x", "–": "-", "−": "-", "×": "x", "∞": "inf", "…": "~", "Δ": "d", "─": "-",
                        "·": "-", "→": ">"})
# Rows that leave the whole report on one screen.
_BEFORE, _AFTER, _CLOSEST, _OUTPUTS, _SHARES, _KEPT = 3, 5, 5, 8, 5, 4
_MESSAGE = 400  # characters of a cause


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
        yield from _fix(ran[0], width, verbose=verbose)
    if any(candidate.outputs for candidate in ran):
        without = " without the fix" if answer.is_repair(report) else ""
        yield from titled(f"Outputs{without}", _outputs(ran, width, verbose=verbose))
    chosen = answer.focus(report)
    for place, candidate in enumerate(report.candidates):
        if verbose or place == chosen:
            yield from _first_bad(report, candidate)
            yield from _why(candidate)
            yield from _shares(candidate, width, verbose=verbose)
            if not answer.is_repair(report):
                yield from _fix(candidate, width, verbose=verbose)
        if verbose and candidate.modules:
            yield from sections.modules(candidate, width)
        if verbose and candidate.tensors and answer.is_repair(report):
            yield from titled(f"Each layer alone in {words.target(candidate)}", _alone(candidate, width))
        elif verbose and candidate.tensors:
            title = f"Every tensor on {words.target(candidate)}"
            yield from titled(title, _layers(candidate.tensors, candidate, width))
        elif place == chosen and not candidate.fixes:
            yield from _surroundings(candidate, width)
    yield from sections.ladder(report, chosen, width, verbose=verbose)
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


def _outputs(candidates: Sequence[Candidate], width: int, *, verbose: bool) -> RenderableType:
    rows = [(candidate, output) for candidate in candidates for output in candidate.outputs]
    rows.sort(key=lambda row: row[1].passed)
    shown = rows if verbose else rows[:_OUTPUTS]
    several = len(candidates) > 1
    table = columns(*(["target"] if several else []), "output", numbers=("error", "limit", "max |Δ|", ""))
    room = max(14, width - 42) // (2 if several else 1)
    for candidate, output in shown:
        c = output.accumulated
        mark: words.Mark = "good" if output.passed else "bad"
        names = [words.target(candidate)] if several else []
        table.add_row(*(Text(elided(name, room)) for name in [*names, words.visible(output.tensor)]),
                      Text(words.number(c.rel_l2 if c else None), STYLES[mark]), words.limit(output),
                      words.number(c.max_abs if c else None), Text(words.SIGNS[mark], STYLES[mark]))
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
        table = columns("", "op", numbers=("share",))
        for entry in entries:
            table.add_row(Text(elided(entry.label, max(14, width - 32)), "" if entry.op else "dim"),
                          Text(elided(entry.op, 14)), shares.percent(entry.share))
        table.add_row(Text("together", "dim"), "", Text(shares.percent(shares.total(attribution)).lstrip("+"), "dim"))
        body.append(table)
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


def _fix(candidate: Candidate, width: int, *, verbose: bool) -> Iterable[RenderableType]:
    fix = repairs.best(candidate)
    if fix is None:
        return
    mark: words.Mark = "good" if fix.passed else "bad"
    said = "" if fix.passed else "no fix passes; the best found: "
    body: list[RenderableType] = [Text(f"{words.SIGNS[mark]} {said}{words.line(fix.message)}", STYLES[mark]),
                                  pairs(repairs.figures(fix), emphasised="")]
    body += _kept(fix, width, len(fix.kept) if verbose else _KEPT)
    for title, blocks in (("In other tools' words", fix.words), (repairs.TRAINING, fix.training)):
        if blocks and verbose:
            # Lines of code are not wrapped, for they are to be pasted.
            body += [Text(f"{title}, for {words.visible(tool)}:\n{words.lines(text)}", no_wrap=True, overflow="ignore")
                     for tool, text in blocks.items()]
        elif blocks:
            body.append(Text(f"{title}: {', '.join(map(words.visible, blocks))} (-v prints it)", "dim"))
    yield from titled(f"Fix on {words.target(candidate)}", *body)


def _kept(fix: Fix, width: int, most: int) -> Iterable[RenderableType]:
    if not fix.kept:
        return
    table = columns("keep", "why", numbers=())
    room = min(max(14, (width - 8) // 2), max(len(repairs.name(layer)) for layer in fix.kept[:most]))
    for layer in fix.kept[:most]:
        table.add_row(elided_text(repairs.name(layer), room), elided_text(words.line(layer.why), width - 5 - room))
    yield table
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


def _surroundings(candidate: Candidate, width: int) -> Iterable[RenderableType]:
    tensors, blamed = candidate.tensors, words.blamed_layer(candidate)
    if blamed is not None:
        place = tensors.index(blamed)
        before, after = (1, 2) if candidate.attribution else (_BEFORE, _AFTER)
        shown = tensors[max(0, place - before):place + after + 1]
        title = "Around it, watched; the named one as deployed" if named.as_deployed(candidate) else "Around it"
        yield from titled(title, _layers(shown, candidate, width))
        return
    judged = [layer for layer in tensors if words.layer_ratio(layer) is not None]
    closest = sorted(judged, key=lambda layer: words.layer_ratio(layer) or 0, reverse=True)[:_CLOSEST]
    if closest:
        yield from titled(f"Closest to their floor, of {words.plural(len(judged), 'tensor')}",
                           _layers(closest, candidate, width))


def _layers(layers: Sequence[Layer], candidate: Candidate, width: int) -> RenderableType:
    with_op = width >= 72
    formats = any(layer.precision is not None for layer in candidate.tensors)
    numbers = ("format", "rest", "floor", "accumulated") if formats else ("local", "floor", "accumulated")
    table = columns("", "tensor", *(["op"] if with_op else []), numbers=numbers)
    room = max(14, width - (54 if with_op else 38) - (9 if formats else 0))
    first = candidate.first_bad.tensor if candidate.first_bad else None
    for layer in layers:
        mark = words.layer_mark(layer)
        style = "bold red" if layer.tensor == first else ""
        op = [Text(elided(words.visible(layer.op), 14), style)] if with_op else []
        name = Text(elided(words.visible(layer.tensor), room), style)
        table.add_row(Text(words.SIGNS[mark], STYLES[mark]), name, *op,
                      *([words.number(layer.precision)] if formats else []),
                      Text(words.number(words.own_error(layer)), style), words.floor(layer),
                      words.number(layer.accumulated.rel_l2 if layer.accumulated else None))
    return table


def _alone(candidate: Candidate, width: int) -> RenderableType:
    """What every layer does to the outputs when it alone is in low precision, the worst first."""
    found = columns("tensor", "op", numbers=("moves the outputs by (rel. L2)",))
    for _, layer in shares.energies(candidate, len(candidate.tensors)):
        found.add_row(elided_text(words.visible(layer.tensor), max(14, width - 56)),
                      elided_text(words.visible(layer.op), 14), words.number(math.sqrt(layer.energy or 0.0)))
    return found


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
