"""The tasks: what a network predicts of an image, and the metrics by which its predictions are compared."""

from dataclasses import dataclass
from enum import StrEnum

from reslab.spec.errors import unknown_name
from reslab.spec.plugins import Table


class TargetKind(StrEnum):
    """The form of the targets of a dataset."""

    CLASS = "class"
    """Labels (N,) int64: the one class of each image."""
    MULTI_HOT = "multi-hot"
    """Labels (N, C) float32 of 0 and 1: the classes that each image shows, none to all."""
    VALUES = "values"
    """Labels (N, K) float32: K numbers of each image."""
    MASK = "mask"
    """A mask (H, W) of each image: the class of each pixel, 255 where it does not count."""
    BOXES = "boxes"
    """Boxes of each image with their classes."""


class Unit(StrEnum):
    """The unit of a metric."""

    FRACTION = "fraction"
    """From 0 to 1, shown as a percentage."""
    NUMBER = "number"
    """A plain number, such as a loss."""
    TARGET = "target"
    """The unit of the targets, such as cells of an image."""


@dataclass(frozen=True)
class Metric:
    """A metric of an evaluation: its key in files, its name for people, its unit and its direction."""

    name: str
    title: str
    unit: Unit = Unit.FRACTION
    higher_is_better: bool = True

    def score(self, value: float) -> float:
        """Return the value with the sign for which higher is better."""
        return value if self.higher_is_better else -value


LOSS = Metric("loss", "loss", Unit.NUMBER, higher_is_better=False)
"""The mean loss over the images, which every task has."""


@dataclass(frozen=True)
class Task:
    """A task: the form of its targets, its metrics and its losses.

    The first of `metrics` selects the weights, equal values by the loss; those in `train_metrics` are also measured on
    the training batches. The first of `losses` takes the place of a recipe's loss that does not suit the task.
    """

    name: str
    reference: str
    target: TargetKind
    metrics: tuple[Metric, ...]
    losses: tuple[str, ...]
    train_metrics: tuple[str, ...] = ()

    @property
    def selection_metric(self) -> Metric:
        """The metric that selects the weights of a run."""
        return self.metrics[0]

    def metric(self, name: str) -> Metric:
        """Return a metric by its name. Raises ValueError with the nearest name."""
        metrics = {metric.name: metric for metric in (*self.metrics, LOSS)}
        if name not in metrics:
            raise unknown_name(f"metric of the task {self.name}", name, metrics)
        return metrics[name]


_TASKS = (
    Task(
        "classification",
        "one class an image (Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs)",
        TargetKind.CLASS,
        (Metric("top1", "accuracy"), Metric("top5", "top-5 accuracy")),
        ("cross-entropy", "bce", "focal", "focal-binary"),
        ("top1",),
    ),
    Task(
        "multi-label",
        "any number of classes an image (Everingham et al. 2010, The PASCAL VOC Challenge, Sec. 4.1)",
        TargetKind.MULTI_HOT,
        (
            Metric("map", "mean average precision"),
            Metric("f1_micro", "F1, micro average"),
            Metric("f1_macro", "F1, macro average"),
            Metric("exact_match", "images with all classes right"),
        ),
        ("bce", "focal-binary"),
        ("label_accuracy",),
    ),
    Task(
        "regression",
        "numbers an image (Lathuilière et al. 2020, A Comprehensive Analysis of Deep Regression)",
        TargetKind.VALUES,
        (
            Metric("mae", "mean absolute error", Unit.TARGET, higher_is_better=False),
            Metric("rmse", "root mean squared error", Unit.TARGET, higher_is_better=False),
            Metric("r2", "R²", Unit.NUMBER),
        ),
        ("mse", "l1", "huber"),
        ("mae",),
    ),
    Task(
        "segmentation",
        "the class of each pixel (Long, Shelhamer, Darrell 2015, Fully Convolutional Networks)",
        TargetKind.MASK,
        (Metric("miou", "mean IoU"), Metric("pixel_accuracy", "pixel accuracy")),
        ("cross-entropy",),
        ("pixel_accuracy",),
    ),
)
TASKS: Table[Task] = Table("task", {task.name: task for task in _TASKS})
DEFAULT_TASK = "classification"


def find_task(name: str) -> Task:
    """Return a task by its name. Raises ValueError with the nearest name."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
