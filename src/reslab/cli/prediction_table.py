"""The table of predictions that `reslab predict` prints: classes, labels, values, shares or boxes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reslab.cli.output import print_table
from reslab.report.format import format_number, format_percent

if TYPE_CHECKING:
    from reslab.deploy.prediction import Prediction

_MAX_CLASSES, _MAX_BOXES = 3, 10
_Cells = Callable[["Prediction"], Sequence[str]]
_Lines = Callable[["Prediction"], Sequence[Sequence[str]]]


def print_prediction_table(predictions: "Sequence[Prediction]", max_shown: int | None = None) -> None:
    """Print one row per image, of boxes one a box; of ranked classes the first 3, of boxes 10, or `max_shown`."""
    from reslab.deploy.prediction_formats import choose_layout

    columns, lines = _TABLES[choose_layout(predictions).name](predictions, max_shown)
    rows: list[Sequence[str]] = []
    for prediction in predictions:
        rows += [(prediction.path if i == 0 else "", *line) for i, line in enumerate(lines(prediction))]
    print_table(["image", *columns], rows)


def _one_line(columns: list[str], cells: _Cells) -> tuple[list[str], _Lines]:
    """Return a table with one line an image, whose last cell is the error of an image that could not be read."""
    blank = [""] * (len(columns) - 1)
    return columns, lambda prediction: [[*blank, prediction.error] if prediction.error else cells(prediction)]


def _box_table(predictions: "Sequence[Prediction]", max_boxes: int | None) -> tuple[list[str], _Lines]:
    max_boxes = max_boxes or _MAX_BOXES

    def lines(prediction: "Prediction") -> list[list[str]]:
        boxes = prediction.boxes or ()
        rows = [[box.name, f"{box.score:.3f}", *(f"{side:.1f}" for side in box.box)] for box in boxes[:max_boxes]]
        if not boxes or len(boxes) > max_boxes:
            rest = f"and {len(boxes) - max_boxes} more" if boxes else prediction.error or "no box"
            rows.append([rest, *[""] * 5])
        return rows

    return ["class", "score", "x1", "y1", "x2", "y2"], lines


def _class_table(predictions: "Sequence[Prediction]", max_classes: int | None) -> tuple[list[str], _Lines]:
    def cells(prediction: "Prediction") -> tuple[str, str]:
        if not prediction.classes:  # in multi-label tasks, where no image shows a class
            return "none", ""
        first, *others = prediction.classes[: max_classes or _MAX_CLASSES]
        others_text = "".join(f", {score.name} {format_percent(score.probability, 1)}" for score in others)
        return first.name, format_percent(first.probability, 1) + others_text

    return _one_line(["class", "probability"], cells)


def _label_table(predictions: "Sequence[Prediction]", max_classes: int | None) -> tuple[list[str], _Lines]:
    def cells(prediction: "Prediction") -> tuple[str, str]:
        pairs = {(score.name, score.probability): score.is_predicted for score in prediction.classes}
        above, below = ([pair for pair, is_above in pairs.items() if is_above is side] for side in (True, False))
        return _list_fractions(above), _list_fractions(below)

    if all(score.is_predicted for row in predictions for score in row.classes):
        return _one_line(["classes"], lambda prediction: cells(prediction)[:1])
    return _one_line(["classes", "below their thresholds"], cells)


def _value_table(predictions: "Sequence[Prediction]", max_classes: int | None) -> tuple[list[str], _Lines]:
    names = list(dict.fromkeys(name for row in predictions for name in row.values or {})) or ["value"]
    return _one_line(names, lambda prediction: [format_number((prediction.values or {})[name]) for name in names])


def _share_table(predictions: "Sequence[Prediction]", max_classes: int | None) -> tuple[list[str], _Lines]:
    return _one_line(["share of the pixels"], lambda row: [_list_fractions(list((row.shares or {}).items()))])


def _list_fractions(fractions: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {format_percent(fraction, 1)}" for name, fraction in fractions) or "none"


_TABLES: "dict[str, Callable[[Sequence[Prediction], int | None], tuple[list[str], _Lines]]]" = {
    "boxes": _box_table,
    "classes": _class_table,
    "labels": _label_table,
    "values": _value_table,
    "shares": _share_table,
}
