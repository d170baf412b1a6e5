"""The confusion matrix, the pairs most confused, and the scores of each class."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reslab.metrics.classification import (
    ClassScore,
    Confusion,
    check_confusion,
    class_mean,
    class_scores,
    most_confused,
)
from reslab.report.figures.matrix import MOST_NAMED, matrix_figure
from reslab.report.format import count, percent
from reslab.report.pages.run_text import times
from reslab.report.plots.export import svg

MOST_IN_TABLE = 20
MOST_BESIDE = 12
NUM_WEAKEST = 10


def confusion_parts(confusion: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """The matrix as a table with its counts up to MOST_IN_TABLE classes, as a picture above, and its worst pairs."""
    if not len(confusion):
        return {"confusion": None, "confused": []}
    check_confusion(confusion, classes)
    matrix: dict[str, Any] = {
        "rows": [],
        "names": list(classes),
        "turned": any(len(name) > 3 for name in classes),
        "stacked": MOST_BESIDE < len(classes) <= MOST_IN_TABLE,
    }
    if len(classes) <= MOST_IN_TABLE:
        matrix["rows"] = _rows(confusion, classes)
    else:
        label = f"Confusion matrix of {len(classes)} classes; the pairs most confused are listed beside it."
        matrix["svg"] = Markup(svg(matrix_figure(confusion, classes), "matrix", label))
        matrix["numbered"] = len(classes) > MOST_NAMED
    pairs = [
        {
            "true": pair.true,
            "predicted": pair.predicted,
            "times": times(pair.count),
            "share": percent(pair.count / pair.num_samples, 1),
            "num_samples": count(pair.num_samples),
        }
        for pair in most_confused(confusion, classes)
    ]
    return {"confusion": matrix, "confused": pairs}


def class_parts(confusion: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """One row a class in their order, the weakest by F1 where there are many, and the mean over the classes."""
    if not len(confusion):
        return {"class_rows": [], "weakest_rows": [], "class_total": None}
    scores = class_scores(confusion, classes)
    numbered = len(classes) > MOST_NAMED
    weakest = sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1, score.index))[:NUM_WEAKEST]
    return {
        "class_rows": [_row(score, numbered) for score in scores],
        "weakest_rows": [_row(score, numbered) for score in weakest],
        "class_total": _total(scores),
    }


def _rows(confusion: Confusion, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Depths in percent: of a right cell its class's recall, of a wrong one the root of its part of the worst share."""
    sums = [max(1, sum(row)) for row in confusion]
    shares = [[number / total for number in row] for row, total in zip(confusion, sums, strict=True)]
    worst = max((share for i, row in enumerate(shares) for j, share in enumerate(row) if i != j), default=0.0)
    rows = []
    for i, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = [_cell(number, shares[i][j], i == j, worst) for j, number in enumerate(row)]
        rows.append({"name": name, "cells": cells})
    return rows


def _cell(number: int, share: float, right: bool, worst: float) -> dict[str, Any]:
    depth = share if right else math.sqrt(share / worst) if worst else 0.0
    return {
        "count": number,
        "text": count(number),
        "kind": "right" if right else "wrong",
        "depth": round(18 + 82 * depth),
    }


def _row(score: ClassScore, numbered: bool) -> dict[str, Any]:
    return {
        "number": str(score.index) if numbered else "",
        "name": score.name,
        "width": 0.0 if math.isnan(score.f1) else round(100 * score.f1, 1),
        **_fractions(score.precision, score.recall, score.f1),
        "num_samples": count(score.num_samples),
    }


def _total(scores: Sequence[ClassScore]) -> dict[str, Any]:
    means = [class_mean([getattr(score, name) for score in scores]) for name in ("precision", "recall", "f1")]
    return {**_fractions(*means), "num_samples": count(sum(score.num_samples for score in scores))}


def _fractions(precision: float, recall: float, f1: float) -> dict[str, str]:
    return {"precision": percent(precision, 1), "recall": percent(recall, 1), "f1": percent(f1, 1)}
