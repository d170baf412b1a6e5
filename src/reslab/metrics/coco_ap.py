"""Average precision and recall of COCO, for boxes and masks, through faster-coco-eval or pycocotools.

Definition: cocodataset.org/#detection-eval (Lin et al. 2014, Microsoft COCO: Common Objects in Context). Both packages
give the same numbers; faster-coco-eval is used where both are installed, and is what the extra `detection` installs.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor

from reslab.metrics.checks import first_few
from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    Floats,
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
