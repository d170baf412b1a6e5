"""The page of `reslab analyze`: the result of an analysis as text, plots and tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reslab.report.format import is_numeric_cell
from reslab.report.pages.components import make_panel

if TYPE_CHECKING:
    from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable


@dataclass(frozen=True, eq=False)
class AnalysisPage:
    """The values of the page: the analysis, a sentence on what it measures, its reference, and its rendered result."""

    analysis: str
    summary: str
    reference: str
    result: "RenderedResult"
    metadata: Mapping[str, str] = field(default_factory=dict)


def analysis_context(page: AnalysisPage) -> dict[str, Any]:
    """Return the values of `analysis.html`."""
    result = page.result
    return {
        "title": result.title,
        "summary": page.summary,
        "paragraphs": result.paragraphs,
        "figures": [_figure_context(figure, f"figure{i}") for i, figure in enumerate(result.figures, 1)],
        "tables": [_table_context(table, f"table{i}") for i, table in enumerate(result.tables, 1)],
        "metadata": {**page.metadata, "reference": page.reference},
    }


def _figure_context(rendered: "RenderedFigure", anchor: str) -> dict[str, Any]:
    return make_panel(
        rendered.figure, anchor, title=rendered.title, alt_text=rendered.alt_text, caption=rendered.caption
    )


def _table_context(table: "RenderedTable", table_id: str) -> dict[str, Any]:
    align_right = [
        bool(table.rows) and all(is_numeric_cell(row[column]) for row in table.rows)
        for column in range(len(table.columns))
    ]
    return {
        "id": table_id,
        "caption": table.caption,
        "columns": table.columns,
        "rows": table.rows,
        "align_right": align_right,
    }
