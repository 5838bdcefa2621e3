"""Draw embeddings: labels by id, at most so many points, colours that everyone can tell apart, and what was kept."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plmft import InputError
from plmft.data.table_columns import NUMBER
from plmft.data.table_values import Cells, missing_rows, numbers
from plmft.data.whole_file import write_whole
from plmft.embeddings.formats import Embeddings, open_embeddings
from plmft.embeddings.labels import matched, read_labels
from plmft.embeddings.logged_picture import find_run
from plmft.embeddings.plot import Plot
from plmft.embeddings.projection import NAMES, Plane, project
from plmft.embeddings.whole import check_per_sequence, told_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#b0b0b0"
COLOURS = (  # Okabe and Ito's eight without black, then darker or lighter ones
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"),
    *("#5c3b8c", "#7f7f00", "#8c2d04", "#00441b", "#c7a0dc"),
)
MARKERS = ("o", "^", "s")  # each with all colours
FEW = 20  # whole numbers, if not more than so many differ, are classes
NONE, OTHER = "no label", "other"


@dataclass(frozen=True)
class Shades:
    """What colours the points.

    Args:
        name: of the column. values: (N,) float64, NaN for none; or None. words: N texts, empty for none; or None.
    """

    name: str
    values: np.ndarray | None = None
    words: list[str] | None = None


def plot(options: Plot, tell: Callable[[str], None]) -> None:
    """Do it, and tell what was done, a line at a time. Raises: InputError: whatever is wrong with files or options."""
    run = None if options.run is None else find_run(options.run)
    embeddings = open_embeddings(options.embeddings, options.layer)
    vectors = check_per_sequence(embeddings, options.embeddings)
    shades, notes = _shades(embeddings, options)
    for note in notes:
        tell(note)
    drawn = np.sort(np.random.default_rng(options.seed).permutation(len(vectors))[: options.points])
    if len(drawn) < len(vectors):
        tell(f"{len(drawn):,} of {len(vectors):,} points are drawn, evenly by chance (points={options.points}).")
    how = {"neighbours": options.neighbours, "perplexity": options.perplexity, "seed": options.seed}
    plane = project(vectors[drawn], options.method, **how)
    figure = draw(plane, _of(shades, drawn), _title(options, embeddings, len(drawn), plane))
    output = Path(options.output).expanduser()
    picture = _picture(figure, output.suffix[1:])
    if options.coordinates is not None:
        _save(Path(options.coordinates).expanduser(), _table(embeddings.ids, drawn, plane, shades))
    _save(output, picture)
    tell(f"{len(drawn):,} points by {NAMES[options.method]}: {output}")
    tell(f"{plane.kept:.1%} of each point's {options.neighbours} nearest neighbours are nearest in the picture, too.")
    if options.coordinates is not None:
        tell(f"Coordinates: {options.coordinates}")
    if run is not None:
        name = run.log(output, f"{options.method}_{shades.name if shades else output.stem}")
        tell(f"Logged to run {run.id[:8]} as {name}.")


def _shades(embeddings: Embeddings, options: Plot) -> tuple[Shades | None, list[str]]:
    if options.labels is None:
        return None, []
    table = read_labels(Path(options.labels).expanduser(), options.id)
    column = table.target("column", options.column)
    at, rows, notes = matched(embeddings.ids, table)
    cells = table.cells(column, rows)
    texts = [""] * len(embeddings.ids)
    for number, text in zip(at, cells.texts, strict=True):
        texts[number] = text.strip()
    if not _numeric(cells, options.colours):
        return Shades(column, words=texts), [*table.notes, *notes]
    values = np.full(len(texts), np.nan)
    missing = set(missing_rows(cells, "regression"))
    filled = [n for n in range(len(at)) if n not in missing]
    parsed, told = numbers(_only(cells, filled), table.sheet.delimiter)
    values[[at[n] for n in filled]] = parsed
    return Shades(column, values=values), [*table.notes, *notes, *told]


def _numeric(cells: Cells, colours: str) -> bool:
    if colours != "auto":
        return colours == "numbers"
    missing = set(missing_rows(cells, "regression"))
    filled = {text.strip() for n, text in enumerate(cells.texts) if n not in missing}
    whole = all(text.lstrip("+-").isdigit() for text in filled)
    return bool(filled) and all(map(NUMBER.fullmatch, filled)) and not (whole and len(filled) <= FEW)


def _only(cells: Cells, rows: Sequence[int]) -> Cells:
    return Cells(cells.column, [cells.where[row] for row in rows], [cells.texts[row] for row in rows])


def _of(shades: Shades | None, drawn: np.ndarray) -> Shades | None:
    if shades is None:
        return None
    words = None if shades.words is None else [shades.words[number] for number in drawn]
    return Shades(shades.name, None if shades.values is None else shades.values[drawn], words)


def _title(options: Plot, embeddings: Embeddings, count: int, plane: Plane) -> str:
    setting = {"tsne": f", perplexity {options.perplexity:g}", "umap": f", {options.neighbours} neighbours"}
    how = f"{NAMES[options.method]}{setting.get(options.method, '')}"
    return (
        f"{told_of(embeddings.about)}\n{count:,} sequences by {how}; "
        f"{plane.kept:.0%} of {options.neighbours} nearest neighbours kept"
    )


def draw(plane: Plane, shades: Shades | None, title: str) -> "Figure":
    """900 pixels wide; without pyplot, so any thread may draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.8), dpi=100, layout="constrained")
    ax = figure.subplots()
    size = float(np.clip(9000 / len(plane.points), 4, 36))
    if shades is None:
        ax.scatter(*plane.points.T, s=size, color=COLOURS[0], alpha=0.7, linewidths=0)
    elif shades.values is not None:
        _scale(ax, plane.points, shades, size)
    else:
        _classes(ax, plane.points, shades, size)
    ax.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
    ax.set_title(title, fontsize=11, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    if not plane.axes[0].startswith("PC"):  # distances alone mean something
        ax.set(xticks=[], yticks=[])
    return figure


def _scale(ax: "Axes", points: np.ndarray, shades: Shades, size: float) -> None:
    without = np.isnan(shades.values)
    if without.any():
        ax.scatter(*points[without].T, s=size, color=GREY, alpha=0.5, linewidths=0, label=_counted(NONE, without.sum()))
        ax.legend(frameon=False, fontsize=9)
    low, high = np.quantile(shades.values[~without], [0.01, 0.99])
    shown = ax.scatter(
        *points[~without].T, s=size, c=shades.values[~without], vmin=low, vmax=high, cmap="viridis", linewidths=0
    )
    ax.figure.colorbar(shown, label=f"{shades.name} (ends: 1st and 99th percentile)", shrink=0.8, extend="both")


def _classes(ax: "Axes", points: np.ndarray, shades: Shades, size: float) -> None:
    """The most frequent classes have a colour and a mark each; the others and points without a label are grey."""
    counts = Counter(word for word in shades.words if word)
    most = len(COLOURS) * len(MARKERS)
    named = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][:most]
    words = np.array([word if word in set(named) else (OTHER if word else NONE) for word in shades.words], object)
    for grey in (NONE, OTHER):
        if (mask := words == grey).any() and grey not in counts:
            ax.scatter(*points[mask].T, s=size, color=GREY, alpha=0.5, linewidths=0, label=_counted(grey, mask.sum()))
    for number, name in enumerate(named):
        mask, marker = words == name, MARKERS[number // len(COLOURS)]
        colour = COLOURS[number % len(COLOURS)]
        label = _counted(name, mask.sum())
        ax.scatter(*points[mask].T, s=size, color=colour, marker=marker, alpha=0.8, linewidths=0, label=label)
    legend = ax.legend(
        title=shades.name, frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5
    )
    legend.get_title().set_fontsize(9)


def _counted(name: str, count: int) -> str:
    short = name if len(name) <= 28 else f"{name[:27]}…"
    plain = short.replace("$", r"\$")  # else two of them make a formula
    return f"{plain} ({count:,})"


def _picture(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _table(ids: Sequence[str], drawn: np.ndarray, plane: Plane, shades: Shades | None) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "x", "y", *([shades.name] if shades else [])])
    for number, (x, y) in zip(drawn, plane.points, strict=True):
        label = []
        if shades is not None:
            value = shades.words[number] if shades.words is not None else shades.values[number]
            label = [value if isinstance(value, str) or np.isfinite(value) else ""]
        writer.writerow([ids[number], f"{x:.6g}", f"{y:.6g}", *label])
    return text.getvalue().encode()


def _save(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}). Name another file.") from None
