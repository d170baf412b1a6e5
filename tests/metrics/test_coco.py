"""COCO's average precision, against pycocotools called on its own, and on cases worked out by hand."""

import contextlib
import importlib.util
import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from reslab.metrics import coco
from reslab.metrics.coco import CocoResult, OverlapKind, coco_average_precision, encode_masks
from reslab.metrics.detection import DetectionPrediction, DetectionTarget
from reslab.runtime.extras import MissingExtraError

PACKAGES = ["faster_coco_eval", "pycocotools"]
SUMMARY = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
SEED = 10
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "crowds": {"crowd": 0.3},
    "difficult": {"difficult": 0.3},
    "crowds, difficult and ties": {"num_images": 20, "crowd": 0.2, "difficult": 0.2, "score_decimals": 1},
    "more than 100 predictions": {"many": 150, "score_decimals": 2},
    "one class": {"num_classes": 2},
    "many images": {"num_images": 40, "num_classes": 7, "score_decimals": 2, "crowd": 0.1},
}


class IgnoringDifficult(COCOeval):
    """pycocotools, where the flag `difficult` of an annotation is kept as its flag to ignore."""

    def _prepare(self) -> None:
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation["ignore"] = annotation["iscrowd"] or annotation["difficult"]


def run_pycocotools(case: Any, kind: str = "bbox") -> COCOeval:
    """Evaluate with pycocotools and its own reader of results."""
    annotations, results = [], []
    for target in case.targets:
        for index, (x1, y1, x2, y2) in enumerate(target.boxes.double().tolist()):
            one = {
                "id": len(annotations) + 1,
                "image_id": target.image_id,
                "category_id": 7 + int(target.labels[index]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(target.areas[index].double()) if target.areas is not None else (x2 - x1) * (y2 - y1),
                "iscrowd": int(target.crowd[index]) if target.crowd is not None else 0,
                "difficult": int(target.difficult[index]) if target.difficult is not None else 0,
            }
            annotations.append(one | ({"segmentation": dict(target.masks[index])} if target.masks else {}))
    for prediction in case.predictions:
        for index, (x1, y1, x2, y2) in enumerate(prediction.boxes.double().tolist()):
            shape = {"segmentation": dict(prediction.masks[index])} if prediction.masks else {}
            if kind == "bbox":
                shape = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            label, score = int(prediction.labels[index]), float(prediction.scores[index])
            results.append({"image_id": prediction.image_id, "category_id": 7 + label, "score": score, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": target.image_id, "height": 200, "width": 300} for target in case.targets],
            "categories": [{"id": 7 + label} for label in range(case.num_classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = IgnoringDifficult(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def check_equal(result: CocoResult, reference: COCOeval) -> None:
    expected = np.where(reference.stats == -1, np.nan, reference.stats)
    np.testing.assert_allclose([getattr(result, name) for name in SUMMARY], expected, rtol=1e-12)
    precision = reference.eval["precision"][:, :, :, 0, 2].transpose(2, 0, 1)
    precision = np.where(precision == -1, np.nan, precision)
    np.testing.assert_allclose(result.class_precision, precision, rtol=1e-12)
    np.testing.assert_allclose(result.class_ap, precision.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(result.class_ap50, precision[:, 0].mean(1), rtol=1e-12)


def use_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(coco, "_PACKAGES", {package: coco._PACKAGES[package]})


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", CASES)
def test_boxes_equal_pycocotools(
    name: str, package: str, make_detection_case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_package(monkeypatch, package)
    case = make_detection_case(SEED, **CASES[name])
    result = coco_average_precision(case.targets, case.predictions, case.num_classes)
    check_equal(result, run_pycocotools(case))
    assert math.isnan(result.class_ap[0])  # no objects
    assert name == "one class" or result.class_ap[-1] == 0  # no predictions
    assert name == "one class" or 0.05 < result.ap < 0.95


def test_the_cases_hold_what_they_are_named_for(make_detection_case: Any) -> None:
    case = make_detection_case(SEED, **CASES["crowds, difficult and ties"])
    assert any(target.crowd.any() for target in case.targets)
    assert any(target.difficult.any() for target in case.targets)
    assert any(len(prediction.scores.unique()) < len(prediction.scores) for prediction in case.predictions)
    assert any(not len(target.boxes) for target in case.targets)
    assert len(case.predictions) < len(case.targets)
    many = make_detection_case(SEED, **CASES["more than 100 predictions"])
    assert max(int((prediction.labels == 1).sum()) for prediction in many.predictions) > 100
    result = coco_average_precision(case.targets, case.predictions, case.num_classes)
    assert not any(math.isnan(getattr(result, name)) for name in SUMMARY)


def make_masks(boxes: torch.Tensor) -> list[Any]:
    """Ellipses inside boxes, cut at the border of the image."""
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij")
    centers, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    distances = [((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 for (cx, cy), (rx, ry) in zip(centers, radii, strict=True)]
    return encode_masks(torch.stack(distances) <= 1) if len(boxes) else []


@pytest.mark.parametrize("package", PACKAGES)
def test_masks_equal_pycocotools(package: str, make_detection_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_package(monkeypatch, package)
    case = make_detection_case(5, num_images=6, crowd=0.2, score_decimals=1)
    for one in (*case.targets, *case.predictions):
        object.__setattr__(one, "masks", make_masks(one.boxes))
    result = coco_average_precision(case.targets, case.predictions, case.num_classes, OverlapKind.MASKS)
    check_equal(result, run_pycocotools(case, "segm"))
    assert result.ap != coco_average_precision(case.targets, case.predictions, case.num_classes).ap


def test_masks_are_decoded_to_what_was_encoded() -> None:
    from pycocotools.mask import decode

    masks = torch.rand(3, 17, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    encoded = encode_masks(masks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy about pycocotools
        decoded = decode(encoded)
    np.testing.assert_array_equal(decoded.transpose(2, 0, 1), masks.numpy())
    assert coco.mask_areas(encoded) == masks.sum((1, 2)).tolist()
    with pytest.raises(ValueError, match=r"masks of shape \(N, H, W\)"):
        encode_masks(masks[0])


def test_results_do_not_depend_on_the_order(make_detection_case: Any) -> None:
    tied = make_detection_case(1, score_decimals=1, crowd=0.2)
    expected = coco_average_precision(tied.targets, tied.predictions, tied.num_classes)
    reversed_images = coco_average_precision(tied.targets[::-1], tied.predictions[::-1], tied.num_classes)
    assert repr(reversed_images) == repr(expected)

    distinct = make_detection_case(2, score_decimals=6)
    expected = coco_average_precision(distinct.targets, distinct.predictions, distinct.num_classes)
    shuffled = []
    for one in distinct.predictions:
        order = torch.randperm(len(one.boxes), generator=torch.Generator().manual_seed(0))
        shuffled.append(DetectionPrediction(one.image_id, one.boxes[order], one.scores[order], one.labels[order]))
    assert repr(coco_average_precision(distinct.targets, shuffled, distinct.num_classes)) == repr(expected)


def test_perfect_predictions_have_an_ap_of_one(make_detection_case: Any) -> None:
    targets = make_detection_case(3).targets
    predictions = [
        DetectionPrediction(target.image_id, target.boxes, torch.ones(len(target.boxes)), target.labels)
        for target in targets
    ]
    result = coco_average_precision(targets, predictions, 4)
    assert result.ap == pytest.approx(1, rel=1e-12)


def test_a_difficult_object_counts_neither_as_detected_nor_as_missed() -> None:
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 150.0, 150.0]])
    labels, difficult = torch.tensor([0, 0]), torch.tensor([False, True])
    target = DetectionTarget("a", box, labels, difficult=difficult)
    for kept, expected in (([0], 1.0), ([0, 1], 1.0), ([1], 0.0)):
        # The difficult object has the higher score: as a false positive it would lower the precision.
        scores = torch.tensor([0.5, 0.9])[kept]
        prediction = DetectionPrediction("a", box[kept], scores, labels[kept])
        assert coco_average_precision([target], [prediction], 1).ap == pytest.approx(expected)


def test_without_objects_nothing_is_defined() -> None:
    target = DetectionTarget(1, torch.zeros(0, 4), torch.zeros(0).long())
    result = coco_average_precision([target], [], 2)
    assert all(math.isnan(getattr(result, name)) for name in SUMMARY)
    assert all(map(math.isnan, result.class_ap))


def test_mask_ap_without_masks_is_an_error(make_detection_case: Any) -> None:
    case = make_detection_case(0)
    with pytest.raises(ValueError, match="masks of the target of image 3 for mask AP; got: none"):
        coco_average_precision(case.targets, case.predictions, case.num_classes, OverlapKind.MASKS)


def test_a_missing_package_is_named_with_its_extra(make_detection_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in PACKAGES else find(name, *rest)
    )
    case = make_detection_case(0)
    with pytest.raises(MissingExtraError, match=r"pip install 'reslab\[detection\]'"):
        coco_average_precision(case.targets, case.predictions, case.num_classes)


def test_masks_of_several_sizes_are_an_error() -> None:
    box, label = torch.tensor([[0.0, 0.0, 3.0, 3.0]]), torch.tensor([0])
    target = DetectionTarget(5, box, label, masks=encode_masks(torch.ones(1, 4, 5, dtype=torch.bool)))
    masks = encode_masks(torch.ones(1, 5, 4, dtype=torch.bool))
    prediction = DetectionPrediction(5, box, torch.tensor([0.5]), label, masks)
    with pytest.raises(ValueError, match=r"masks of one size of image 5; got: \(4, 5\), \(5, 4\)"):
        coco_average_precision([target], [prediction], 1, OverlapKind.MASKS)
