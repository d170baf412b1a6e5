"""The evaluation of a classification: accuracy, confusion matrix, and probabilities of each sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reslab.metrics.classification import ClassMetrics, macro_average, per_class_metrics
from reslab.report.format import format_int, format_percent
from reslab.spec.errors import invalid
from reslab.spec.task import TaskByName
from reslab.training.evaluation.evaluation import Evaluation, both_kept, mean_prediction


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
