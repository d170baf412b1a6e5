"""Object detection: boxes around objects with their classes, and masks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reslab.data.boxes import BoxImageDataset, without_background, without_ignored
from reslab.data.dataset import DatasetSplits
from reslab.data.rng import temporary_seed
from reslab.metrics.coco import require_coco_package
from reslab.report.pages.components import TaskResults
from reslab.report.pages.detected_images import IMAGE_SIDE, BoxImage
from reslab.report.pages.detection import DetectionResults
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid
from reslab.spec.preprocess import unit_preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.detection import (
    DetectedImage,
    DetectionEvaluation,
    check_detections,
    evaluate_detections,
    pair_targets,
)
from reslab.training.evaluation.evaluation import thin_out
from reslab.training.losses import LossFn, build_loss
from reslab.training.tasks.task_type import TaskType

_TRAINING_KEYS = ("boxes", "labels", "masks")


class Detection(TaskType):
    """Boxes with a class each: of torchvision's detectors, which compute their losses themselves.

    In training the network gets images and targets and returns its losses by name; in evaluation it gets one image at
    a time, so that nothing is padded and results do not depend on the batch, and returns `boxes` (K, 4) in pixels of
    the image, `labels` (K,) from 1 and `scores` (K,), and with masks `masks` (K, 1, H, W).
    """

    spec = TaskByName("detection")
    model_kind: ClassVar[ModelKind] = ModelKind.DETECTION

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
