"""Segmentation: the class of each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.check.statistics import count_mask_pixels
from reslab.data.dataset import DatasetSplits
from reslab.data.masks import VOID
from reslab.data.target_datasets import MaskImageDataset
from reslab.report.pages.segmentation import SegmentationResults, SegmentedImage
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid
from reslab.spec.loss import parse_class_weights
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.segmentation import BatchResult, SegmentationEvaluation, merge_batches, score_batch
from reslab.training.losses import LossFn, compute_class_weights
from reslab.training.tasks.task_type import TaskType

AUX_WEIGHT = 0.5
"""The weight of the auxiliary head's loss (torchvision, references/segmentation/train.py)."""
NUM_WORST = 12


@dataclass(frozen=True, eq=False)
class PixelCrossEntropy:
    """The mean over images of the mean over their pixels of -w_t log softmax(z)_t, in at least float32.

    z are logits (N, C, H, W), t the classes (N, H, W); void pixels (255) do not count, and an image without a pixel
    that counts has the loss 0. The mean is first over the pixels of an image, so that the losses of equal micro-batches
    or ranks have the loss of the batch as their mean; where no pixel is void it is the mean over all pixels
    (torchvision, references/segmentation/train.py). With `weights` w (C,) the sum is divided by the number of pixels.

    Of a network with an auxiliary head, whose outputs are `out` and `aux`, it is loss(out) + 0.5 loss(aux).
    """

    weights: Tensor | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return self.image_losses(outputs, targets).mean()
        main, aux = (self.image_losses(logits, targets).mean() for logits in (outputs.out, outputs.aux))
        return main + AUX_WEIGHT * aux

    def image_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image (N,). Raises ValueError unless logits and targets have one size."""
        if logits.ndim != 4 or targets.shape != (len(logits), *logits.shape[2:]):
            required = f"logits (N, C, H, W) of the size of the masks {tuple(targets.shape)}"
            next_step = "end forward with torch.nn.functional.interpolate(logits, size=x.shape[-2:])"
            raise invalid(required, tuple(logits.shape), next_step=next_step)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights = None if self.weights is None else self.weights.to(logits)
        losses = functional.cross_entropy(logits, targets, weights, ignore_index=VOID, reduction="none")
        num_pixels = (targets != VOID).sum((1, 2)).clamp(min=1)
        return losses.sum((1, 2)) / num_pixels


class Segmentation(TaskType):
    """The class of each pixel: logits (N, C, H, W), masks (N, H, W) of class numbers, 255 for void."""

    spec = TaskByName("segmentation")
    model_kind: ClassVar[ModelKind] = ModelKind.SEGMENTATION

    def main_output(self, outputs: Any) -> Tensor:
        """Return the logits; of a network with an auxiliary head, those of the main one."""
        return super().main_output(getattr(outputs, "out", outputs))

    def check_outputs(self, outputs: Tensor) -> None:
        """Raise ValueError unless the outputs have the shape (N, number of classes, H, W)."""
        if outputs.ndim != 4 or outputs.shape[1] != self.num_outputs:
            required = f"outputs of shape (N, {self.num_outputs}, H, W), a map for each class of the data"
            next_step = (
                "`reslab models --kind segmentation` lists networks with such outputs" if outputs.ndim != 4 else ""
            )
            raise invalid(required, tuple(outputs.shape), next_step=next_step)

    def default_loss(self) -> LossFn:
        """Return the cross-entropy of the pixels."""
        return PixelCrossEntropy()

    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the cross-entropy of the pixels with the recipe's class weights.

        Balanced weights are N / (C n_c) of the n_c pixels of each class among all N that count in the training masks.
        Raises ValueError for a class without a training pixel to balance by.
        """
        weights = _class_weights(recipe.class_weights, data)
        return PixelCrossEntropy(None if weights is None else weights.to(device, torch.float32))

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the masks (N, H, W) uint8: of each pixel the class of the largest logit."""
        return outputs.argmax(1).to(torch.uint8)

    def batch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return `pixel_accuracy`, the mean over the images of the share of their pixels that is correct."""
        counts = targets != VOID
        correct = ((outputs.detach().argmax(1) == targets) & counts).sum((1, 2))
        return {"pixel_accuracy": (correct / counts.sum((1, 2)).clamp(min=1)).mean()}

    def batch_result(self, outputs: Tensor, targets: Tensor, keep_predictions: bool) -> BatchResult:
        """Return the confusion matrix and the scores of each image; masks, reduced, only with `keep_predictions`."""
        losses = PixelCrossEntropy().image_losses(outputs, targets)
        return score_batch(outputs, targets, losses, keep_predictions)

    def evaluate(
        self, batch_results: Sequence[BatchResult], loss: float, split: str = "", keep_predictions: bool = False
    ) -> SegmentationEvaluation:
        """Return mean IoU and pixel accuracy from the sum of the confusion matrices."""
        return merge_batches(batch_results, loss, split)

    @classmethod
    def results(
        cls, evaluation: SegmentationEvaluation, val_evaluation: SegmentationEvaluation | None = None
    ) -> SegmentationResults:
        """Return the confusion matrix of pixels, and the images of the lowest mean IoU with their masks."""
        masks = evaluation.require_masks()
        worst = [
            SegmentedImage(
                evaluation.preview(i),
                *masks[i].shown(),
                iou=float(evaluation.images.miou[i]),
                name=evaluation.sample_name(i),
            )
            for i in evaluation.worst_images(NUM_WORST)
        ]
        return SegmentationResults(
            classes=tuple(evaluation.class_names), confusion_matrix=evaluation.confusion_matrix, worst=worst
        )


def _class_weights(setting: str, data: DatasetSplits) -> Tensor | None:
    if parse_class_weights(setting) != "balanced":
        return compute_class_weights(setting, torch.empty(0, dtype=torch.int64), data.classes)
    train = data.split("train")
    assert isinstance(train, MaskImageDataset)
    pixels = count_mask_pixels(train, data.num_classes).pixels_per_class
    if int(pixels.min()) == 0:
        empty_class = data.classes[int(pixels.argmin())]
        raise invalid("a pixel of every class to balance by", f"none of {empty_class!r}", next_step="give the weights")
    return pixels.sum() / (data.num_classes * pixels.double())
