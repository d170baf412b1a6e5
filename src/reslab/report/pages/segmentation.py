"""The results of a segmentation on a page: IoU of each class, confusion of pixels, and the worst images with masks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from reslab.data.mask_colors import format_color
from reslab.data.masks import VOID
from reslab.metrics.segmentation import segmentation_metrics
from reslab.report.format import format_int, format_percent
from reslab.report.images import Thumbnail, class_color, draw_mask, make_thumbnail
from reslab.report.pages.classification import confusion_context
from reslab.report.pages.components import TaskResults
from reslab.spec.task import TaskByName


@dataclass(frozen=True)
class SegmentedImage:
    """An image, uint8 (H, W) or (H, W, 3), its predicted and its true mask, uint8 of any size with 255 for void.

    `iou` is the mean IoU of the classes in it.
    """

    image: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    iou: float
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class SegmentationResults(TaskResults):
    """The results of a segmentation: the confusion matrix of pixels by [true class][predicted class], worst images."""

    task = TaskByName("segmentation")
    template: ClassVar[str] = "segmentation.html"
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("worst", "worst_images", "Worst images"),
        ("classes", "iou_rows", "Per-class metrics"),
        ("confusion", "confusion", "Confusion of pixels"),
    )

    classes: Sequence[str] = ()
    confusion_matrix: Sequence[Sequence[int]] = ()
    worst: Sequence[SegmentedImage] = ()

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template. Raises ValueError where the confusion matrix does not fit the classes."""
        return {
            **confusion_context(self.confusion_matrix, self.classes, noun="pixels", as_shares=True),
            **iou_context(self.confusion_matrix, self.classes),
            **worst_context(self.worst, self.classes),
        }


def iou_context(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """Return a row of IoU, Dice and accuracy for each class, and their means; no rows without a confusion matrix."""
    if not len(confusion):
        return {"iou_rows": [], "iou_mean": None}
    scores = segmentation_metrics(torch.tensor(confusion, dtype=torch.int64))
    num_pixels = sum(scores.num_pixels)
    columns = zip(classes, scores.iou, scores.dice, scores.accuracy, scores.num_pixels, strict=True)
    rows = [
        {
            "name": name,
            "swatch": _swatch(number),
            "width": 0.0 if math.isnan(iou) else round(100 * iou, 1),
            **_percents(iou, dice, accuracy),
            "share": format_percent(count / num_pixels if num_pixels else None, 1),
        }
        for number, (name, iou, dice, accuracy, count) in enumerate(columns)
    ]
    mean = {
        **_percents(scores.mean_iou, scores.mean_dice, scores.mean_accuracy),
        "num_pixels": format_int(num_pixels),
    }
    return {"iou_rows": rows, "iou_mean": mean}


def _percents(iou: float, dice: float, accuracy: float) -> dict[str, str]:
    values = {"iou": iou, "dice": dice, "accuracy": accuracy}
    return {name: format_percent(value, 1) for name, value in values.items()}


def _swatch(number: int) -> str:
    """Return the color of a class as CSS; `none` for class 0, which is not painted."""
    color = class_color(number)
    return format_color(color) if color else "none"


def worst_context(worst: Sequence[SegmentedImage], classes: Sequence[str]) -> dict[str, Any]:
    """Return each image beside its true and its predicted mask, and the legend of the classes that are in them."""
    items = [
        {
            "panels": [
                _panel("image", image.image),
                _panel("true", draw_mask(image.image, image.true)),
                _panel("predicted", draw_mask(image.image, image.predicted)),
            ],
            "iou": format_percent(image.iou, 1),
            "name": image.name,
        }
        for image in worst
    ]
    masks = (mask for image in worst for mask in (image.true, image.predicted))
    shown = sorted({number for mask in masks for number in np.unique(mask).tolist()})
    legend = [{"name": classes[number], "swatch": _swatch(number)} for number in shown if number != VOID]
    return {"worst_images": items, "worst_legend": legend, "worst_has_void": VOID in shown}


def _panel(title: str, pixels: np.ndarray) -> dict[str, str | Thumbnail]:
    return {"title": title, "image": make_thumbnail(pixels)}
