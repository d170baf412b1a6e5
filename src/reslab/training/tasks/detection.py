"""Object detection: boxes around objects with their classes, and masks; its evaluation by COCO's and VOC's metrics."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reslab.data.boxes import BoxImageDataset, without_background, without_ignored
from reslab.data.dataset import DatasetSplits
from reslab.data.rng import temporary_seed
from reslab.data.segments import MASK_THRESHOLD
from reslab.metrics.coco import (
    CocoResult,
    OverlapKind,
    coco_average_precision,
    coco_result,
    encode_masks,
    require_coco_package,
)
from reslab.metrics.detection import DetectionPrediction, DetectionTarget
from reslab.metrics.voc_ap import VocResult, voc_average_precision
from reslab.report.format import format_int, format_percent
from reslab.report.pages.components import TaskResults
from reslab.report.pages.detected_images import IMAGE_SIDE, BoxImage
from reslab.report.pages.detection import DetectionResults
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid
from reslab.spec.preprocess import unit_preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.task import TASKS, Task, TaskByName
from reslab.training.evaluation.box_fusion import fuse_boxes, mirror_boxes
from reslab.training.evaluation.evaluation import Evaluation, thin_out
from reslab.training.losses import LossFn, build_loss
from reslab.training.tasks.task_type import TaskType


class DetectedImage(NamedTuple):
    """The objects of an image and what was detected there."""

    target: DetectionTarget
    prediction: DetectionPrediction


@dataclass(frozen=True, kw_only=True, repr=False)
class DetectionEvaluation(Evaluation):
    """The scores of a detector.

    `images` are the objects and detections of each image in the order of the split, boxes in pixels of the image,
    labels as indices of the classes. `coco` are COCO's metrics of the boxes, `mask_coco` those of the masks, if the
    network predicts any, `voc` VOC's average precision (all points, IoU above 0.5). A detector has no loss in
    evaluation.
    """

    spec: ClassVar[Task] = TASKS["detection"]

    images: tuple[DetectedImage, ...]
    coco: CocoResult
    voc: VocResult
    mask_coco: CocoResult | None = None

    @property
    def targets(self) -> tuple[DetectionTarget, ...]:
        """The objects of each image."""
        return tuple(image.target for image in self.images)

    @property
    def predictions(self) -> tuple[DetectionPrediction, ...]:
        """The detections of each image."""
        return tuple(image.prediction for image in self.images)

    @property
    def ap(self) -> float | None:
        """COCO's AP, the mean over IoU thresholds from 0.5 to 0.95 and classes; None without objects."""
        return _defined(self.coco.ap)

    @property
    def ap50(self) -> float | None:
        """COCO's AP at an IoU of 0.5."""
        return _defined(self.coco.ap50)

    @property
    def ap75(self) -> float | None:
        """COCO's AP at an IoU of 0.75."""
        return _defined(self.coco.ap75)

    @property
    def voc_map(self) -> float | None:
        """VOC's mean average precision."""
        return _defined(self.voc.mean_ap)

    @property
    def mask_ap(self) -> float | None:
        """COCO's AP of the masks; None for a network without masks."""
        return None if self.mask_coco is None else _defined(self.mask_coco.ap)

    @property
    def has_predictions(self) -> bool:
        """True: average precision needs all detections, so that they are always kept."""
        return True

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, or their numbers."""
        return self.classes or [str(number) for number in range(len(self.coco.class_ap))]

    def object_counts(self) -> list[int]:
        """Return the number of objects of each class that count: without crowds and difficult ones."""
        return [one.num_objects for one in self.voc.classes]

    def per_class(self) -> Mapping[str, Any]:
        """Return `classes`, each with name, ap, ap50, voc_ap (null where undefined) and num_objects, and `coco`, the
        twelve numbers of COCO."""
        rows = zip(
            self.class_names,
            map(_defined, self.coco.class_ap),
            map(_defined, self.coco.class_ap50),
            (_defined(one.ap) for one in self.voc.classes),
            self.object_counts(),
            strict=True,
        )
        names = ("name", "ap", "ap50", "voc_ap", "num_objects")
        results = {"coco": coco_numbers(self.coco)}
        if self.mask_coco is not None:
            results["mask_coco"] = coco_numbers(self.mask_coco)
        return {"classes": [dict(zip(names, row, strict=True)) for row in rows], **results}

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return columns and rows: each class, then the mean of the classes."""
        rows = [
            (row["name"], *(format_percent(row[key], 1) for key in ("ap", "ap50", "voc_ap")), str(row["num_objects"]))
            for row in self.per_class()["classes"]
        ]
        means = (format_percent(value, 1) for value in (self.ap, self.ap50, self.voc_map))
        return ["class", "AP", "AP50", "VOC AP", "objects"], [
            *rows,
            ("mean", *means, format_int(sum(self.object_counts()))),
        ]

    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return name, class, score and box of each detection, by image and falling score."""
        names = self.names or [str(image.target.image_id) for image in self.images]
        rows = [
            [name, self.class_names[label], *map(_exact, (score, *box))]
            for name, (_, prediction) in zip(names, self.images, strict=True)
            for box, score, label in zip(
                prediction.boxes.tolist(), prediction.scores.tolist(), prediction.labels.tolist(), strict=True
            )
        ]
        return ["name", "class", "score", "x1", "y1", "x2", "y2"], rows

    def coco_results(self) -> list[dict[str, Any]]:
        """Return the detections as COCO's results, with COCO's ids of images and categories where the data has them.

        Other images have the name of their file, other categories their number from 1.
        """
        category_ids = getattr(self.dataset, "category_ids", ()) or range(1, len(self.class_names) + 1)
        results = []
        for prediction in self.predictions:
            boxes, scores, labels = (getattr(prediction, name).tolist() for name in ("boxes", "scores", "labels"))
            masks = [None] * len(boxes) if prediction.masks is None else prediction.masks
            results += [
                coco_result(prediction.image_id, category_ids[label], box, score, mask)
                for box, score, label, mask in zip(boxes, scores, labels, masks, strict=True)
            ]
        return results

    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return the detections of all images in one row each: `image` (its index), `boxes`, `scores`, `labels`."""
        predictions = self.predictions
        counts = torch.tensor([len(prediction.boxes) for prediction in predictions])
        return {
            "image": torch.arange(len(predictions)).repeat_interleave(counts).numpy(),
            "boxes": torch.cat([prediction.boxes for prediction in predictions]).numpy(),
            "scores": torch.cat([prediction.scores for prediction in predictions]).numpy(),
            "labels": torch.cat([prediction.labels for prediction in predictions]).numpy(),
        }


def coco_numbers(coco: CocoResult) -> dict[str, float | None]:
    """Return the twelve numbers of COCO by name; None where no object is."""
    names = [name for name in CocoResult.__dataclass_fields__ if not name.startswith("class_")]
    return {name: _defined(getattr(coco, name)) for name in names}


def pair_targets(outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> list[DetectedImage]:
    """Return the objects and detections of images, on the CPU, with class 0 in place of the background's 1.

    `outputs` are those of torchvision's detectors in evaluation: `boxes`, `labels` from 1, `scores`, and `masks`.
    """
    return [
        DetectedImage(make_target(target, "masks" in output), _make_prediction(output, target["image_id"]))
        for output, target in zip(outputs, targets, strict=True)
    ]


def make_target(target: Mapping[str, Any], with_masks: bool) -> DetectionTarget:
    """Return the objects of an image from its target in a dataset."""
    return DetectionTarget(
        image_id=target["image_id"],
        boxes=target["boxes"].cpu(),
        labels=target["labels"].cpu() - 1,
        crowd=target["crowd"].cpu(),
        difficult=target["difficult"].cpu(),
        areas=target["area"].cpu(),
        masks=encode_masks(target["masks"].bool()) if with_masks and "masks" in target else None,
    )


def _make_prediction(output: Mapping[str, Tensor], image_id: int | str) -> DetectionPrediction:
    masks = None
    if "masks" in output:
        masks = encode_masks(output["masks"][:, 0] > MASK_THRESHOLD)
    boxes, scores = output["boxes"].float().cpu(), output["scores"].float().cpu()
    return DetectionPrediction(image_id, boxes, scores, output["labels"].cpu() - 1, masks)


def evaluate_detections(images: Sequence[DetectedImage], num_classes: int, split: str = "") -> DetectionEvaluation:
    """Return the evaluation of the detections of all images of a split."""
    targets, predictions = [image.target for image in images], [image.prediction for image in images]
    has_masks = bool(images) and all(target.masks is not None for target in targets)
    has_masks = has_masks and all(prediction.masks is not None for prediction in predictions)
    return DetectionEvaluation(
        num_samples=len(images),
        loss=None,
        split=split,
        images=tuple(images),
        coco=coco_average_precision(targets, predictions, num_classes),
        voc=voc_average_precision(targets, predictions, num_classes),
        mask_coco=coco_average_precision(targets, predictions, num_classes, OverlapKind.MASKS) if has_masks else None,
    )


def check_detections(outputs: Any) -> None:
    """Raise ValueError unless outputs are detections of each image, as torchvision's detectors return them."""
    required = "a list with a dictionary of boxes, labels and scores for each image"
    if not isinstance(outputs, list) or not all(isinstance(output, Mapping) for output in outputs):
        raise invalid(required, f"a {type(outputs).__name__}", next_step="return what torchvision's detectors return")
    for output in outputs:
        missing = [key for key in ("boxes", "labels", "scores") if key not in output]
        if missing:
            raise invalid(required, f"a dictionary without {missing[0]}")


def _exact(value: float) -> str:
    """Return the shortest text that is read as the same float32."""
    return str(np.float32(value))


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


_TRAINING_KEYS = ("boxes", "labels", "masks")


class Detection(TaskType):
    """Boxes with a class each: of torchvision's detectors, which compute their losses themselves.

    In training the network gets images and targets and returns its losses by name; in evaluation it gets one image at
    a time, so that nothing is padded and results do not depend on the batch, and returns `boxes` (K, 4) in pixels of
    the image, `labels` (K,) from 1 and `scores` (K,), and with masks `masks` (K, 1, H, W).
    """

    spec = TaskByName("detection")
    model_kind: ClassVar[ModelKind] = ModelKind.DETECTION
    has_positions: ClassVar[bool] = True

    @classmethod
    def for_data(cls, data: DatasetSplits) -> "Detection":
        """Return the task. Raises MissingExtraError without a package that computes average precision."""
        require_coco_package()
        return cls(data.classes)

    def prepare_data(self, data: DatasetSplits, model: nn.Module) -> DatasetSplits:
        """Return images in [0, 1], which the network resizes and normalizes itself, with masks if it predicts any."""
        data = replace(data, preprocess=unit_preprocess(data.preprocess))
        if not _predicts_masks(model):
            return data
        splits = {name: replace(split, with_masks=True) for name, split in _box_splits(data).items()}
        return replace(data, splits=splits)

    def prepare_model(self, model: nn.Module) -> None:
        """Keep boxes in float32 under autocast, of a torchvision detector of the user's own too."""
        from reslab.nn.box_precision import keep_boxes_precise  # here: torchvision takes a second to import

        keep_boxes_precise(model)

    def float32_reason(self, model: nn.Module) -> str:
        """Return that boxes of a detector that is not built of torchvision's cannot be kept in float32."""
        from reslab.nn.box_precision import has_known_boxes  # here: torchvision takes a second to import

        if has_known_boxes(model):
            return ""
        text = (
            f"precision=auto is float32: {type(model).__name__} is not built of torchvision's detectors, and in bf16 "
        )
        return (
            f"{text}boxes from 256 pixels on would be rounded to even numbers; if it computes them in float32 itself, "
            "set precision=bf16"
        )

    def training_forward(self, model: Callable[..., Any], x: Any, y: Any) -> dict[str, Tensor]:
        """Return the losses by name. Crowds and difficult objects are left out. Raises ValueError for other outputs."""
        targets = [without_ignored(target) for target in y]
        outputs = model(x, [{key: target[key] for key in _TRAINING_KEYS if key in target} for target in targets])
        if not isinstance(outputs, Mapping) or not outputs:
            required = "a detector that returns its losses by name in training mode, as torchvision's"
            raise invalid(required, f"a {type(outputs).__name__}")
        return dict(outputs)

    def main_output(self, outputs: Any) -> Any:
        """Return the losses of training by name."""
        return outputs

    def mirror_outputs(self, outputs: Any, axes: Sequence[int], size: Sequence[int]) -> dict[str, Tensor]:
        """Return the boxes and masks in an image from those in its mirror image."""
        check_detections([outputs])
        return mirror_boxes(outputs, axes, size)

    def average_views(self, outputs: Sequence[Any]) -> dict[str, Tensor]:
        """Return the weighted boxes fusion of the detections of all views."""
        check_detections(list(outputs))
        return fuse_boxes(outputs)

    def predict(self, model: Callable[..., Any], x: Any) -> list[dict[str, Tensor]]:
        """Return the detections of each image."""
        outputs = [model([image]) for image in x]
        for output in outputs:
            check_detections(output)
        return [without_background(output[0]) for output in outputs]

    def check_outputs(self, outputs: Any) -> None:
        """Raise ValueError unless the detections, as `predict` returns them, are of the classes of the data."""
        largest = max((int(output["labels"].max()) for output in outputs if len(output["labels"])), default=0)
        if largest > len(self.classes):
            required = f"labels from 1 to {len(self.classes)}, the classes of the data"
            raise invalid(required, f"label {largest}", next_step=f"build it with num_classes={len(self.classes) + 1}")

    def example_targets(self, outputs: Any) -> Tensor:
        """Raise ValueError: detectors compute their losses themselves."""
        raise invalid("no loss of your own in detection", "loss=...", next_step="return other losses from the network")

    def default_loss(self) -> None:
        """Return None: detectors compute losses in training mode alone."""
        return

    def batch_loss(self, model: Any, x: Any, y: Any) -> Tensor:
        """Return the sum of the detector's losses, with the same sample of anchors and proposals at every call.

        The detector computes losses whatever its mode; norms keep theirs.
        """
        with _computing_losses(model), temporary_seed(0):
            outputs = self.training_forward(model, list(x), y)
        return torch.stack(list(outputs.values())).sum()

    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the sum of the detector's losses. Raises ValueError for weights of classes."""
        if recipe.class_weights:
            raise invalid("no class_weights in detection", repr(recipe.class_weights), next_step="leave them out")
        return build_loss(recipe.loss)

    def decode(self, outputs: Any) -> Any:
        """Return the detections as they are."""
        return outputs

    def batch_metrics(self, outputs: Mapping[str, Tensor], targets: Any) -> dict[str, Tensor]:
        """Return the losses by name, as means over the micro-batches."""
        return {name: loss.float().mean() for name, loss in outputs.items()}

    def batch_result(self, outputs: Any, targets: Any, keep_predictions: bool) -> list[DetectedImage]:
        """Return the objects and detections of each image."""
        return pair_targets(outputs, targets)

    def evaluate(
        self,
        batch_results: Sequence[Sequence[DetectedImage]],
        loss: float | None,
        split: str = "",
        keep_predictions: bool = False,
    ) -> DetectionEvaluation:
        """Return average precision over all images."""
        images = [image for images in batch_results for image in images]
        return evaluate_detections(images, len(self.classes), split)

    @classmethod
    def results(cls, evaluation: DetectionEvaluation, val_evaluation: Any = None) -> TaskResults:
        """Return average precision, errors by kind, and the worst images with their boxes."""
        return DetectionResults.build(
            evaluation.targets,
            evaluation.predictions,
            evaluation.class_names,
            coco=evaluation.coco,
            voc=evaluation.voc,
            masks=evaluation.mask_coco,
            load_image=lambda i: _load_image(evaluation, i),
        )


@contextmanager
def _computing_losses(model: nn.Module) -> Iterator[None]:
    """Put the detector and those of its parts that compute losses into training mode inside the block."""
    from torchvision.models.detection import FCOS, RetinaNet  # here: torchvision takes a second to import
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork
    from torchvision.models.detection.ssd import SSD

    types = (GeneralizedRCNN, RetinaNet, FCOS, SSD, RoIHeads, RegionProposalNetwork)
    parts = {model: model.training} | {m: m.training for m in model.modules() if isinstance(m, types)}
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part, mode in parts.items():
            part.training = mode


def _load_image(evaluation: DetectionEvaluation, i: int) -> BoxImage:
    """Return image i for a page; of a large one every k-th row and column."""
    assert evaluation.dataset is not None, "evaluate with keep_predictions"
    image = evaluation.dataset.preview(i)
    stride = max(1, max(image.shape[-2:]) // IMAGE_SIDE)
    return BoxImage(thin_out(image, stride), evaluation.sample_name(i), 1 / stride)


def _predicts_masks(model: nn.Module) -> bool:
    from torchvision.models.detection import MaskRCNN  # here, because it takes a second to import

    return any(isinstance(module, MaskRCNN) for module in model.modules())


def _box_splits(data: DatasetSplits) -> dict[str, BoxImageDataset]:
    return {name: split for name, split in data.splits.items() if isinstance(split, BoxImageDataset)}
