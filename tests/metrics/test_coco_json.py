"""COCO's average precision from dictionaries of COCO's JSON format, against pycocotools."""

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from reslab.metrics import coco
from reslab.metrics.coco import CocoResult, OverlapKind, encode_masks, evaluate_coco_json

SHAPE = (60, 80)


def as_text(rle: Any) -> dict[str, Any]:
    """A run-length encoding as JSON holds it."""
    return {"size": list(rle["size"]), "counts": bytes(rle["counts"]).decode()}


def make_rectangle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = torch.zeros(1, *SHAPE, dtype=torch.bool)
    mask[0, y : y + height, x : x + width] = True
    return as_text(encode_masks(mask)[0])


def make_data(masks: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with polygons, crowds and ids from 0, and results with equal scores, as read from JSON."""
    random = np.random.default_rng(3)
    annotations, results = [], []
    for image_id in (40, 0, 7, 19):
        for _ in range(6):
            x, y = (int(value) for value in random.integers(0, 40, 2))
            width, height = int(random.integers(8, 40)), int(random.integers(8, 20))
            category_id, is_crowd = int(random.choice([0, 3, 90])), int(random.random() < 0.15)
            outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            one = {"image_id": image_id, "category_id": category_id, "bbox": [x, y, width, height]}
            shape = make_rectangle(x, y, width, height) if is_crowd else outline
            area, index = 0.9 * width * height, len(annotations)
            annotations.append({**one, "id": index, "area": area, "iscrowd": is_crowd, "segmentation": shape})
            for _ in range(2):
                moved = [max(0, side + int(random.integers(-3, 4))) for side in (x, y, width, height)]
                result = {**one, "bbox": moved, "score": round(float(random.random()), 1)}
                results.append(result | ({"segmentation": make_rectangle(*moved)} if masks else {}))
    images = [{"id": image_id, "height": SHAPE[0], "width": SHAPE[1]} for image_id in (40, 0, 7, 19, 8)]
    categories = [{"id": one, "name": f"class {one}"} for one in (90, 3, 0, 5)]
    data = {"images": images, "categories": categories, "annotations": annotations}
    return json.loads(json.dumps(data)), json.loads(json.dumps(results))


def run_pycocotools(annotations: dict[str, Any], results: list[dict[str, Any]], overlap: OverlapKind) -> COCOeval:
    annotations, results = copy.deepcopy(annotations), copy.deepcopy(results)
    for one in annotations["annotations"]:
        one["id"] += 1  # pycocotools takes a match with id 0 for none
    for one in results if overlap is OverlapKind.MASKS else []:
        del one["bbox"]  # or the area would be that of the box
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), overlap.value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def summary(result: CocoResult) -> list[float]:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    names += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
    return [getattr(result, name) for name in names]


@pytest.mark.parametrize("package", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize("overlap", OverlapKind)
def test_metrics_equal_pycocotools(overlap: OverlapKind, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_PACKAGES", {package: coco._PACKAGES[package]})
    annotations, results = make_data(overlap is OverlapKind.MASKS)
    before = copy.deepcopy((annotations, results))
    result = evaluate_coco_json(annotations, results, overlap)
    assert (annotations, results) == before
    reference = run_pycocotools(annotations, results, overlap)
    np.testing.assert_allclose(summary(result), np.where(reference.stats == -1, np.nan, reference.stats), rtol=1e-12)
    assert np.isnan(result.class_ap[2])  # category 5 has no annotations
    assert 0.1 < result.ap < 0.9


def test_keys_that_may_be_missing_have_values() -> None:
    annotations, results = make_data()
    for one in annotations["annotations"]:
        one["area"], one["iscrowd"] = one["bbox"][2] * one["bbox"][3], 0
    expected = evaluate_coco_json(annotations, results)
    for one in annotations["annotations"]:
        del one["area"], one["iscrowd"]
    for image in annotations["images"]:
        del image["height"], image["width"]
    assert repr(evaluate_coco_json(annotations, results)) == repr(expected)


def test_no_results_have_an_ap_of_zero() -> None:
    annotations, _ = make_data()
    assert evaluate_coco_json(annotations, []).ap == 0


def change(key: str, value: Any, count: int = 1) -> Any:
    def apply(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for index, one in enumerate(results[:count]):
            one[key] = value(index) if callable(value) else value

    return apply


def remove(part: str, key: str) -> Any:
    def apply(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        records = results if part == "results" else annotations[part]
        del records[1][key]

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            change("image_id", lambda index: 1000 + index, 7),
            "got: 7 of 48 with 7 unknown: 1000, 1001, 1002, 1003, 1004 and 2",
        ),
        (
            change("category_id", 1, 3),
            "results whose category_id is in the annotations; got: 3 of 48 with 1 unknown: 1",
        ),
        (change("score", float("nan")), "results with finite scores; got: 1 others, at 0"),
        (change("bbox", [1, 2, -3, 4]), r"width and height of at least 0; got: \[1, 2, -3, 4\] of number 0"),
        (change("bbox", [1, 2, 3]), "boxes of results as 4 finite numbers"),
        (change("bbox", [1, 2, "3", 4]), "boxes of results as 4 finite numbers"),
        (remove("results", "score"), "results with image_id, category_id, score, bbox; got: number 1 without score"),
        (remove("annotations", "bbox"), "got: number 1 without bbox"),
        (remove("images", "id"), "images with id; got: number 1 without id"),
        (lambda annotations, _: annotations["images"].append({"id": 7}), "images with unique ids; got: 1 repeated: 7"),
        (lambda annotations, _: annotations.pop("categories"), "a list 'categories'; got: the keys 'annotations'"),
        (lambda annotations, _: annotations["annotations"][0].update(image_id=6), "annotations whose image_id is in"),
    ],
)
def test_bad_records_are_errors(spoil: Any, message: str) -> None:
    annotations, results = make_data()
    spoil(annotations, results)
    with pytest.raises(ValueError, match=message):
        evaluate_coco_json(annotations, results)


def test_results_that_are_not_a_list_are_an_error() -> None:
    annotations, results = make_data()
    with pytest.raises(ValueError, match="a list of results; got: a dict"):
        evaluate_coco_json(annotations, {"annotations": results})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got: number 0 without segmentation"):
        evaluate_coco_json(annotations, results, OverlapKind.MASKS)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 5, 1, 5, 5]], r"masks of results in run-length encoding: size and counts; got: \[\[1, 1"),
        ({"size": [60, 80]}, "masks of results in run-length encoding"),
        ({"size": [80, 60], "counts": "a"}, r"of their image, \[60, 80\]; got: \[80, 60\] of number 0"),
    ],
)
def test_bad_masks_are_errors(mask: Any, message: str) -> None:
    annotations, results = make_data(masks=True)
    results[0]["segmentation"] = mask
    with pytest.raises(ValueError, match=message):
        evaluate_coco_json(annotations, results, OverlapKind.MASKS)
