"""How the answers to `similarity` are shown."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import pluralize
from reslab.report.plots.matrices import SimilarityMatrix, plot_similarity

Result = Mapping[str, Any]
_MAX_TABLE_COLUMNS = 12


def render_similarity(results: Sequence[Result]) -> RenderedResult:
    """A square of squares for each network with itself and for each two of them."""
    pairs = [pair for result in results for pair in result["pairs"]]
    figure = plot_similarity([_similarity_matrix(pair) for pair in pairs])
    alt_text = "Linear CKA between layers, deeper where they are more alike; the input is at the lower left."
    caption = (
        "From 0 (white, nothing in common) to 1 (deep blue, equal up to rotation and scale). Input at the lower left."
    )
    images_text = pluralize(results[0]["num_images"], "picture")
    return RenderedResult(
        "How alike the layers are",
        tuple(text for pair in pairs for text in [similarity_text(pair)] if text),
        (RenderedFigure(figure, alt_text, f"Linear CKA on {images_text}", caption),),
        tuple(_render_table(pair) for pair in pairs),
    )


def similarity_text(pair: Result) -> str:
    """Of one network how alike neighbours and ends are; of two how alike the same depth is, and which layers most."""
    values, rows, columns = pair["values"], pair["rows"], pair["columns"]
    if pair["first"] == pair["second"]:
        neighbor_values = [values[i][i + 1] for i in range(len(rows) - 1) if values[i][i + 1] is not None]
        if not neighbor_values or values[0][-1] is None:
            return ""
        return (
            f"{pair['first']}: neighbouring layers are alike to {fmean(neighbor_values):.2f} on average, "
            f"{rows[0]} and {rows[-1]} to {values[0][-1]:.2f}."
        )
    entries = [
        (value, rows[i], columns[j]) for i, row in enumerate(values) for j, value in enumerate(row) if value is not None
    ]
    if not entries:
        return ""
    highest, row, column = max(entries)
    diagonal = [values[i][i] for i in range(min(len(rows), len(columns))) if values[i][i] is not None]
    return (
        f"{pair['first']} and {pair['second']}: layers of the same number are alike to {fmean(diagonal):.2f} on "
        f"average; most alike are {row} and {column}, {highest:.2f}."
    )


def _similarity_matrix(pair: Result) -> SimilarityMatrix:
    return SimilarityMatrix(pair["first"], pair["second"], pair["rows"], pair["columns"], pair["values"])


def _render_table(pair: Result) -> RenderedTable:
    """The matrix, every so many layers where there are many."""
    rows, columns = _evenly_spaced(len(pair["rows"])), _evenly_spaced(len(pair["columns"]))
    body = [[pair["rows"][i], *(_format_similarity(pair["values"][i][j]) for j in columns)] for i in rows]
    headers = [pair["first"], *(pair["columns"][j] for j in columns)]
    return RenderedTable(f"{pair['first']} (down) and {pair['second']} (across)", headers, body)


def _format_similarity(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _evenly_spaced(n: int) -> list[int]:
    if n <= _MAX_TABLE_COLUMNS:
        return list(range(n))
    return sorted({round(i * (n - 1) / (_MAX_TABLE_COLUMNS - 1)) for i in range(_MAX_TABLE_COLUMNS)})
