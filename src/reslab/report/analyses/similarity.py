"""How the answers to `similarity` are shown."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import plural
from reslab.report.plots.matrices import Squares, similarity_figure

Answer = Mapping[str, Any]
_MOST_COLUMNS = 12


def show(answers: Sequence[Answer]) -> Shown:
    """A square of squares for each network with itself and for each two of them."""
    pairs = [pair for answer in answers for pair in answer["pairs"]]
    figure = similarity_figure([_squares(pair) for pair in pairs])
    label = "Linear CKA between layers, deeper where they are more alike; the input is at the lower left."
    caption = (
        "From 0 (white, nothing in common) to 1 (deep blue, equal up to rotation and scale). Input at the lower left."
    )
    images = plural(answers[0]["num_images"], "picture")
    return Shown(
        "How alike the layers are",
        tuple(words for pair in pairs for words in [similarity_words(pair)] if words),
        (ShownFigure(figure, label, f"Linear CKA on {images}", caption),),
        tuple(_table(pair) for pair in pairs),
    )


def similarity_words(pair: Answer) -> str:
    """Of one network how alike neighbours and ends are; of two how alike the same depth is, and which layers most."""
    values, rows, columns = pair["values"], pair["rows"], pair["columns"]
    if pair["first"] == pair["second"]:
        beside = [values[i][i + 1] for i in range(len(rows) - 1) if values[i][i + 1] is not None]
        if not beside or values[0][-1] is None:
            return ""
        return (
            f"{pair['first']}: neighbouring layers are alike to {fmean(beside):.2f} on average, "
            f"{rows[0]} and {rows[-1]} to {values[0][-1]:.2f}."
        )
    known = [(v, rows[i], columns[j]) for i, row in enumerate(values) for j, v in enumerate(row) if v is not None]
    if not known:
        return ""
    best, row, column = max(known)
    same = [values[i][i] for i in range(min(len(rows), len(columns))) if values[i][i] is not None]
    return (
        f"{pair['first']} and {pair['second']}: layers of the same number are alike to {fmean(same):.2f} on "
        f"average; most alike are {row} and {column}, {best:.2f}."
    )


def _squares(pair: Answer) -> Squares:
    return Squares(pair["first"], pair["second"], pair["rows"], pair["columns"], pair["values"])


def _table(pair: Answer) -> ShownTable:
    """The matrix, every so many layers where there are many."""
    rows, columns = _spread(len(pair["rows"])), _spread(len(pair["columns"]))
    body = [[pair["rows"][i], *(_value(pair["values"][i][j]) for j in columns)] for i in rows]
    head = [pair["first"], *(pair["columns"][j] for j in columns)]
    return ShownTable(f"{pair['first']} (down) and {pair['second']} (across)", head, body)


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _spread(number_of: int) -> list[int]:
    if number_of <= _MOST_COLUMNS:
        return list(range(number_of))
    return sorted({round(i * (number_of - 1) / (_MOST_COLUMNS - 1)) for i in range(_MOST_COLUMNS)})
