"""Comparison of an exported detector with the original: the boxes that both find, and average precision."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from reslab.data.boxes import without_background
from reslab.deploy.backends.backend import DetectFn
from reslab.deploy.export.comparison import MAX_DIFFERENCE, ExportComparison
from reslab.spec.detection import DetectionArch
from reslab.spec.errors import invalid
from reslab.training.tasks.task_type import TaskType

_Found = Mapping[str, Tensor]


def compare_detections(
    original: DetectFn,
    exported: DetectFn,
    batches: Iterable[tuple[Any, Any]],
    task: TaskType,
    arch: DetectionArch,
) -> ExportComparison:
    """Compare both on the images of every batch (images, targets). Raises ValueError without an image.

    A box of the original agrees with the box of its class in the export that overlaps it most, if their sides differ by
    at most `MAX_DIFFERENCE` of the longer side of the image, and their scores by as much. `max_difference` is the
    largest of these differences, `max_error` that of the sides in pixels, over boxes with a partner; a box without one
    does not agree. Boxes that rounding may keep or drop are not compared: of a score within `MAX_DIFFERENCE` of the
    least one, which is `score_threshold` or, in an image with `max_detections` boxes, that of the last box.
    """
    max_difference = max_error = 0.0
    num_compared = num_agreeing = num_images = 0
    results: tuple[list[Any], list[Any]] = ([], [])
    for images, targets in batches:
        outputs: tuple[list[_Found], list[_Found]] = ([], [])
        for image in images:
            expected, actual = (_detect(detect, image) for detect in (original, exported))
            differences, errors = _box_differences(expected, actual, max(image.shape[-2:]))
            compared = expected["scores"] > _least_score(expected["scores"], arch) + MAX_DIFFERENCE
            found = compared & differences.isfinite()
            max_difference = max(max_difference, *differences[found].tolist(), 0.0)
            max_error = max(max_error, *errors[found].tolist(), 0.0)
            num_compared += int(compared.sum())
            num_agreeing += int((differences[compared] <= MAX_DIFFERENCE).sum())
            outputs[0].append(expected)
            outputs[1].append(actual)
            num_images += 1
        for batch_results, found_boxes in zip(results, outputs, strict=True):
            batch_results.append(task.batch_result(found_boxes, targets, keep_predictions=False))
    if not num_images:
        raise invalid("at least one image to compare on", "none")
    metric = task.spec.selection_metric
    value, exported_value = (_metric(task, batch_results, metric.name) for batch_results in results)
    return ExportComparison(
        num_images,
        max_difference,
        max_error,
        "boxes",
        num_compared,
        num_agreeing,
        metric,
        value,
        exported_value,
        same="box",
        difference_of="the image's longer side, or of a score",
    )


def _metric(task: TaskType, batch_results: Sequence[Any], name: str) -> float:
    return float(getattr(task.evaluate(batch_results, None), name))  # type: ignore[arg-type]


def _detect(detect: DetectFn, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return without_background(detect(image[None])[0])


def _least_score(scores: Tensor, arch: DetectionArch) -> float:
    return float(scores.min()) if len(scores) >= arch.max_detections else arch.score_threshold


def _box_differences(expected: _Found, actual: _Found, side: int) -> tuple[Tensor, Tensor]:
    """Return for each expected box its difference and its error in pixels; infinite without a box of its class."""
    infinite = torch.full((len(expected["scores"]),), float("inf"))
    if not len(infinite) or not len(actual["scores"]):
        return infinite, infinite
    is_same_class = expected["labels"][:, None] == actual["labels"]
    overlaps = box_iou(expected["boxes"].double(), actual["boxes"].double()).nan_to_num()
    overlaps, partners = torch.where(is_same_class, overlaps, -1.0).max(1)
    errors = (expected["boxes"] - actual["boxes"][partners]).abs().amax(1)
    score_errors = (expected["scores"] - actual["scores"][partners]).abs()
    has_partner = overlaps >= 0
    differences = torch.maximum(errors / side, score_errors)
    return torch.where(has_partner, differences, infinite), torch.where(has_partner, errors, infinite)
