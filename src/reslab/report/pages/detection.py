"""The results of a detection on a page: COCO's and VOC's average precision, classes, errors, and the worst images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reslab.metrics.classification import ratio_or_nan
from reslab.metrics.coco import IOU_THRESHOLDS, RECALL_LEVELS, CocoResult
from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    ImageOutcomes,
    Outcome,
    box_areas,
    count_outcomes,
    detection_confusion,
    find_outcomes,
    pair_images,
    to_array,
)
from reslab.metrics.voc_ap import Interpolation, VocResult, best_f1_score, mean_ap
from reslab.report.format import format_int, format_percent, pluralize
from reslab.report.pages.classification import MAX_CLASSES_IN_TABLE, MAX_LABELED_CLASSES, confusion_context
from reslab.report.pages.components import TaskResults, make_panel, make_tile
from reslab.report.pages.detected_images import BoxImage, ErrorImage, image_f1, images_context
from reslab.spec.task import TaskByName

MAX_WORST_IMAGES = 12
MAX_CLASS_CURVES = 12
NUM_WEAKEST_CLASSES = 10
DEFAULT_MIN_SCORE = 0.5
BACKGROUND_NAME = "background"
_SMALL, _MEDIUM = 32.0**2, 96.0**2  # square pixels: COCO's limits of small and medium objects


@dataclass(frozen=True)
class ErrorCounts:
    """The outcomes of the predictions of at least `min_score`, and the confusion of classes [true][predicted].

    The last class of the confusion matrix is the background. `is_best_f1`: no other score gives a higher F1.
    """

    min_score: float
    is_best_f1: bool
    outcomes: Mapping[Outcome, int]
    confusion: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class DetectionResults(TaskResults):
    """The results of a detection; make them with `build`.

    `num_objects` counts the objects of each class that are neither crowds nor difficult, `num_by_size` those that are
    small, medium and large. `masks` are COCO's metrics of masks, where the network predicts masks.
    """

    task = TaskByName("detection")
    template: ClassVar[str] = "detection.html"
    decimals: ClassVar[int] = 1
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("precision", "coco_rows", "Average precision"),
        ("errors", "error_rows", "Errors"),
        ("worst", "worst_images", "Worst images"),
        ("classes", "class_rows", "Classes"),
        ("curves", "curve_panels", "Precision and recall"),
        ("confusion", "confusion", "Confusion matrix"),
    )

    classes: Sequence[str] = ()
    coco: CocoResult | None = None
    voc: VocResult | None = None
    masks: CocoResult | None = None
    num_objects: Sequence[int] = ()
    num_by_size: Mapping[str, int] | None = None
    errors: ErrorCounts | None = None
    worst: Sequence[ErrorImage] = ()
    num_imperfect: int = 0

    @classmethod
    def build(
        cls,
        targets: Sequence[DetectionTarget],
        predictions: Sequence[DetectionPrediction],
        classes: Sequence[str],
        *,
        coco: CocoResult,
        voc: VocResult,
        load_image: Callable[[int], BoxImage],
        masks: CocoResult | None = None,
        min_score: float | None = None,
    ) -> "DetectionResults":
        """Return the results of an evaluation, with the images of the lowest F1 at `min_score`.

        By default that is the score from which on F1 over all classes is highest. `load_image(i)` returns the image of
        `targets[i]`, and is called for the images on the page alone. Raises ValueError as `pair_images` does.
        """
        best = best_f1_score(voc)
        is_best_f1 = min_score is None and not math.isnan(best)
        score = best if is_best_f1 else DEFAULT_MIN_SCORE if min_score is None else min_score
        outcomes = find_outcomes(targets, predictions, len(classes), min_score=score)
        confusion = detection_confusion(targets, predictions, len(classes), min_score=score)
        errors = ErrorCounts(score, is_best_f1, count_outcomes(outcomes), confusion.tolist())
        pairs = zip(pair_images(targets, predictions, len(classes)), outcomes, strict=True)
        images = [(image_f1(target, image), target, prediction, image) for (target, prediction), image in pairs]
        imperfect = sorted((image for image in images if image[0] < 1), key=_rank)
        indices = {target.image_id: i for i, target in enumerate(targets)}
        return cls(
            classes=tuple(classes),
            coco=coco,
            voc=voc,
            masks=masks,
            num_objects=_count_objects(targets, len(classes)),
            num_by_size=_count_by_size(targets),
            errors=errors,
            worst=[
                ErrorImage(load_image(indices[target.image_id]), target, prediction, image)
                for _, target, prediction, image in imperfect[:MAX_WORST_IMAGES]
            ],
            num_imperfect=len(imperfect),
        )

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Return one sentence: `COCO AP 41.5 % on 87 validation images with 1,138 objects.`"""
        text = super().summary(metrics).removesuffix(".")
        return f"{text} with {pluralize(sum(self.num_objects), 'object')}."

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template; all are empty without results."""
        return {
            **self._coco_context(),
            **_error_context(self.errors, sum(self.num_objects)),
            **images_context(self.worst, self.classes),
            "worst_text": _worst_text(len(self.worst), self.num_imperfect),
            **self._class_context(),
            "curve_panels": self._curve_panels(),
            **self._confusion_context(),
        }

    def _coco_context(self) -> dict[str, Any]:
        if self.coco is None or self.voc is None:
            return {"coco_rows": [], "voc_tiles": [], "has_masks": False}
        sizes = {"all": sum(self.num_objects), **(self.num_by_size or {})}
        rows = [
            {
                "name": row.name,
                "iou": row.iou,
                "objects": f"{row.objects}, {format_int(sizes[row.objects])}",
                "detections": row.detections,
                "masks": format_percent(getattr(self.masks, row.field), 1) if self.masks else "",
                **_value_cells(getattr(self.coco, row.field)),
            }
            for row in _COCO_ROWS
        ]
        eleven_points = mean_ap(self.voc, Interpolation.ELEVEN_POINT)
        tiles = [
            make_tile("all points", format_percent(self.voc.mean_ap, 1), "area under the curve (VOC 2010 and later)"),
            make_tile("11 points", format_percent(eleven_points, 1), "at recall 0, 0.1, ... 1 (VOC 2007)"),
        ]
        return {"coco_rows": rows, "voc_tiles": tiles, "has_masks": self.masks is not None}

    def _class_context(self) -> dict[str, Any]:
        """Return a row for each class, the ten of lowest AP where there are many, and the mean."""
        if self.coco is None:
            return {"class_rows": [], "weakest_rows": [], "class_mean": None}
        ap75 = self.coco.class_precision[:, IOU_THRESHOLDS.index(0.75)].mean(1)
        columns = zip(self.classes, self.num_objects, self.coco.class_ap, self.coco.class_ap50, ap75, strict=True)
        rows = [
            {
                "number": str(number) if len(self.classes) >= MAX_LABELED_CLASSES else "",
                "name": name,
                "num_objects": format_int(num_objects),
                "ap50": format_percent(ap50, 1),
                "ap75": format_percent(high, 1),
                "masks": format_percent(self.masks.class_ap[number], 1) if self.masks else "",
                **_value_cells(ap),
            }
            for number, (name, num_objects, ap, ap50, high) in enumerate(columns)
        ]
        weakest = self._weakest(self.coco.class_ap)[:NUM_WEAKEST_CLASSES]
        mean = {
            "num_objects": format_int(sum(self.num_objects)),
            "value": format_percent(self.coco.ap, 1),
            "ap50": format_percent(self.coco.ap50, 1),
            "ap75": format_percent(self.coco.ap75, 1),
            "masks": format_percent(self.masks.ap, 1) if self.masks else "",
        }
        weakest_rows = [rows[number] for number in weakest] if len(rows) > MAX_CLASSES_IN_TABLE else []
        return {"class_rows": rows, "weakest_rows": weakest_rows, "class_mean": mean}

    def _weakest(self, values: Sequence[float]) -> list[int]:
        """Return the classes by rising value, without those that have none."""
        return sorted((i for i, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i])

    def _curve_panels(self) -> list[dict[str, Any]]:
        """Return the plot of the mean over the classes, and small ones of the classes, where there are several."""
        if self.coco is None or math.isnan(self.coco.ap50):
            return []
        from reslab.report.plots.curves import PrecisionCurves, plot_class_precision, plot_precision_curves

        shown = self._weakest(self.coco.class_ap50)
        curves = self.coco.class_precision[:, [IOU_THRESHOLDS.index(0.5), IOU_THRESHOLDS.index(0.75)]]
        means = curves[shown].mean(0)
        labels = [
            f"IoU {iou}, AP {format_percent(ap, 1)}" for iou, ap in ((0.5, self.coco.ap50), (0.75, self.coco.ap75))
        ]
        all_text = "Mean over the classes" if len(shown) > 1 else self.classes[shown[0]]
        caption = f"{all_text}: the highest precision at each recall or above it, which COCO averages."
        panels = [
            make_panel(
                plot_precision_curves(RECALL_LEVELS, means.tolist(), labels),
                "precision-recall",
                title="All classes",
                alt_text=f"Precision against recall. {', '.join(labels)}.",
                caption=caption,
            )
        ]
        if len(shown) > 1:
            drawn = [
                PrecisionCurves(self.classes[i], self.coco.class_ap50[i], curves[i].tolist())
                for i in (shown[:MAX_CLASS_CURVES] if len(shown) > MAX_CLASS_CURVES else sorted(shown))
            ]
            which = f"The {MAX_CLASS_CURVES} classes of lowest AP" if len(shown) > MAX_CLASS_CURVES else "AP"
            caption = f"{which} at IoU 0.5, which stands beside the name. Solid: IoU 0.5. Dashed: IoU 0.75."
            panels.append(
                make_panel(
                    plot_class_precision(RECALL_LEVELS, drawn),
                    "class-precision-recall",
                    title="Classes",
                    alt_text=f"Precision against recall of {len(drawn)} classes. {caption}",
                    caption=caption,
                )
            )
        return panels

    def _confusion_context(self) -> dict[str, Any]:
        if self.errors is None:
            return {"confusion": None, "confused_pairs": []}
        note = f"Last row: predictions where no object is{self._background_number()}. Last column: objects not found."
        return confusion_context(
            self.errors.confusion,
            [*self.classes, BACKGROUND_NAME],
            noun="objects",
            num_classes=len(self.classes),
            note=note,
        )

    def _background_number(self) -> str:
        return f" (number {len(self.classes)})" if len(self.classes) >= MAX_LABELED_CLASSES else ""


@dataclass(frozen=True)
class _CocoRow:
    """A row of COCO's numbers: its name, the field of `CocoResult`, and what it is of."""

    name: str
    field: str
    iou: str = "0.50 to 0.95"
    objects: str = "all"
    detections: int = 100


_COCO_ROWS = (
    _CocoRow("AP", "ap"),
    _CocoRow("AP50", "ap50", "0.50"),
    _CocoRow("AP75", "ap75", "0.75"),
    _CocoRow("AP small", "ap_small", objects="small"),
    _CocoRow("AP medium", "ap_medium", objects="medium"),
    _CocoRow("AP large", "ap_large", objects="large"),
    _CocoRow("AR1", "ar1", detections=1),
    _CocoRow("AR10", "ar10", detections=10),
    _CocoRow("AR100", "ar100"),
    _CocoRow("AR small", "ar_small", objects="small"),
    _CocoRow("AR medium", "ar_medium", objects="medium"),
    _CocoRow("AR large", "ar_large", objects="large"),
)
_MEANINGS = {
    Outcome.LOCALIZATION: ("localization", "right class, IoU from 0.1 to 0.5"),
    Outcome.CLASS: ("class", "wrong class, IoU from 0.5 on"),
    Outcome.BOTH: ("both", "wrong class, IoU from 0.1 to 0.5"),
    Outcome.DUPLICATE: ("duplicate", "the object has a prediction of higher score"),
    Outcome.BACKGROUND: ("background", "IoU below 0.1 with every object"),
    Outcome.MISSED: ("missed", "objects without a prediction that is correct, or wrong by localization or class"),
}


def _rank(scored: tuple[float, DetectionTarget, DetectionPrediction, ImageOutcomes]) -> tuple[float, int]:
    """Return what images are sorted by, the worst first: their F1, of equal ones their numbers of boxes."""
    f1, _, _, image = scored
    return f1, -len(image.outcomes) - len(image.missed)


def _value_cells(value: float) -> dict[str, Any]:
    return {"value": format_percent(value, 1), "width": 0.0 if math.isnan(value) else round(100 * value, 1)}


def _error_context(errors: ErrorCounts | None, num_objects: int) -> dict[str, Any]:
    """Return a row for each kind of error, with a bar relative to the most frequent one, and the text above."""
    if errors is None:
        return {"error_rows": [], "error_text": "", "error_tiles": []}
    counts = errors.outcomes
    most = max(counts[outcome] for outcome in _MEANINGS) or 1
    rows = [
        {
            "name": name,
            "meaning": meaning,
            "count": format_int(counts[outcome]),
            "width": round(100 * counts[outcome] / most, 1),
        }
        for outcome, (name, meaning) in _MEANINGS.items()
    ]
    num_correct = counts[Outcome.CORRECT]
    num_predicted = sum(counts.values()) - counts[Outcome.MISSED] - counts[Outcome.IGNORED]
    both = num_predicted + num_objects
    tiles = [
        make_tile(name, format_percent(ratio_or_nan(numerator, denominator), 1), note)
        for name, numerator, denominator, note in (
            ("precision", num_correct, num_predicted, _part_text(num_correct, num_predicted, "prediction", "correct")),
            ("recall", num_correct, num_objects, _part_text(num_correct, num_objects, "object", "found")),
            ("F1", 2 * num_correct, both, "over all classes"),
        )
    ]
    reason = ", from which on F1 is highest on these images" if errors.is_best_f1 else ""
    text = f"Predictions with a score of at least {errors.min_score:.2f}{reason}, at IoU 0.5."
    if counts[Outcome.IGNORED]:
        text += f" {format_int(counts[Outcome.IGNORED])} on crowds and difficult objects do not count."
    return {"error_rows": rows, "error_text": text, "error_tiles": tiles}


def _part_text(count: int, total: int, noun: str, verb: str) -> str:
    """Return a count among all: `579 of 782 objects found`, `no object`."""
    return f"{format_int(count)} of {pluralize(total, noun)} {verb}" if total else pluralize(0, noun)


def _worst_text(num_shown: int, num_imperfect: int) -> str:
    images = pluralize(num_imperfect, "image")
    which = f"{num_shown} of {images}" if num_shown < num_imperfect else images
    return f"{which} with an error, the lowest F1 first."


def _count_objects(targets: Sequence[DetectionTarget], num_classes: int) -> tuple[int, ...]:
    labels = [target.labels.cpu().numpy()[~target.is_ignored] for target in targets]
    return tuple(np.bincount(np.concatenate(labels), minlength=num_classes).tolist())


def _count_by_size(targets: Sequence[DetectionTarget]) -> dict[str, int]:
    areas = np.concatenate(
        [
            (box_areas(to_array(target.boxes)) if target.areas is None else to_array(target.areas))[~target.is_ignored]
            for target in targets
        ]
    )
    num_small, num_large = int((areas < _SMALL).sum()), int((areas > _MEDIUM).sum())
    return {"small": num_small, "medium": len(areas) - num_small - num_large, "large": num_large}
