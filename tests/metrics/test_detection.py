"""Detection: checks, order, overlaps; and errors, by hand and against the rules of TIDE, one prediction at a time."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    Outcome,
    box_overlaps,
    count_outcomes,
    detection_confusion,
    find_outcomes,
    pair_images,
    to_array,
)

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


HIGH, LOW = 0.5, 0.1
CASES: list[dict[str, Any]] = [{}, {"score_decimals": 1}, {"difficult": 0.3}, {"crowd": 0.3, "difficult": 0.1}]


def ranked(prediction: DetectionPrediction, min_score: float) -> list[int]:
    kept = [index for index in range(len(prediction.boxes)) if prediction.scores[index] >= min_score]
    return sorted(kept, key=lambda index: -float(prediction.scores[index]))


def overlap(prediction: DetectionPrediction, index: int, target: DetectionTarget, other: int) -> float:
    box, object_box = prediction.boxes[index].double(), target.boxes[other].double()
    if target.crowd[other]:
        sides = torch.minimum(box[2:], object_box[2:]) - torch.maximum(box[:2], object_box[:2])
        return float(sides.clamp(min=0).prod() / (box[2:] - box[:2]).prod())
    return float(box_iou(box[None], object_box[None]))


def is_on_ignored(prediction: DetectionPrediction, index: int, target: DetectionTarget) -> bool:
    return any(
        overlap(prediction, index, target, other) >= HIGH and target.labels[other] == prediction.labels[index]
        for other in range(len(target.boxes))
        if target.crowd[other] or target.difficult[other]
    )


def reference_outcomes(target: DetectionTarget, prediction: DetectionPrediction, min_score: float) -> dict[str, int]:
    """Count the outcomes of an image, one prediction at a time."""
    counts = dict.fromkeys(Outcome, 0)
    objects = [other for other in range(len(target.boxes)) if not (target.crowd[other] or target.difficult[other])]
    free, covered, left = list(objects), set(), []
    for index in ranked(prediction, min_score):
        own = [other for other in free if target.labels[other] == prediction.labels[index]]
        best = max(own, key=lambda other: overlap(prediction, index, target, other), default=None)
        if best is not None and overlap(prediction, index, target, best) >= HIGH:
            free.remove(best)
            covered.add(best)
            counts[Outcome.CORRECT] += 1
        elif is_on_ignored(prediction, index, target):
            counts[Outcome.IGNORED] += 1
        else:
            left.append(index)
    for index in left:
        ious = {other: overlap(prediction, index, target, other) for other in objects}
        right = {other: iou for other, iou in ious.items() if target.labels[other] == prediction.labels[index]}
        wrong = {other: iou for other, iou in ious.items() if other not in right}
        if right and LOW <= max(right.values()) < HIGH:
            counts[Outcome.LOCALIZATION] += 1
            covered.add(max(right, key=lambda other: right[other]))
        elif wrong and max(wrong.values()) >= HIGH:
            counts[Outcome.CLASS] += 1
            covered.add(max(wrong, key=lambda other: wrong[other]))
        elif right and max(right.values()) >= HIGH:
            counts[Outcome.DUPLICATE] += 1
        elif not ious or max(ious.values()) < LOW:
            counts[Outcome.BACKGROUND] += 1
        else:
            counts[Outcome.BOTH] += 1
    counts[Outcome.MISSED] = len(set(objects) - covered)
    return counts


def empty_prediction(image_id: int) -> DetectionPrediction:
    return DetectionPrediction(image_id, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())


def images_of(case: Any) -> list[tuple[DetectionTarget, DetectionPrediction]]:
    by_id = {prediction.image_id: prediction for prediction in case.predictions}
    return [(target, by_id.get(target.image_id, empty_prediction(target.image_id))) for target in case.targets]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("min_score", [0.0, 0.4])
def test_outcomes_equal_the_rules_one_by_one(
    options: dict[str, Any], min_score: float, make_detection_case: Any
) -> None:
    case = make_detection_case(8, num_images=20, **options)
    outcomes = find_outcomes(case.targets, case.predictions, case.num_classes, min_score=min_score)
    by_id = {one.image_id: one for one in outcomes}
    for target, prediction in images_of(case):
        expected = reference_outcomes(target, prediction, min_score)
        assert count_outcomes([by_id[target.image_id]]) == expected
        assert list(by_id[target.image_id].indices) == ranked(prediction, min_score)
    counts = count_outcomes(outcomes)
    always = set(Outcome) - {Outcome.IGNORED}
    assert all(counts[outcome] for outcome in always)
    assert bool(counts[Outcome.IGNORED]) == bool({"crowd", "difficult"} & set(options))


@pytest.mark.parametrize("options", CASES)
def test_confusion_equals_a_loop(options: dict[str, Any], make_detection_case: Any) -> None:
    case = make_detection_case(9, num_images=20, **options)
    background = case.num_classes
    expected = torch.zeros(background + 1, background + 1, dtype=torch.int64)
    for target, prediction in images_of(case):
        free = [other for other in range(len(target.boxes)) if not (target.crowd[other] or target.difficult[other])]
        for index in ranked(prediction, 0.2):
            best = max(free, key=lambda other: overlap(prediction, index, target, other), default=None)
            if best is not None and overlap(prediction, index, target, best) >= HIGH:
                free.remove(best)
                expected[target.labels[best], prediction.labels[index]] += 1
            elif not is_on_ignored(prediction, index, target):
                expected[background, prediction.labels[index]] += 1
        for other in free:
            expected[target.labels[other], background] += 1
    result = detection_confusion(case.targets, case.predictions, case.num_classes, min_score=0.2)
    assert result.tolist() == expected.tolist()
    assert result[background, background] == 0
    objects = [int((~target.is_ignored).sum()) for target in case.targets]
    assert int(result[:background].sum()) == sum(objects)


def test_counts_add_up_over_parts_and_do_not_depend_on_the_order(make_detection_case: Any) -> None:
    case = make_detection_case(8, num_images=20, score_decimals=1, crowd=0.1)
    num_classes, options = case.num_classes, {"min_score": 0.1}
    whole = count_outcomes(find_outcomes(case.targets, case.predictions, num_classes, **options))
    confusion = detection_confusion(case.targets, case.predictions, num_classes, **options)
    parts = [
        (part, [one for one in case.predictions if one.image_id in {target.image_id for target in part}])
        for part in (case.targets[15:], case.targets[:15][::-1])
    ]
    counts = [count_outcomes(find_outcomes(*part, num_classes, **options)) for part in parts]
    assert {outcome: sum(part[outcome] for part in counts) for outcome in Outcome} == whole
    assert torch.equal(sum(detection_confusion(*part, num_classes, **options) for part in parts), confusion)


SQUARE = [0.0, 0.0, 10.0, 10.0]
ASIDE = [100.0, 100.0, 110.0, 110.0]
SHIFTED = [0.0, 0.0, 10.0, 3.0]  # an IoU of 0.3 with SQUARE
TENTH, HALF = [0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 10.0, 5.0]  # of 0.1 and 0.5: the thresholds themselves


@pytest.mark.parametrize(
    ("boxes", "labels", "expected", "num_missed"),
    [
        ([SQUARE], [0], ["correct"], 0),
        ([SQUARE, SQUARE], [0, 0], ["correct", "duplicate"], 0),
        ([SHIFTED], [0], ["localization"], 0),
        ([SQUARE], [1], ["class"], 0),
        ([SHIFTED], [1], ["both"], 1),
        ([TENTH], [0], ["localization"], 0),
        ([TENTH], [1], ["both"], 1),
        ([HALF], [0], ["correct"], 0),
        ([HALF], [1], ["class"], 0),
        ([ASIDE], [0], ["background"], 1),
        ([], [], [], 1),
        ([SQUARE, SQUARE, SHIFTED, ASIDE], [1, 0, 1, 0], ["class", "correct", "both", "background"], 0),
    ],
)
def test_each_outcome_worked_out_by_hand(
    boxes: list[list[float]], labels: list[int], expected: list[str], num_missed: int
) -> None:
    target = DetectionTarget("a", torch.tensor([SQUARE]), torch.tensor([0]))
    scores = torch.linspace(0.9, 0.5, len(boxes)) if boxes else torch.zeros(0)
    prediction = DetectionPrediction("a", torch.tensor(boxes).view(-1, 4), scores, torch.tensor(labels).long())
    (outcomes,) = find_outcomes([target], [prediction], 2, min_score=0.0)
    assert list(outcomes.outcomes) == expected
    assert len(outcomes.missed) == num_missed
    assert outcomes.objects == tuple(None if outcome == "background" else 0 for outcome in expected)


def test_indices_name_the_objects_of_the_target() -> None:
    boxes = torch.tensor([ASIDE, SQUARE, [50.0, 50.0, 60.0, 60.0]])
    target = DetectionTarget("a", boxes, torch.tensor([0, 0, 0]), difficult=torch.tensor([True, False, False]))
    prediction = DetectionPrediction("a", boxes[:2], torch.tensor([0.4, 0.6]), torch.tensor([0, 0]))
    (outcomes,) = find_outcomes([target], [prediction], 1, min_score=0.0)
    assert outcomes.indices == (1, 0)
    assert outcomes.outcomes == (Outcome.CORRECT, Outcome.IGNORED)
    assert outcomes.objects == (1, None)
    assert outcomes.missed == (2,)


def test_bad_thresholds_are_errors(make_detection_case: Any) -> None:
    case = make_detection_case(8)
    args = case.targets, case.predictions, case.num_classes
    with pytest.raises(ValueError, match=r"background_iou < iou_threshold <= 1; got: 0\.1 and 0\.05"):
        find_outcomes(*args, min_score=0.1, iou_threshold=0.05)
    with pytest.raises(ValueError, match="an IoU threshold above 0"):
        detection_confusion(*args, min_score=0.1, iou_threshold=0)
