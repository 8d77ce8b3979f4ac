"""The pieces that the HTML report is made of; every text in them is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from parity.report import words


def text(plain: str) -> str:
    """A text as HTML, with what would not show written out."""
    return escape(words.visible(plain))


def prose(plain: str) -> str:
    """A text in which backquotes mark what can be typed."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(plain))


def name(plain: str) -> str:
    """A name in code type, its direction kept to itself."""
    return f"<bdi class='name'>{text(plain)}</bdi>"


def layer(plain: str, row: int | None) -> str:
    """A tensor's name, as a link to its row in the layer table where it has one."""
    return name(plain) if row is None else f"<a href='#layers' data-row='{row}'>{name(plain)}</a>"


def badge(mark: words.Mark, plain: str) -> str:
    """A text with the sign and the colour of how it went."""
    return f"<span class='badge {mark}'><i aria-hidden='true'>{words.SIGNS[mark]}</i> {text(plain)}</span>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells that are HTML already; a head that starts with ">" is a column of figures."""
    heads = [(text(title.lstrip(">")), " class='figure'" * title.startswith(">")) for title in head]
    ths = "".join(f"<th scope='col'{figure}>{title}</th>" for title, figure in heads)
    tds = [[f'<td{figure} data-head="{title}">{cell}</td>' for cell, (title, figure) in zip(row, heads, strict=True)]
           for row in rows]
    trs = "".join(f"<tr>{''.join(row)}</tr>" for row in tds)
    return (f"<div class='wide{' ' * bool(kind)}{kind}' role='region' tabindex='0' aria-label='{text(caption)}'><table>"
            f"<caption>{text(caption)}</caption><thead><tr>{ths}</tr></thead><tbody>{trs}</tbody></table></div>")


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Label and value (HTML already) as a description list."""
    return "<dl>" + "".join(f"<div><dt>{text(label)}</dt><dd>{value}</dd></div>" for label, value in rows) + "</dl>"


def items(parts: Iterable[str]) -> str:
    """Parts (HTML already) as a list."""
    return f"<ul>{''.join(f'<li>{part}</li>' for part in parts)}</ul>"


def beside(plot: str, said: str, note: str, held: str, *, place: str = "", above: bool = False) -> str:
    """A picture that the page's script draws, beside what holds the same figures in words.

    Args:
        plot: which picture; empty where `place` says it.
        said: what it shows, for those who cannot see it.
        note: what a reader needs to know of it.
        held: the same figures (HTML already).
        place: id of a picture that stands once in the page; those of `plot` stand once a target.
        above: the picture stands above the words, however wide the page is.
    """
    which = f"id='{place}'" if place else f"data-plot='{plot}'"
    kind = "" if above else " class='beside'"
    return (f"<div{kind}><figure hidden><div {which} role='img' aria-label='{text(said)}'></div>"
            f"<figcaption>{text(note)}</figcaption></figure>{held}</div>")


def blocks(title: str, parts: Mapping[str, str]) -> str:
    """Texts of several lines as they are, each under its name, folded away."""
    if not parts:
        return ""
    made = (f"<h5>{text(key)}</h5><pre tabindex='0' role='region' aria-label='{text(key)}'>"
            f"{escape(words.lines(value))}</pre>" for key, value in parts.items())
    named = ", ".join(text(key) for key in parts)
    return (f"<details class='words'><summary><b>{text(title)}</b> <small>{named}</small></summary>"
            f"{''.join(made)}</details>")
