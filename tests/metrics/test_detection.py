"""Targets and predictions of object detection: their checks, their order, and the overlap of boxes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from reslab.metrics.detection import DetectionPrediction, DetectionTarget, box_overlaps, pair_images, to_array

BOX, LABEL, SCORE = torch.tensor([[1.0, 2.0, 3.0, 5.0]]), torch.tensor([0]), torch.tensor([0.5])


def random_boxes(num_boxes: int, seed: int) -> Tensor:
    corners = torch.rand(num_boxes, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    return torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)


def test_overlaps_equal_torchvision() -> None:
    boxes, others = random_boxes(30, 0), random_boxes(20, 1)
    np.testing.assert_allclose(box_overlaps(to_array(boxes), to_array(others)), box_iou(boxes, others), rtol=1e-12)
    assert box_overlaps(to_array(boxes), np.zeros((0, 4))).shape == (30, 0)


def test_overlaps_of_inclusive_pixels_count_pixels() -> None:
    def pixels(box: list[float]) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = map(int, box)
        return {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}

    boxes, others = random_boxes(20, 2).round(), random_boxes(15, 3).round()
    result = box_overlaps(to_array(boxes), to_array(others), inclusive_pixels=True)
    for row, box in enumerate(boxes.tolist()):
        for column, other in enumerate(others.tolist()):
            first, second = pixels(box), pixels(other)
            assert result[row, column] == pytest.approx(len(first & second) / len(first | second), rel=1e-12)


def test_overlaps_with_a_crowd_are_the_part_of_the_box_inside() -> None:
    boxes, others = np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([[2.0, 0.0, 40.0, 40.0], [2.0, 0.0, 6.0, 4.0]])
    result = box_overlaps(boxes, others, np.array([True, False]))
    np.testing.assert_allclose(result, [[0.5, 1 / 3]])


def test_boxes_without_area_overlap_nothing() -> None:
    point = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert box_overlaps(point, point).item() == 0


def test_images_are_paired_by_rising_id() -> None:
    targets = [DetectionTarget(image_id, BOX, LABEL) for image_id in (10, 9, 2)]
    pairs = pair_images(targets, [DetectionPrediction(9, BOX, SCORE, LABEL)], 1)
    assert [target.image_id for target, _ in pairs] == [2, 9, 10]
    assert [len(prediction.boxes) for _, prediction in pairs] == [0, 1, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": torch.zeros(0)}, r"boxes of the target of image 'a' of shape \(N, 4\).*torch\.zeros\(0, 4\)"),
        ({"boxes": torch.tensor([[3.0, 2.0, 1.0, 5.0]])}, r"x1 <= x2 and y1 <= y2; got: 1 others, the first \[3\.0"),
        ({"boxes": torch.tensor([[0.0, 2.0, 1.0, 1.0]])}, r"x1 <= x2 and y1 <= y2"),
        ({"boxes": torch.tensor([[0.0, 2.0, 1.0, math.nan]])}, "finite boxes of the target of image 'a'"),
        ({"labels": torch.tensor([0.0])}, r"labels of the target .* of an integer type; got: torch\.float32"),
        ({"labels": torch.tensor([0, 1])}, r"labels .* of shape \(1,\), one a box; got: shape \(2,\)"),
        ({"crowd": torch.tensor([True, False])}, r"crowd .* of shape \(1,\)"),
        ({"difficult": torch.tensor([[True]])}, r"difficult .* of shape \(1,\)"),
        ({"areas": torch.tensor([math.inf])}, "finite areas"),
        ({"masks": []}, "1 masks of the target of image 'a', one a box; got: 0"),
    ],
)
def test_a_bad_target_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTarget(**{"image_id": "a", "boxes": BOX, "labels": LABEL} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": torch.tensor([math.nan])}, "finite scores of the prediction for image 7"),
        ({"scores": torch.tensor([[0.5]])}, r"scores .* of shape \(1,\)"),
        ({"boxes": torch.tensor([[3.0, 2.0, 1.0, 5.0]])}, r"boxes of the prediction for image 7 \(x1, y1, x2, y2\)"),
    ],
)
def test_a_bad_prediction_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionPrediction(**{"image_id": 7, "boxes": BOX, "scores": SCORE, "labels": LABEL} | fields)


def test_bad_images_are_errors() -> None:
    target, prediction = DetectionTarget(1, BOX, LABEL), DetectionPrediction(1, BOX, SCORE, LABEL)
    with pytest.raises(ValueError, match="got: no targets"):
        pair_images([], [], 1)
    with pytest.raises(ValueError, match="targets with unique ids; got: 1 repeated: 1"):
        pair_images([target, target], [], 1)
    with pytest.raises(ValueError, match="predictions with unique ids"):
        pair_images([target], [prediction, prediction], 1)
    unknown = [DetectionPrediction(image_id, BOX, SCORE, LABEL) for image_id in range(2, 10)]
    with pytest.raises(ValueError, match="got: 8 of images without one: 2, 3, 4, 5, 6 and 3 more"):
        pair_images([target], unknown, 1)
    with pytest.raises(ValueError, match="of one type, int or str"):
        pair_images([target, DetectionTarget("1", BOX, LABEL)], [], 1)
    with pytest.raises(ValueError, match="labels of the target of image 1 from 0 to 1; got: 2"):
        pair_images([DetectionTarget(1, BOX, torch.tensor([2]))], [], 2)
    with pytest.raises(ValueError, match="labels of the prediction for image 1 from 0 to 1; got: -1"):
        pair_images([target], [DetectionPrediction(1, BOX, SCORE, torch.tensor([-1]))], 2)
