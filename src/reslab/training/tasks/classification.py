"""Classification: one class an image."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.report.pages.classification import ClassificationResults, MisclassifiedImage
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.calibration import calibration_metrics
from reslab.training.evaluation.classification import (
    ClassificationEvaluation,
    average_probabilities,
    evaluate_outputs,
    sample_losses,
)
from reslab.training.losses import LossFn, build_loss, compute_class_weights
from reslab.training.meters import count_correct
from reslab.training.tasks.task_type import TaskType

NUM_MISCLASSIFIED = 24


class Classification(TaskType):
    """One class an image: logits (N, C), labels (N,) or class probabilities (N, C)."""

    spec = TaskByName("classification")
    can_distill: ClassVar[bool] = True

    def default_loss(self) -> LossFn:
        """Return the cross-entropy."""
        return functional.cross_entropy

    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the recipe's loss, with its class weights and label smoothing."""
        weights = compute_class_weights(recipe.class_weights, data.split("train").labels, data.classes)
        weights = None if weights is None else weights.to(device, torch.float32)
        return build_loss(recipe.loss, recipe.label_smoothing, weights)

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the probabilities (N, C), softmax of the logits."""
        return outputs.softmax(1)

    def batch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return `top1`, the number of correct samples."""
        return {"top1": count_correct(outputs, targets)}

    def evaluate(
        self, batch_results: Sequence[Any], loss: float, split: str = "", keep_predictions: bool = False
    ) -> ClassificationEvaluation:
        """Return accuracy, top-5 accuracy and confusion matrix."""
        outputs, labels = (torch.cat(parts) for parts in zip(*batch_results, strict=True))
        return evaluate_outputs(outputs, labels, loss, split, keep_predictions)

    @classmethod
    def average(cls, evaluations: Sequence[Any]) -> ClassificationEvaluation:
        """Return the evaluation of the mean of the probabilities."""
        return average_probabilities(evaluations)

    @classmethod
    def results(
        cls, evaluation: ClassificationEvaluation, val_evaluation: ClassificationEvaluation | None = None
    ) -> ClassificationResults:
        """Return confusion matrix, misclassified images, and calibration, whose temperature is fitted on validation."""
        return ClassificationResults(
            classes=evaluation.classes,
            confusion_matrix=[list(row) for row in evaluation.confusion_matrix],
            misclassified=find_misclassified(evaluation),
            calibration=calibration_metrics(evaluation, val_evaluation),
        )


def find_misclassified(
    evaluation: ClassificationEvaluation, max_images: int = NUM_MISCLASSIFIED
) -> list[MisclassifiedImage]:
    """Return the top losses: the misclassified images, the highest loss (-log p of the true class) first."""
    probabilities, labels = evaluation.require_predictions()
    confidences, predictions = probabilities.max(1)
    wrong_indices = (predictions != labels).nonzero().flatten()
    losses = sample_losses(probabilities, labels)
    indices = wrong_indices[losses[wrong_indices].argsort(descending=True, stable=True)][:max_images]
    return [
        MisclassifiedImage(
            evaluation.preview(i),
            int(labels[i]),
            int(predictions[i]),
            float(confidences[i]),
            float(losses[i]),
            evaluation.sample_name(i),
        )
        for i in indices.tolist()
    ]
