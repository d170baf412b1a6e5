"""Whether a network is as sure as it is right: the reliability diagram, and what it comes to in words.

The worst mistakes: the images put in a wrong class with the greatest certainty.

The confusion matrix, the pairs most confused, and the scores of each class.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reslab.metrics.classification import (
    ClassMetrics,
    ConfusionMatrix,
    check_confusion_matrix,
    macro_average,
    most_confused_pairs,
    per_class_metrics,
)
from reslab.report.format import format_int, format_number, format_percent
from reslab.report.pages.run_text import MisclassifiedImage, RunPage, format_times, split_adjective
from reslab.report.plots.bars import MIN_BIN_SAMPLES, plot_reliability
from reslab.report.plots.export import render_inline_svg
from reslab.report.plots.images import make_thumbnail
from reslab.report.plots.matrices import MAX_LABELED_CLASSES, plot_confusion_matrix

CalibrationBins = Sequence[Mapping[str, Any]]


def calibration_context(calibration: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The diagram of `calibration` (as `RunPage` has it) with its words and its bins; nothing where there is none."""
    if not calibration:
        return {"calibration": None}
    bins, bins_after = calibration["reliability"], calibration.get("reliability_after", ())
    paragraphs = calibration_paragraphs(calibration, split)
    alt_text = f"Reliability diagram: accuracy against confidence in {len(bins)} bins. {paragraphs[0]}"
    context = {
        "svg": Markup(render_inline_svg(plot_reliability(bins, bins_after), "reliability", alt_text)),
        "caption": _reliability_caption(bool(bins_after)),
        "paragraphs": paragraphs,
        "rows": [_bin_row(entry) for entry in bins if entry["num_samples"]],
    }
    return {"calibration": context}


def calibration_paragraphs(calibration: Mapping[str, Any], split: str) -> list[str]:
    """Paragraphs: how sure against how right, the calibration error, and what a temperature makes of it."""
    bins = [entry for entry in calibration["reliability"] if entry["num_samples"]]
    return [_confidence_text(bins), _ece_text(bins, calibration["ece"]), _temperature_text(calibration, split)]


def chance_ece(bins: CalibrationBins) -> float:
    """The calibration error to expect of a perfectly calibrated network on as many images: the mean of
    n_b / n |accuracy - confidence| where each bin's accuracy is a binomial share, sqrt(2 c (1 - c) / (pi n_b)).

    The normal approximation of the mean absolute deviation, summed over the bins.
    """
    total = 0.0
    for entry in bins:
        confidence = min(1.0, entry["confidence"] or 0.0)
        total += math.sqrt(2 / math.pi * entry["num_samples"] * confidence * (1 - confidence))
    return total / max(1, sum(entry["num_samples"] for entry in bins))


def _confidence_text(bins: CalibrationBins) -> str:
    num_samples = sum(entry["num_samples"] for entry in bins)
    confidence, accuracy = (
        sum(entry["num_samples"] * entry[key] for entry in bins) / num_samples for key in ("confidence", "accuracy")
    )
    text = f"On average it is {format_percent(confidence, 1)} sure of its answers, and {format_percent(accuracy, 1)} of them are right"
    if abs(confidence - accuracy) <= max(chance_ece(bins), 0.005):
        return f"{text}: in sum it is as sure as it should be."
    return (
        f"{text}: it is {'surer than it has reason to be' if confidence > accuracy else 'less sure than it could be'}."
    )


def _ece_text(bins: CalibrationBins, ece: float) -> str:
    chance_text = format_percent(chance_ece(bins), 1)
    return (
        f"The expected calibration error is {format_percent(ece)}: the mean gap between bar and line, weighted by the images "
        f"of each bin (Guo et al. 2017, Eq. 3). On this many images about {chance_text} would come by chance alone."
    )


def _temperature_text(calibration: Mapping[str, Any], split: str) -> str:
    if "temperature" not in calibration:
        return (
            "No temperature was fitted: that takes validation images with at least one mistake, never the test set "
            "(--val-fraction sets some apart)."
        )
    images_text = f"{format_int(calibration['fit_num_samples'])} {split_adjective(calibration['fit_split'])} images"
    text = (
        f"The {images_text} ask for a temperature of {format_number(calibration['temperature'], 3)}: outputs divided by it make "
        f"the network {'less' if calibration['temperature'] > 1 else 'more'} sure and change none of its answers. "
    )
    if "ece_after" not in calibration:
        return text + "There are too few mistakes to judge it on images it was not fitted on."
    ece_text = format_percent(calibration["ece_after"])
    if calibration.get("cross_fitted"):
        return text + f"Fitted on one half and judged on the other, and the other way round, the error is {ece_text}."
    return text + f"With it the error on these {split_adjective(split)} images is {ece_text}."


def _reliability_caption(has_temperature: bool) -> str:
    dots_text = " Dots: the same after the temperature, hollow where few." if has_temperature else ""
    return (
        "Bars: the share of right answers among those given with that confidence; pale where fewer than "
        f"{MIN_BIN_SAMPLES} images. Thin line: as sure as right.{dots_text} Below: how many images."
    )


def _bin_row(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        "range": f"{100 * entry['low']:.0f} to {format_percent(entry['high'], 0)}",
        "confidence": format_percent(entry["confidence"], 1),
        "accuracy": format_percent(entry["accuracy"], 1),
        "num_samples": format_int(entry["num_samples"]),
    }


MAX_MISCLASSIFIED = 24


def misclassified_context(page: RunPage) -> dict[str, Any]:
    """The most certain mistakes first, at most MOST_MISTAKES of them, and how many there are in all."""
    worst = sorted(page.misclassified, key=lambda image: -image.probability)[:MAX_MISCLASSIFIED]
    num_samples = int(page.metrics.get("num_samples") or 0)
    num_wrong = num_samples - int(page.metrics.get("num_correct") or 0) if num_samples else len(page.misclassified)
    return {
        "misclassified": [_misclassified_row(image, page.classes) for image in worst],
        "misclassified_text": _misclassified_text(len(worst), num_wrong, num_samples),
    }


def _misclassified_text(num_shown: int, num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "There is none to show: every image was put in its class." if num_samples else ""
    if num_shown == 0:
        return ""
    if num_shown < num_wrong:
        return (
            f"The {num_shown} of {format_int(num_wrong)} mistakes that the network was most sure of, the surest first."
        )
    if num_shown == 1:
        return "The only mistake, and how sure the network was of it."
    return f"All {num_shown} mistakes, those the network was most sure of first."


def _misclassified_row(misclassified: MisclassifiedImage, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": make_thumbnail(misclassified.image),
        "true_class": _class_name(misclassified.label, classes),
        "predicted_class": _class_name(misclassified.predicted, classes),
        "probability": format_percent(misclassified.probability, 0 if misclassified.probability < 0.995 else 1),
        "width": round(100 * min(1.0, max(0.0, misclassified.probability)), 1),
        "name": misclassified.name,
    }


def _class_name(index: int, classes: Sequence[str]) -> str:
    return str(classes[index]) if 0 <= index < len(classes) else f"class {index}"


MAX_CLASSES_IN_TABLE = 20
MAX_CLASSES_BESIDE = 12
NUM_WEAKEST = 10


def confusion_context(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """The matrix as a table with its counts up to MOST_IN_TABLE classes, as a picture above, and its worst pairs."""
    if not len(confusion):
        return {"confusion": None, "confused_pairs": []}
    check_confusion_matrix(confusion, classes)
    matrix: dict[str, Any] = {
        "rows": [],
        "names": list(classes),
        "rotate_labels": any(len(name) > 3 for name in classes),
        "stacked": MAX_CLASSES_BESIDE < len(classes) <= MAX_CLASSES_IN_TABLE,
    }
    if len(classes) <= MAX_CLASSES_IN_TABLE:
        matrix["rows"] = _confusion_rows(confusion, classes)
    else:
        alt_text = f"Confusion matrix of {len(classes)} classes; the pairs most confused are listed beside it."
        matrix["svg"] = Markup(render_inline_svg(plot_confusion_matrix(confusion, classes), "matrix", alt_text))
        matrix["numbered"] = len(classes) > MAX_LABELED_CLASSES
    pairs = [
        {
            "true_class": pair.true_class,
            "predicted_class": pair.predicted_class,
            "times": format_times(pair.count),
            "share": format_percent(pair.count / pair.num_samples, 1),
            "num_samples": format_int(pair.num_samples),
        }
        for pair in most_confused_pairs(confusion, classes)
    ]
    return {"confusion": matrix, "confused_pairs": pairs}


def per_class_context(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """One row a class in their order, the weakest by F1 where there are many, and the mean over the classes."""
    if not len(confusion):
        return {"class_rows": [], "weakest_rows": [], "class_average": None}
    metrics = per_class_metrics(confusion, classes)
    show_indices = len(classes) > MAX_LABELED_CLASSES
    weakest = sorted(
        metrics, key=lambda class_metrics: (math.isnan(class_metrics.f1), class_metrics.f1, class_metrics.index)
    )[:NUM_WEAKEST]
    return {
        "class_rows": [_class_row(class_metrics, show_indices) for class_metrics in metrics],
        "weakest_rows": [_class_row(class_metrics, show_indices) for class_metrics in weakest],
        "class_average": _average_row(metrics),
    }


def _confusion_rows(confusion: ConfusionMatrix, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Depths in percent: of a right cell its class's recall, of a wrong one the root of its part of the worst share."""
    row_totals = [max(1, sum(row)) for row in confusion]
    fractions = [[n / total for n in row] for row, total in zip(confusion, row_totals, strict=True)]
    max_wrong_fraction = max(
        (fraction for i, row in enumerate(fractions) for j, fraction in enumerate(row) if i != j), default=0.0
    )
    rows = []
    for i, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = [_confusion_cell(n, fractions[i][j], i == j, max_wrong_fraction) for j, n in enumerate(row)]
        rows.append({"name": name, "cells": cells})
    return rows


def _confusion_cell(n: int, fraction: float, is_correct: bool, max_wrong_fraction: float) -> dict[str, Any]:
    intensity = fraction if is_correct else math.sqrt(fraction / max_wrong_fraction) if max_wrong_fraction else 0.0
    return {
        "count": n,
        "text": format_int(n),
        "kind": "right" if is_correct else "wrong",
        "intensity": round(18 + 82 * intensity),
    }


def _class_row(class_metrics: ClassMetrics, show_index: bool) -> dict[str, Any]:
    return {
        "number": str(class_metrics.index) if show_index else "",
        "name": class_metrics.name,
        "width": 0.0 if math.isnan(class_metrics.f1) else round(100 * class_metrics.f1, 1),
        **_format_fractions(class_metrics.precision, class_metrics.recall, class_metrics.f1),
        "num_samples": format_int(class_metrics.num_samples),
    }


def _average_row(metrics: Sequence[ClassMetrics]) -> dict[str, Any]:
    averages = [
        macro_average([getattr(class_metrics, name) for class_metrics in metrics])
        for name in ("precision", "recall", "f1")
    ]
    return {
        **_format_fractions(*averages),
        "num_samples": format_int(sum(class_metrics.num_samples for class_metrics in metrics)),
    }


def _format_fractions(precision: float, recall: float, f1: float) -> dict[str, str]:
    return {"precision": format_percent(precision, 1), "recall": format_percent(recall, 1), "f1": format_percent(f1, 1)}
