"""Generated targets and predictions of object detection."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from reslab.metrics.detection import DetectionPrediction, DetectionTarget


@dataclass(frozen=True)
class DetectionCase:
    """Targets and predictions of some images."""

    targets: list[DetectionTarget]
    predictions: list[DetectionPrediction]
    num_classes: int


MakeCase = Callable[..., DetectionCase]


@pytest.fixture
def make_detection_case() -> MakeCase:
    """A function that generates a case from a seed."""
    return _make_case


def _make_case(
    seed: int,
    num_images: int = 9,
    num_classes: int = 4,
    crowd: float = 0.0,
    difficult: float = 0.0,
    score_decimals: int = 6,
    many: int = 0,
    integers: bool = False,
) -> DetectionCase:
    """Images of 300 x 200 pixels with objects of all area ranges, predictions near them, and some anywhere.

    Every third image has no objects and every fourth no predictions; class 0 has no objects, the last no predictions.
    Boxes are repeated, and scores of few decimals are equal. `many` adds predictions of one class to one image.
    """
    generator = torch.Generator().manual_seed(seed)
    targets, predictions = [], []
    for image_id in torch.randperm(num_images, generator=generator).tolist():
        num_objects = 0 if image_id % 3 == 2 else int(torch.randint(1, 8, (1,), generator=generator))
        boxes = _random_boxes(num_objects, generator)
        labels = torch.randint(1, num_classes, (num_objects,), generator=generator)
        boxes[1::4] = boxes[:-1:4] if num_objects > 1 and len(boxes[1::4]) == len(boxes[:-1:4]) else boxes[1::4]
        sizes = boxes[:, 2:] - boxes[:, :2]
        targets.append(
            DetectionTarget(
                image_id=10 * image_id + 3,
                boxes=boxes.round() if integers else boxes,
                labels=labels,
                crowd=torch.rand(num_objects, generator=generator) < crowd,
                difficult=torch.rand(num_objects, generator=generator) < difficult,
                areas=0.8 * sizes.prod(1),
            )
        )
        if image_id % 4 != 3:
            extra = many if image_id == 0 else 0
            predictions.append(_predictions_near(targets[-1], num_classes, score_decimals, extra, generator))
    return DetectionCase(targets, predictions, num_classes)


def _predictions_near(
    target: DetectionTarget, num_classes: int, score_decimals: int, many: int, generator: torch.Generator
) -> DetectionPrediction:
    near = target.boxes.repeat(3, 1)
    near = near + 0.15 * torch.randn(near.shape, generator=generator) * (near[:, 2:] - near[:, :2]).repeat(1, 2)
    near[len(target.boxes) // 2 : len(target.boxes)] = target.boxes[len(target.boxes) // 2 :]
    near = torch.cat([torch.minimum(near[:, :2], near[:, 2:]), torch.maximum(near[:, :2], near[:, 2:])], 1)
    boxes = torch.cat([near, _random_boxes(4 + many, generator)])
    others = torch.randint(0, max(1, num_classes - 1), (len(boxes),), generator=generator)
    labels = torch.cat([target.labels.repeat(3), others[len(near) :]])
    labels = torch.where(torch.rand(len(labels), generator=generator) < 0.8, labels, others)
    labels[labels == num_classes - 1] = 0
    labels[len(boxes) - many :] = 1
    scores = torch.rand(len(boxes), generator=generator).round(decimals=score_decimals)
    return DetectionPrediction(target.image_id, boxes, scores, labels)


def _random_boxes(num_boxes: int, generator: torch.Generator) -> Tensor:
    sizes = torch.exp(torch.rand(num_boxes, 2, generator=generator) * 3.6 + 1.6)  # 5 to 180 pixels
    corners = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([300.0, 200.0])
    return torch.cat([corners, corners + sizes], 1)
