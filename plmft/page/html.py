"""The page as one HTML file: styles, script and Plotly inside, nothing from any network, which a policy in it forbids.

Costs Plotly's 4.8 MB where there is something to plot.
"""

import base64
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

from plmft import InputError
from plmft.page.blocks import Block, Cell, Chooser, Fold, Front, Picture, Section, Sentence, Span, Table, Tiles

HERE = Path(__file__).parent
SHORT = 8
NO_PLOTLY = (
    'the page draws with Plotly, which is not installed: pip install -e ".[page]". Markdown needs none: '
    "--output report.md"
)
FIELDS = (
    ("records", "Records", "any"),
    ("memory", "Memory, GB", "any"),
    ("hours", "Hours", "any"),
    ("usd", "USD", "any"),
)


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file. Raises: InputError: there is something to plot, and Plotly is not installed."""
    plots = any(isinstance(block, Front) for section in sections for block in section.blocks)
    links = [(s.key, s.short or s.title) for s in sections if s.level == 2]
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly=f"<script>{_plotly()}</script>" if plots else "",
        links="".join(f'<a href="#{key}">{escape(name)}</a>' for key, name in links),
        body="\n".join(_section(section) for section in sections),
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(NO_PLOTLY) from error
    return get_plotlyjs().replace("</script", "<\\/script")


def _section(section: Section) -> str:
    blocks = "\n".join(MAKERS[type(block)](block) for block in section.blocks)
    title = f"<h{section.level}>{escape(section.title)}</h{section.level}>"
    return f'<section id="{escape(section.key)}">{title}\n{blocks}</section>'


def _sentence(one: Sentence) -> str:
    if one.tone == "heading":
        return f"<h3>{escape(one.text)}</h3>"
    command = f" <code>{escape(one.command)}</code>" if one.command else ""
    return f'<p class="{one.tone}">{escape(one.text)}{command}{_chips(one.runs)}</p>'


def _fold(fold: Fold) -> str:
    inside = "".join(_sentence(one) for one in fold.sentences)
    return f'<details class="plain"><summary>{escape(fold.title)}</summary>{inside}</details>'


def _chips(runs: Sequence[str]) -> str:
    links = " ".join(f'<a class="chip" href="#run-{run}" title="run {run}">{run[:SHORT]}</a>' for run in runs)
    return f' <span class="chips">{links}</span>' if links else ""


def _table(table: Table) -> str:
    wordy = any(isinstance(cell, Cell) and cell.command for row in table.rows for cell in row)
    heads = "".join(
        f'<th class="{"number" if i in table.numeric else ""}" aria-sort="none"><button>{escape(head)}</button></th>'
        for i, head in enumerate(table.heads)
    )
    rows = "\n".join(_row(table, row) for row in table.rows)
    search = '<input class="search" type="search" placeholder="Search" aria-label="Search this table">'
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    text = (
        f"{search if table.searchable else ''}"
        f'<div class="scroll"><table class="{"wordy" if wordy else ""}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{caption}"
    )
    return f"<details><summary>{escape(table.folded)}</summary>{text}</details>" if table.folded else text


def _row(table: Table, row: Sequence[Cell | str]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    anchor = next((f' id="run-{cell.text}"' for cell in cells if cell.badge == "anchor"), "")
    marked = ' class="take"' if any(cell.badge == "take" for cell in cells) else ""
    parts = (_cell(cell, i in table.numeric) for i, cell in enumerate(cells))
    return f"<tr{anchor}{marked}>{''.join(parts)}</tr>"


def _cell(cell: Cell, numeric: bool) -> str:
    order = "" if cell.order is None else f' data-order="{cell.order!r}"'
    text = escape(cell.text)
    if cell.badge == "anchor":
        text = f'<a href="{escape(cell.command)}">{text}</a>' if cell.command else text
    elif cell.badge:
        text = f'{text} <b class="badge take">take</b>' if cell.badge == "take" else _badge(cell)
    command = f" <code>{escape(cell.command)}</code>" if cell.command and cell.badge != "anchor" else ""
    inside = f"{_bar(cell.span)}{text}{_chips(cell.runs)}{command}"
    return f'<td class="{"number" if numeric else ""}"{order}>{inside}</td>'


def _badge(cell: Cell) -> str:
    return f'<b class="badge {cell.badge}">{escape(cell.text)}</b>'


def _bar(span: Span | None) -> str:
    """The interval as a line with a mark, on the column's axis."""
    if span is None or span.end <= span.start:
        return ""
    low, value, high = (100 * (x - span.start) / (span.end - span.start) for x in (span.low, span.value, span.high))
    return (
        f'<span class="bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{max(high - low, 1):.1f}%"></i>'
        f'<b style="left:{value:.1f}%"></b></span>'
    )


def _front(front: Front) -> str:
    return (
        f'<figure class="front" data-plot="{escape(front.key)}"><div class="controls"></div>'
        f'<div class="plot" role="img" aria-label="accuracy against cost; the table below has the same figures"></div>'
        f"<figcaption>{escape(front.caption)}</figcaption>"
        f'<script type="application/json">{_json(front.data)}</script></figure>'
    )


def _json(data: object) -> str:
    return json.dumps(data).replace("<", "\\u003c")


def _chooser(chooser: Chooser) -> str:
    options = "".join(f'<option value="{i}">{escape(c["title"])}</option>' for i, c in enumerate(chooser.contests))
    inputs = "".join(
        f'<label>{label}<input name="{name}" type="number" min="0" step="any" placeholder="{hint}"></label>'
        for name, label, hint in FIELDS
    )
    return (
        f'<form class="chooser"><label>Task<select name="contest">{options}</select></label>'
        f'<label>Hardware<select name="device"></select></label>{inputs}'
        f'<output aria-live="polite"></output><script type="application/json">{_json(chooser.contests)}</script></form>'
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure class="picture"><img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.title)}{_chips((picture.run,))}</figcaption></figure>"
    )


def _tiles(tiles: Tiles) -> str:
    inside = "".join(f"<div><b>{escape(figure)}</b><span>{escape(what)}</span></div>" for figure, what in tiles.items)
    return f'<div class="tiles">{inside}</div>'


MAKERS: dict[type[Block], Callable[..., str]] = {
    Sentence: _sentence,
    Fold: _fold,
    Table: _table,
    Front: _front,
    Chooser: _chooser,
    Picture: _picture,
    Tiles: _tiles,
}
