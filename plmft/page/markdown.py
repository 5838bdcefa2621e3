"""The page as Markdown: the same sentences and tables, fronts as the configurations on them, pictures by name."""

from collections.abc import Callable, Sequence

from plmft.page.blocks import Block, Cell, Chooser, Fold, Front, Picture, Section, Sentence, Table, Tiles

SHORT = 8


def to_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    parts = [f"# {title}", subtitle]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title[:1].upper()}{section.title[1:]}")
        parts += [text for block in section.blocks if (text := MAKERS[type(block)](block))]
    return "\n\n".join(parts) + "\n"


def _sentence(one: Sentence) -> str:
    command = f" `{one.command}`" if one.command else ""
    if one.tone == "heading":
        return f"### {one.text[:1].upper()}{one.text[1:]}"
    text = f"**{one.text}**" if one.tone == "answer" else one.text
    return f"{'- ' if one.tone == 'gap' else ''}{text}{command}{_runs(one.runs)}"


def _fold(fold: Fold) -> str:
    return "\n".join([f"{fold.title}:\n", *(_sentence(one) for one in fold.sentences)])


def _runs(runs: Sequence[str]) -> str:
    return f" ({', '.join(f'`{run[:SHORT]}`' for run in runs)})" if runs else ""


def _table(table: Table) -> str:
    lines = [
        _line(table.heads),
        "|" + "|".join("--:" if i in table.numeric else "--" for i in range(len(table.heads))) + "|",
    ]
    lines += [_line([_cell(cell) for cell in row]) for row in table.rows]
    before = f"**{table.folded}**\n\n" if table.folded else ""
    return before + "\n".join(lines) + (f"\n\n{table.caption}" if table.caption else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return cell
    text = f"**{cell.text}**" if cell.badge == "take" else cell.text
    command = f" `{cell.command}`" if cell.command and cell.badge != "anchor" else ""
    return f"{text}{_runs(cell.runs)}{command}".strip()


def _front(front: Front) -> str:
    return "\n".join(f"- {_sentence(one)}" for one in front.words)


def _chooser(_: Chooser) -> str:
    return ""


def _picture(picture: Picture) -> str:
    return f"{picture.title}: an image among the artifacts of run `{picture.run[:SHORT]}`."


def _tiles(tiles: Tiles) -> str:
    return "; ".join(f"{what}: {figure}" for figure, what in tiles.items) + "."


MAKERS: dict[type[Block], Callable[..., str]] = {
    Sentence: _sentence,
    Fold: _fold,
    Table: _table,
    Front: _front,
    Chooser: _chooser,
    Picture: _picture,
    Tiles: _tiles,
}
