"""Segmentation: the class of each pixel, evaluated by the confusion matrix of pixels and the scores of each image."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.check.statistics import count_mask_pixels
from reslab.data.dataset import DatasetSplits, EvalTransform
from reslab.data.masks import VOID
from reslab.data.target_datasets import MaskImageDataset
from reslab.metrics.segmentation import SegmentationMetrics, segmentation_confusion, segmentation_metrics
from reslab.report.format import format_int, format_percent
from reslab.report.pages.segmentation import SegmentationResults, SegmentedImage
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid
from reslab.spec.loss import parse_class_weights
from reslab.spec.recipe import Recipe
from reslab.spec.task import TASKS, Task, TaskByName
from reslab.training.evaluation.evaluation import Evaluation, thin_out
from reslab.training.losses import LossFn, compute_class_weights
from reslab.training.tasks.task_type import TaskType

MAX_SHOWN_SIDE = 384


class MaskPair(NamedTuple):
    """A predicted and a true mask of an image, (H, W) uint8, compressed: usually to less than a hundredth."""

    predicted: bytes
    true: bytes
    shape: tuple[int, int]

    @classmethod
    def compress(cls, predicted: Tensor, true: Tensor) -> "MaskPair":
        """Return the pair of masks (H, W) of classes from 0 to 255."""
        masks = [mask.to(torch.uint8).contiguous().numpy() for mask in (predicted, true)]
        height, width = masks[0].shape
        predicted_bytes, true_bytes = (zlib.compress(mask.tobytes(), level=1) for mask in masks)
        return cls(predicted_bytes, true_bytes, (height, width))

    def decompress(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted and the true mask, (H, W) uint8."""
        return self._read(self.predicted), self._read(self.true)

    def decompress_predicted(self) -> np.ndarray:
        """Return the predicted mask, (H, W) uint8."""
        return self._read(self.predicted)

    def _read(self, mask: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(mask), dtype=np.uint8).reshape(self.shape)

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both masks for a report: of large ones every k-th row and column, at most `MAX_SHOWN_SIDE` of each."""
        stride = math.ceil(max(self.shape) / MAX_SHOWN_SIDE)
        predicted, true = (mask[::stride, ::stride].copy() for mask in self.decompress())
        return predicted, true


class ImageScores(NamedTuple):
    """The scores of n images: mean IoU over the classes that are true or predicted there, pixel accuracy, loss (n,).

    NaN for an image without a pixel that counts (its loss is 0). `masks` is empty unless predictions are kept.
    """

    miou: Tensor
    pixel_accuracy: Tensor
    loss: Tensor
    masks: tuple[MaskPair, ...] = ()


class BatchResult(NamedTuple):
    """The confusion matrix of a batch (C, C) int64, and the scores of its images."""

    confusion: Tensor
    images: ImageScores


@dataclass(frozen=True, kw_only=True, repr=False)
class SegmentationEvaluation(Evaluation):
    """The scores of a segmentation.

    `confusion_matrix[i][j]` counts the pixels of class i that were predicted as class j, over all images; void does not
    count. `miou` is the mean of IoU = TP / (TP + FP + FN) over the classes that are true or predicted anywhere,
    `pixel_accuracy` the share of the pixels that are predicted correctly. `images` has the scores of each image, with
    its masks if predictions were kept.
    """

    spec: ClassVar[Task] = TASKS["segmentation"]

    confusion_matrix: tuple[tuple[int, ...], ...]
    images: ImageScores

    @cached_property
    def class_scores(self) -> SegmentationMetrics:
        """The metrics of each class and of all."""
        return segmentation_metrics(torch.tensor(self.confusion_matrix, dtype=torch.int64))

    @property
    def miou(self) -> float | None:
        """The mean IoU; None if no pixel counts."""
        return _defined(self.class_scores.mean_iou)

    @property
    def pixel_accuracy(self) -> float | None:
        """The share of correct pixels; None if no pixel counts."""
        return _defined(self.class_scores.pixel_accuracy)

    @property
    def has_predictions(self) -> bool:
        """True if the masks of each image were kept."""
        return len(self.images.masks) == self.num_samples

    def require_masks(self) -> tuple[MaskPair, ...]:
        """Return the masks of each image. Raises ValueError if the evaluation kept none."""
        if not self.has_predictions:
            raise invalid("an evaluation that kept its predictions", "one that did not", "keep_predictions=True")
        return self.images.masks

    def worst_images(self, max_images: int) -> list[int]:
        """Return the images of the lowest mean IoU, lowest first, of equal ones those of the highest loss.

        Images without a pixel that counts, and those without a mistake, are left out.
        """
        miou, loss = self.images.miou.tolist(), self.images.loss.tolist()
        imperfect = [i for i in range(self.num_samples) if miou[i] < 1]
        return sorted(imperfect, key=lambda i: (miou[i], -loss[i]))[:max_images]

    def preview(self, i: int) -> np.ndarray:
        """Return image i as uint8 (H, W, 3) or (H, W), resized and cropped as it was evaluated with its mask."""
        assert isinstance(self.dataset, MaskImageDataset), "evaluate with keep_predictions"
        image, transform = self.dataset.preview(i), self.dataset.input_transform
        if isinstance(transform, EvalTransform):
            image = transform.resize(image, i)
        stride = math.ceil(max(image.shape[-2:]) / MAX_SHOWN_SIDE)
        return thin_out(image, stride)

    def per_class(self) -> Mapping[str, Any]:
        """Return `classes`, each with name, iou, dice, accuracy (null where undefined) and num_pixels, and
        `confusion_matrix`, with one row per true class."""
        scores = self.class_scores
        rows = zip(self.class_names, scores.iou, scores.dice, scores.accuracy, scores.num_pixels, strict=True)
        names = ("name", "iou", "dice", "accuracy", "num_pixels")
        return {
            "classes": [dict(zip(names, row, strict=True)) for row in rows],
            "confusion_matrix": self.confusion_matrix,
        }

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return columns and rows: each class, then the mean of the classes."""
        scores = self.class_scores
        values = zip(scores.iou, scores.dice, scores.accuracy, strict=True)
        rows = [
            (name, *(format_percent(value, 1) for value in row), format_int(num_pixels))
            for name, row, num_pixels in zip(self.class_names, values, scores.num_pixels, strict=True)
        ]
        means = (format_percent(value, 1) for value in (scores.mean_iou, scores.mean_dice, scores.mean_accuracy))
        last_row = ("mean", *means, format_int(sum(scores.num_pixels)))
        return ["class", "IoU", "Dice", "accuracy", "pixels"], [*rows, last_row]

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, or their numbers."""
        return self.classes or [str(number) for number in range(len(self.confusion_matrix))]

    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return name, mean IoU, pixel accuracy and loss of each image; empty where no pixel counts."""
        rows = [
            [name, *("" if math.isnan(value) else f"{value:.7g}" for value in values)]
            for name, *values in zip(self.names, *(scores.tolist() for scores in self.images[:3]), strict=True)
        ]
        return ["name", *ImageScores._fields[:3]], rows

    def predicted_masks(self) -> Iterator[np.ndarray]:
        """Yield the predicted mask of each image, (H, W) uint8, at the size of the evaluation."""
        return (pair.decompress_predicted() for pair in self.require_masks())

    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return `miou`, `pixel_accuracy` and `loss` of each image, (N,) float64."""
        return {name: getattr(self.images, name).numpy() for name in ImageScores._fields[:3]}


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def score_batch(logits: Tensor, targets: Tensor, losses: Tensor, keep_masks: bool) -> BatchResult:
    """Return the result of a batch: logits (N, C, H, W), targets (N, H, W), the loss of each image (N,)."""
    num_classes = logits.shape[1]
    predicted = logits.argmax(1)
    confusions = [segmentation_confusion(*masks, num_classes).cpu() for masks in zip(predicted, targets, strict=True)]
    scores = [segmentation_metrics(confusion) for confusion in confusions]
    images = ImageScores(
        torch.tensor([score.mean_iou for score in scores], dtype=torch.float64),
        torch.tensor([score.pixel_accuracy for score in scores], dtype=torch.float64),
        losses.double().cpu(),
        tuple(map(MaskPair.compress, predicted.cpu(), targets.cpu())) if keep_masks else (),
    )
    return BatchResult(torch.stack(confusions).sum(0), images)


def merge_batches(results: Sequence[BatchResult], loss: float, split: str) -> SegmentationEvaluation:
    """Return the evaluation of all batches. Counts are integers, so that it does not depend on how they were split."""
    parts = [result.images for result in results]
    images = ImageScores(
        torch.cat([part.miou for part in parts]),
        torch.cat([part.pixel_accuracy for part in parts]),
        torch.cat([part.loss for part in parts]),
        tuple(pair for part in parts for pair in part.masks),
    )
    confusion = torch.stack([result.confusion for result in results]).sum(0)
    return SegmentationEvaluation(
        num_samples=len(images.loss),
        loss=loss,
        split=split,
        confusion_matrix=tuple(tuple(row) for row in confusion.tolist()),
        images=images,
    )


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
    has_positions: ClassVar[bool] = True

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
        """Return `pixel_accuracy`, the mean over the images of the share of their pixels that is correct.

        An image without a pixel that counts has no share.
        """
        counts = targets != VOID
        correct = ((outputs.detach().argmax(1) == targets) & counts).sum((1, 2))
        num_pixels = counts.sum((1, 2))
        shares = correct / num_pixels.clamp(min=1)
        return {"pixel_accuracy": shares.sum() / (num_pixels > 0).sum().clamp(min=1)}

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
