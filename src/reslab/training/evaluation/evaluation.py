"""The result of an evaluation, the same for every task: metrics by name, users' metrics too, and the samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from reslab.data.image_datasets import ImageDataset
from reslab.report.format import format_int, format_metric, format_number
from reslab.report.images import MAX_THUMBNAIL_SIDE
from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, Metric, TaskByName, add_metric, find_task


@dataclass(frozen=True, kw_only=True)
class Evaluation(ABC):
    """The metrics over `num_samples` images, each evaluated once, in the order of the split; one subclass per task.

    `loss` is the mean over samples; None for networks that have no loss in evaluation. Where predictions were
    kept, there are the samples' `names` and their `dataset`. Where the loss is not finite, `bad_indices` are the
    samples whose images hold NaN or infinite values. `members` are the results of each model of an ensemble by
    itself, without predictions; `added_metrics` the values of metrics that users have registered.
    """

    spec: ClassVar[TaskByName]

    num_samples: int
    loss: float | None
    split: str = ""
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    dataset: ImageDataset | None = None
    bad_indices: tuple[int, ...] = ()
    added_metrics: Mapping[str, float] = field(default_factory=dict)
    members: tuple["Evaluation", ...] = ()

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the task by name, and `loss`; None for one that the data do not define."""
        names = [metric.name for metric in self.spec.metrics]
        own = {name: getattr(self, name, None) for name in names if name not in self.added_metrics}
        return {**own, **self.added_metrics, "loss": self.loss}

    @property
    def score(self) -> tuple[float, float]:
        """The metric that selects the weights, and the loss, both with the sign for which higher is better."""
        return self.score_of(self.spec.selection_metric), 0.0 if self.loss is None else -self.loss

    def score_of(self, metric: Metric) -> float:
        """Return a metric with the sign for which higher is better; minus infinity where it is not defined."""
        value = self.metrics[metric.name]
        return float("-inf") if value is None or value != value else metric.score(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, and num_samples."""
        return {**self.metrics, "num_samples": self.num_samples}

    @property
    @abstractmethod
    def has_predictions(self) -> bool:
        """True if the predictions of each sample were kept."""

    def preview(self, i: int) -> np.ndarray:
        """Return the image of sample i as uint8 (H, W) or (H, W, 3); of large images only every k-th pixel."""
        assert self.dataset is not None, "evaluate with keep_predictions"
        image = self.dataset.preview(i)
        stride = max(1, min(image.shape[-2:]) // (2 * MAX_THUMBNAIL_SIDE))
        return thin_out(image, stride)

    def sample_name(self, i: int) -> str:
        """Return the name of sample i."""
        assert self.dataset is not None, "evaluate with keep_predictions"
        return self.dataset.name(i)

    def per_class(self) -> Mapping[str, Any]:
        """Return the details for each class or target as JSON; empty if the task has none."""
        return {}

    def per_class_table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return the columns and rows of `per_class` as texts."""
        return [], []

    @abstractmethod
    def prediction_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the columns and one row of texts for each sample, from the predictions that were kept."""

    @abstractmethod
    def prediction_arrays(self) -> dict[str, np.ndarray]:
        """Return the targets and predictions of all samples as arrays by name."""

    def coco_results(self) -> list[dict[str, Any]] | None:
        """Return the predictions as COCO's results of detection; None for another task."""
        return None

    def predicted_masks(self) -> Iterable[np.ndarray]:
        """Return the predicted mask of each image, (H, W) uint8, if the task predicts masks; else nothing."""
        return ()

    def require_predictions(self) -> tuple[Tensor, Tensor]:
        """Return predictions and labels of all samples, one tensor each. Raises ValueError if none were kept."""
        raise invalid("a task whose predictions are one tensor", f"predictions of {self.spec.name}")

    def __repr__(self) -> str:
        """Return the metrics; the fields are too many to print."""
        texts = [f"{name} {text}" for name, text in self._metric_texts(by_name=True)]
        return f"Evaluation({self.split or 'data'}: {', '.join(texts)})"

    def _repr_html_(self) -> str:
        """Return a table of the metrics, for notebooks."""
        cells = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in self._metric_texts())
        caption = f"{self.split or 'evaluation'}: {format_int(self.num_samples)} images"
        return f"<table><caption>{caption}</caption>{cells}</table>"

    def _metric_texts(self, by_name: bool = False) -> list[tuple[str, str]]:
        texts = [
            (metric.name if by_name else metric.title, format_metric(metric, self.metrics[metric.name]))
            for metric in self.spec.metrics
            if self.metrics[metric.name] is not None
        ]
        return texts if self.loss is None else [*texts, ("loss", format_number(self.loss))]


def thin_out(image: Tensor, stride: int) -> np.ndarray:
    """Return every `stride`-th row and column of an image (C, H, W): (H, W, 3), or the first channel (H, W)."""
    thinned = image[:, ::stride, ::stride].cpu()
    return thinned[0].numpy() if len(thinned) != 3 else thinned.permute(1, 2, 0).contiguous().numpy()


def both_kept(predictions: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return predictions and labels. Raises ValueError if the evaluation kept none."""
    if predictions is None or labels is None:
        raise invalid("evaluations that kept their predictions", "one that did not", "keep_predictions=True")
    return predictions, labels


def mean_prediction(evaluations: Sequence[Evaluation]) -> tuple[Tensor, Tensor]:
    """Return the mean of several models' predictions in float64, and the labels of the samples.

    Raises ValueError if an evaluation kept no predictions, or if the evaluations are of different samples.
    """
    kept = [evaluation.require_predictions() for evaluation in evaluations]
    labels = kept[0][1]
    if any(not torch.equal(labels, other) for _, other in kept):
        raise invalid("evaluations of the same samples in the same order", "different labels")
    return torch.stack([predictions.double() for predictions, _ in kept]).mean(0), labels


EvaluationT = TypeVar("EvaluationT", bound=Evaluation)
MetricFn = Callable[[Tensor, Tensor], float]
_METRIC_FUNCTIONS: dict[str, dict[str, MetricFn]] = {}


def register_metric(
    metric: Metric, *, task: str = DEFAULT_TASK, selects: bool = False
) -> Callable[[MetricFn], MetricFn]:
    """Return a decorator that registers a metric of a task; its function gets the outputs and targets of all samples.

    In classification the outputs are logits (N, C) and the targets labels (N,), in multi-label classification logits
    and labels (N, C), in regression standardized outputs and labels (N, K), all float32 or int64 on the CPU. With
    `selects` it selects the weights of a run. Raises ValueError for a name that the task has already, and for a task
    whose outputs are not kept for a whole evaluation.
    """

    def register(function: MetricFn) -> MetricFn:
        if not find_task(task).keeps_outputs:
            raise invalid("a task that keeps the outputs of all samples for metrics of your own", task)
        add_metric(task, metric, selects)
        _METRIC_FUNCTIONS.setdefault(task, {})[metric.name] = function
        return function

    return register


def with_added_metrics(evaluation: EvaluationT, batch_results: Sequence[Any]) -> EvaluationT:
    """Return the evaluation with the registered metrics of its task, from what was kept of each batch."""
    task = evaluation.spec
    functions = {
        metric.name: _METRIC_FUNCTIONS[task.name][metric.name]
        for metric in task.metrics
        if metric.name in _METRIC_FUNCTIONS.get(task.name, {})
    }
    if not functions:
        return evaluation
    outputs, targets = (torch.cat(parts) for parts in zip(*batch_results, strict=True))
    added = {name: float(function(outputs, targets)) for name, function in functions.items()}
    return replace(evaluation, added_metrics=added)
