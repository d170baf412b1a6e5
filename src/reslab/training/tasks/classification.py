"""Classification: one class per image; its evaluation by accuracy, confusion matrix and calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.metrics.classification import ClassMetrics, macro_average, per_class_metrics
from reslab.report.format import format_int, format_percent
from reslab.report.pages.classification import ClassificationResults, MisclassifiedImage
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.calibration import (
    FittedTemperature,
    TemperatureNotBetterError,
    apply_cross_fitted_temperature,
    apply_temperature,
    check_temperature,
    compute_reliability,
    fit_temperature,
    log_probabilities,
)
from reslab.training.evaluation.evaluation import Evaluation, both_kept, mean_prediction
from reslab.training.losses import LossFn, build_loss, compute_class_weights
from reslab.training.meters import count_correct
from reslab.training.tasks.task_type import TaskType


@dataclass(frozen=True, kw_only=True, repr=False)
class ClassificationEvaluation(Evaluation):
    """The scores of a classification.

    `top1` = `num_correct` / `num_samples` and `top5` are fractions (`top5` is None below 5 classes).
    `confusion_matrix[i][j]` counts the samples of class i that were predicted as class j. If predictions were kept,
    there are `probabilities` (N, classes) and `labels` (N,).
    """

    spec = TaskByName("classification")

    loss: float
    num_correct: int
    num_correct_top5: int | None
    confusion_matrix: tuple[tuple[int, ...], ...]
    probabilities: Tensor | None = None
    labels: Tensor | None = None

    @property
    def top1(self) -> float:
        """The fraction of samples whose class has the largest output."""
        return self.num_correct / self.num_samples

    @property
    def top5(self) -> float | None:
        """The fraction of samples whose class is among the five largest outputs; None below 5 classes."""
        return None if self.num_correct_top5 is None else self.num_correct_top5 / self.num_samples

    def to_dict(self) -> dict[str, Any]:
        """Return the scalar metrics: top1, top5, loss, num_samples, num_correct."""
        return {**super().to_dict(), "num_correct": self.num_correct}

    @property
    def has_predictions(self) -> bool:
        """True if the probabilities were kept."""
        return self.probabilities is not None and self.labels is not None

    def per_class_metrics(self) -> list[ClassMetrics]:
        """Return precision, recall and F1 of each class, in label order; NaN where they are undefined."""
        names = self.classes or [str(label) for label in range(len(self.confusion_matrix))]
        return per_class_metrics(self.confusion_matrix, names)

    def per_class(self) -> Mapping[str, Any]:
        """Return `classes`, each with name, num_samples, precision, recall, f1 (null where undefined), and
        `confusion_matrix`, with one row per true class."""
        names = ("name", "precision", "recall", "f1", "num_samples")
        classes = [{name: getattr(metrics, name) for name in names} for metrics in self.per_class_metrics()]
        return {"classes": classes, "confusion_matrix": self.confusion_matrix}

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return columns and rows: each class, then the mean of the classes."""
        all_metrics = self.per_class_metrics()
        rows = [
            (
                metrics.name,
                *(format_percent(value, 1) for value in (metrics.precision, metrics.recall, metrics.f1)),
                format_int(metrics.num_samples),
            )
            for metrics in all_metrics
        ]
        means = [
            format_percent(macro_average([getattr(metrics, name) for metrics in all_metrics]), 1)
            for name in ("precision", "recall", "f1")
        ]
        last_row = ("mean", *means, format_int(self.num_samples))
        return ["class", "precision", "recall", "F1", "images"], [*rows, last_row]

    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return name, class, predicted class and probabilities of each sample."""
        probabilities, labels = self.require_predictions()
        header = ["name", "class", "predicted", "probability", *(f"p({name})" for name in self.classes)]
        rows = []
        for name, label, row in zip(self.names, labels.tolist(), probabilities.numpy(), strict=True):
            predicted = int(row.argmax())
            numbers = [f"{value:.7g}" for value in (row[predicted], *row)]
            rows.append([name, self.classes[label], self.classes[predicted], *numbers])
        return header, rows

    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return `labels` and `predicted` (N,) int32 and `probabilities` (N, C) float32."""
        probabilities, labels = self.require_predictions()
        predicted = probabilities.argmax(1).numpy().astype(np.int32)
        return {
            "labels": labels.numpy().astype(np.int32),
            "predicted": predicted,
            "probabilities": probabilities.numpy(),
        }

    def require_predictions(self) -> tuple[Tensor, Tensor]:
        """Return probabilities (N, C) and labels (N,). Raises ValueError if the evaluation kept none."""
        return both_kept(self.probabilities, self.labels)


def require_classification(evaluation: Evaluation, purpose: str) -> ClassificationEvaluation:
    """Return the evaluation. Raises ValueError, naming the `purpose`, unless it is one of a classification."""
    if not isinstance(evaluation, ClassificationEvaluation):
        raise invalid(f"a classification for {purpose}", f"the task {evaluation.spec.name}")
    return evaluation


def evaluate_outputs(
    outputs: Tensor, labels: Tensor, loss: float, split: str = "", keep_predictions: bool = False
) -> ClassificationEvaluation:
    """Return the evaluation of logits or probabilities (N, C) for labels (N,). Raises ValueError for other labels."""
    num_classes = outputs.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise invalid(f"labels from 0 to {num_classes - 1}", f"{int(labels.min())} to {int(labels.max())}")
    predictions = outputs.argmax(1)
    counts = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).view(num_classes, num_classes)
    return ClassificationEvaluation(
        num_samples=len(labels),
        num_correct=int((predictions == labels).sum()),
        num_correct_top5=_count_top_k(outputs, labels, 5) if num_classes >= 5 else None,
        loss=loss,
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in counts),
        split=split,
        probabilities=outputs.softmax(1) if keep_predictions else None,
        labels=labels if keep_predictions else None,
    )


def sample_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, -log p(label) (N,), in float64; a p of 0 counts as the least float32."""
    smallest = torch.finfo(torch.float32).tiny
    return -probabilities.double().gather(1, labels[:, None])[:, 0].clamp_min(smallest).log()


def _count_top_k(outputs: Tensor, labels: Tensor, k: int) -> int:
    return int((outputs.topk(k, dim=1).indices == labels[:, None]).any(1).sum())


def average_probabilities(evaluations: Sequence[ClassificationEvaluation]) -> ClassificationEvaluation:
    """Return the scores of an ensemble: the mean of several models' probabilities on the same samples.

    The loss is the mean of -log p(label). Raises ValueError if an evaluation kept no probabilities, or if the
    evaluations are of different samples.
    """
    first = evaluations[0]
    mean, labels = mean_prediction(evaluations)
    log_mean = mean.clamp_min(torch.finfo(torch.float32).tiny).log()
    total_loss = functional.nll_loss(log_mean, labels, reduction="sum").item()
    result = evaluate_outputs(mean, labels, total_loss / len(labels), first.split)
    copied = {name: getattr(first, name) for name in ("names", "classes", "dataset")}
    members = tuple(replace(evaluation, probabilities=None, labels=None, dataset=None) for evaluation in evaluations)
    return replace(result, probabilities=mean.float(), labels=labels, members=members, **copied)


def calibration_metrics(
    evaluation: ClassificationEvaluation, val_evaluation: ClassificationEvaluation | None
) -> dict[str, Any]:
    """Return the calibration metrics of a split as plain data.

    Always `ece`, `mce` and `reliability` (the bins); with a validation evaluation also `temperature`, `fit_split`,
    `fit_num_samples`, and `ece_after`, `loss_after`, `reliability_after` of the evaluated split with that temperature.
    If the evaluated split is the validation split itself, each half of it (even and odd indices) is scaled with the
    temperature fitted on the other half (`cross_fitted`), so that no image contributes to its own temperature; these
    keys are absent if a half has no mistake. `temperature` is absent if no validation image is misclassified, because
    the loss then has no minimum.
    """
    probabilities, labels = evaluation.require_predictions()
    before = compute_reliability(probabilities, labels)
    metrics: dict[str, Any] = {"ece": before.ece, "mce": before.mce, "reliability": to_dict(before.bins)}
    if val_evaluation is None or val_evaluation.num_correct == val_evaluation.num_samples:
        return metrics
    val_probabilities, val_labels = val_evaluation.require_predictions()
    temperature = fit_temperature(log_probabilities(val_probabilities), val_labels)
    metrics |= {
        "temperature": temperature,
        "fit_split": val_evaluation.split,
        "fit_num_samples": val_evaluation.num_samples,
    }
    cross_fitted = evaluation.split == val_evaluation.split
    scaled = (
        apply_cross_fitted_temperature(probabilities, labels)
        if cross_fitted
        else apply_temperature(probabilities.double(), temperature)
    )
    if scaled is None:
        return metrics
    after = compute_reliability(scaled, labels)
    loss = functional.nll_loss(log_probabilities(scaled), labels).item()
    after_metrics = {"ece_after": after.ece, "loss_after": loss, "reliability_after": to_dict(after.bins)}
    return {**metrics, **after_metrics, "cross_fitted": cross_fitted}


def fit_validation_temperature(val_evaluation: ClassificationEvaluation) -> FittedTemperature:
    """Fit the temperature on a validation split, if cross-validation finds it better than none.

    Raises ValueError for another split (a temperature is never fitted on the test or training images), if no
    validation image is misclassified, or if the evaluation kept no predictions; TemperatureNotBetterError if
    `check_temperature` is worse or impossible.
    """
    if val_evaluation.split != "val":
        raise invalid(
            "a validation split to fit a temperature on",
            f"the split {val_evaluation.split!r}",
            next_step="train with --val-fraction 0.1: never fit it on the test or training images",
        )
    probabilities, labels = val_evaluation.require_predictions()
    if val_evaluation.num_correct == val_evaluation.num_samples:
        got = f"{val_evaluation.num_samples} images, all classified correctly"
        raise invalid("a misclassified validation image, to fit a temperature", got, next_step="leave it at 1")
    check = check_temperature(probabilities, labels)
    if check is None or not check.is_better:
        got = f"half of the {val_evaluation.num_samples} images without a mistake" if check is None else str(check)
        next_step = "use no temperature, or more validation images"
        raise TemperatureNotBetterError(
            str(invalid("a temperature that cross-validation finds better", got, next_step=next_step))
        )
    return FittedTemperature(
        fit_temperature(log_probabilities(probabilities), labels), val_evaluation.split, val_evaluation.num_samples
    )


NUM_MISCLASSIFIED = 24


class Classification(TaskType):
    """One class per image: logits (N, C), labels (N,) or class probabilities (N, C)."""

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
