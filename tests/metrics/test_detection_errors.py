"""Errors of object detection, against the rules of TIDE applied to one prediction at a time, and by hand."""

from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from reslab.metrics.detection import DetectionPrediction, DetectionTarget
from reslab.metrics.detection_errors import Outcome, count_outcomes, detection_confusion, find_outcomes

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


BOX = [0.0, 0.0, 10.0, 10.0]
ASIDE = [100.0, 100.0, 110.0, 110.0]
SHIFTED = [0.0, 0.0, 10.0, 3.0]  # an IoU of 0.3 with BOX
TENTH, HALF = [0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 10.0, 5.0]  # of 0.1 and 0.5: the thresholds themselves


@pytest.mark.parametrize(
    ("boxes", "labels", "expected", "num_missed"),
    [
        ([BOX], [0], ["correct"], 0),
        ([BOX, BOX], [0, 0], ["correct", "duplicate"], 0),
        ([SHIFTED], [0], ["localization"], 0),
        ([BOX], [1], ["class"], 0),
        ([SHIFTED], [1], ["both"], 1),
        ([TENTH], [0], ["localization"], 0),
        ([TENTH], [1], ["both"], 1),
        ([HALF], [0], ["correct"], 0),
        ([HALF], [1], ["class"], 0),
        ([ASIDE], [0], ["background"], 1),
        ([], [], [], 1),
        ([BOX, BOX, SHIFTED, ASIDE], [1, 0, 1, 0], ["class", "correct", "both", "background"], 0),
    ],
)
def test_each_outcome_worked_out_by_hand(
    boxes: list[list[float]], labels: list[int], expected: list[str], num_missed: int
) -> None:
    target = DetectionTarget("a", torch.tensor([BOX]), torch.tensor([0]))
    scores = torch.linspace(0.9, 0.5, len(boxes)) if boxes else torch.zeros(0)
    prediction = DetectionPrediction("a", torch.tensor(boxes).view(-1, 4), scores, torch.tensor(labels).long())
    (outcomes,) = find_outcomes([target], [prediction], 2, min_score=0.0)
    assert list(outcomes.outcomes) == expected
    assert len(outcomes.missed) == num_missed
    assert outcomes.objects == tuple(None if outcome == "background" else 0 for outcome in expected)


def test_indices_name_the_objects_of_the_target() -> None:
    boxes = torch.tensor([ASIDE, BOX, [50.0, 50.0, 60.0, 60.0]])
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
