"""The prediction for one image: classes, values, a mask or boxes by task, or the error if it could not be read.

It is made from the decoded output of the network by the form of the targets of the task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from reslab.data.segments import RunLengths
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.task_type import TaskType

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassScore:
    """The name of a class and its predicted probability; in multi-label tasks also the class's threshold."""

    name: str
    probability: float
    threshold: float | None = None

    @property
    def is_predicted(self) -> bool:
        """True if the probability reaches the threshold, or if there is none."""
        return self.threshold is None or self.probability >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return name, probability and, if there is one, threshold."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        return {"name": self.name, "probability": self.probability, **threshold}


@dataclass(frozen=True)
class DetectedBox:
    """An object in an image: the name of its class, its score, its box and, of Mask R-CNN, its mask.

    `box` is (x1, y1, x2, y2) in pixels of the image, the right and lower ends excluded; `segment` the mask in COCO's
    run-length encoding.
    """

    name: str
    score: float
    box: Box
    segment: RunLengths | None = field(default=None, compare=False, repr=False)

    @property
    def mask(self) -> Tensor | None:
        """The mask (H, W) bool, of the size of the image; None without one."""
        segment = self.segment
        return None if segment is None else torch.from_numpy(segment.decode(segment.height, segment.width).copy())

    def to_dict(self) -> dict[str, Any]:
        """Return name, score, box and, if there is one, the mask as `segmentation`: its size and COCO's counts."""
        segment = self.segment
        mask = {} if segment is None else {"segmentation": segment.to_dict()}
        return {"name": self.name, "score": self.score, "box": list(self.box), **mask}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "DetectedBox":
        """Return the box that `to_dict` wrote."""
        mask = entry.get("segmentation")
        segment = None if mask is None else RunLengths(mask["counts"].encode(), *mask["size"])
        return cls(entry["name"], entry["score"], as_box(entry["box"]), segment)


def as_box(numbers: Sequence[float]) -> Box:
    """Return four numbers as a box."""
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image, or the error if it could not be read.

    By task it has `classes`, the most probable first; `values`, the number of each target in its unit; or `mask`
    (H, W), the class of each pixel in uint8, with `shares`, the fraction of the pixels of each class, and the files
    `mask_path` and `overlay_path` if masks were written; or `boxes`, the highest score first, with the file
    `overlay_path` if they were drawn. What other tasks have is empty or None.

    `warning` is what the decoder of a damaged JPEG said that could still be read. `embedding` and `grad_cam` (the path
    of the heatmap) are empty unless they were requested.
    """

    path: str
    classes: tuple[ClassScore, ...] = ()
    error: str = ""
    embedding: tuple[float, ...] = ()
    grad_cam: str = ""
    warning: str = ""
    values: Mapping[str, float] | None = None
    shares: Mapping[str, float] | None = None
    boxes: tuple[DetectedBox, ...] | None = None
    mask: Tensor | None = field(default=None, compare=False, repr=False)
    mask_path: str = ""
    overlay_path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return path, what was predicted, and what else is not empty; `mask` and `overlay` are paths."""
        results = {"values": self.values, "shares": self.shares}
        given: dict[str, Any] = {name: dict(result) for name, result in results.items() if result is not None}
        if self.boxes is not None:
            given["boxes"] = [box.to_dict() for box in self.boxes]
        classes = {} if given else {"classes": [score.to_dict() for score in self.classes]}
        optional = {
            "mask": self.mask_path,
            "overlay": self.overlay_path,
            "embedding": list(self.embedding),
            "grad_cam": self.grad_cam,
            "warning": self.warning,
            "error": self.error,
        }
        return {"path": self.path, **given, **classes, **{name: value for name, value in optional.items() if value}}


def prediction_from_dict(row: Mapping[str, Any]) -> Prediction:
    """Return the prediction that `to_dict` wrote, without the pixels of a mask."""
    return Prediction(
        path=row["path"],
        classes=tuple(ClassScore(**entry) for entry in row.get("classes", ())),
        error=row.get("error", ""),
        embedding=tuple(row.get("embedding", ())),
        grad_cam=row.get("grad_cam", ""),
        warning=row.get("warning", ""),
        values=row.get("values"),
        shares=row.get("shares"),
        boxes=None if row.get("boxes") is None else tuple(map(DetectedBox.from_dict, row["boxes"])),
        mask_path=row.get("mask", ""),
        overlay_path=row.get("overlay", ""),
    )


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
