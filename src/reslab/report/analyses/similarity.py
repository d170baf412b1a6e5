"""Render `similarity`: linear CKA between layers."""

from collections.abc import Sequence
from statistics import fmean

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import pluralize
from reslab.report.plots.matrices import SimilarityMatrix, plot_similarity

_MAX_TABLE_COLUMNS = 12


def render_similarity(results: Sequence[Result]) -> RenderedResult:
    """Render a matrix for each network with itself and for each pair of networks."""
    pairs = [pair for result in results for pair in result["pairs"]]
    figure = plot_similarity([_similarity_matrix(pair) for pair in pairs])
    alt_text = "Linear CKA between layers; the input is at the lower left."
    caption = (
        "From 0 (background: nothing in common) to 1 (full blue: equal up to rotation and scale). The input is at the "
        "lower left."
    )
    images_text = pluralize(results[0]["num_images"], "image")
    return RenderedResult(
        "Layer similarity (CKA)",
        tuple(text for pair in pairs for text in [similarity_text(pair)] if text),
        (RenderedFigure(figure, alt_text, f"Linear CKA on {images_text}", caption),),
        tuple(_render_table(pair) for pair in pairs),
    )


def similarity_text(pair: Result) -> str:
    """Return the mean CKA of adjacent layers of a network, or of the same depth in two networks, and its maximum."""
    values, rows, columns = pair["values"], pair["rows"], pair["columns"]
    if pair["first"] == pair["second"]:
        neighbor_values = [values[i][i + 1] for i in range(len(rows) - 1) if values[i][i + 1] is not None]
        if not neighbor_values or values[0][-1] is None:
            return ""
        return (
            f"{pair['first']}: mean CKA of adjacent layers {fmean(neighbor_values):.2f}, of {rows[0]} and {rows[-1]} "
            f"{values[0][-1]:.2f}."
        )
    entries = [
        (value, rows[i], columns[j]) for i, row in enumerate(values) for j, value in enumerate(row) if value is not None
    ]
    if not entries:
        return ""
    highest, row, column = max(entries)
    diagonal = [values[i][i] for i in range(min(len(rows), len(columns))) if values[i][i] is not None]
    return (
        f"{pair['first']} and {pair['second']}: mean CKA at the same depth {fmean(diagonal):.2f}; highest between "
        f"{row} and {column}, {highest:.2f}."
    )


def _similarity_matrix(pair: Result) -> SimilarityMatrix:
    return SimilarityMatrix(
        row_label=pair["first"],
        column_label=pair["second"],
        rows=pair["rows"],
        columns=pair["columns"],
        values=pair["values"],
    )


def _render_table(pair: Result) -> RenderedTable:
    """Return the matrix as a table, of evenly spaced layers where there are more than twelve."""
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
