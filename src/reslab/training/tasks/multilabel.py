"""Multi-label classification: any number of classes an image, one sigmoid each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.metrics.classification import ClassMetrics, macro_average
from reslab.metrics.multilabel import (
    average_precision,
    best_f1_thresholds,
    count_exact_matches,
    label_confusion,
    label_metrics,
    macro_averaged,
    micro_averaged,
    precision_recall_curves,
    predict_labels,
)
from reslab.report.format import format_int, format_percent
from reslab.report.pages.multilabel import LabelErrors, LabelRow, MultiLabelResults
from reslab.spec.errors import invalid
from reslab.spec.loss import parse_class_weights
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.evaluation import Evaluation, both_kept, mean_prediction
from reslab.training.losses import LossFn, build_loss
from reslab.training.tasks.task_type import TaskType

DEFAULT_THRESHOLD = 0.5
NUM_ERRORS = 24
_EVALUATION_LOSS = "bce"


@dataclass(frozen=True, kw_only=True, repr=False)
class MultiLabelEvaluation(Evaluation):
    """The scores of a multi-label classification.

    `average_precisions` are those of the classes, NaN for one that no image shows; `thresholds` those above which a
    class is predicted, and `confusion` the counts of true positives, false positives, false negatives and true
    negatives of each class with them. `num_exact` counts the images whose classes are all right. If predictions were
    kept, there are `probabilities` and `labels` (N, C).
    """

    spec = TaskByName("multi-label")

    average_precisions: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    num_exact: int = 0
    probabilities: Tensor | None = None
    labels: Tensor | None = None

    @property
    def map(self) -> float | None:
        """The mean average precision over the classes that an image shows; None if the loss is not finite."""
        return _or_none(macro_average(self.average_precisions))

    @property
    def f1_micro(self) -> float | None:
        """F1 of the counts of all classes together."""
        return _or_none(micro_averaged(torch.tensor(self.confusion)).f1) if self.confusion else None

    @property
    def f1_macro(self) -> float | None:
        """The mean of the classes' F1."""
        return _or_none(macro_averaged(torch.tensor(self.confusion)).f1) if self.confusion else None

    @property
    def exact_match(self) -> float:
        """The fraction of images whose classes are all right."""
        return self.num_exact / self.num_samples

    @property
    def has_predictions(self) -> bool:
        """True if the probabilities were kept."""
        return self.probabilities is not None and self.labels is not None

    def class_metrics(self) -> list[ClassMetrics]:
        """Return precision, recall, F1 and the number of images of each class; NaN where they are undefined."""
        return label_metrics(torch.tensor(self.confusion), self.classes)

    def per_class(self) -> Mapping[str, Any]:
        """Return `classes`, each with name, average_precision, threshold, precision, recall, f1, num_samples and the
        counts tp, fp, fn, tn."""
        rows = []
        for row in self.label_rows():
            values = {name: _or_none(value) for name, value in vars(row).items() if isinstance(value, float)}
            rows.append({**vars(row), **values})
        return {"classes": rows}

    def label_rows(self) -> list[LabelRow]:
        """Return the metrics and counts of each class."""
        return [
            LabelRow(metrics.name, ap, threshold, metrics.precision, metrics.recall, metrics.f1, *counts)
            for metrics, ap, threshold, counts in zip(
                self.class_metrics(), self.average_precisions, self.thresholds, self.confusion, strict=True
            )
        ]

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return columns and rows: each class, then the mean of the classes."""
        rows = self.label_rows()
        columns = ["class", "AP", "precision", "recall", "F1", "threshold", "images"]
        cells = [
            (
                row.name,
                *(format_percent(value, 1) for value in (row.average_precision, row.precision, row.recall, row.f1)),
                f"{row.threshold:.3f}",
                format_int(row.tp + row.fn),
            )
            for row in rows
        ]
        names = ("average_precision", "precision", "recall", "f1")
        means = [format_percent(macro_average([getattr(row, name) for row in rows]), 1) for name in names]
        return columns, [*cells, ("mean", *means, "", format_int(self.num_samples))]

    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return name, true classes, predicted classes (separated by |) and the probability of each class."""
        probabilities, labels = self.require_predictions()
        predicted = predict_labels(probabilities, torch.tensor(self.thresholds))
        rows = []
        for name, true, positive, values in zip(
            self.names, labels.bool(), predicted, probabilities.tolist(), strict=True
        ):
            texts = ["|".join(self.classes[k] for k in mask.nonzero().flatten().tolist()) for mask in (true, positive)]
            rows.append([name, *texts, *(f"{value:.7g}" for value in values)])
        return ["name", "classes", "predicted", *(f"p({name})" for name in self.classes)], rows

    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return `labels` and `predicted` (N, C) of 0 and 1 in uint8, and `probabilities` (N, C) float32."""
        probabilities, labels = self.require_predictions()
        predicted = predict_labels(probabilities, torch.tensor(self.thresholds))
        return {
            "labels": labels.numpy().astype(np.uint8),
            "predicted": predicted.numpy().astype(np.uint8),
            "probabilities": probabilities.numpy(),
        }

    def require_predictions(self) -> tuple[Tensor, Tensor]:
        """Return probabilities and labels (N, C). Raises ValueError if the evaluation kept none."""
        return both_kept(self.probabilities, self.labels)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class MultiLabel(TaskType):
    """Any number of classes an image: logits (N, C), labels (N, C) of 0 and 1.

    A class is predicted where its probability, the sigmoid of its logit, is at least its threshold: 0.5 during
    training, then that of the highest F1 on the validation split.
    """

    spec = TaskByName("multi-label")

    thresholds: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """Return the task with the saved thresholds."""
        return cls(tuple(classes), tuple(fields.get("thresholds", ())))

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the task and its thresholds, if they were fitted."""
        return {**super().to_dict(), **({"thresholds": list(self.thresholds)} if self.thresholds else {})}

    @property
    def used_thresholds(self) -> tuple[float, ...]:
        """The threshold of each class."""
        return self.thresholds or (DEFAULT_THRESHOLD,) * len(self.classes)

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Return labels of zeros."""
        return torch.zeros_like(outputs)

    def default_loss(self) -> LossFn:
        """Return the binary cross-entropy, the mean over samples and classes."""
        return build_loss(_EVALUATION_LOSS)

    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the recipe's loss. `class_weights` weigh the samples that show a class; `balanced`: (N - n_c) / n_c.

        Label smoothing s is that of two classes: 1 becomes 1 - s / 2, and 0 becomes s / 2, as in Keras's
        `BinaryCrossentropy`. Raises ValueError if a class has no image to balance by, or if there is not one weight a
        class.
        """
        weights = positive_weights(recipe.class_weights, data.split("train").labels, data.classes)
        weights = None if weights is None else weights.to(device, torch.float32)
        loss = build_loss(recipe.loss, positive_weights=weights)
        return SmoothedLabelLoss(loss, recipe.label_smoothing) if recipe.label_smoothing else loss

    def average_views(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the logits of the mean probabilities over the views."""
        logits = torch.stack([view.float() for view in outputs])
        return functional.logsigmoid(logits).logsumexp(0) - functional.logsigmoid(-logits).logsumexp(0)

    def decode(self, outputs: Tensor) -> Tensor:
        """Return the probabilities (N, C), the sigmoid of each logit."""
        return outputs.sigmoid()

    def batch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return `label_accuracy`, the fraction of the labels whose probability is on their side of 0.5."""
        return {"label_accuracy": ((outputs.detach() > 0) == (targets > 0.5)).float().mean()}

    def evaluate(
        self, batch_results: Sequence[Any], loss: float, split: str = "", keep_predictions: bool = False
    ) -> MultiLabelEvaluation:
        """Return average precision, and precision, recall and F1 at the thresholds."""
        logits, labels = (torch.cat(parts) for parts in zip(*batch_results, strict=True))
        probabilities = logits.sigmoid()
        evaluation = MultiLabelEvaluation(num_samples=len(labels), loss=loss, split=split)
        if not math.isfinite(loss):
            return evaluation
        predicted = predict_labels(probabilities, torch.tensor(self.used_thresholds))
        return replace(
            evaluation,
            average_precisions=average_precision(probabilities, labels),
            thresholds=self.used_thresholds,
            confusion=tuple(map(tuple, label_confusion(predicted, labels).tolist())),
            num_exact=count_exact_matches(predicted, labels),
            probabilities=probabilities if keep_predictions else None,
            labels=labels if keep_predictions else None,
        )

    @classmethod
    def average(cls, evaluations: Sequence[Any]) -> MultiLabelEvaluation:
        """Return the evaluation of the mean of the probabilities, with the means of the thresholds."""
        (mean, labels), first = mean_prediction(evaluations), evaluations[0]
        thresholds = torch.tensor([evaluation.thresholds for evaluation in evaluations], dtype=torch.float64).mean(0)
        logits = mean.logit(eps=1e-12)
        loss = float(build_loss(_EVALUATION_LOSS)(logits, labels.double()))
        task = cls(first.classes, tuple(thresholds.tolist()))
        averaged = task.evaluate([(logits, labels)], loss, first.split, keep_predictions=True)
        members = tuple(replace(each, probabilities=None, labels=None, dataset=None) for each in evaluations)
        return replace(averaged, classes=first.classes, names=first.names, dataset=first.dataset, members=members)

    def fitted_to(self, val_evaluation: MultiLabelEvaluation) -> "MultiLabel":
        """Return the task with the thresholds of the highest F1 on the validation split."""
        probabilities, labels = val_evaluation.require_predictions()
        thresholds = best_f1_thresholds(probabilities, labels, DEFAULT_THRESHOLD)
        return replace(self, thresholds=tuple(thresholds.tolist()))

    def unfitted(self) -> "MultiLabel":
        """Return the task with the thresholds of training, 0.5."""
        return replace(self, thresholds=())

    @classmethod
    def results(
        cls, evaluation: MultiLabelEvaluation, val_evaluation: MultiLabelEvaluation | None = None
    ) -> MultiLabelResults:
        """Return the metrics of each class, its precision-recall curve, and the images with the most wrong labels."""
        probabilities, labels = evaluation.require_predictions()
        curves = [(curve.recall, curve.precision) for curve in precision_recall_curves(probabilities, labels)]
        return MultiLabelResults(
            rows=evaluation.label_rows(),
            curves=curves,
            errors=find_label_errors(evaluation),
            are_thresholds_fitted=set(evaluation.thresholds) != {DEFAULT_THRESHOLD},
        )


@dataclass(frozen=True, eq=False)
class SmoothedLabelLoss:
    """loss(z, (1 - s) t + s / 2) of logits z and labels t (N, C): each label is smoothed between its two values."""

    loss: LossFn
    smoothing: float

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, targets * (1 - self.smoothing) + self.smoothing / 2)


def positive_weights(setting: str, labels: Tensor, classes: Sequence[str]) -> Tensor | None:
    """Return the weight (C,) of the samples that show a class: None for "", (N - n_c) / n_c for "balanced".

    Raises ValueError for a class without an image to balance by, or another number of weights than classes.
    """
    weights = parse_class_weights(setting)
    if not weights:
        return None
    if isinstance(weights, str):
        counts = labels.double().sum(0)
        if not bool((counts > 0).all()):
            empty = classes[int(counts.argmin())]
            raise invalid("an image of every class to balance by", f"none of {empty!r}", next_step="give the weights")
        return (len(labels) - counts) / counts
    if len(weights) != len(classes):
        raise invalid(f"class_weights of {len(classes)} numbers, one per class, or 'balanced'", repr(setting))
    return torch.tensor(weights, dtype=torch.float64)


def find_label_errors(evaluation: MultiLabelEvaluation, max_images: int = NUM_ERRORS) -> list[LabelErrors]:
    """Return the images with wrong labels, the highest binary cross-entropy first."""
    probabilities, labels = evaluation.require_predictions()
    predicted = predict_labels(probabilities, torch.tensor(evaluation.thresholds))
    true = labels.bool()
    p = probabilities.double().clamp(1e-12, 1 - 1e-12)
    losses = -(true * p.log() + ~true * (1 - p).log()).mean(1)
    wrong = (predicted != true).any(1).nonzero().flatten()
    indices = wrong[losses[wrong].argsort(descending=True, stable=True)][:max_images]

    def names(mask: Tensor) -> tuple[str, ...]:
        return tuple(evaluation.classes[k] for k in mask.nonzero().flatten().tolist())

    return [
        LabelErrors(
            evaluation.preview(i),
            names(predicted[i] & true[i]),
            names(~predicted[i] & true[i]),
            names(predicted[i] & ~true[i]),
            float(losses[i]),
            evaluation.sample_name(i),
        )
        for i in indices.tolist()
    ]
