"""What a run's page says in sentences, each written from the numbers it stands beside.

What a page is made from: plain, frozen values that know nothing of networks, tensors or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reslab.metrics.classification import wilson_interval
from reslab.report.format import format_int, format_number, format_percent, pluralize
from reslab.report.series import LogRecords, Series, eval_series, eval_splits, tail_mean, train_series


def run_summary_text(metrics: Mapping[str, Any]) -> str:
    """One sentence: `98.3 % of 360 test images right: 6 mistakes.`"""
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return "No held-out images: nothing has been judged yet."
    num_correct = int(metrics["num_correct"])
    images_text = (
        f"{format_int(num_samples)} {split_adjective(metrics.get('split'))} image{'' if num_samples == 1 else 's'}"
    )
    if num_correct == num_samples:
        return f"{'The' if num_samples == 1 else 'All'} {images_text} right: no mistake."
    return f"{format_percent(num_correct / num_samples, 1)} of {images_text} right: {pluralize(num_samples - num_correct, 'mistake')}."


def confidence_interval_text(metrics: Mapping[str, Any]) -> str:
    """How far the accuracy can be trusted, given the number of images: the 95 % interval of Wilson."""
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return ""
    low, high = wilson_interval(int(metrics["num_correct"]), num_samples)
    return f"95 % interval {100 * low:.1f} to {format_percent(high, 1)}"


def loss_text(log: LogRecords) -> str:
    """Where the losses began and ended."""
    clauses = [_loss_range_text("training loss", train_series(log, "loss"))]
    clauses += [
        _loss_range_text(f"{split_adjective(split)} loss", eval_series(log, split, "loss"))
        for split in eval_splits(log)
    ]
    return _join_clauses(clauses)


def accuracy_text(log: LogRecords) -> str:
    """Where the accuracies began and ended, and the best that was held out."""
    clauses = [_accuracy_range_text("training accuracy", train_series(log, "top1"))]
    clauses += [
        _accuracy_range_text(f"{split_adjective(split)} accuracy", eval_series(log, split, "top1"))
        for split in eval_splits(log)
    ]
    return _join_clauses(clauses)


def non_finite_warnings(log: LogRecords) -> list[str]:
    """A sentence where losses are no finite numbers: a diverged run is told, not hidden."""
    named_series = [("training", train_series(log, "loss"))]
    named_series += [(split_adjective(split), eval_series(log, split, "loss")) for split in eval_splits(log)]
    non_finite = [(name, series) for name, series in named_series if series.num_non_finite]
    if not non_finite:
        return []
    counts_text = ", ".join(f"{name} loss {format_times(series.num_non_finite)}" for name, series in non_finite)
    first_epoch = min(series.first_non_finite for _, series in non_finite)
    return [
        f"The training diverged: the loss was not a finite number, first at epoch {first_epoch:.4g} ({counts_text}). "
        "A smaller learning rate or a longer warm-up is the usual cure."
    ]


def format_times(n: int) -> str:
    """`once`, `twice`, `31 times`."""
    return {1: "once", 2: "twice"}.get(n, f"{format_int(n)} times")


def lr_text(series: Series) -> str:
    """The learning rate's highest and last value."""
    highest, final = max(series.y), series.y[-1]
    if min(series.y) == highest:
        return f"{highest:.3g} throughout."
    return f"At most {highest:.3g}, {final:.3g} at the end."


def split_adjective(split: object) -> str:
    """A split's name as an adjective: `validation`, `test`, `training`; `held-out` where it has none."""
    name = str(split or "held-out")
    return {"val": "validation", "valid": "validation", "train": "training"}.get(name, name)


def _loss_range_text(name: str, series: Series) -> str:
    if not series:
        return ""
    final = tail_mean(series) if name.startswith("training") else series.y[-1]
    if len(series.x) == 1:
        return f"{name} {format_number(final, 3)}"
    return f"{name} from {format_number(series.y[0], 3)} to {format_number(final, 3)}"


def _accuracy_range_text(name: str, series: Series) -> str:
    if not series:
        return ""
    final = tail_mean(series) if name.startswith("training") else series.y[-1]
    best = max(series.y)
    text = f"{name} ends at {format_percent(final, 1)}"
    return text if name.startswith("training") or best - final < 0.0005 else f"{text} (best {format_percent(best, 1)})"


def _join_clauses(clauses: Sequence[str]) -> str:
    text = "; ".join(clause for clause in clauses if clause)
    return text[:1].upper() + text[1:] + "." if text else ""


@dataclass(frozen=True)
class MisclassifiedImage:
    """One image put in the wrong class: uint8 pixels (H, W) or (H, W, 3), class indices, the probability given."""

    image: np.ndarray
    label: int
    predicted: int
    probability: float
    name: str = ""


@dataclass(frozen=True)
class RunPage:
    """What the page of one run shows; every part but the title may be empty.

    `scores` holds split, top1, top5 (None below 5 classes), loss, num_samples, num_correct and chosen (how the weights
    were chosen, in words); `log` the lines of log.jsonl; `confusion[true][predicted]` counts; `layers` dicts of name,
    output_shape (without the batch), params and macs; `calibration` ece, reliability (bins of low, high, num_samples,
    confidence, accuracy) and, where a temperature was fitted, temperature, fitted_on, fitted_images, ece_scaled,
    reliability_scaled, in_halves; `kind` says what page it is; an empty `summary` is written from the scores.
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
    calibration: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "Run report"


@dataclass(frozen=True)
class DemoNetwork:
    """One of the two networks of the demonstration: its log, its accuracy as a fraction, its time.

    `gradient_norms` are (unit, norm of the loss's gradient at that unit's input), from the first unit to the last,
    at initialisation; `gradient_norms_end` the same after training, where measured.
    """

    name: str
    log: Sequence[Mapping[str, Any]]
    gradient_norms: Sequence[tuple[str, float]]
    top1: float
    train_seconds: float
    gradient_norms_trained: Sequence[tuple[str, float]] = ()
    depth: int = 0
    params: int = 0


@dataclass(frozen=True)
class DemoPage:
    """What the page of `reslab demo` shows: `networks` is the residual network, then its plain twin.

    An empty `summary` is written from the numbers; `num_samples` is the size of the held-out set, 0 if not known.
    """

    title: str
    networks: Sequence[DemoNetwork]
    summary: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_samples: int = 0
