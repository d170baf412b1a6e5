"""Everything that the template of `reslab inspect` names.

What an answer looks like: a title, words, figures and tables, drawn from plain data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from reslab.report.format import is_number
from reslab.report.plots.export import svg


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


def question_parts(page: QuestionPage) -> dict[str, Any]:
    """The values of `inspect.html`, by name."""
    shown = page.shown
    return {
        "title": shown.title,
        "summary": page.summary,
        "words": shown.words,
        "figures": [_figure(figure, f"figure{number}") for number, figure in enumerate(shown.figures, 1)],
        "tables": [_table(table, f"table{number}") for number, table in enumerate(shown.tables, 1)],
        "facts": {**page.facts, "source": page.source},
    }


def _figure(shown: ShownFigure, name: str) -> dict[str, Any]:
    wide = shown.figure.get_figwidth() > 7
    drawn = Markup(svg(shown.figure, name, shown.label))
    return {"title": shown.title, "svg": drawn, "words": shown.caption, "wide": wide}


def _table(table: ShownTable, name: str) -> dict[str, Any]:
    columns = range(len(table.columns))
    right = [bool(table.rows) and all(is_number(row[column]) for row in table.rows) for column in columns]
    return {"id": name, "caption": table.caption, "columns": table.columns, "rows": table.rows, "right": right}
