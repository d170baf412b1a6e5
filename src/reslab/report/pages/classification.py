"""Whether a network is as sure as it is right: the reliability diagram, and what it comes to in words.

The worst mistakes: the images put in a wrong class with the greatest certainty.

The confusion matrix, the pairs most confused, and the scores of each class.
"""

import math
from collections.abc import Mapping, Sequence
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
from reslab.report.format import count, number, percent
from reslab.report.pages.run_text import Mistake, RunPage, split_words, times
from reslab.report.plots.bars import FEW, reliability_figure
from reslab.report.plots.export import svg
from reslab.report.plots.images import thumbnail
from reslab.report.plots.matrices import MOST_NAMED, matrix_figure

Bins = Sequence[Mapping[str, Any]]


def calibration_parts(calibration: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The diagram of `calibration` (as `RunPage` has it) with its words and its bins; nothing where there is none."""
    if not calibration:
        return {"calibration": None}
    bins, scaled = calibration["reliability"], calibration.get("reliability_scaled", ())
    words = calibration_words(calibration, split)
    label = f"Reliability diagram: accuracy against confidence in {len(bins)} bins. {words[0]}"
    shown = {
        "svg": Markup(svg(reliability_figure(bins, scaled), "reliability", label)),
        "caption": _caption(bool(scaled)),
        "words": words,
        "rows": [_row(one) for one in bins if one["num_samples"]],
    }
    return {"calibration": shown}


def calibration_words(calibration: Mapping[str, Any], split: str) -> list[str]:
    """Paragraphs: how sure against how right, the calibration error, and what a temperature makes of it."""
    bins = [one for one in calibration["reliability"] if one["num_samples"]]
    return [_balance(bins), _error(bins, calibration["ece"]), _temperature(calibration, split)]


def chance_error(bins: Bins) -> float:
    """The calibration error to expect of a perfectly calibrated network on as many images: the mean of
    n_b / n |accuracy - confidence| where each bin's accuracy is a binomial share, sqrt(2 c (1 - c) / (pi n_b)).

    The normal approximation of the mean absolute deviation, summed over the bins.
    """
    found = 0.0
    for one in bins:
        sure = min(1.0, one["confidence"] or 0.0)
        found += math.sqrt(2 / math.pi * one["num_samples"] * sure * (1 - sure))
    return found / max(1, sum(one["num_samples"] for one in bins))


def _balance(bins: Bins) -> str:
    total = sum(one["num_samples"] for one in bins)
    sure, right = (sum(one["num_samples"] * one[key] for one in bins) / total for key in ("confidence", "accuracy"))
    said = f"On average it is {percent(sure, 1)} sure of its answers, and {percent(right, 1)} of them are right"
    if abs(sure - right) <= max(chance_error(bins), 0.005):
        return f"{said}: in sum it is as sure as it should be."
    return f"{said}: it is {'surer than it has reason to be' if sure > right else 'less sure than it could be'}."


def _error(bins: Bins, ece: float) -> str:
    by_chance = percent(chance_error(bins), 1)
    return (
        f"The expected calibration error is {percent(ece)}: the mean gap between bar and line, weighted by the images "
        f"of each bin (Guo et al. 2017, Eq. 3). On this many images about {by_chance} would come by chance alone."
    )


def _temperature(calibration: Mapping[str, Any], split: str) -> str:
    if "temperature" not in calibration:
        return (
            "No temperature was fitted: that takes validation images with at least one mistake, never the test set "
            "(--val-fraction sets some apart)."
        )
    images = f"{count(calibration['fitted_images'])} {split_words(calibration['fitted_on'])} images"
    said = (
        f"The {images} ask for a temperature of {number(calibration['temperature'], 3)}: outputs divided by it make "
        f"the network {'less' if calibration['temperature'] > 1 else 'more'} sure and change none of its answers. "
    )
    if "ece_scaled" not in calibration:
        return said + "There are too few mistakes to judge it on images it was not fitted on."
    after = percent(calibration["ece_scaled"])
    if calibration.get("in_halves"):
        return said + f"Fitted on one half and judged on the other, and the other way round, the error is {after}."
    return said + f"With it the error on these {split_words(split)} images is {after}."


def _caption(scaled: bool) -> str:
    dots = " Dots: the same after the temperature, hollow where few." if scaled else ""
    return (
        "Bars: the share of right answers among those given with that confidence; pale where fewer than "
        f"{FEW} images. Thin line: as sure as right.{dots} Below: how many images."
    )


def _row(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "range": f"{100 * one['low']:.0f} to {percent(one['high'], 0)}",
        "confidence": percent(one["confidence"], 1),
        "accuracy": percent(one["accuracy"], 1),
        "num_samples": count(one["num_samples"]),
    }


MOST_MISTAKES = 24


def mistake_parts(page: RunPage) -> dict[str, Any]:
    """The most certain mistakes first, at most MOST_MISTAKES of them, and how many there are in all."""
    worst = sorted(page.mistakes, key=lambda mistake: -mistake.probability)[:MOST_MISTAKES]
    num_samples = int(page.scores.get("num_samples") or 0)
    num_wrong = num_samples - int(page.scores.get("num_correct") or 0) if num_samples else len(page.mistakes)
    return {
        "mistakes": [_shown(mistake, page.classes) for mistake in worst],
        "mistakes_words": _words(len(worst), num_wrong, num_samples),
    }


def _words(num_shown: int, num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "There is none to show: every image was put in its class." if num_samples else ""
    if num_shown == 0:
        return ""
    if num_shown < num_wrong:
        return f"The {num_shown} of {count(num_wrong)} mistakes that the network was most sure of, the surest first."
    if num_shown == 1:
        return "The only mistake, and how sure the network was of it."
    return f"All {num_shown} mistakes, those the network was most sure of first."


def _shown(mistake: Mistake, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": thumbnail(mistake.image),
        "true": _name(mistake.true, classes),
        "predicted": _name(mistake.predicted, classes),
        "probability": percent(mistake.probability, 0 if mistake.probability < 0.995 else 1),
        "width": round(100 * min(1.0, max(0.0, mistake.probability)), 1),
        "name": mistake.name,
    }


def _name(index: int, classes: Sequence[str]) -> str:
    return str(classes[index]) if 0 <= index < len(classes) else f"class {index}"


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
        "class_rows": [_row_classes(score, numbered) for score in scores],
        "weakest_rows": [_row_classes(score, numbered) for score in weakest],
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


def _row_classes(score: ClassScore, numbered: bool) -> dict[str, Any]:
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
