"""Average precision and recall of COCO, for boxes and masks, of data in memory and in the JSON format of COCO.

Definition: cocodataset.org/#detection-eval (Lin et al. 2014, Microsoft COCO: Common Objects in Context). Computed by
faster-coco-eval or pycocotools. Both give the same numbers; faster-coco-eval is used where both are installed, and is
what the extra `detection` installs. The results of several processes are concatenated; their order matters only within
an image, between equal scores.
"""

import contextlib
import importlib.util
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor

from reslab.metrics.checks import check_unique, first_few
from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    Floats,
    ImageId,
    Rle,
    pair_images,
    to_array,
)
from reslab.runtime.extras import require_extra
from reslab.spec.errors import invalid

IOU_THRESHOLDS = tuple((50 + 5 * step) / 100 for step in range(10))
RECALL_LEVELS = tuple(step / 100 for step in range(101))
AREA_RANGES = ("all", "small", "medium", "large")
"""All areas, below 32² square pixels, 32² to 96², and above 96²."""
_ABSENT = -1.0  # what both packages give for a class without objects
# Objects with an area outside every range are left out as difficult ones should be: found or missed they do not count.
_IGNORED_AREA = 1e12

Record = dict[str, Any]


class OverlapKind(StrEnum):
    """The regions of which the IoU is computed; the value is COCO's `iouType`."""

    BOXES = "bbox"
    MASKS = "segm"


@dataclass(frozen=True)
class CocoResult:
    """The twelve numbers of COCO as fractions, and those of each class; NaN where no object is (COCO prints -1).

    `ap` is the mean over IoU thresholds 0.50, 0.55, ... 0.95 and classes, `ap50` and `ap75` that at one threshold,
    `ap_small` that of objects of an area range, all with the 100 highest scores of an image and class. `ar1`, `ar10`
    and `ar100` are the mean recall with as many scores of an image and class.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: tuple[float, ...]
    class_ap50: tuple[float, ...]
    class_precision: Floats
    """The precision-recall curves (C, 10, 101): the interpolated precision of each class, at each of `IOU_THRESHOLDS`
    and `RECALL_LEVELS`, of objects of all areas; NaN for a class without objects."""


@dataclass(frozen=True)
class CocoData:
    """Images, categories, annotations and results as COCO's records, with their ids and areas complete."""

    images: list[Record]
    categories: list[Record]
    annotations: list[Record]
    results: list[Record]


@dataclass(frozen=True)
class _Package:
    """The classes of a package that evaluates COCO data, its module of masks, and whether it prints its progress."""

    coco: Callable[[], Any]
    evaluator: Callable[[Any, Any, str], Any]
    masks: Any
    prints: bool


def coco_average_precision(
    targets: Sequence[DetectionTarget],
    predictions: Sequence[DetectionPrediction],
    num_classes: int,
    overlap: OverlapKind = OverlapKind.BOXES,
) -> CocoResult:
    """Return COCO's metrics over all images, which must have been gathered from all processes.

    Difficult objects do not count, found or missed, in any area range. Equal scores rank as `reslab.metrics.detection`
    says, which is pycocotools' order for images given by rising id. Raises ValueError as `pair_images` does and, for
    `OverlapKind.MASKS`, without masks or with masks of several sizes; MissingExtraError without a package to
    evaluate with.
    """
    package = _load_package()
    pairs = pair_images(targets, predictions, num_classes)
    images: list[Record] = []
    annotations: list[Record] = []
    results: list[Record] = []
    for image_id, (target, prediction) in enumerate(pairs, start=1):
        if overlap is OverlapKind.MASKS:
            _check_has_masks(target, prediction)
        images.append({"id": image_id, **_mask_size(target, prediction)})
        annotations += _target_records(target, image_id)
        results += _prediction_records(prediction, image_id, overlap, package)
    categories = [{"id": index + 1, "name": str(index)} for index in range(num_classes)]
    return evaluate_coco_data(CocoData(images, categories, _numbered(annotations), _numbered(results)), overlap)


def encode_masks(masks: Tensor) -> list[Rle]:
    """Return boolean masks (N, H, W) in run-length encoding. Raises MissingExtraError without a package for it."""
    if masks.ndim != 3:
        raise invalid("masks of shape (N, H, W)", f"shape {tuple(masks.shape)}")
    pixels = masks.detach().cpu().numpy().astype(np.uint8).transpose(1, 2, 0)
    encoded: list[Rle] = _load_package().masks.encode(np.asfortranarray(pixels)) if len(masks) else []
    return encoded


def mask_areas(masks: Sequence[Rle]) -> list[float]:
    """Return the number of pixels of each mask. Raises MissingExtraError without a package for it."""
    return [float(area) for area in _load_package().masks.area(list(masks))] if masks else []


def evaluate_coco_data(data: CocoData, overlap: OverlapKind) -> CocoResult:
    """Return COCO's metrics of complete records; the classes are the categories by rising id."""
    package = _load_package()
    common = {"images": data.images, "categories": data.categories}
    with contextlib.redirect_stdout(io.StringIO()) if package.prints else contextlib.nullcontext():
        truth, results = package.coco(), package.coco()
        for one, records in ((truth, data.annotations), (results, data.results)):
            one.dataset = {**common, "annotations": records}
            one.createIndex()
        evaluator = package.evaluator(truth, results, overlap.value)
        evaluator.evaluate()
        evaluator.accumulate()
    num_classes = len(data.categories)
    precision = np.asarray(evaluator.eval["precision"]).reshape(10, 101, num_classes, 4, 3)
    return _summarize(precision, np.asarray(evaluator.eval["recall"]).reshape(10, num_classes, 4, 3))


def _summarize(precision: Floats, recall: Floats) -> CocoResult:
    """Summarize precision [IoU, recall level, class, area range, detections] and recall without the second axis."""
    all_areas = precision[:, :, :, 0, -1]
    areas = {name: index for index, name in enumerate(AREA_RANGES)}
    return CocoResult(
        ap=_mean(all_areas),
        ap50=_mean(all_areas[0]),
        ap75=_mean(all_areas[5]),
        ap_small=_mean(precision[:, :, :, areas["small"], -1]),
        ap_medium=_mean(precision[:, :, :, areas["medium"], -1]),
        ap_large=_mean(precision[:, :, :, areas["large"], -1]),
        ar1=_mean(recall[:, :, 0, 0]),
        ar10=_mean(recall[:, :, 0, 1]),
        ar100=_mean(recall[:, :, 0, 2]),
        ar_small=_mean(recall[:, :, areas["small"], -1]),
        ar_medium=_mean(recall[:, :, areas["medium"], -1]),
        ar_large=_mean(recall[:, :, areas["large"], -1]),
        class_ap=tuple(_mean(all_areas[:, :, index]) for index in range(precision.shape[2])),
        class_ap50=tuple(_mean(all_areas[0, :, index]) for index in range(precision.shape[2])),
        class_precision=np.where(all_areas == _ABSENT, np.nan, all_areas).transpose(2, 0, 1),
    )


def _mean(values: Floats) -> float:
    present = values[values > _ABSENT]
    return float(present.mean()) if present.size else float("nan")


def _target_records(target: DetectionTarget, image_id: int) -> list[Record]:
    boxes = _to_xywh(to_array(target.boxes))
    areas = boxes[:, 2] * boxes[:, 3] if target.areas is None else to_array(target.areas)
    areas = np.where(target.is_difficult, _IGNORED_AREA, areas)
    rows = zip(boxes.tolist(), target.labels.tolist(), areas.tolist(), target.is_crowd.tolist(), strict=True)
    records = [
        {"image_id": image_id, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(is_crowd)}
        for box, label, area, is_crowd in rows
    ]
    return _with_masks(records, target.masks)


def _prediction_records(
    prediction: DetectionPrediction, image_id: int, overlap: OverlapKind, package: _Package
) -> list[Record]:
    boxes, scores = _to_xywh(to_array(prediction.boxes)), to_array(prediction.scores)
    areas = (boxes[:, 2] * boxes[:, 3]).tolist()
    if overlap is OverlapKind.MASKS and prediction.masks:
        areas = [float(area) for area in package.masks.area(list(prediction.masks))]
    rows = zip(boxes.tolist(), prediction.labels.tolist(), scores.tolist(), areas, strict=True)
    records = [
        {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score, "area": area, "iscrowd": 0}
        for box, label, score, area in rows
    ]
    return _with_masks(records, prediction.masks)


def _with_masks(records: list[Record], masks: Sequence[Rle] | None) -> list[Record]:
    if masks is None:
        return records
    return [{**record, "segmentation": dict(mask)} for record, mask in zip(records, masks, strict=True)]


def _numbered(records: list[Record]) -> list[Record]:
    """Return the records with ids from 1: both packages take a match with id 0 for none."""
    for index, record in enumerate(records, start=1):
        record["id"] = index
    return records


def _to_xywh(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mask_size(target: DetectionTarget, prediction: DetectionPrediction) -> Record:
    """Return the height and width of the masks of an image, which the packages need; 0 without masks."""
    sizes = {tuple(mask["size"]) for mask in (*(target.masks or ()), *(prediction.masks or ()))}
    if len(sizes) > 1:
        raise invalid(f"masks of one size of image {target.image_id!r}", f"{first_few(sorted(sizes))}")
    height, width = sizes.pop() if sizes else (0, 0)
    return {"height": height, "width": width}


def _check_has_masks(target: DetectionTarget, prediction: DetectionPrediction) -> None:
    for name, one in (("target", target), ("prediction", prediction)):
        if one.masks is None:
            raise invalid(f"masks of the {name} of image {one.image_id!r} for mask AP", "none")


def _load_faster_coco_eval() -> _Package:
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval.core import mask

    return _Package(COCO, COCOeval_faster, mask, prints=False)


def _load_pycocotools() -> _Package:
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _Package(COCO, COCOeval, mask, prints=True)


# The packages that evaluate COCO data, the preferred first.
_PACKAGES = {"faster_coco_eval": _load_faster_coco_eval, "pycocotools": _load_pycocotools}


def require_coco_package() -> None:
    """Raise MissingExtraError without a package that evaluates COCO data."""
    _load_package()


def _load_package() -> _Package:
    for name, load in _PACKAGES.items():
        if importlib.util.find_spec(name) is not None:
            return load()
    require_extra("detection", "COCO's average precision")
    raise AssertionError("the extra detection is the first of _PACKAGES")


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
