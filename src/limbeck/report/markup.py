"""Small pieces of HTML; every text that comes from outside goes through :func:`text`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from limbeck.records.figure import Figure, Picture

_DOI = re.compile(r"\b(10\.\d{4,9}/[^\s&;,]+[^\s&;,.])")
_LONG = ("Command",)
Row = Sequence[str]
#: title, attribute or key, and form of a figure; "" for words, None for what is markup already
Column = tuple[str, str, str | None]


def text(value: object) -> str:
    """A value as text that is no markup."""
    return escape(str(value), quote=True)


def code(value: object) -> str:
    return f"<code>{text(value)}</code>"


def short_hash(value: object) -> str:
    """The beginning of a hash, the whole of it where the pointer rests."""
    whole = str(value)
    return f'<code title="{text(whole)}">{text(whole[:12])}…</code>' if len(whole) > 16 else code(whole)


def linked(value: object) -> str:
    """Text with its DOIs as links (to be followed, never loaded)."""
    return _DOI.sub(r'<a href="https://doi.org/\1">\1</a>', text(value))


def paragraph(value: object, kind: str = "") -> str:
    return f"<p{_class(kind)}>{text(value)}</p>"


def missing(what: str, command: str) -> str:
    """A sentence in place of a section, with the command that makes what it lacks."""
    return f'<p class="missing">{text(what)} Run {code(command)}.</p>'


def facts(pairs: Iterable[tuple[str, str | None]]) -> str:
    """A list of (term, markup); pairs without markup are left out."""
    rows = "".join(
        f"<div{_class('long' if term in _LONG else '')}><dt>{text(term)}</dt><dd>{value}</dd></div>"
        for term, value in pairs
        if value
    )
    return f'<dl class="facts">{rows}</dl>'


def table(
    columns: Sequence[str], rows: Iterable[Row], *, marked: int | None = None, words: Sequence[int] = (0,)
) -> str:
    """A table of markup cells; ``words``: the columns that are not figures.

    Columns in which no row has anything are left out. ``marked``: index of a row to stand out.
    """
    body = [list(row) for row in rows]
    kept = [k for k in range(len(columns)) if k == 0 or any(row[k] not in ("", "–") for row in body)]

    def cell(tag: str, k: int, value: str) -> str:
        return f"<{tag}{_class('' if k in words else 'n')}>{value}</{tag}>"

    # a word joiner keeps a unit such as meV/Å on one line
    head = "".join(cell("th", k, text(columns[k]).replace("/", "/\u2060")) for k in kept)
    lines = [
        f"<tr{_class('marked' if n == marked else '')}>"
        + "".join(cell("td", k, row[k]) for k in kept)
        + "</tr>"
        for n, row in enumerate(body)
    ]
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def records_table(
    head: str, rows: Iterable[tuple[str, Any]], columns: Sequence[Column], *, marked: int | None = None
) -> str:
    """A row a (markup, record), a column an attribute or key of the record."""

    def cell(record: Any, key: str, form: str | None) -> str:
        value = (record if isinstance(record, Mapping) else vars(record)).get(key)
        if form is None:
            return str(value)
        return number(value, form) if form else text(value or "–")

    titles = [head, *(title for title, _, _ in columns)]
    words = (0, *(k for k, (_, _, form) in enumerate(columns, 1) if not form))
    lines = [(name, *(cell(record, key, form) for _, key, form in columns)) for name, record in rows]
    return table(titles, lines, marked=marked, words=words)


def details(title: str, markup: str) -> str:
    return f"<details><summary>{text(title)}</summary>{markup}</details>"


def number(value: Any, form: str = "{:.3g}") -> str:
    """A figure, a dash where there is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    try:
        shown = form.format(value)
        if "e+" in shown:  # three digits of thousands: as they are read, not as a power of ten
            plain = re.compile(r"[-+]?[0-9.]+e\+[0-9]+")
            shown = plain.sub(lambda found: f"{float(found[0]):,.0f}", shown)
    except ValueError:  # a whole number was wanted
        shown = f"{value:g}"
    return text(shown.removeprefix("-") if re.fullmatch(r"-0\.?0*", shown) else shown)


def verdict(passes: bool | None, words: str = "") -> str:
    """Pass, fail or not tested, told apart by word and colour."""
    kind = "none" if passes is None else "pass" if passes else "fail"
    return f'<span class="verdict {kind}">{text(words or {"none": "not tested"}.get(kind, kind))}</span>'


def evaluated(value: object) -> str:
    """A verdict that a file holds as a word."""
    return verdict({"pass": True, "fail": False}.get(str(value).lower()), str(value or ""))


def figures(shown: Sequence[Figure | Picture], *, abreast: bool = False) -> str:
    """The places of figures, which the page's script fills; ``abreast``: three in a line."""
    places = "".join(_place(figure) for figure in shown)
    kind = "grid three" if abreast and len(shown) % 2 else "grid"
    return f'<div class="{kind}">{places}</div>' if places else ""


def _place(figure: Figure | Picture) -> str:
    kind = "view" if isinstance(figure, Picture) else "plot"
    inner = f'<div class="{kind}" id="{text(figure.name)}" style="height:{figure.height}px"></div>'
    return (
        f'<figure class="card"><h3>{text(figure.title)}</h3>{inner}'
        f"<figcaption>{text(figure.caption)}</figcaption></figure>"
    )


def section(name: str, title: str, *parts: str) -> str:
    return f'<section id="s-{text(name)}"><h2>{text(title)}</h2>{"".join(parts)}</section>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
