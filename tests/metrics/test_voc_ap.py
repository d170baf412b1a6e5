"""Average precision of PASCAL VOC, against the procedure of the development kit's `voc_eval.py`, box by box."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from reslab.metrics.detection import DetectionPrediction, DetectionTarget
from reslab.metrics.voc_ap import Interpolation, best_f1_score, mean_ap, voc_average_precision


@dataclass(frozen=True)
class Detections:
    """The predictions of a class by falling score: whether each counts, and whether it is a true positive."""

    counts: list[bool]
    is_hit: list[bool]
    num_objects: int


def match_box_by_box(case: Any, label: int, threshold: float, pixel: float) -> Detections:
    """Match by the steps of voc_eval.py; `pixel` is its 1 in widths and heights."""
    objects: dict[int, list[tuple[list[float], bool]]] = {}
    for target in case.targets:
        ignored = target.difficult | target.crowd
        rows = zip(target.boxes.double().tolist(), ignored.tolist(), target.labels.tolist(), strict=True)
        objects[target.image_id] = [(box, is_ignored) for box, is_ignored, own in rows if own == label]
    detections = [
        (float(prediction.scores[index]), prediction.image_id, prediction.boxes[index].double().tolist())
        for prediction in sorted(case.predictions, key=lambda prediction: prediction.image_id)
        for index in range(len(prediction.boxes))
        if prediction.labels[index] == label
    ]
    detections.sort(key=lambda detection: -detection[0])  # a stable sort: equal scores keep their order
    counts, is_hit, result = [], [], set()
    for _, image_id, box in detections:
        overlaps = [overlap(box, other, pixel) for other, _ in objects[image_id]]
        best = overlaps.index(max(overlaps)) if overlaps and max(overlaps) > threshold else None
        counts.append(best is None or not objects[image_id][best][1])
        is_hit.append(counts[-1] and best is not None and (image_id, best) not in result)
        result.add((image_id, best))
    num_objects = sum(not is_ignored for boxes in objects.values() for _, is_ignored in boxes)
    return Detections(counts, is_hit, num_objects)


def overlap(box: list[float], other: list[float], pixel: float) -> float:
    width = max(min(box[2], other[2]) - max(box[0], other[0]) + pixel, 0.0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]) + pixel, 0.0)
    areas = sum((one[2] - one[0] + pixel) * (one[3] - one[1] + pixel) for one in (box, other))
    return width * height / (areas - width * height)


def trace_curve(detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    true_positives = np.cumsum(detections.is_hit)
    num_counted = np.maximum(np.cumsum(detections.counts), np.finfo(np.float64).eps)
    return true_positives / detections.num_objects, true_positives / num_counted


def interpolate(recall: np.ndarray, precision: np.ndarray, interpolation: Interpolation) -> float:
    if interpolation is Interpolation.ELEVEN_POINT:
        levels = np.arange(0.0, 1.1, 0.1)
        return sum(max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0.0) for t in levels) / 11
    recalls, precisions = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for index in range(len(precisions) - 1, 0, -1):
        precisions[index - 1] = max(precisions[index - 1], precisions[index])
    steps = range(len(recalls) - 1)
    return sum((recalls[step + 1] - recalls[step]) * precisions[step + 1] for step in steps)


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize(("threshold", "inclusive"), [(0.5, False), (0.5, True), (0.3, True), (0.75, False)])
@pytest.mark.parametrize("options", [{}, {"difficult": 0.3, "score_decimals": 1}, {"crowd": 0.1, "difficult": 0.2}])
def test_ap_equals_the_development_kit(
    options: dict[str, Any], threshold: float, inclusive: bool, interpolation: Interpolation, make_detection_case: Any
) -> None:
    case = make_detection_case(4, num_images=20, integers=inclusive, **options)
    result = voc_average_precision(
        case.targets,
        case.predictions,
        case.num_classes,
        iou_threshold=threshold,
        interpolation=interpolation,
        inclusive_pixels=inclusive,
    )
    aps = []
    for label in range(1, case.num_classes):
        detections = match_box_by_box(case, label, threshold, float(inclusive))
        recall, precision = trace_curve(detections)
        aps.append(interpolate(recall, precision, interpolation))
        own = result.classes[label]
        assert own.ap == pytest.approx(aps[-1], rel=1e-12)
        assert own.num_objects == detections.num_objects
        # The curve leaves out predictions that do not count, which repeat the point ahead of them.
        np.testing.assert_allclose(own.recall, recall[detections.counts], rtol=1e-12)
        np.testing.assert_allclose(own.precision, precision[detections.counts], rtol=1e-12)
    assert math.isnan(result.classes[0].ap)
    assert result.classes[0].num_objects == 0
    assert result.mean_ap == pytest.approx(np.mean(aps), rel=1e-12)
    assert 0.05 < result.mean_ap < 0.95


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]])


def voc_ap(target: DetectionTarget, boxes: torch.Tensor, scores: list[float], **options: Any) -> float:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    prediction = DetectionPrediction(target.image_id, boxes, torch.tensor(scores), labels)
    return voc_average_precision([target], [prediction], 1, **options).mean_ap


def test_cases_worked_out_by_hand() -> None:
    target = DetectionTarget("a", BOXES, torch.tensor([0, 0]))
    assert voc_ap(target, BOXES, [0.9, 0.8]) == 1
    assert voc_ap(target, BOXES[:1], [0.9]) == 0.5
    assert voc_ap(target, BOXES[:1], [0.9], interpolation=Interpolation.ELEVEN_POINT) == pytest.approx(6 / 11)
    # A duplicate is a false positive: recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert voc_ap(target, BOXES[[0, 0, 1]], [0.9, 0.8, 0.7]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    difficult = DetectionTarget("a", BOXES, torch.tensor([0, 0]), difficult=torch.tensor([True, False]))
    assert voc_ap(difficult, BOXES[[0, 0, 1]], [0.9, 0.8, 0.7]) == 1


def test_an_iou_equal_to_the_threshold_is_not_enough() -> None:
    target = DetectionTarget("a", BOXES[:1], torch.tensor([0]))
    half = torch.tensor([[0.0, 0.0, 10.0, 5.0]])
    assert voc_ap(target, half, [0.9]) == 0
    assert voc_ap(target, half, [0.9], iou_threshold=0.49) == 1


def test_eleven_points_are_rounded_as_in_the_development_kit() -> None:
    corners = 20.0 * torch.arange(10.0)[:, None]
    boxes = torch.cat([corners, corners, corners + 10, corners + 10], 1)
    target = DetectionTarget("a", boxes, torch.zeros(10, dtype=torch.int64))
    # A recall of 3/10 is below the fourth level of arange, 0.30000000000000004.
    ap = voc_ap(target, boxes[:3], [0.9, 0.8, 0.7], interpolation=Interpolation.ELEVEN_POINT)
    assert ap == pytest.approx(3 / 11)


def test_results_do_not_depend_on_the_order(make_detection_case: Any) -> None:
    case = make_detection_case(6, score_decimals=1, difficult=0.2)
    expected = voc_average_precision(case.targets, case.predictions, case.num_classes)
    result = voc_average_precision(case.targets[::-1], case.predictions[::-1], case.num_classes)
    assert repr(result) == repr(expected)  # as text NaN equals NaN


def test_no_predictions_or_no_objects(make_detection_case: Any) -> None:
    case = make_detection_case(6)
    assert voc_average_precision(case.targets, [], case.num_classes).mean_ap == 0
    empty = DetectionTarget(1, torch.zeros(0, 4), torch.zeros(0).long())
    assert math.isnan(voc_average_precision([empty], [], 3).mean_ap)


def test_a_bad_threshold_is_an_error(make_detection_case: Any) -> None:
    case = make_detection_case(6)
    with pytest.raises(ValueError, match="an IoU threshold from 0 to 1; got: 50"):
        voc_average_precision(case.targets, case.predictions, case.num_classes, iou_threshold=50)


def test_a_result_has_the_mean_of_both_interpolations(make_detection_case: Any) -> None:
    case = make_detection_case(4, num_images=20, difficult=0.2)
    for interpolation in Interpolation:
        results = [
            voc_average_precision(case.targets, case.predictions, case.num_classes, interpolation=one)
            for one in (Interpolation.ALL_POINT, interpolation)
        ]
        assert mean_ap(results[0], interpolation) == results[1].mean_ap
    empty = voc_average_precision([DetectionTarget("a", torch.zeros(0, 4), torch.zeros(0).long())], [], 2)
    assert math.isnan(mean_ap(empty, Interpolation.ALL_POINT))


@pytest.mark.parametrize("options", [{}, {"difficult": 0.3, "score_decimals": 1}, {"crowd": 0.1}])
def test_no_score_has_a_higher_f1(options: dict[str, Any], make_detection_case: Any) -> None:
    case = make_detection_case(4, num_images=20, **options)
    result = voc_average_precision(case.targets, case.predictions, case.num_classes)
    matched = [match_box_by_box(case, label, 0.5, 0.0) for label in range(case.num_classes)]
    f1 = {}
    for score in sorted({score for one in result.classes for score in one.scores}, reverse=True):
        num_kept = [sum(own >= score for own in one.scores) for one in result.classes]
        hits = 0
        for detections, kept in zip(matched, num_kept, strict=True):
            counted = [hit for counts, hit in zip(detections.counts, detections.is_hit, strict=True) if counts]
            hits += sum(counted[:kept])
        f1[score] = 2 * hits / (sum(num_kept) + sum(detections.num_objects for detections in matched))
    best = best_f1_score(result)
    assert f1[best] == max(f1.values())
    assert all(value < f1[best] for score, value in f1.items() if score > best)


def test_without_a_true_positive_no_score_is_the_best() -> None:
    target = DetectionTarget("a", BOXES, torch.tensor([0, 0]))
    for boxes in (BOXES[:0], BOXES + 100):
        prediction = DetectionPrediction("a", boxes, torch.full((len(boxes),), 0.9), torch.zeros(len(boxes)).long())
        assert math.isnan(best_f1_score(voc_average_precision([target], [prediction], 1)))
