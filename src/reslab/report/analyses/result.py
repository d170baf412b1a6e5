"""Everything that the template of `reslab inspect` names."""

from typing import Any

from markupsafe import Markup

from reslab.report.format import is_number
from reslab.report.plots.export import svg
from reslab.report.shown import QuestionPage, ShownFigure, ShownTable


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
