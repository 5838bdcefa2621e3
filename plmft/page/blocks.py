"""What the page consists of: sections of sentences, tables, fronts, pictures; HTML and Markdown are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sentence:
    """Something said, and the runs that it was computed from.

    Args: command: what to type, shown after it. tone: plain, heading, label, answer (what to take), warning, or gap
        (what is not answered).
    """

    text: str
    runs: tuple[str, ...] = ()
    command: str = ""
    tone: str = "plain"


@dataclass(frozen=True)
class Span:
    """An interval drawn in a cell: low, value, high, on an axis from start to end that its column shares."""

    low: float
    value: float
    high: float
    start: float
    end: float


@dataclass(frozen=True)
class Cell:
    """Text of a table's cell; order: what it is sorted by; badge: a class that colours it; runs: links after it."""

    text: str
    runs: tuple[str, ...] = ()
    span: Span | None = None
    badge: str = ""
    order: float | None = None
    command: str = ""


@dataclass(frozen=True)
class Table:
    """heads: column titles; numeric: those that are right-aligned; folded: a title under which it is opened."""

    heads: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    folded: str = ""
    searchable: bool = False


@dataclass(frozen=True)
class Front:
    """Accuracy against a cost that the reader chooses: plain data for the browser, and the words for Markdown."""

    key: str
    data: dict[str, object]
    caption: str
    words: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class Chooser:
    """The form that asks for a task and limits and answers by the guide's rule."""

    contests: Sequence[dict[str, object]]


@dataclass(frozen=True)
class Picture:
    """A PNG from a run's artifacts."""

    title: str
    png: bytes
    run: str


@dataclass(frozen=True)
class Fold:
    """Sentences below a title that opens them."""

    title: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Tiles:
    """Few figures that stand for the whole: (figure, what it is)."""

    items: tuple[tuple[str, str], ...]


Block = Sentence | Fold | Table | Front | Chooser | Picture | Tiles


@dataclass
class Section:
    """A heading with blocks below it. level: 2, or 3 below another."""

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2
    short: str = ""  # for the bar of links
