"""What an answer looks like: a title, words, figures and tables, drawn from plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class ShownFigure:
    """A figure, what it shows in words for who cannot see it (`label`), its `title` and its `caption`."""

    figure: Figure
    label: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class ShownTable:
    """Rows of text under their columns; those after the first are set to the right where all are numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Shown:
    """An answer as it is shown: `words` are sentences, the first of them the verdict."""

    title: str
    words: tuple[str, ...] = ()
    figures: tuple[ShownFigure, ...] = ()
    tables: tuple[ShownTable, ...] = ()


@dataclass(frozen=True, eq=False)
class QuestionPage:
    """The page of `reslab inspect`: what was asked, of whom, and the answer as it is shown."""

    question: str
    summary: str
    source: str
    shown: Shown
    facts: Mapping[str, str] = field(default_factory=dict)
