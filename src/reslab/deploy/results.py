"""What a prediction says of the decoded output of one image, by the form of the targets of the task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.prediction import ClassScore
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.task_type import TaskType

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class ResultRules:
    """What the predictions of a task are.

    `fields(task, decoded, top_k)` returns fields of `Prediction` from what `TaskType.decode` returns for one image.
    `no_fields` are those of an image that could not be read. `has_temperature`: a temperature divides the logits;
    `has_probabilities`: the decoded output is a probability of each class; `has_confusion`: one class is predicted.
    `is_map`: outputs are of the size of the image, which the network gets whole. `main_outputs` returns the output (N,)
    that Grad-CAM explains by default; None if an output is not one number.
    """

    fields: Callable[[Any, Tensor, int | None], dict[str, Any]]
    no_fields: dict[str, Any]
    has_temperature: bool = False
    has_probabilities: bool = False
    has_confusion: bool = False
    is_map: bool = False
    main_outputs: Callable[[Tensor], Tensor] | None = None


def result_rules(task: TaskType) -> ResultRules:
    """Return the rules of a task. Raises ValueError for one whose predictions are of no known form."""
    if task.spec.target not in RESULT_RULES:
        names = ", ".join(RESULT_RULES)
        raise invalid(f"a task with targets of the form {names}", f"{task.spec.name}, {task.spec.target}")
    return RESULT_RULES[task.spec.target]


def _top_classes(task: TaskType, probabilities: Tensor, top_k: int | None) -> dict[str, Any]:
    """Return the `top_k` (5) most probable classes."""
    values, labels = probabilities.topk(min(top_k or DEFAULT_TOP_K, len(task.classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return {"classes": tuple(ClassScore(task.classes[label], value) for label, value in pairs)}


def _shown_classes(task: MultiLabel, probabilities: Tensor, top_k: int | None) -> dict[str, Any]:
    """Return the classes whose probability reaches their threshold, or the `top_k` most probable ones."""
    scores = [
        ClassScore(name, value, threshold)
        for name, value, threshold in zip(task.classes, probabilities.tolist(), task.used_thresholds, strict=True)
    ]
    ranked = sorted(scores, key=lambda score: -score.probability)
    shown = [score for score in ranked if score.is_predicted] if top_k is None else ranked[:top_k]
    return {"classes": tuple(shown)}


def _values(task: TaskType, values: Tensor, top_k: int | None) -> dict[str, Any]:
    """Return the value of each target."""
    return {"values": dict(zip(task.classes, values.tolist(), strict=True))}


def _mask(task: TaskType, mask: Tensor, top_k: int | None) -> dict[str, Any]:
    """Return the mask, and the shares of the classes in it (with `top_k` the largest ones), the largest first."""
    counts = torch.bincount(mask.flatten().long(), minlength=len(task.classes))
    largest = counts.argsort(descending=True, stable=True)[:top_k].tolist()
    shares = {task.classes[label]: int(counts[label]) / mask.numel() for label in largest if counts[label]}
    return {"shares": shares, "mask": mask}


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
    TargetKind.MASK: ResultRules(_mask, {"shares": {}}, is_map=True),
}
