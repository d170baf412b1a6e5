"""COCO's average precision from annotations and results in COCO's JSON format, as plain dictionaries, and its writer.

The results of several processes are concatenated; their order matters only within an image, between equal scores.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reslab.metrics.checks import check_unique, first_few
from reslab.metrics.coco_ap import CocoData, CocoResult, OverlapKind, Record, evaluate_coco_data, mask_areas
from reslab.metrics.detection import ImageId, Rle
from reslab.spec.errors import invalid

_SHAPE_KEYS = {OverlapKind.BOXES: "bbox", OverlapKind.MASKS: "segmentation"}


def evaluate_coco_json(
    annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], overlap: OverlapKind = OverlapKind.BOXES
) -> CocoResult:
    """Return COCO's metrics of results (`image_id`, `category_id`, `score`, and `bbox` or `segmentation`).

    `annotations` has the lists `images`, `categories` and `annotations`. The classes of the result are the categories
    by rising id. As in pycocotools, the field `ignore` of an annotation has no effect. Annotations without `area` or
    `iscrowd` get the area of their box and 0. Masks of results are in run-length encoding, and their area is that of
    the mask also where the result has a box.

    Raises ValueError for lists and keys that are missing, ids that are repeated or unknown, boxes that are not 4 finite
    numbers with a width and height of at least 0, scores that are not finite, and masks of another size than their
    image; MissingExtraError without a package to evaluate with.
    """
    if not isinstance(results, list | tuple):
        raise invalid("a list of results", f"a {type(results).__name__}")
    images, categories, objects = (_read_list(annotations, key) for key in ("images", "categories", "annotations"))
    image_ids, category_ids = _number_ids("images", images), _number_ids("categories", categories)
    shape_key = _SHAPE_KEYS[overlap]
    for name, records, keys in (
        ("annotations", objects, ("image_id", "category_id", "bbox", shape_key)),
        ("results", results, ("image_id", "category_id", "score", shape_key)),
    ):
        _check_keys(name, records, keys)
        _check_known(name, "image_id", records, image_ids)
        _check_known(name, "category_id", records, category_ids)
        _check_boxes(name, [record["bbox"] for record in records if "bbox" in record])
    _check_scores([result["score"] for result in results])
    if overlap is OverlapKind.MASKS:
        _check_keys("images", images, ("height", "width"))
        sizes = {image["id"]: [image["height"], image["width"]] for image in images}
        for name, records in (("annotations", [one for one in objects if _is_rle(one)]), ("results", results)):
            _check_masks(name, records, sizes)
    data = CocoData(
        images=[{"height": 0, "width": 0, **image, "id": image_ids[image["id"]]} for image in images],
        categories=[{**category, "id": category_ids[category["id"]]} for category in categories],
        annotations=[
            {"area": _box_area(one), "iscrowd": 0, **one, **_new_ids(index, one, image_ids, category_ids)}
            for index, one in enumerate(objects, start=1)
        ],
        results=[
            {**one, "area": area, "iscrowd": 0, **_new_ids(index, one, image_ids, category_ids)}
            for index, (one, area) in enumerate(zip(results, _result_areas(results, overlap), strict=True), start=1)
        ],
    )
    return evaluate_coco_data(data, overlap)


def coco_result(
    image_id: ImageId,
    category_id: int,
    box: Sequence[float],
    score: float,
    mask: Rle | None = None,
) -> Record:
    """Return a detection as COCO's record: `image_id`, `category_id`, `bbox` [x, y, width, height], `score`.

    The box is (x1, y1, x2, y2). With a mask, its run lengths are `segmentation`, with `counts` as text.
    """
    x1, y1, x2, y2 = box
    sides = [x1, y1, x2 - x1, y2 - y1]
    result: Record = {"image_id": image_id, "category_id": category_id, "bbox": sides, "score": score}
    if mask is None:
        return result
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {**result, "segmentation": {"size": list(mask["size"]), "counts": text}}


def encode_coco_results(results: Sequence[Mapping[str, Any]]) -> bytes:
    """Return COCO's results as JSON, numbers with all digits."""
    return (json.dumps(results, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _new_ids(
    index: int, record: Mapping[str, Any], image_ids: Mapping[Any, int], category_ids: Mapping[Any, int]
) -> Record:
    return {"id": index, "image_id": image_ids[record["image_id"]], "category_id": category_ids[record["category_id"]]}


def _number_ids(name: str, records: Sequence[Record]) -> dict[Any, int]:
    """Return a number from 1 for each id, in rising order: with id 0 a match would read as none."""
    _check_keys(name, records, ("id",))
    ids = [record["id"] for record in records]
    check_unique(name, ids)
    return {one: number for number, one in enumerate(sorted(ids), start=1)}


def _result_areas(results: Sequence[Mapping[str, Any]], overlap: OverlapKind) -> list[float]:
    if overlap is OverlapKind.MASKS:
        return mask_areas([result["segmentation"] for result in results])
    return [_box_area(result) for result in results]


def _box_area(record: Mapping[str, Any]) -> float:
    return float(record["bbox"][2]) * float(record["bbox"][3])


def _read_list(annotations: Mapping[str, Any], key: str) -> list[Record]:
    if not isinstance(annotations.get(key), list):
        raise invalid(f"annotations with a list {key!r}", f"the keys {first_few(sorted(annotations))}")
    records: list[Record] = annotations[key]
    return records


def _check_keys(name: str, records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    for index, record in enumerate(records):
        missing = [key for key in keys if key not in record]
        if missing:
            raise invalid(f"{name} with {', '.join(keys)}", f"number {index} without {', '.join(missing)}")


def _check_known(name: str, key: str, records: Sequence[Mapping[str, Any]], known: Collection[Any]) -> None:
    unknown = [record[key] for record in records if record[key] not in known]
    if unknown:
        ids = list(dict.fromkeys(unknown))
        got = f"{len(unknown)} of {len(records)} with {len(ids)} unknown: {first_few(ids)}"
        next_step = "check that they belong to these annotations"
        raise invalid(f"{name} whose {key} is in the annotations", got, next_step=next_step)


def _is_rle(record: Mapping[str, Any]) -> bool:
    return isinstance(record["segmentation"], Mapping)


def _check_masks(name: str, records: Sequence[Mapping[str, Any]], sizes: Mapping[Any, list[int]]) -> None:
    for index, record in enumerate(records):
        mask = record["segmentation"]
        if not _is_rle(record) or {"size", "counts"} - set(mask):
            raise invalid(f"masks of {name} in run-length encoding: size and counts", f"{mask!r:.60} of number {index}")
        if list(mask["size"]) != sizes[record["image_id"]]:
            required = f"masks of {name} of the size of their image, {sizes[record['image_id']]}"
            raise invalid(required, f"{list(mask['size'])} of number {index}")


def _check_boxes(name: str, boxes: Sequence[Sequence[float]]) -> None:
    for index, box in enumerate(boxes):
        if len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
            required = f"boxes of {name} as 4 finite numbers x, y, width, height with width and height of at least 0"
            raise invalid(required, f"{list(box)} of number {index}")


def _check_scores(scores: Sequence[float]) -> None:
    others = [index for index, score in enumerate(scores) if not _is_finite(score)]
    if others:
        raise invalid("results with finite scores", f"{len(others)} others, at {first_few(others)}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
