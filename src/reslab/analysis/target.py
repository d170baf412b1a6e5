"""A model with the images it is analyzed on: batches, scores, samples, thumbnails, and the progress of analyses."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.data.masks import VOID
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.nn.third_party import to_residual_network
from reslab.report.format import format_number, pluralize
from reslab.report.images import make_thumbnail
from reslab.spec.errors import invalid
from reslab.spec.preprocess import ChannelOrder
from reslab.spec.task import Metric, TargetKind, Unit
from reslab.training.evaluation.evaluation import Evaluation, with_added_metrics
from reslab.training.run import Run
from reslab.training.tasks.classification import Classification
from reslab.training.tasks.task_type import TaskType

ProgressCallback = Callable[[str], None]

_PROGRESS_CALLBACK: ContextVar[ProgressCallback | None] = ContextVar("progress_callback", default=None)


@contextmanager
def progress_callback(callback: ProgressCallback) -> Iterator[None]:
    """Inside the block, analyses call `callback` with their estimated cost, their progress and their notices."""
    token = _PROGRESS_CALLBACK.set(callback)
    try:
        yield
    finally:
        _PROGRESS_CALLBACK.reset(token)


def report_progress(message: str) -> None:
    """Pass `message` to the current callback, if there is one."""
    callback = _PROGRESS_CALLBACK.get()
    if callback is not None:
        callback(message)


BATCH_SIZE, LARGE_BATCH_SIZE = 250, 8
"""How many images are evaluated at once: those with one target, and those with a mask or boxes, which are larger."""
Labels = Tensor | tuple[Any, ...]
"""The targets of N images: a tensor (N, ...), or a dictionary of boxes for each image."""

BatchLoss = Callable[[nn.Module, Tensor, Any], Tensor]
"""The mean loss of a model on a batch of images and targets."""

MAX_MAP_SIZE = 56
_NUM_CHECK_IMAGES = 8


@dataclass(frozen=True, eq=False)
class AnalysisTarget:
    """A model in float32 and eval mode, with normalized `images` (N, C, H, W) and `labels`, the targets of its `task`.

    `labels` are a tensor (N, ...), or in detection a dictionary for each image. `name` is what the user wrote
    (`resnet56_cifar`, `runs/a`, `runs/a@390`). `run` and `step` belong to the weights of
    a run. `data` is the dataset of the images; it is None for random images and for images that the caller passed.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Any
    task: TaskType = field(default_factory=partial(Classification, ()))
    data: DatasetSplits | None = None
    run: Run | None = None
    step: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or of the values; empty if unknown."""
        return self.task.classes

    @property
    def class_labels(self) -> Tensor:
        """The labels (N,) of classes. Raises ValueError for the targets of another task."""
        if self.task.spec.target is not TargetKind.CLASS:
            raise invalid("images of one class each", f"the targets of {self.task.spec.name}")
        labels: Tensor = self.labels
        return labels

    @property
    def batch_size(self) -> int:
        """The number of images in a batch of an evaluation."""
        return BATCH_SIZE if self.task.spec.labels_whole_image else LARGE_BATCH_SIZE

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number where it has no name."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def label_text(self, index: int) -> str:
        """Return the target of an image in a few words: `cat`, `cat, dog`, `3.5`, `2 cat, 1 dog`."""
        return _LABEL_TEXTS[self.task.spec.target](self, self.labels[index])

    def batch_loss(self, model: nn.Module, x: Tensor, y: Any) -> Tensor:
        """Return the loss of the task on images x and targets y."""
        return self.task.batch_loss(model, x, y)


def _multi_hot_text(target: AnalysisTarget, label: Tensor) -> str:
    return ", ".join(target.class_name(k) for k in label.nonzero().flatten().tolist()) or "none"


def _values_text(target: AnalysisTarget, label: Tensor) -> str:
    return ", ".join(format_number(value, 3) for value in label.tolist())


def _mask_text(target: AnalysisTarget, label: Tensor) -> str:
    return ", ".join(target.class_name(k) for k in label[label != VOID].unique().tolist()) or "void"


def _boxes_text(target: AnalysisTarget, label: Any) -> str:
    counts = Counter(target.class_name(k - 1) for k in label["labels"].tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or pluralize(0, "object")


_LABEL_TEXTS: dict[TargetKind, Callable[[AnalysisTarget, Any], str]] = {
    TargetKind.CLASS: lambda target, label: target.class_name(int(label)),
    TargetKind.MULTI_HOT: _multi_hot_text,
    TargetKind.VALUES: _values_text,
    TargetKind.MASK: _mask_text,
    TargetKind.BOXES: _boxes_text,
}


def as_residual_network(target: AnalysisTarget) -> ResidualNetwork:
    """Return the target's model as a `ResidualNetwork`, whose blocks split into shortcut and branch.

    A third-party module is converted to the zoo's network that computes the same outputs on the first images (see
    `reslab.nn.third_party`). Raises ValueError if there is no such network, or if the network has no blocks.
    """
    network = to_residual_network(target.model, target.images[:_NUM_CHECK_IMAGES])
    if not network.arch.depths:
        raise invalid("a network with blocks", f"{target.name}, which has none", nearest="book_res")
    if network is not target.model:
        report_progress(f"{target.name} is analyzed as {network.arch.name}, which computes the same outputs")
    return network


def as_block_network(target: AnalysisTarget) -> nn.Module:
    """Return a network all of whose blocks are a `ResidualBlock`: one for segmentation or detection as it is.

    For the others see `as_residual_network`.
    """
    return target.model if isinstance(target.model, DenseNetwork) else as_residual_network(target)


def backbone_of(network: nn.Module) -> ResidualNetwork:
    """Return the residual network itself, or the backbone of one for segmentation or detection."""
    backbone = network.residual_network if isinstance(network, DenseNetwork) else network
    assert isinstance(backbone, ResidualNetwork)
    return backbone


@dataclass(frozen=True)
class EvalScore:
    """The error and the mean loss over `num_images` images; `loss` is None in detection.

    The error is what the metric that selects the task's weights lacks to its best value: the fraction of wrong
    predictions, 1 - mean IoU, 1 - AP, the mean absolute error. See `ErrorMeasure`.
    """

    error: float
    loss: float | None
    num_images: int


@dataclass(frozen=True)
class ErrorMeasure:
    """The error of a task: its `title` (`error`, `1 - mean IoU`), and whether it is a fraction, shown in percent."""

    title: str
    is_fraction: bool

    @classmethod
    def of_task(cls, task: TaskType) -> "ErrorMeasure":
        """Return the error that belongs to the metric that selects the weights."""
        spec = task.spec
        metric = spec.selection_metric
        if spec.target is TargetKind.CLASS and metric.name == "top1":
            return cls("error", True)
        return cls(f"{_BEST_TEXTS[metric.higher_is_better, metric.is_fraction]}{metric.column}", metric.is_fraction)


_BEST_TEXTS = {(True, True): "1 - ", (True, False): "-", (False, True): "", (False, False): ""}


def error_value(metric: Metric, value: float | None) -> float:
    """Return the error for the value of a metric: 1 - value or -value where higher is better, else the value.

    An undefined value, as that of outputs that are not finite, is the largest error: 1 for fractions, else infinite.
    """
    if value is None or math.isnan(value):
        return 1.0 if metric.unit is Unit.FRACTION else math.inf
    if not metric.higher_is_better:
        return value
    return 1.0 - value if metric.unit is Unit.FRACTION else -value


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """Batches of images and targets: the target's own, or a whole `split` of its dataset. Iterate it repeatedly.

    Images of a split get the channels and the size of the target's own; where a mask or boxes belong to them they keep
    their size, and in detection a batch is a list.
    Raises ValueError for an unknown split, and for a split of a target without a dataset.
    """

    target: AnalysisTarget
    split: str = ""

    def __post_init__(self) -> None:
        if self.split and self.target.data is None:
            raise invalid("images of a dataset with splits", f"split={self.split}, but no dataset", "split=")
        if self.split and self.target.data is not None:
            self.target.data.split(self.split)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        images, labels, data = self.target.images, self.target.labels, self.target.data
        if not self.split or data is None:
            for start in range(0, len(images), self.target.batch_size):
                part = slice(start, start + self.target.batch_size)
                yield images[part], labels[part]
            return
        keeps_size = not self.target.task.spec.labels_whole_image
        for x, y, _ in eval_loader(data.split(self.split), self.target.batch_size, data.preprocess, images.device):
            yield (x if keeps_size else match_shape(x, images)), y


def score_model(model: nn.Module, batches: EvalBatches) -> EvalScore:
    """Return the error and loss of `model` over all batches, with its current weights, in its current mode."""
    metric, evaluation = batches.target.task.spec.selection_metric, evaluate_target(model, batches)
    error = error_value(metric, evaluation.metrics[metric.name])
    return EvalScore(error, evaluation.loss, evaluation.num_samples)


@torch.no_grad()
def evaluate_target(model: nn.Module, batches: EvalBatches) -> Evaluation:
    """Return the task's evaluation of `model` over all batches, with its current weights, in its current mode.

    It has the metrics that users have registered, too.
    """
    task, results, total_loss, num_samples = batches.target.task, [], 0.0, 0
    loss_fn = task.default_loss()
    for x, y in batches:
        outputs = task.predict(model, x)
        if loss_fn is not None:
            total_loss += float(loss_fn(outputs, y)) * len(y)
        results.append(task.batch_result(outputs, y, False))
        num_samples += len(y)
    mean_loss: Any = None if loss_fn is None else total_loss / num_samples
    return with_added_metrics(task.evaluate(results, mean_loss), results)


def sample_images(target: AnalysisTarget, split: str, max_images: int, seed: int) -> tuple[Tensor, Labels]:
    """Return at most `max_images` random images of a split and their targets, in the split's order, on the device.

    The images have the shape of the target's own. Raises ValueError for an unknown split, and for a target without a
    dataset.
    """
    if target.data is None:
        raise invalid("images of a dataset", f"{target.name}, whose images come from none", next_step="--data NAME")
    dataset = target.data.split(split)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    subset = dataset.subset(sorted(order[:max_images].tolist()))
    batches = eval_loader(subset, target.batch_size, target.data.preprocess, target.images.device)
    collected = [(_fit_images(x, target.images), y) for x, y, _ in batches]
    return torch.cat([x for x, _ in collected]), join_labels([y for _, y in collected])


def _fit_images(x: Tensor | list[Tensor], reference: Tensor) -> Tensor:
    """Return images of any sizes with the shape of `reference`."""
    parts = [match_shape(image[None], reference) for image in x] if isinstance(x, list) else [match_shape(x, reference)]
    return torch.cat(parts)


def match_shape(x: Tensor, reference: Tensor) -> Tensor:
    """Return normalized images with the channels and size of `reference`: gray repeated, color averaged, resized."""
    channels = reference.shape[1]
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1).contiguous() if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[-2:] != reference.shape[-2:]:
        x = functional.interpolate(x, reference.shape[-2:], mode="bilinear", antialias=True)
    return x


def image_data_uri(target: AnalysisTarget, index: int) -> str:
    """Return an image of the target as the data URI of a thumbnail.

    The normalization is undone where it is known; otherwise the values are scaled to the whole range of gray.
    """
    image = target.images[index].detach().cpu().float()
    preprocess = target.data.preprocess if target.data is not None else None
    if preprocess is not None and len(preprocess.mean) in (1, len(image)):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
        image = image * std + mean
        image = image.flip(0) if preprocess.channel_order == ChannelOrder.BGR else image
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    average_channels = len(image) not in (1, 3)
    image = image.mean(0, keepdim=True) if average_channels else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return make_thumbnail(pixels).uri


def map_to_rows(feature_map: Tensor, max_size: int = MAX_MAP_SIZE) -> tuple[tuple[float, ...], ...]:
    """Return a map (h, w) as rows of numbers with five digits, average-pooled to at most `max_size` on each side."""
    feature_map = feature_map.detach().cpu().float()
    if max(feature_map.shape) > max_size:
        size = (min(feature_map.shape[0], max_size), min(feature_map.shape[1], max_size))
        feature_map = functional.adaptive_avg_pool2d(feature_map[None], size)[0]
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in feature_map.tolist())


def join_labels(batches: Sequence[Any]) -> Labels:
    """Return the targets of several batches as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    return tuple(target for batch in batches for target in batch)


def cross_entropy_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of a classification."""
    return functional.cross_entropy(model(x), y)
