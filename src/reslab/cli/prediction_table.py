"""The table of predictions that `reslab predict` prints, by what they have: classes, labels, values or shares."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reslab.cli.output import print_table
from reslab.report.format import format_number, format_percent

if TYPE_CHECKING:
    from reslab.deploy.prediction import Prediction

_MAX_CLASSES = 3
_Cells = Callable[["Prediction"], Sequence[str]]


def print_prediction_table(predictions: "Sequence[Prediction]", max_classes: int | None = None) -> None:
    """Print one row per image; of ranked classes the first 3, or `max_classes`."""
    from reslab.deploy.layouts import choose_layout

    columns, cells = _TABLES[choose_layout(predictions).name](predictions, max_classes or _MAX_CLASSES)
    blank = [""] * (len(columns) - 1)
    rows = [(row.path, *([*blank, row.error] if row.error else cells(row))) for row in predictions]
    print_table(["image", *columns], rows)


def _class_table(predictions: "Sequence[Prediction]", max_classes: int) -> tuple[list[str], _Cells]:
    def cells(prediction: "Prediction") -> tuple[str, str]:
        if not prediction.classes:  # in multi-label tasks, where no image shows a class
            return "none", ""
        first, *others = prediction.classes[:max_classes]
        others_text = "".join(f", {score.name} {format_percent(score.probability, 1)}" for score in others)
        return first.name, format_percent(first.probability, 1) + others_text

    return ["class", "probability"], cells


def _label_table(predictions: "Sequence[Prediction]", max_classes: int) -> tuple[list[str], _Cells]:
    def cells(prediction: "Prediction") -> tuple[str, str]:
        pairs = {(score.name, score.probability): score.is_predicted for score in prediction.classes}
        above, below = ([pair for pair, is_above in pairs.items() if is_above is side] for side in (True, False))
        return _list_fractions(above), _list_fractions(below)

    if all(score.is_predicted for row in predictions for score in row.classes):
        return ["classes"], lambda prediction: cells(prediction)[:1]
    return ["classes", "below their thresholds"], cells


def _value_table(predictions: "Sequence[Prediction]", max_classes: int) -> tuple[list[str], _Cells]:
    names = list(dict.fromkeys(name for row in predictions for name in row.values or {})) or ["value"]
    return names, lambda prediction: [format_number((prediction.values or {})[name]) for name in names]


def _share_table(predictions: "Sequence[Prediction]", max_classes: int) -> tuple[list[str], _Cells]:
    return ["share of the pixels"], lambda prediction: [_list_fractions(list((prediction.shares or {}).items()))]


def _list_fractions(fractions: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {format_percent(fraction, 1)}" for name, fraction in fractions) or "none"


_TABLES: "dict[str, Callable[[Sequence[Prediction], int], tuple[list[str], _Cells]]]" = {
    "classes": _class_table,
    "labels": _label_table,
    "values": _value_table,
    "shares": _share_table,
}
