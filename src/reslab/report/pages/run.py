"""The page of a run: metrics, training curves, classification results, and the size of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reslab.metrics.classification import wilson_interval
from reslab.report.colors import TRAINING
from reslab.report.format import (
    format_duration,
    format_int,
    format_number,
    format_percent,
    format_split,
    format_times,
)
from reslab.report.pages.classification import (
    MisclassifiedImage,
    calibration_context,
    confusion_context,
    per_class_context,
    top_losses_context,
)
from reslab.report.pages.components import make_tile, metric_panel
from reslab.report.pages.model_size import drawing_context, model_size_context
from reslab.report.series import Curve, LogRecords, Series, eval_series, eval_splits, tail_mean, train_series
from reslab.spec.arch import Arch


@dataclass(frozen=True)
class RunPage:
    """The values of a run's page; all except the title may be empty.

    `metrics` has split, top1, top5 (None below 5 classes), loss, num_samples, num_correct and `selection_text`, which
    says how the evaluated weights were selected. `log` are the records of log.jsonl. The confusion matrix counts images
    by [true class][predicted class]. `layers` are dicts of name, output_shape (without batch), params and macs. `arch`,
    where the network has one, is drawn.
    `calibration` has ece, reliability (bins of low, high, num_samples, confidence, accuracy) and, where a temperature
    was fitted, temperature, fit_split, fit_num_samples, cross_fitted, ece_after and reliability_after. An empty
    `summary` is written from the metrics.
    """

    title: str
    summary: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    classes: Sequence[str] = ()
    confusion_matrix: Sequence[Sequence[int]] = ()
    misclassified: Sequence[MisclassifiedImage] = ()
    layers: Sequence[Mapping[str, Any]] = ()
    depth: int = 0
    params: int = 0
    macs: int = 0
    arch: Arch | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "Run report"


@dataclass(frozen=True)
class LoggedMetric:
    """A metric of log.jsonl that the page plots: its `key`, its `name`, and how it is written and drawn.

    If `averaged`, the log holds the mean over the steps since the last record, else the value at that step.
    """

    key: str
    name: str
    unit: str = ""
    averaged: bool = True

    def format(self, value: float) -> str:
        """Return a value of the metric as text."""
        return format_percent(value, 1) if self.unit == "%" else format_number(value, 3)


# One plot each, where the log has it; a new metric needs one line here.
LOGGED_METRICS = (
    LoggedMetric("loss", "Loss"),
    LoggedMetric("top1", "Accuracy", unit="%"),
    LoggedMetric("grad_norm", "Gradient norm"),
    LoggedMetric("lr", "Learning rate", averaged=False),
)

# Anchor, key of the context that decides whether there is such a section, and title.
_SECTIONS = (
    ("training", "curves", "Training curves"),
    ("confusion", "confusion", "Confusion matrix"),
    ("top-losses", "top_losses_text", "Top losses"),
    ("classes", "class_rows", "Per-class metrics"),
    ("calibration", "calibration", "Calibration"),
    ("size", "size_tiles", "Size and cost"),
    ("metadata", "metadata", "Details"),
)


def run_context(page: RunPage) -> dict[str, Any]:
    """Return the values of `run.html`; an empty one leaves its section out.

    Raises ValueError where the confusion matrix does not fit the classes, or an image is not uint8 of shape (H, W) or
    (H, W, 3).
    """
    num_samples = int(page.metrics.get("num_samples") or 0)
    num_wrong = num_samples - int(page.metrics.get("num_correct") or 0) if num_samples else len(page.misclassified)
    split = str(page.metrics.get("split") or "")
    context: dict[str, Any] = {
        "kind": page.kind,
        "title": page.title,
        "summary": page.summary or run_summary_text(page.metrics),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": _metric_tiles(page.metrics),
        "selection": str(page.metrics.get("selection_text") or ""),
        **training_context(page.log),
        **confusion_context(page.confusion_matrix, page.classes),
        **per_class_context(page.confusion_matrix, page.classes),
        **top_losses_context(page.misclassified, page.classes, num_wrong, num_samples),
        **calibration_context(page.calibration, split),
        **model_size_context(page.layers, depth=page.depth, params=page.params, macs=page.macs),
        **drawing_context(page.arch),
    }
    context["sections"] = [(anchor, title) for anchor, key, title in _SECTIONS if context[key]]
    return context


def run_summary_text(metrics: Mapping[str, Any]) -> str:
    """Return one sentence: `98.3 % accuracy on 360 test images: 6 misclassified.`"""
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return "Not evaluated: there are no validation or test images."
    num_correct = int(metrics["num_correct"])
    images = f"{format_int(num_samples)} {format_split(metrics.get('split'))} image{'' if num_samples == 1 else 's'}"
    wrong = format_int(num_samples - num_correct) if num_correct < num_samples else "none"
    return f"{format_percent(num_correct / num_samples, 1)} accuracy on {images}: {wrong} misclassified."


def confidence_interval_text(metrics: Mapping[str, Any]) -> str:
    """Return the 95 % interval of the accuracy (Wilson), given the number of images."""
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return ""
    low, high = wilson_interval(int(metrics["num_correct"]), num_samples)
    return f"95 % interval {100 * low:.1f} to {format_percent(high, 1)}"


def _metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return []
    num_correct = int(metrics["num_correct"])
    split = format_split(metrics.get("split"))
    note = f"{format_int(num_correct)} of {format_int(num_samples)} {split} images"
    tiles = [make_tile("accuracy", format_percent(num_correct / num_samples), note, confidence_interval_text(metrics))]
    if metrics.get("top5") is not None:
        tiles.append(make_tile("top-5 accuracy", format_percent(metrics["top5"]), "class among the five most probable"))
    num_wrong = num_samples - num_correct
    tiles.append(make_tile("misclassified", format_int(num_wrong), _error_rate_text(num_wrong, num_samples)))
    if "loss" in metrics:
        tiles.append(make_tile("loss", format_number(metrics["loss"]), f"mean over the {split} images"))
    return [*tiles, *_train_metric_tiles(metrics)]


def _train_metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the training accuracies of the selected weights and of the last epoch, where the former was evaluated."""
    if "train_top1" not in metrics:
        return []
    columns = (
        ("train_top1", "train_loss", "the selected weights"),
        ("train_top1_running", "train_loss_running", "mean over the last epoch"),
    )
    return [
        make_tile("training accuracy", format_percent(metrics[top1]), note, f"loss {format_number(metrics[loss])}")
        for top1, loss, note in columns
        if top1 in metrics
    ]


def _error_rate_text(num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "all images classified correctly"
    if 3 * num_wrong > num_samples:
        return f"{format_percent(num_wrong / num_samples, 1)} of the images"
    return f"1 image in {format_int(round(num_samples / num_wrong))}"


def training_context(log: LogRecords) -> dict[str, Any]:
    """Return the plots of the logged metrics, the duration and throughput, and warnings of a diverged loss."""
    panels = [panel for metric in LOGGED_METRICS for panel in _metric_panels(log, metric)]
    return {"curves": panels, "speed_tiles": _speed_tiles(log), "warnings": non_finite_warnings(log)}


def _metric_panels(log: LogRecords, metric: LoggedMetric) -> list[dict[str, Any]]:
    """Return the plot of a metric, none where the log does not have it."""
    curves = metric_curves(log, metric)
    if not curves:
        return []
    from reslab.report.plots.curves import plot_metric

    figure = plot_metric(curves, metric.unit, is_small=not metric.averaged)
    return [metric_panel(figure, metric.key, metric.name, metric_text(log, metric))]


def metric_curves(log: LogRecords, metric: LoggedMetric) -> list[Curve]:
    """Return the evaluations as solid lines and training as a dashed gray one; solid where there is nothing else."""
    evaluations = [(split, eval_series(log, split, metric.key)) for split in eval_splits(log)]
    curves = [Curve(series, format_split(split)) for split, series in evaluations if series]
    training = train_series(log, metric.key, averaged=metric.averaged)
    if training:
        curves.append(Curve(training, "training", TRAINING, dashed=bool(curves), is_noisy=metric.averaged))
    return curves


def metric_text(log: LogRecords, metric: LoggedMetric) -> str:
    """Return where a metric starts and ends, in training and on each evaluated split."""
    training = train_series(log, metric.key, averaged=metric.averaged)
    if not metric.averaged:
        return _value_text(training)
    clauses = [_range_text("training", metric, training, final=tail_mean(training))] if training else []
    for split in eval_splits(log):
        series = eval_series(log, split, metric.key)
        if series:
            clauses.append(_range_text(format_split(split), metric, series, final=series.y[-1]))
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _range_text(name: str, metric: LoggedMetric, series: Series, *, final: float) -> str:
    label = f"{name} {metric.name.lower()}"
    if len(series.x) == 1:
        return f"{label} {metric.format(final)}"
    return f"{label} from {metric.format(series.y[0])} to {metric.format(final)}"


def _value_text(series: Series) -> str:
    highest, final = max(series.y), series.y[-1]
    return (
        f"{highest:.3g} throughout." if min(series.y) == highest else f"At most {highest:.3g}, {final:.3g} at the end."
    )


def non_finite_warnings(log: LogRecords) -> list[str]:
    """Return a warning where the loss became NaN or infinite, which the plots leave out."""
    losses = [("training", train_series(log, "loss"))]
    losses += [(format_split(split), eval_series(log, split, "loss")) for split in eval_splits(log)]
    diverged = [(name, series) for name, series in losses if series.num_non_finite]
    if not diverged:
        return []
    counts = ", ".join(f"{name} loss {format_times(series.num_non_finite)}" for name, series in diverged)
    first_epoch = min(series.first_non_finite for _, series in diverged)
    return [
        f"Training diverged: the loss became NaN or infinite, first at epoch {first_epoch:.4g} ({counts}). "
        "Try a smaller learning rate or a longer warmup."
    ]


def _speed_tiles(log: LogRecords) -> list[dict[str, Any]]:
    """Return how long training took, by its last record, and the median of its throughputs."""
    records = [record for record in log if record.get("kind") == "train"]
    if not records:
        return []
    last, tiles = records[-1], []
    if last.get("epoch") is not None:
        tiles.append(make_tile("epochs", f"{float(last['epoch']):.4g}"))
    if last.get("step") is not None:
        tiles.append(make_tile("steps", format_int(round(float(last["step"])))))
    if last.get("seconds") is not None:
        tiles.append(make_tile("training time", format_duration(float(last["seconds"]))))
    throughputs = train_series(log, "images_per_second", averaged=False).y
    if throughputs:
        tiles.append(make_tile("images/s", format_int(round(median(throughputs))), "median"))
    return tiles
