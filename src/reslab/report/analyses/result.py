"""The rendered result of an analysis: a title, paragraphs, figures and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

# The result of one network as plain data, as `reslab analyze --json` prints it.
Result = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RenderedFigure:
    """A figure with its alternative text, title and caption."""

    figure: Figure
    alt_text: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class RenderedTable:
    """Rows of text under their columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class RenderedResult:
    """The paragraphs, figures and tables of an analysis; the first paragraph is the main finding."""

    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[RenderedFigure, ...] = ()
    tables: tuple[RenderedTable, ...] = ()
