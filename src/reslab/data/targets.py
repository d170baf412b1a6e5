"""The labels of a dataset by the kind of its targets: what is required of them, their outputs, groups and counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reslab.spec.errors import invalid
from reslab.spec.task import TASKS, TargetKind, find_task

_NUM_NAMED = 3
_NUM_QUANTILES = 10

ImageName = Callable[[int], str]
"""The name of an image by its index, for errors."""


@dataclass(frozen=True)
class TargetRules:
    """The rules for the labels of a target kind.

    Labels have `dtype` and `ndim`, as `required` says in words; `check` raises ValueError naming the images whose
    labels are invalid. An output is called `nouns` (singular, plural), and there are at least `min_outputs`.
    `count_outputs` returns the number of outputs that labels need; `exact_outputs` is True if there can be no more;
    `name_outputs` names them where nobody else does.
    `groups` returns a group (N,) int64 for each image, of which splits and subsets take the same share; `count_images`
    the number of images of each class, None where labels are not classes. `item` makes the label of `dataset[i]`.
    `keeps_classes`: a split or a subset leaves every class images. `can_be_cut`: CutMix suits the labels;
    `can_be_mixed`: MixUp does. `whole_images`: images are evaluated whole, whatever the size of a training crop;
    `resized_by_network`: the network itself resizes and normalizes them.
    """

    required: str
    dtype: torch.dtype
    ndim: int
    nearest: Callable[[Tensor], str]
    check: Callable[[Tensor, ImageName], None]
    count_outputs: Callable[[Tensor], int]
    groups: Callable[[Tensor], Tensor]
    count_images: Callable[[Tensor, int], Tensor] | None
    item: Callable[[Tensor], Any]
    nouns: tuple[str, str] = ("class", "classes")
    min_outputs: int = 1
    exact_outputs: bool = True
    name_outputs: Callable[[int], tuple[str, ...]] = lambda num_outputs: tuple(map(str, range(num_outputs)))
    keeps_classes: bool = False
    can_be_cut: bool = True
    can_be_mixed: bool = True
    whole_images: bool = False
    resized_by_network: bool = False


def _check_class_labels(labels: Tensor, _: ImageName) -> None:
    if len(labels) and int(labels.min()) < 0:
        raise invalid("labels from 0 up", f"label {int(labels.min())}", nearest="0")


def _check_multi_hot_labels(labels: Tensor, name: ImageName) -> None:
    is_invalid = (labels != 0) & (labels != 1)
    if bool(is_invalid.any()):
        got = _name_values(labels, is_invalid, name)
        raise invalid("labels of 0 and 1, 1 for each class that an image shows", got, next_step="correct these labels")


def _check_value_labels(labels: Tensor, name: ImageName) -> None:
    is_invalid = ~labels.isfinite()
    if bool(is_invalid.any()):
        next_step = "fill in these values, or leave these images out"
        raise invalid("finite numbers as labels", _name_values(labels, is_invalid, name), next_step=next_step)


def _name_values(labels: Tensor, is_invalid: Tensor, name: ImageName) -> str:
    """Return the first invalid values with their images: `nan for #3, inf for #7 and 2 more`."""
    places = is_invalid.nonzero().tolist()
    texts = [f"{labels[i, k].item():g} for {name(i)}" for i, k in places[:_NUM_NAMED]]
    return ", ".join(texts) + (f" and {len(places) - _NUM_NAMED:,} more" if len(places) > _NUM_NAMED else "")


def _count_classes(labels: Tensor) -> int:
    return int(labels.max()) + 1 if len(labels) else 0


def _rarest_class(labels: Tensor) -> Tensor:
    """Return of each image the class with the fewest images among those it shows; C, the number of classes, of none.

    Of equally rare classes the first counts. The idea is that of iterative stratification (Sechidis, Tsoumakas,
    Vlahavas 2011), which distributes the rarest label first.
    """
    num_classes = labels.shape[1]
    by_rarity = labels.sum(0).argsort(stable=True)
    rank = by_rarity.argsort()
    lowest_rank = torch.where(labels > 0, rank, num_classes).amin(1)
    return torch.cat((by_rarity, torch.tensor([num_classes])))[lowest_rank]


def _quantile_group(labels: Tensor) -> Tensor:
    """Return of each image the decile (0 to 9) of its first value."""
    rank = labels[:, 0].argsort(stable=True).argsort()
    return rank * _NUM_QUANTILES // max(1, len(labels))


def _nearest_class_labels(labels: Tensor) -> str:
    is_one_hot = labels.ndim == 2 and labels.shape[1] > 1
    return "labels.argmax(1)" if is_one_hot else "labels.long().flatten()"


def _nearest_float_labels(labels: Tensor) -> str:
    return {1: "labels.float()[:, None]", 2: "labels.float()" if labels.shape[-1] else ""}.get(labels.ndim, "")


def _name_values_by_number(num_values: int) -> tuple[str, ...]:
    return ("value",) if num_values == 1 else tuple(f"value {k}" for k in range(num_values))


TARGET_RULES: dict[TargetKind, TargetRules] = {
    TargetKind.CLASS: TargetRules(
        "labels (N,) in int64, one class per image",
        torch.int64,
        1,
        _nearest_class_labels,
        _check_class_labels,
        _count_classes,
        groups=lambda labels: labels,
        count_images=lambda labels, num_classes: labels.bincount(minlength=num_classes),
        item=int,
        min_outputs=2,
        exact_outputs=False,
        keeps_classes=True,
    ),
    TargetKind.MULTI_HOT: TargetRules(
        "labels (N, C) in float32, 1 for each class that an image shows and 0 for the others",
        torch.float32,
        2,
        _nearest_float_labels,
        _check_multi_hot_labels,
        lambda labels: labels.shape[1],
        groups=_rarest_class,
        count_images=lambda labels, _: labels.sum(0).long(),
        item=lambda label: label,
    ),
    TargetKind.VALUES: TargetRules(
        "labels (N, K) in float32, K numbers per image",
        torch.float32,
        2,
        _nearest_float_labels,
        _check_value_labels,
        lambda labels: labels.shape[1],
        groups=_quantile_group,
        count_images=None,
        item=lambda label: label,
        nouns=("value", "values"),
        name_outputs=_name_values_by_number,
        can_be_cut=False,
    ),
}
_GROUP_LABELS = TargetRules(
    "labels (N,) in int64 of zeros, as the targets are not of an image as a whole",
    torch.int64,
    1,
    _nearest_class_labels,
    _check_class_labels,
    _count_classes,
    groups=lambda labels: labels,
    count_images=None,
    item=int,
    exact_outputs=False,
    can_be_cut=False,
    can_be_mixed=False,
    whole_images=True,
)
TARGET_RULES |= {
    TargetKind.MASK: replace(_GROUP_LABELS, min_outputs=2),
    TargetKind.BOXES: replace(_GROUP_LABELS, resized_by_network=True),
}
TASK_OF_TARGET = {task.target: task.name for task in TASKS.values()}
"""The task that labels of a target kind suit."""


def check_labels(
    labels: Tensor,
    num_images: int,
    target_kind: TargetKind = TargetKind.CLASS,
    name: ImageName = lambda i: f"#{i}",
) -> None:
    """Raise ValueError unless labels are of a target kind, valid, and one for each image."""
    rules = TARGET_RULES[target_kind]
    if labels.dtype != rules.dtype or labels.ndim != rules.ndim or 0 in labels.shape[1:]:
        raise invalid(rules.required, f"{labels.dtype} of shape {tuple(labels.shape)}", nearest=rules.nearest(labels))
    if len(labels) != num_images:
        raise invalid(f"one label for each of {num_images} images", f"{len(labels)} labels")
    rules.check(labels, name)


def check_target_kind(target_kind: TargetKind, task: str, split_title: str) -> None:
    """Raise ValueError unless a split's labels are of the kind that a task needs."""
    if target_kind != find_task(task).target:
        suited = TASK_OF_TARGET[target_kind]
        raise invalid(f"labels for the task {task}", f"{split_title} labels for {suited}", nearest=suited)


def check_outputs(labels: Tensor, target_kind: TargetKind, outputs: Sequence[str], split_title: str) -> None:
    """Raise ValueError unless the names of the outputs suit the labels of a split."""
    rules = TARGET_RULES[target_kind]
    num_needed = rules.count_outputs(labels)
    if rules.exact_outputs and num_needed != len(outputs):
        required = f"{split_title} labels of shape (N, {len(outputs)}), a column for each of the {rules.nouns[1]} "
        next_step = f"pass the names of the {rules.nouns[1]}, one a column: classes=[...]"
        raise invalid(f"{required}{', '.join(outputs[:5])}", f"shape {tuple(labels.shape)}", next_step=next_step)
    if num_needed > len(outputs):
        raise invalid(f"{split_title} labels from 0 to {len(outputs) - 1}", f"label {num_needed - 1}")


def resolve_num_outputs(labels: Tensor, target_kind: TargetKind, requested: int | None) -> int:
    """Return the number of outputs: the requested one, or the smallest that labels need.

    Raises ValueError if it does not suit the labels.
    """
    rules = TARGET_RULES[target_kind]
    num_needed = rules.count_outputs(labels)
    if requested is None or requested == num_needed:
        return num_needed
    if rules.exact_outputs:
        required = f"{num_needed} {rules.nouns[num_needed != 1]}, the columns of the labels"
        raise invalid(required, requested, nearest=str(num_needed))
    if requested < num_needed:
        required = f"at least {num_needed} classes for labels up to {num_needed - 1}"
        raise invalid(required, requested, nearest=str(num_needed))
    return requested


def count_images(labels: Tensor, target_kind: TargetKind, num_classes: int) -> Tensor | None:
    """Return the number of images of each class, (num_classes,) int64; None where labels are not classes."""
    count = TARGET_RULES[target_kind].count_images
    return None if count is None else count(labels, num_classes)


def format_outputs(target_kind: TargetKind, num_outputs: int) -> str:
    """Return the number of outputs in words: `10 classes`, `1 value`."""
    return f"{num_outputs} {TARGET_RULES[target_kind].nouns[num_outputs != 1]}"


def describe_labels(labels: Tensor, target_kind: TargetKind) -> str:
    """Return the number of classes that images have, or of values: `10 classes`, `1 value`."""
    num_outputs = TARGET_RULES[target_kind].count_outputs(labels)
    counts = count_images(labels, target_kind, num_outputs)
    return format_outputs(target_kind, num_outputs if counts is None else int((counts > 0).sum()))
