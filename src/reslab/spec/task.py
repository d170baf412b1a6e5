"""The tasks: what a network predicts of an image, and the metrics by which its predictions are compared."""

from dataclasses import dataclass, replace
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
    """A metric of an evaluation: its key in files, its name for people, its unit and its direction.

    `abbreviation` is its name in a narrow column.
    """

    name: str
    title: str
    unit: Unit = Unit.FRACTION
    higher_is_better: bool = True
    abbreviation: str = ""

    @property
    def column(self) -> str:
        """The heading of a column: the abbreviation, or else the title."""
        return self.abbreviation or self.title

    @property
    def superlative(self) -> str:
        """The adjective of the best value: highest or lowest."""
        return "highest" if self.higher_is_better else "lowest"

    @property
    def is_fraction(self) -> bool:
        """True if the values are from 0 to 1 and shown as percentages."""
        return self.unit is Unit.FRACTION

    def score(self, value: float) -> float:
        """Return the value with the sign for which higher is better."""
        return value if self.higher_is_better else -value


LOSS = Metric("loss", "loss", Unit.NUMBER, higher_is_better=False)
"""The mean loss over the images."""


@dataclass(frozen=True)
class Task:
    """A task: the form of its targets, its metrics and its loss.

    The first of `metrics` selects the weights, equal values by the loss. `train_metrics` are measured on the training
    batches. `loss` takes the place of a recipe's loss that does not suit the targets. `recipe` is the default recipe;
    without one it depends on the images. `has_eval_loss` is False if the networks compute losses in training alone.
    """

    name: str
    reference: str
    target: TargetKind
    metrics: tuple[Metric, ...]
    loss: str
    train_metrics: tuple[Metric, ...]
    recipe: str = ""
    has_eval_loss: bool = True

    @property
    def labels_whole_image(self) -> bool:
        """True if a target is of the whole image, which may be resized without it: no mask and no box."""
        return self.target in (TargetKind.CLASS, TargetKind.MULTI_HOT, TargetKind.VALUES)

    @property
    def keeps_outputs(self) -> bool:
        """True if an evaluation keeps the outputs of all samples; those for each pixel would be too many."""
        return self.labels_whole_image

    @property
    def selection_metric(self) -> Metric:
        """The metric that selects the weights of a run."""
        return self.metrics[0]

    @property
    def train_metric(self) -> Metric:
        """The first metric of the training batches."""
        return self.train_metrics[0]

    def metric(self, name: str) -> Metric:
        """Return a metric by its name, for "" the one that selects the weights. Raises ValueError with the nearest."""
        measured = (*self.metrics, LOSS) if self.has_eval_loss else self.metrics
        metrics = {"": self.selection_metric, **{metric.name: metric for metric in measured}}
        if name not in metrics:
            raise unknown_name(f"metric of the task {self.name}", name, [known for known in metrics if known])
        return metrics[name]


_ACCURACY = Metric("top1", "accuracy")
_MAE = Metric("mae", "mean absolute error", Unit.TARGET, False, "MAE")
_PIXEL_ACCURACY = Metric("pixel_accuracy", "pixel accuracy", abbreviation="pixels")
_TASKS = (
    Task(
        "classification",
        "one class per image (Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs)",
        TargetKind.CLASS,
        (_ACCURACY, Metric("top5", "top-5 accuracy", abbreviation="top-5")),
        "cross-entropy",
        (_ACCURACY,),
    ),
    Task(
        "multi-label",
        "any number of classes an image (Everingham et al. 2010, The PASCAL VOC Challenge, Sec. 4.1)",
        TargetKind.MULTI_HOT,
        (
            Metric("map", "mean average precision", abbreviation="mAP"),
            Metric("f1_micro", "F1, micro average"),
            Metric("f1_macro", "F1, macro average"),
            Metric("exact_match", "exact match"),
        ),
        "bce",
        (Metric("label_accuracy", "label accuracy", abbreviation="labels"),),
    ),
    Task(
        "regression",
        "numbers per image (Lathuilière et al. 2020, A Comprehensive Analysis of Deep Regression)",
        TargetKind.VALUES,
        (
            _MAE,
            Metric("rmse", "root mean squared error", Unit.TARGET, False, "RMSE"),
            Metric("r2", "R²", Unit.NUMBER),
        ),
        "huber",
        (_MAE,),
    ),
    Task(
        "segmentation",
        "the class of each pixel (Long, Shelhamer, Darrell 2015, Fully Convolutional Networks)",
        TargetKind.MASK,
        (Metric("miou", "mean IoU", abbreviation="mIoU"), _PIXEL_ACCURACY),
        "cross-entropy",
        (_PIXEL_ACCURACY,),
        recipe="segmentation",
    ),
    Task(
        "detection",
        "boxes around objects and their classes (Girshick et al. 2014, Rich Feature Hierarchies, R-CNN)",
        TargetKind.BOXES,
        (
            Metric("ap", "COCO AP", abbreviation="AP"),
            Metric("ap50", "AP at IoU 0.5", abbreviation="AP50"),
            Metric("ap75", "AP at IoU 0.75", abbreviation="AP75"),
            Metric("voc_map", "VOC mAP", abbreviation="mAP"),
            Metric("mask_ap", "mask AP", abbreviation="mask AP"),
        ),
        "detector",
        (LOSS,),
        recipe="detection-small",
        has_eval_loss=False,
    ),
)
TASKS: Table[Task] = Table("task", {task.name: task for task in _TASKS})
DEFAULT_TASK = "classification"
_METRICS: dict[str, Table[Metric]] = {}
"""The metrics of each task to which one was added."""


class TaskByName:
    """A class attribute that is the task of a name, with the metrics that users have registered for it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Task:
        return TASKS[self.name]


def add_metric(task: str, metric: Metric, selects: bool = False) -> None:
    """Add a metric to a task; with `selects` it takes the place of the one that selects the weights.

    The same metric may be added again. Raises ValueError for an unknown task, and for another metric of a name that the
    task has already.
    """
    known = find_task(task)
    if task not in _METRICS:
        builtin = {builtin.name: builtin for builtin in (*known.metrics, LOSS)}
        _METRICS[task] = Table(f"metric of {task}", builtin, is_saved=False)
    _METRICS[task].register(metric.name, metric)
    others = [other for other in known.metrics if other.name != metric.name]
    metrics = (metric, *others) if selects else (*others, metric)
    TASKS[task] = replace(known, metrics=metrics)


def all_metrics() -> tuple[Metric, ...]:
    """Return the loss and every metric of the tasks, each name once."""
    metrics = {LOSS.name: LOSS}
    for task in TASKS.values():
        for metric in (*task.metrics, *task.train_metrics):
            metrics.setdefault(metric.name, metric)
    return tuple(metrics.values())


def find_task(name: str) -> Task:
    """Return a task by its name. Raises ValueError with the nearest name."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
