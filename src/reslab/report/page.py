"""What a page is made from: plain, frozen values that know nothing of networks, tensors or files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
