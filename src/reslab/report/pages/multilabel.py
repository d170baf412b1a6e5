"""The results of a multi-label classification on a page: metrics of each class, curves, and images with errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reslab.metrics.classification import macro_average
from reslab.report.format import format_int, format_number, format_percent
from reslab.report.pages.components import TaskResults, gallery_item, make_panel
from reslab.spec.task import TaskByName

MAX_CURVES = 8


@dataclass(frozen=True)
class LabelRow:
    """The metrics of a class, NaN where undefined, its threshold, and the counts of images at this threshold."""

    name: str
    average_precision: float
    threshold: float
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int
    tn: int


@dataclass(frozen=True)
class LabelErrors:
    """An image with wrong labels: uint8 pixels (H, W) or (H, W, 3), and the names of its classes by outcome."""

    image: np.ndarray
    predicted: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    loss: float
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class MultiLabelResults(TaskResults):
    """The results of a multi-label classification: `curves` are (recall, precision) of each class."""

    task = TaskByName("multi-label")
    template: ClassVar[str] = "multilabel.html"
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("labels", "label_rows", "Metrics of each class"),
        ("curves", "curve_panel", "Precision and recall"),
        ("errors", "error_text", "Top losses"),
    )

    rows: Sequence[LabelRow] = ()
    curves: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    errors: Sequence[LabelErrors] = ()
    are_thresholds_fitted: bool = False

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template."""
        num_wrong = int(metrics.get("num_samples") or 0)
        num_wrong -= round((metrics.get("exact_match") or 0.0) * num_wrong)
        return {
            "label_rows": [_label_row(row) for row in self.rows],
            "label_average": _average_row(self.rows),
            "threshold_text": _THRESHOLD_TEXTS[self.are_thresholds_fitted],
            "curve_panel": self._curve_panel(),
            "error_text": _error_text(len(self.errors), num_wrong),
            "label_errors": [_error_item(error) for error in self.errors],
        }

    def _curve_panel(self) -> dict[str, Any] | None:
        """Return the curves of the classes with the lowest average precision, eight at most."""
        drawn = [
            (row, curve)
            for row, curve in zip(self.rows, self.curves, strict=True)
            if not math.isnan(row.average_precision)
        ]
        if not drawn:
            return None
        from reslab.report.plots.curves import plot_precision_recall

        drawn = sorted(drawn, key=lambda pair: pair[0].average_precision)[:MAX_CURVES]
        named = [(f"{row.name} {format_percent(row.average_precision, 1)}", *curve) for row, curve in drawn]
        caption = "Precision against recall as the threshold falls from 1 to 0, with the average precision"
        caption += f" of the {MAX_CURVES} classes where it is lowest." if len(self.rows) > MAX_CURVES else "."
        return make_panel(plot_precision_recall(named), "precision-recall", title="", alt_text=caption, caption=caption)


_THRESHOLD_TEXTS = {
    True: "A class is predicted from its threshold on, that of the highest F1 on the validation images.",
    False: "A class is predicted from a probability of 0.5 on.",
}


def _error_text(num_shown: int, num_wrong: int) -> str:
    if not num_wrong:
        return "None: all classes of all images are right." if num_shown == 0 else ""
    text = f"{format_int(num_wrong)} image{'s have' if num_wrong != 1 else ' has'} a class too many or too few"
    return f"{text}; the {num_shown} with the highest loss, the highest first." if num_shown < num_wrong else f"{text}."


def _label_row(row: LabelRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "width": 0.0 if math.isnan(row.average_precision) else round(100 * row.average_precision, 1),
        "ap": format_percent(row.average_precision, 1),
        "threshold": f"{row.threshold:.3f}",
        "precision": format_percent(row.precision, 1),
        "recall": format_percent(row.recall, 1),
        "f1": format_percent(row.f1, 1),
        "counts": [format_int(count) for count in (row.tp, row.fp, row.fn, row.tn)],
    }


def _average_row(rows: Sequence[LabelRow]) -> dict[str, str]:
    names = {"ap": "average_precision", "precision": "precision", "recall": "recall", "f1": "f1"}
    return {key: format_percent(macro_average([getattr(row, name) for row in rows]), 1) for key, name in names.items()}


def _error_item(error: LabelErrors) -> dict[str, Any]:
    captions = [
        ("right", ", ".join(error.predicted), "correct"),
        ("missed", ", ".join(error.missed), "wrong"),
        ("too many", ", ".join(error.wrong), "wrong"),
    ]
    shown = [caption for caption in captions if caption[1]]
    return gallery_item(error.image, error.name, shown, f"loss {format_number(error.loss, 3)}")
