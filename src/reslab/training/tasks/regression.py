"""Regression: one or more numbers per image, learned as standardized values and given back in their unit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.metrics.regression import RegressionMetrics, mean_regression_metrics, regression_metrics
from reslab.report.format import format_number
from reslab.report.pages.regression import RegressionError, RegressionResults, RegressionRow
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.evaluation import Evaluation, both_kept, mean_prediction
from reslab.training.losses import LossFn, build_loss
from reslab.training.tasks.task_type import TaskType

NUM_ERRORS = 24


@dataclass(frozen=True, kw_only=True, repr=False)
class RegressionEvaluation(Evaluation):
    """The scores of a regression, in the unit of the targets.

    `targets` has the metrics of each target, empty if the loss is not finite; with several targets the scores are the
    means over them. `std` are the standard deviations by which the loss divides errors. If predictions were kept, there
    are `predicted` and `labels` (N, K) float64.
    """

    spec = TaskByName("regression")

    targets: tuple[RegressionMetrics, ...] = ()
    std: tuple[float, ...] = ()
    predicted: Tensor | None = None
    labels: Tensor | None = None

    @property
    def mae(self) -> float | None:
        """The mean absolute error."""
        return self._mean("mae")

    @property
    def rmse(self) -> float | None:
        """The root of the mean squared error."""
        return self._mean("rmse")

    @property
    def r2(self) -> float | None:
        """The coefficient of determination; None where the targets are all equal."""
        return self._mean("r2")

    def _mean(self, name: str) -> float | None:
        if not self.targets:
            return None
        value: float = getattr(mean_regression_metrics(self.targets), name)
        return None if math.isnan(value) else value

    @property
    def has_predictions(self) -> bool:
        """True if the predictions were kept."""
        return self.predicted is not None and self.labels is not None

    def rows(self) -> list[RegressionRow]:
        """Return the name and the metrics of each target."""
        return [RegressionRow(name, metrics) for name, metrics in zip(self.classes, self.targets, strict=True)]

    def per_class(self) -> Mapping[str, Any]:
        """Return `targets`, each with name, mae, mse, rmse, r2, bias and pearson (null where undefined)."""
        rows = []
        for row in self.rows():
            values = {name: None if math.isnan(value) else value for name, value in vars(row.metrics).items()}
            rows.append({"name": row.name, **values})
        return {"targets": rows}

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return columns and one row a target."""
        names = ("mae", "rmse", "r2", "bias", "pearson")
        rows = [(row.name, *(format_number(getattr(row.metrics, name)) for name in names)) for row in self.rows()]
        return ["target", "MAE", "RMSE", "R²", "bias", "correlation"], rows

    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return name, and of each target the true and the predicted value."""
        predicted, labels = self.require_predictions()
        header = ["name", *(text for name in self.classes for text in (name, f"predicted {name}"))]
        pairs = torch.stack((labels, predicted), 2).flatten(1).tolist()
        return header, [
            [name, *(f"{value:.7g}" for value in values)] for name, values in zip(self.names, pairs, strict=True)
        ]

    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return `labels` and `predicted` (N, K) float64."""
        predicted, labels = self.require_predictions()
        return {"labels": labels.numpy(), "predicted": predicted.numpy()}

    def require_predictions(self) -> tuple[Tensor, Tensor]:
        """Return predictions and labels (N, K). Raises ValueError if the evaluation kept none."""
        return both_kept(self.predicted, self.labels)


@dataclass(frozen=True)
class Regression(TaskType):
    """Numbers an image: outputs (N, K) are standardized values z, predictions mean + std z, labels (N, K) numbers.

    `mean` and `std` are those of the training labels (std 1 where they are all equal).
    """

    spec = TaskByName("regression")
    output_noun: ClassVar[str] = "number"

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def for_data(cls, data: DatasetSplits) -> Self:
        """Return the task with the mean and the standard deviation of the training labels."""
        labels = data.split("train" if "train" in data.splits else data.eval_split).labels.double()
        std = labels.std(0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        return cls(data.classes, tuple(labels.mean(0).tolist()), tuple(std.tolist()))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """Return the task with the saved mean and standard deviation."""
        return cls(tuple(classes), tuple(fields["mean"]), tuple(fields["std"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the task, and mean and standard deviation of the training labels."""
        return {**super().to_dict(), "mean": list(self.mean), "std": list(self.std)}

    def example_targets(self, outputs: Tensor) -> Tensor:
        """Return labels of zeros."""
        return torch.zeros_like(outputs)

    def average_views(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the mean over the views."""
        return torch.stack(list(outputs)).mean(0)

    def decode(self, outputs: Tensor) -> Tensor:
        """Return outputs (N, K) in the unit of the labels, float64."""
        values = outputs.detach().double().cpu()
        return values * torch.tensor(self.std, dtype=torch.float64) + torch.tensor(self.mean, dtype=torch.float64)

    def fold_into(self, last: nn.Linear) -> "Regression":
        """Scale weights and bias by the standard deviation and add the mean: the outputs are then in the unit."""
        std, mean = (torch.tensor(values, dtype=torch.float64) for values in (self.std, self.mean))
        bias = torch.zeros(len(std), dtype=torch.float64) if last.bias is None else last.bias.detach().double()
        with torch.no_grad():
            last.weight.copy_(last.weight.double() * std[:, None])
            last.bias = nn.Parameter((bias * std + mean).to(last.weight.dtype), requires_grad=False)
        return replace(self, mean=(0.0,) * len(mean), std=(1.0,) * len(std))

    def default_loss(self) -> LossFn:
        """Return the mean squared error of standardized values."""
        return StandardizedLoss(functional.mse_loss, self.mean, self.std)

    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the recipe's loss of standardized values. Raises ValueError for class weights."""
        if recipe.class_weights:
            raise invalid("no class_weights in regression", repr(recipe.class_weights), next_step="leave them out")
        return StandardizedLoss(build_loss(recipe.loss), self.mean, self.std)

    def batch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return `mae`, the mean absolute error over samples and targets, in the unit of the targets."""
        scale = outputs.new_tensor(self.std, dtype=torch.float32)
        standardized = StandardizedLoss(functional.l1_loss, self.mean, self.std).standardize(targets)
        return {"mae": ((outputs.detach().float() - standardized).abs() * scale).mean()}

    def evaluate(
        self, batch_results: Sequence[Any], loss: float, split: str = "", keep_predictions: bool = False
    ) -> RegressionEvaluation:
        """Return the metrics of each target."""
        outputs, labels = (torch.cat(parts) for parts in zip(*batch_results, strict=True))
        evaluation = RegressionEvaluation(num_samples=len(labels), loss=loss, split=split, std=self.std)
        if not math.isfinite(loss):
            return evaluation
        predicted, labels = self.decode(outputs), labels.double()
        evaluation = replace(evaluation, targets=tuple(regression_metrics(predicted, labels)))
        return replace(evaluation, predicted=predicted, labels=labels) if keep_predictions else evaluation

    @classmethod
    def average(cls, evaluations: Sequence[Any]) -> RegressionEvaluation:
        """Return the evaluation of the mean of the predictions.

        Its loss is, as those of the members, the mean squared error of standardized values, by the first member's.
        """
        (predicted, labels), first = mean_prediction(evaluations), evaluations[0]
        members = tuple(replace(each, predicted=None, labels=None, dataset=None) for each in evaluations)
        return replace(
            first,
            loss=float(((predicted - labels) / torch.tensor(first.std or 1.0, dtype=torch.float64)).square().mean()),
            targets=tuple(regression_metrics(predicted, labels)),
            predicted=predicted,
            added_metrics={},
            members=members,
        )

    @classmethod
    def results(
        cls, evaluation: RegressionEvaluation, val_evaluation: RegressionEvaluation | None = None
    ) -> RegressionResults:
        """Return the metrics of each target, predicted against true values, and the images with the largest errors."""
        predicted, labels = evaluation.require_predictions()
        return RegressionResults(
            rows=evaluation.rows(),
            true=labels.T.tolist(),
            predicted=predicted.T.tolist(),
            errors=find_largest_errors(evaluation),
        )


@dataclass(frozen=True, eq=False)
class StandardizedLoss:
    """loss(z, (t - mean) / std) of outputs z and targets t (N, K), in at least float32.

    Raises ValueError for other outputs, with which torch's losses would repeat the targets.
    """

    loss: LossFn
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape != targets.shape:
            raise invalid(f"outputs of the shape of the targets, {tuple(targets.shape)}", tuple(outputs.shape))
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        return self.loss(outputs, self.standardize(targets).to(outputs.dtype))

    def standardize(self, targets: Tensor) -> Tensor:
        """Return the standardized targets (N, K)."""
        return (targets - targets.new_tensor(self.mean)) / targets.new_tensor(self.std)


def find_largest_errors(evaluation: RegressionEvaluation, max_images: int = NUM_ERRORS) -> list[RegressionError]:
    """Return the images with the largest errors; with several targets, the mean of |error| / RMSE of the target."""
    predicted, labels = evaluation.require_predictions()
    errors = predicted - labels
    scale = torch.tensor([metrics.rmse or 1.0 for metrics in evaluation.targets], dtype=torch.float64)
    sizes = (errors.abs() / scale).mean(1)
    indices = sizes.argsort(descending=True, stable=True)[:max_images].tolist()
    return [
        RegressionError(evaluation.preview(i), labels[i].tolist(), predicted[i].tolist(), evaluation.sample_name(i))
        for i in indices
        if float(sizes[i]) > 0
    ]
