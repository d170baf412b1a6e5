"""The results of a classification on a page: confusion matrix, top losses, per-class metrics and calibration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from reslab.metrics.classification import (
    ClassMetrics,
    ConfusionMatrix,
    check_confusion_matrix,
    macro_average,
    most_confused_pairs,
    per_class_metrics,
    wilson_interval,
)
from reslab.report.format import format_int, format_number, format_percent, format_split, format_times
from reslab.report.images import make_thumbnail
from reslab.report.pages.components import TaskResults, make_panel, make_tile
from reslab.spec.task import TaskByName

ReliabilityBins = Sequence[Mapping[str, Any]]
MAX_TOP_LOSSES = 24
MAX_CLASSES_IN_TABLE = 20
MAX_CLASSES_BESIDE = 12
MAX_LABELED_CLASSES = 45
NUM_WEAKEST_CLASSES = 10
MIN_BIN_SAMPLES = 10  # the bars of bins with fewer images are drawn pale


@dataclass(frozen=True)
class MisclassifiedImage:
    """A misclassified image: uint8 pixels (H, W) or (H, W, 3), class indices, and the predicted probability.

    `loss` is its cross-entropy, -log of the probability of its true class.
    """

    image: np.ndarray
    label: int
    predicted: int
    probability: float
    loss: float
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassificationResults(TaskResults):
    """The results of a classification; all but the classes may be empty.

    The confusion matrix counts images by [true class][predicted class]. `calibration` has ece, reliability (bins of
    low, high, num_samples, confidence, accuracy) and, where a temperature was fitted, temperature, fit_split,
    fit_num_samples, cross_fitted, ece_after and reliability_after.
    """

    task = TaskByName("classification")
    template: ClassVar[str] = "classification.html"
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("confusion", "confusion", "Confusion matrix"),
        ("top-losses", "top_losses_text", "Top losses"),
        ("classes", "class_rows", "Per-class metrics"),
        ("calibration", "calibration", "Calibration"),
    )

    classes: Sequence[str] = ()
    confusion_matrix: Sequence[Sequence[int]] = ()
    misclassified: Sequence[MisclassifiedImage] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template.

        Raises ValueError where the confusion matrix does not fit the classes, or an image is not uint8 of shape (H, W)
        or (H, W, 3).
        """
        num_samples = int(metrics.get("num_samples") or 0)
        num_wrong = num_samples - int(metrics.get("num_correct") or 0) if num_samples else len(self.misclassified)
        return {
            **confusion_context(self.confusion_matrix, self.classes),
            **per_class_context(self.confusion_matrix, self.classes),
            **top_losses_context(self.misclassified, self.classes, num_wrong, num_samples),
            **calibration_context(self.calibration, str(metrics.get("split") or "")),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Return one sentence: `98.3 % accuracy on 360 test images: 6 misclassified.`"""
        num_samples, num_correct = int(metrics["num_samples"]), int(metrics["num_correct"])
        images = (
            f"{format_int(num_samples)} {format_split(metrics.get('split'))} image{'' if num_samples == 1 else 's'}"
        )
        wrong = format_int(num_samples - num_correct) if num_correct < num_samples else "none"
        return f"{format_percent(num_correct / num_samples, 1)} accuracy on {images}: {wrong} misclassified."

    def tiles(self, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the tiles of accuracy, misclassified images and loss, and of the training set if it was evaluated."""
        return _metric_tiles(metrics)


def calibration_context(calibration: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the reliability diagram of `calibration` (`ClassificationResults`), its text and bins; None if empty."""
    if not calibration:
        return {"calibration": None}
    from reslab.report.plots.bars import plot_reliability

    bins, bins_after = calibration["reliability"], calibration.get("reliability_after", ())
    paragraphs = calibration_paragraphs(calibration, split)
    panel = make_panel(
        plot_reliability(bins, bins_after, MIN_BIN_SAMPLES),
        "reliability",
        title="Reliability diagram",
        alt_text=f"Reliability diagram: accuracy against confidence in {len(bins)} bins. {paragraphs[0]}",
        caption=_reliability_caption(has_temperature=bool(bins_after)),
    )
    rows = [_bin_row(entry) for entry in bins if entry["num_samples"]]
    return {"calibration": {"panel": panel, "paragraphs": paragraphs, "rows": rows}}


def calibration_paragraphs(calibration: Mapping[str, Any], split: str) -> list[str]:
    """Return texts on confidence against accuracy, the expected calibration error, and temperature scaling."""
    bins = [entry for entry in calibration["reliability"] if entry["num_samples"]]
    return [_confidence_text(bins), _ece_text(bins, calibration["ece"]), _temperature_text(calibration, split)]


def chance_ece(bins: ReliabilityBins) -> float:
    """Return the expected calibration error of a perfectly calibrated network on as many images.

    It is the mean of n_b / n |accuracy - confidence| where each bin's accuracy is a binomial proportion: the sum over
    the bins of sqrt(2 n_b c (1 - c) / pi) / n, by the normal approximation of the mean absolute deviation.
    """
    total = 0.0
    for entry in bins:
        confidence = min(1.0, entry["confidence"] or 0.0)
        total += math.sqrt(2 / math.pi * entry["num_samples"] * confidence * (1 - confidence))
    return total / max(1, sum(entry["num_samples"] for entry in bins))


def _confidence_text(bins: ReliabilityBins) -> str:
    num_samples = sum(entry["num_samples"] for entry in bins)
    confidence, accuracy = (
        sum(entry["num_samples"] * entry[key] for entry in bins) / num_samples for key in ("confidence", "accuracy")
    )
    text = f"Mean confidence {format_percent(confidence, 1)}, accuracy {format_percent(accuracy, 1)}"
    # A gap that a calibrated network would show by chance is no finding.
    if abs(confidence - accuracy) <= max(chance_ece(bins), 0.005):
        return f"{text}: well calibrated on average."
    return f"{text}: the network is {'overconfident' if confidence > accuracy else 'underconfident'}."


def _ece_text(bins: ReliabilityBins, ece: float) -> str:
    return (
        f"The expected calibration error (ECE) is {format_percent(ece)}: the mean gap between bar and diagonal, "
        f"weighted by the images of each bin (Guo et al. 2017, Eq. 3). On this many images a perfectly calibrated "
        f"network would have about {format_percent(chance_ece(bins), 1)} by chance."
    )


def _temperature_text(calibration: Mapping[str, Any], split: str) -> str:
    if "temperature" not in calibration:
        return (
            "No temperature was fitted: that takes validation images with at least one misclassified, and never uses "
            "the test set (--val-fraction splits some off)."
        )
    images = f"{format_int(calibration['fit_num_samples'])} {format_split(calibration['fit_split'])} images"
    temperature = calibration["temperature"]
    text = (
        f"Temperature scaling on {images} gives T = {format_number(temperature, 3)}: the network was "
        f"{'overconfident' if temperature > 1 else 'underconfident'}. Predictions do not change."
    )
    if "ece_after" not in calibration:
        return f"{text} Too few images are misclassified to evaluate T on images it was not fitted on."
    ece = format_percent(calibration["ece_after"])
    if calibration.get("cross_fitted"):
        return f"{text} With T fitted on one half and evaluated on the other, and vice versa, the ECE is {ece}."
    return f"{text} With it the ECE on these {format_split(split)} images is {ece}."


def _reliability_caption(*, has_temperature: bool) -> str:
    dots = " Dots: after temperature scaling, hollow in pale bins." if has_temperature else ""
    return (
        f"Bars: accuracy of the predictions in each confidence bin, pale below {MIN_BIN_SAMPLES} images. "
        f"Dashed: perfect calibration.{dots} Below: images in each bin."
    )


def _bin_row(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        "range": f"{100 * entry['low']:.0f} to {format_percent(entry['high'], 0)}",
        "confidence": format_percent(entry["confidence"], 1),
        "accuracy": format_percent(entry["accuracy"], 1),
        "num_samples": format_int(entry["num_samples"]),
    }


def top_losses_context(
    misclassified: Sequence[MisclassifiedImage], classes: Sequence[str], num_wrong: int, num_samples: int
) -> dict[str, Any]:
    """Return at most 24 misclassified images, the highest loss first, and how many of all these are."""
    top = sorted(misclassified, key=lambda image: -image.loss)[:MAX_TOP_LOSSES]
    return {
        "top_losses": [_top_loss_item(image, classes) for image in top],
        "top_losses_text": _top_losses_text(len(top), num_wrong, num_samples),
    }


def _top_losses_text(num_shown: int, num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "None: all images are classified correctly." if num_samples else ""
    if num_shown == 0:
        return ""
    if num_shown < num_wrong:
        text = f"The {num_shown} of {format_int(num_wrong)} misclassified images with the highest loss"
        return f"{text}, the highest first."
    if num_shown == 1:
        return "The only misclassified image, with the predicted probability and the loss."
    return f"All {num_shown} misclassified images, the highest loss first."


def _top_loss_item(misclassified: MisclassifiedImage, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": make_thumbnail(misclassified.image),
        "true_class": _class_name(misclassified.label, classes),
        "predicted_class": _class_name(misclassified.predicted, classes),
        "probability": format_percent(misclassified.probability, 0 if misclassified.probability < 0.995 else 1),
        "loss": f"{misclassified.loss:.2f}",
        "width": round(100 * min(1.0, max(0.0, misclassified.probability)), 1),
        "name": misclassified.name,
    }


def _class_name(index: int, classes: Sequence[str]) -> str:
    return str(classes[index]) if 0 <= index < len(classes) else f"class {index}"


def confusion_context(
    confusion: ConfusionMatrix,
    classes: Sequence[str],
    *,
    noun: str = "images",
    as_shares: bool = False,
    num_classes: int | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return the confusion matrix, as a table up to 20 classes and as a plot above, and the most confused pairs.

    `noun` is what it counts; with `as_shares` the table has shares of the true class. Rows from `num_classes` on are
    no classes, such as background: they are in no pair. `note` is added to the caption.
    """
    if not len(confusion):
        return {"confusion": None, "confused_pairs": []}
    check_confusion_matrix(confusion, classes)
    matrix: dict[str, Any] = {
        "rows": [],
        "names": list(classes),
        "rotate_labels": any(len(name) > 3 for name in classes),
        "stacked": MAX_CLASSES_BESIDE < len(classes) <= MAX_CLASSES_IN_TABLE,
        "panel": None,
        "is_numbered": len(classes) > MAX_LABELED_CLASSES,
        "noun": noun,
        "unit_text": f" (shares of its {noun})" if as_shares else "",
        "note": note,
    }
    if len(classes) <= MAX_CLASSES_IN_TABLE:
        matrix["rows"] = _confusion_rows(confusion, classes, as_shares=as_shares)
    else:
        from reslab.report.plots.images import plot_confusion_matrix

        alt_text = f"Confusion matrix of {len(classes)} classes; the most confused pairs are listed beside it."
        figure = plot_confusion_matrix(confusion, classes, with_names=not matrix["is_numbered"])
        matrix["panel"] = make_panel(figure, "matrix", title="", alt_text=alt_text)
    pairs = [
        {
            "true_class": pair.true_class,
            "predicted_class": pair.predicted_class,
            "times": f"{format_int(pair.count)} {noun}" if as_shares else format_times(pair.count),
            "share": format_percent(pair.count / pair.num_samples, 1),
            "num_samples": format_int(pair.num_samples),
        }
        for pair in most_confused_pairs(confusion, classes, num_classes=num_classes)
    ]
    return {"confusion": matrix, "confused_pairs": pairs}


def per_class_context(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """Return a row for each class, the ten of lowest F1, and the macro average."""
    if not len(confusion):
        return {"class_rows": [], "weakest_rows": [], "class_average": None}
    metrics = per_class_metrics(confusion, classes)
    show_indices = len(classes) > MAX_LABELED_CLASSES
    weakest = sorted(
        metrics, key=lambda class_metrics: (math.isnan(class_metrics.f1), class_metrics.f1, class_metrics.index)
    )[:NUM_WEAKEST_CLASSES]
    return {
        "class_rows": [_class_row(class_metrics, show_indices) for class_metrics in metrics],
        "weakest_rows": [_class_row(class_metrics, show_indices) for class_metrics in weakest],
        "class_average": _average_row(metrics),
    }


def _confusion_rows(confusion: ConfusionMatrix, classes: Sequence[str], as_shares: bool) -> list[dict[str, Any]]:
    """Return the cells with their intensity in percent.

    A correct cell's is its class's recall; a wrong one's is the root of its rate over the highest wrong rate, so that
    rare confusions stay visible.
    """
    row_totals = [max(1, sum(row)) for row in confusion]
    fractions = [[n / total for n in row] for row, total in zip(confusion, row_totals, strict=True)]
    max_wrong_fraction = max(
        (fraction for i, row in enumerate(fractions) for j, fraction in enumerate(row) if i != j), default=0.0
    )
    rows = []
    for i, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = [_confusion_cell(n, fractions[i][j], i == j, max_wrong_fraction, as_shares) for j, n in enumerate(row)]
        rows.append({"name": name, "cells": cells})
    return rows


def _confusion_cell(
    n: int, fraction: float, is_correct: bool, max_wrong_fraction: float, as_share: bool
) -> dict[str, Any]:
    intensity = fraction if is_correct else math.sqrt(fraction / max_wrong_fraction) if max_wrong_fraction else 0.0
    return {
        "count": n,
        "text": format_percent(fraction, 1) if as_share else format_int(n),
        "css_class": "correct" if is_correct else "wrong",
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


def confidence_interval_text(metrics: Mapping[str, Any]) -> str:
    """Return the 95 % interval of the accuracy (Wilson), given the number of images."""
    num_samples = int(metrics["num_samples"])
    low, high = wilson_interval(int(metrics["num_correct"]), num_samples)
    return f"95 % interval {100 * low:.1f} to {format_percent(high, 1)}"


def _metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_samples, num_correct = int(metrics["num_samples"]), int(metrics["num_correct"])
    split = format_split(metrics.get("split"))
    note = f"{format_int(num_correct)} of {format_int(num_samples)} {split} images"
    tiles = [make_tile("accuracy", format_percent(num_correct / num_samples), note, confidence_interval_text(metrics))]
    if metrics.get("top5") is not None:
        tiles.append(make_tile("top-5 accuracy", format_percent(metrics["top5"]), "class among the five most probable"))
    num_wrong = num_samples - num_correct
    tiles.append(make_tile("misclassified", format_int(num_wrong), _error_rate_text(num_wrong, num_samples)))
    if metrics.get("loss") is not None:
        tiles.append(make_tile("loss", format_number(metrics["loss"]), f"mean over the {split} images"))
    return [*tiles, *_train_metric_tiles(metrics)]


def _train_metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the training accuracies of the selected weights and of the last epoch, where the former was evaluated."""
    if "train_top1" not in metrics:
        return []
    columns = (
        ("train_top1", "train_loss", "the selected weights"),
        ("train_top1_running", "train_loss_running", "mean over the last epoch"),
    )
    return [
        make_tile("training accuracy", format_percent(metrics[top1]), note, f"loss {format_number(metrics[loss])}")
        for top1, loss, note in columns
        if top1 in metrics
    ]


def _error_rate_text(num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "all images classified correctly"
    if 3 * num_wrong > num_samples:
        return f"{format_percent(num_wrong / num_samples, 1)} of the images"
    return f"1 image in {format_int(round(num_samples / num_wrong))}"
