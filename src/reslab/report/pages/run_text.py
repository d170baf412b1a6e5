"""What a run's page says in sentences, each written from the numbers it stands beside.

What a page is made from: plain, frozen values that know nothing of networks, tensors or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reslab.metrics.classification import wilson_interval
from reslab.report.format import count, number, percent, plural
from reslab.report.series import Log, Series, eval_series, last_value, splits, train_series


def run_summary(scores: Mapping[str, Any]) -> str:
    """One sentence: `98.3 % of 360 test images right: 6 mistakes.`"""
    num_samples = int(scores.get("num_samples") or 0)
    if not num_samples:
        return "No held-out images: nothing has been judged yet."
    num_correct = int(scores["num_correct"])
    images = f"{count(num_samples)} {split_words(scores.get('split'))} image{'' if num_samples == 1 else 's'}"
    if num_correct == num_samples:
        return f"{'The' if num_samples == 1 else 'All'} {images} right: no mistake."
    return f"{percent(num_correct / num_samples, 1)} of {images} right: {plural(num_samples - num_correct, 'mistake')}."


def interval_words(scores: Mapping[str, Any]) -> str:
    """How far the accuracy can be trusted, given the number of images: the 95 % interval of Wilson."""
    num_samples = int(scores.get("num_samples") or 0)
    if not num_samples:
        return ""
    low, high = wilson_interval(int(scores["num_correct"]), num_samples)
    return f"95 % interval {100 * low:.1f} to {percent(high, 1)}"


def loss_words(log: Log) -> str:
    """Where the losses began and ended."""
    parts = [_fall("training loss", train_series(log, "loss"))]
    parts += [_fall(f"{split_words(split)} loss", eval_series(log, split, "loss")) for split in splits(log)]
    return _sentence(parts)


def accuracy_words(log: Log) -> str:
    """Where the accuracies began and ended, and the best that was held out."""
    parts = [_rise("training accuracy", train_series(log, "top1"))]
    parts += [_rise(f"{split_words(split)} accuracy", eval_series(log, split, "top1")) for split in splits(log)]
    return _sentence(parts)


def lost_words(log: Log) -> list[str]:
    """A sentence where losses are no finite numbers: a diverged run is told, not hidden."""
    lines = [("training", train_series(log, "loss"))]
    lines += [(split_words(split), eval_series(log, split, "loss")) for split in splits(log)]
    lost = [(name, line) for name, line in lines if line.num_lost]
    if not lost:
        return []
    counts = ", ".join(f"{name} loss {times(line.num_lost)}" for name, line in lost)
    first = min(line.first_lost for _, line in lost)
    return [
        f"The training diverged: the loss was not a finite number, first at epoch {first:.4g} ({counts}). "
        "A smaller learning rate or a longer warm-up is the usual cure."
    ]


def times(number_of: int) -> str:
    """`once`, `twice`, `31 times`."""
    return {1: "once", 2: "twice"}.get(number_of, f"{count(number_of)} times")


def rate_words(line: Series) -> str:
    """The learning rate's highest and last value."""
    top, end = max(line.y), line.y[-1]
    if min(line.y) == top:
        return f"{top:.3g} throughout."
    return f"At most {top:.3g}, {end:.3g} at the end."


def split_words(split: object) -> str:
    """A split's name as an adjective: `validation`, `test`, `training`; `held-out` where it has none."""
    name = str(split or "held-out")
    return {"val": "validation", "valid": "validation", "train": "training"}.get(name, name)


def _fall(name: str, line: Series) -> str:
    if not line:
        return ""
    end = last_value(line) if name.startswith("training") else line.y[-1]
    if len(line.x) == 1:
        return f"{name} {number(end, 3)}"
    return f"{name} from {number(line.y[0], 3)} to {number(end, 3)}"


def _rise(name: str, line: Series) -> str:
    if not line:
        return ""
    end = last_value(line) if name.startswith("training") else line.y[-1]
    best = max(line.y)
    said = f"{name} ends at {percent(end, 1)}"
    return said if name.startswith("training") or best - end < 0.0005 else f"{said} (best {percent(best, 1)})"


def _sentence(parts: Sequence[str]) -> str:
    said = "; ".join(part for part in parts if part)
    return said[:1].upper() + said[1:] + "." if said else ""


@dataclass(frozen=True)
class Mistake:
    """One image put in the wrong class: uint8 pixels (H, W) or (H, W, 3), class indices, the probability given."""

    image: np.ndarray
    true: int
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
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    classes: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    mistakes: Sequence[Mistake] = ()
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
    gradient_norms_end: Sequence[tuple[str, float]] = ()
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
    facts: Mapping[str, str] = field(default_factory=dict)
    num_samples: int = 0
