"""Everything that the template of `reslab analyze` names.

What an answer looks like: a title, words, figures and tables, drawn from plain data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from reslab.report.format import is_numeric_cell
from reslab.report.plots.export import render_inline_svg


@dataclass(frozen=True, eq=False)
class RenderedFigure:
    """A figure, what it shows in words for who cannot see it (`label`), its `title` and its `caption`."""

    figure: Figure
    alt_text: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class RenderedTable:
    """Rows of text under their columns; those after the first are set to the right where all are numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class RenderedResult:
    """An answer as it is shown: `words` are sentences, the first of them the verdict."""

    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[RenderedFigure, ...] = ()
    tables: tuple[RenderedTable, ...] = ()


@dataclass(frozen=True, eq=False)
class AnalysisPage:
    """The page of `reslab analyze`: what was asked, of whom, and the answer as it is shown."""

    analysis: str
    summary: str
    reference: str
    result: RenderedResult
    metadata: Mapping[str, str] = field(default_factory=dict)


def analysis_context(page: AnalysisPage) -> dict[str, Any]:
    """The values of `inspect.html`, by name."""
    result = page.result
    return {
        "title": result.title,
        "summary": page.summary,
        "paragraphs": result.paragraphs,
        "figures": [_figure_context(figure, f"figure{i}") for i, figure in enumerate(result.figures, 1)],
        "tables": [_table_context(table, f"table{i}") for i, table in enumerate(result.tables, 1)],
        "metadata": {**page.metadata, "reference": page.reference},
    }


def _figure_context(rendered: RenderedFigure, id_prefix: str) -> dict[str, Any]:
    is_wide = rendered.figure.get_figwidth() > 7
    markup = Markup(render_inline_svg(rendered.figure, id_prefix, rendered.alt_text))
    return {"title": rendered.title, "svg": markup, "caption": rendered.caption, "wide": is_wide}


def _table_context(table: RenderedTable, table_id: str) -> dict[str, Any]:
    column_indices = range(len(table.columns))
    align_right = [
        bool(table.rows) and all(is_numeric_cell(row[column]) for row in table.rows) for column in column_indices
    ]
    return {
        "id": table_id,
        "caption": table.caption,
        "columns": table.columns,
        "rows": table.rows,
        "align_right": align_right,
    }
