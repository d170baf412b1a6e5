"""Labels in memory made into those of a task: inferred where they leave no doubt, else as the user names it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reslab.data.targets import TARGET_RULES, TASK_OF_TARGET
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind, find_task

INFERRED_TASK_MESSAGES = {
    TargetKind.MULTI_HOT: "the labels are columns of 0 and 1, not one 1 a row: the task is multi-label",
    TargetKind.VALUES: "the labels are numbers with fractions: the task is regression",
    TargetKind.MASK: "the labels are masks of the size of the images: the task is segmentation",
}
"""Why labels are not read as classes, by the kind that they are read as."""


def convert_labels(labels: Tensor, task: str | None) -> tuple[Tensor, TargetKind]:
    """Return labels as those of a task, and their kind; without a task of the one that they leave no doubt about.

    Columns of 0 and 1 are for multi-label unless every row has one 1; floats with fractions are for regression unless
    every row is a distribution; all others are classes. Raises ValueError if they do not suit the task.
    """
    kind = infer_target_kind(labels) if task is None else find_task(task).target
    if kind not in _CONVERTERS:
        raise invalid(
            f"a task with labels as tensors ({', '.join(TASK_OF_TARGET[known] for known in _CONVERTERS)})", str(task)
        )
    return _CONVERTERS[kind](labels), kind


def infer_target_kind(labels: Tensor) -> TargetKind:
    """Return the kind of labels in memory; where several are possible, classes."""
    if labels.ndim not in (1, 2) or labels.is_complex():
        return TargetKind.CLASS
    is_table = labels.ndim == 2 and labels.shape[1] > 1
    if is_table and _has_rows_of_one(labels):
        return TargetKind.CLASS
    if is_table and bool(((labels == 0) | (labels == 1)).all()):
        return TargetKind.MULTI_HOT
    has_fractions = labels.is_floating_point() and bool(((labels != labels.round()) | ~labels.isfinite()).any())
    return TargetKind.VALUES if has_fractions else TargetKind.CLASS


def _has_rows_of_one(labels: Tensor) -> bool:
    """Return True if no label is negative and every row sums to 1: one-hot classes, or probabilities."""
    sums = labels.double().sum(1)
    return bool((labels >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def _to_classes(labels: Tensor) -> Tensor:
    is_table = labels.ndim == 2 and labels.shape[1] > 1
    if labels.is_floating_point() or labels.dtype == torch.bool or is_table:
        nearest = "labels.argmax(1)" if is_table else "labels.long()"
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        is_binary = labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all())
        other = "multi-label', where an image may show several classes" if is_binary else "regression', for numbers"
        raise invalid("labels as integers, one class an image", got, nearest, f"or pass task='{other}")
    return labels.to(torch.int64)


def _to_multi_hot(labels: Tensor) -> Tensor:
    is_binary_column = labels.ndim == 1 and bool(((labels == 0) | (labels == 1)).all())
    if labels.ndim == 1 and not is_binary_column:
        nearest = "torch.nn.functional.one_hot(labels).float()"
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise invalid(TARGET_RULES[TargetKind.MULTI_HOT].required, got, nearest)
    return (labels[:, None] if is_binary_column else labels).to(torch.float32)


def _to_values(labels: Tensor) -> Tensor:
    return (labels[:, None] if labels.ndim == 1 else labels).to(torch.float32)


_CONVERTERS: dict[TargetKind, Callable[[Tensor], Tensor]] = {
    TargetKind.CLASS: _to_classes,
    TargetKind.MULTI_HOT: _to_multi_hot,
    TargetKind.VALUES: _to_values,
}


def stack_labels(labels: Sequence[Any]) -> Tensor:
    """Return the labels of items as a tensor (N,) or (N, K); floats that are all whole numbers as integers.

    Raises ValueError for texts and for labels of several shapes.
    """
    tensors = [_to_tensor(label, item) for item, label in enumerate(labels)]
    other = next((item for item, tensor in enumerate(tensors) if tensor.shape != tensors[0].shape), None)
    if other is not None:
        shapes = " and ".join(f"{tuple(tensors[item].shape)} of item {item}" for item in (0, other))
        next_step = "where an image shows several classes, return a tensor with 0 or 1 for each class"
        raise invalid("labels of one shape", f"shape {shapes}", next_step=next_step)
    stacked = torch.stack(tensors)
    is_whole = stacked.ndim == 1 and stacked.is_floating_point() and bool((stacked == stacked.round()).all())
    return stacked.to(torch.int64) if is_whole else stacked


def _to_tensor(label: Any, item: int) -> Tensor:
    if isinstance(label, str):
        raise text_label_error(label)
    try:
        tensor = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        required = "a label as a number or a tensor"
        raise invalid(required, f"a {type(label).__name__} of item {item}") from None
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def text_label_error(label: str) -> ValueError:
    """Return the error for a text as a label, with the way to number texts."""
    nearest = "torch.tensor([classes.index(label) for label in labels])"
    next_step = "with classes = sorted(set(labels)), and pass as_dataset(..., classes=classes)"
    return invalid("labels as integers, one class an image", f"the text {str(label)!r}", nearest, next_step)
