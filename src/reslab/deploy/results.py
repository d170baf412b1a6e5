"""Predictions from the decoded output of one image, by the form of the targets of the task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.prediction import ClassScore, DetectedBox
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.task_type import TaskType

DEFAULT_TOP_K = 5
DEFAULT_MIN_SCORE = 0.5
"""The least score of the boxes that are printed and drawn."""


class OutputForm(StrEnum):
    """The form of a network's output for one image."""

    VECTOR = "vector"
    """A number for each class or target."""
    MAP = "map"
    """Numbers for each pixel of the image, which the network gets whole."""
    BOXES = "boxes"
    """Boxes with classes and scores in the image, which the network gets whole."""


@dataclass(frozen=True)
class ResultLimits:
    """The limits on a prediction: the `top_k` highest classes or boxes, boxes from `min_score`."""

    top_k: int | None = None
    min_score: float = 0.0


NO_LIMITS = ResultLimits()


@dataclass(frozen=True)
class ResultRules:
    """The rules of a task's predictions.

    `fields(task, decoded, limits)` returns fields of `Prediction` from what `TaskType.decode` returns for one image, of
    a detector from its boxes. `no_fields` are those of an image that could not be read. `has_temperature`: a
    temperature divides the logits; `has_probabilities`: the decoded output is a probability of each class;
    `has_confusion`: one class is predicted. `main_outputs` returns the output (N,) that Grad-CAM explains by default,
    of a map from the decoded masks (N, H, W); None if there is no such output.
    """

    fields: Callable[[Any, Any, ResultLimits], dict[str, Any]]
    no_fields: dict[str, Any]
    has_temperature: bool = False
    has_probabilities: bool = False
    has_confusion: bool = False
    form: OutputForm = OutputForm.VECTOR
    main_outputs: Callable[[Tensor], Tensor] | None = None


def result_rules(task: TaskType) -> ResultRules:
    """Return the rules of a task. Raises ValueError for one whose predictions are of no known form."""
    if task.spec.target not in RESULT_RULES:
        names = ", ".join(RESULT_RULES)
        raise invalid(f"a task with targets of the form {names}", f"{task.spec.name}, {task.spec.target}")
    return RESULT_RULES[task.spec.target]


def _top_classes(task: TaskType, probabilities: Tensor, limits: ResultLimits) -> dict[str, Any]:
    """Return the `top_k` (5) most probable classes."""
    values, labels = probabilities.topk(min(limits.top_k or DEFAULT_TOP_K, len(task.classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return {"classes": tuple(ClassScore(task.classes[label], value) for label, value in pairs)}


def _shown_classes(task: MultiLabel, probabilities: Tensor, limits: ResultLimits) -> dict[str, Any]:
    """Return the classes whose probability reaches their threshold, or the `top_k` most probable ones."""
    scores = [
        ClassScore(name, value, threshold)
        for name, value, threshold in zip(task.classes, probabilities.tolist(), task.used_thresholds, strict=True)
    ]
    ranked = sorted(scores, key=lambda score: -score.probability)
    shown = [score for score in ranked if score.is_predicted] if limits.top_k is None else ranked[: limits.top_k]
    return {"classes": tuple(shown)}


def _values(task: TaskType, values: Tensor, limits: ResultLimits) -> dict[str, Any]:
    """Return the value of each target."""
    return {"values": dict(zip(task.classes, values.tolist(), strict=True))}


def _mask(task: TaskType, mask: Tensor, limits: ResultLimits) -> dict[str, Any]:
    """Return the mask, and the shares of the classes in it (with `top_k` the largest ones), the largest first."""
    counts = torch.bincount(mask.flatten().long(), minlength=len(task.classes))
    largest = counts.argsort(descending=True, stable=True)[: limits.top_k].tolist()
    shares = {task.classes[label]: int(counts[label]) / mask.numel() for label in largest if counts[label]}
    return {"shares": shares, "mask": mask}


def _boxes(task: TaskType, boxes: Sequence[DetectedBox], limits: ResultLimits) -> dict[str, Any]:
    """Return the boxes from the least score, or the `top_k` of them with the highest scores."""
    return {"boxes": tuple(box for box in boxes if box.score >= limits.min_score)[: limits.top_k]}


def _largest_class(masks: Tensor) -> Tensor:
    """Return the class of the most pixels of masks (N, H, W), other than class 0 if there is another."""
    num_classes = int(masks.max()) + 1
    counts = torch.stack([torch.bincount(mask.flatten().long(), minlength=num_classes) for mask in masks])
    counts[:, 0] = 0
    return counts.argmax(1)


RESULT_RULES: dict[TargetKind, ResultRules] = {
    TargetKind.CLASS: ResultRules(
        _top_classes,
        {"classes": ()},
        has_temperature=True,
        has_probabilities=True,
        has_confusion=True,
        main_outputs=lambda logits: logits.argmax(1),
    ),
    TargetKind.MULTI_HOT: ResultRules(
        _shown_classes, {"classes": ()}, has_probabilities=True, main_outputs=lambda logits: logits.argmax(1)
    ),
    TargetKind.VALUES: ResultRules(
        _values, {"values": {}}, main_outputs=lambda outputs: torch.zeros(len(outputs), dtype=torch.int64)
    ),
    TargetKind.MASK: ResultRules(_mask, {"shares": {}}, form=OutputForm.MAP, main_outputs=_largest_class),
    TargetKind.BOXES: ResultRules(_boxes, {"boxes": ()}, form=OutputForm.BOXES),
}
