"""Make a dataset of what a user has in memory: tensors, or map-style torch datasets."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from reslab.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DatasetSplits,
    SplitMethod,
    channel_statistics,
    float_range_messages,
)
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.image_datasets import ImageDataset, TensorImageDataset, WrappedImageDataset, item_to_tensor
from reslab.data.splits import check_label_coverage, is_stratified, rare_class_messages, restore_split, split_off
from reslab.data.target_datasets import MaskImageDataset, MaskItems, MaskTensor
from reslab.data.targets import TARGET_RULES, TASK_OF_TARGET, check_target_kind
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task

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
        raise invalid("labels as integers, one class per image", got, nearest, f"or pass task='{other}")
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
    return invalid("labels as integers, one class per image", f"the text {str(label)!r}", nearest, next_step)


_MIN_LABEL_LIMIT = 1000
_SPLITS_STEP = "pass splits by name: as_dataset(train=(images, labels), val=(images, labels))"


def as_dataset(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "",
    preprocess: Preprocess | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    split_record: Mapping[str, Any] | None = None,
    is_default_fraction: bool = False,
    dims: int = 2,
    task: str | None = None,
) -> DatasetSplits:
    """Return pairs of tensors (images, labels), or map-style datasets of (image, label) items, as `DatasetSplits`.

    Images are uint8 (N, C, H, W), grayscale also (N, H, W), or already scaled floats; an item's image is the same
    without N, or a Pillow image. With `dims=1` tensors are signals (N, C, T), with `dims=3` volumes or clips
    (N, C, D, H, W), both already scaled floats. Class names default to the dataset's own, else "0", "1", ... Floats
    are not normalized (mean 0, std 1), uint8 tensors by the statistics of the training images, Pillow images by
    ImageNet's.
    The labels are integers (N,), one class per image; or with `task="multi-label"` (N, C) of 0 and 1, and with
    `task="regression"` numbers (N,) or (N, K), whose names are `classes`. Without `task` it is inferred where the
    labels leave no doubt (`convert_labels`), which a message says. For segmentation they are masks of the size of the
    images, (N, H, W) of class numbers and 255 for void; an item's mask may be a Pillow image.
    Items are fetched on demand; a dataset's random transforms become functions of (seed, epoch, sample).
    `is_default_fraction` is that of `open_dataset`. Raises ValueError if shapes, types or labels do not fit.
    """
    if isinstance(train, DatasetSplits):
        if val_fraction is not None and not is_default_fraction:
            next_step = "drop it, or open the data with it"
            raise invalid("data without splits, where val_fraction is given", "a DatasetSplits", next_step=next_step)
        return train
    requested_task = task if task or split_record is None else str(split_record.get("task", DEFAULT_TASK))
    sources = {"train": train, "val": val, "test": test}
    splits = _to_splits(sources, dims, requested_task)
    _check_class_order(sources)
    target_kind = splits["train"].target_kind
    known_classes = tuple(map(str, classes)) if classes is not None else _stored_class_names(train, splits)
    class_names = known_classes or TARGET_RULES[target_kind].name_outputs(_count_labels(splits))
    messages = _label_messages(splits, class_names, bool(known_classes))
    if requested_task is None and not isinstance(train, ImageDataset) and target_kind in INFERRED_TASK_MESSAGES:
        messages = (INFERRED_TASK_MESSAGES[target_kind], *messages)
    record: Mapping[str, Any] = {"method": SplitMethod.GIVEN}
    if split_record is not None and is_stratified(split_record):
        splits, record = {**splits, **restore_split(splits["train"], split_record)}, dict(split_record)
    elif val_fraction is not None and not (is_default_fraction and "val" in splits):
        if "val" in splits:
            raise invalid("one validation split", "val and val_fraction together", next_step="drop one of them")
        parts, record = split_off(splits["train"], val_fraction, split_seed, class_names, keep_rare=is_default_fraction)
        splits.update(parts)
    return DatasetSplits(
        name=name or ("tensors" if isinstance(train, tuple | list) else type(train).__name__.lower()),
        source=f"a {type(train).__name__} in memory",
        classes=class_names,
        preprocess=preprocess or _default_preprocess(splits["train"]),
        splits=splits,
        split_record=record,
        messages=(
            *messages,
            *rare_class_messages(record),
            *float_range_messages(splits, preprocess is not None or dims != 2),
        ),
        task=requested_task or TASK_OF_TARGET[target_kind],
    )


def _to_splits(sources: Mapping[str, Any], dims: int, task: str | None) -> dict[str, ImageDataset]:
    """Return the splits that are given; without a task, the training labels decide on that of all."""
    splits: dict[str, ImageDataset] = {}
    for split, part in sources.items():
        if part is not None or split == "train":
            splits[split] = _to_image_dataset(part, split, dims, task)
            task = task or TASK_OF_TARGET[splits["train"].target_kind]
            check_target_kind(splits[split].target_kind, task, SPLIT_TITLES[split])
    return splits


def _label_messages(
    splits: Mapping[str, ImageDataset], classes: tuple[str, ...], has_class_list: bool
) -> tuple[str, ...]:
    num_outputs = _count_outputs(splits)
    if splits["train"].target_kind is TargetKind.MASK:
        if num_outputs > len(classes):
            required = f"class numbers from 0 to {len(classes) - 1}, or 255 for void, in masks"
            raise invalid(required, num_outputs - 1, next_step="pass the names of all classes: classes=[...]")
        return ()
    if num_outputs > len(classes):
        return ()  # `DatasetSplits` rejects it
    labels = {split: dataset.labels for split, dataset in splits.items()}
    kind = splits["train"].target_kind
    return check_label_coverage(labels, classes, has_class_list=has_class_list, target_kind=kind)


def _count_outputs(splits: Mapping[str, ImageDataset]) -> int:
    return max(map(_count_part_outputs, splits.values()))


def _count_part_outputs(part: ImageDataset) -> int:
    if isinstance(part, MaskImageDataset):
        return part.num_classes
    return TARGET_RULES[part.target_kind].count_outputs(part.labels)


def _count_labels(splits: Mapping[str, ImageDataset]) -> int:
    """Return the number of outputs. Raises ValueError if a label is far beyond the number of images."""
    num_outputs = _count_outputs(splits)
    limit = max(_MIN_LABEL_LIMIT, sum(map(len, splits.values())))
    if num_outputs > limit and splits["train"].target_kind is TargetKind.CLASS:
        next_step = "pass classes=[...] with the name of every label, number the labels from 0, "
        next_step += "or pass task='regression' if they are amounts"
        raise invalid(f"labels below {limit}, without a list of classes", num_outputs - 1, str(limit - 1), next_step)
    return num_outputs


def _to_image_dataset(part: Any, split: str, dims: int, task: str | None) -> ImageDataset:
    if isinstance(part, ImageDataset):
        return part
    if isinstance(part, TensorDataset):
        part = part.tensors
    if isinstance(part, tuple | list) and len(part) == 2 and hasattr(part[0], "shape") and _is_label_list(part[1]):
        return _from_tensors(torch.as_tensor(part[0]), _as_label_tensor(part[1]), dims, task)
    _check_items(part, split)
    return _from_items(part, task)


def _check_items(part: Any, split: str) -> None:
    """Raise ValueError unless the data are map-style and have items, with what to pass in their place."""
    next_step = ""
    if isinstance(part, Mapping) and 0 not in part:
        next_step = _SPLITS_STEP
    elif isinstance(part, str | bytes | os.PathLike):
        next_step = "a name or path is opened by open_dataset"
    elif isinstance(part, Tensor | np.ndarray):
        next_step = "pass the images with their labels, (images, labels)"
    elif not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        next_step = "collect an iterable dataset into tensors first"
    if next_step:
        required = f"{SPLIT_TITLES[split]} data as (images, labels) tensors or a dataset with len() and [i]"
        raise invalid(required, f"a {type(part).__name__}", next_step=next_step)
    if len(part) == 0:
        raise invalid(f"{SPLIT_TITLES[split]} data with images", "an empty dataset")


def _from_tensors(images: Tensor, labels: Tensor, dims: int, task: str | None) -> ImageDataset:
    if dims == 2 and _are_masks(images.shape[-2:], labels, task):
        inner = _from_tensors(images, torch.zeros(len(images), dtype=torch.int64), dims, None)
        return MaskImageDataset(inner, MaskTensor(labels[:, 0] if labels.ndim == 4 else labels))
    labels, target_kind = convert_labels(labels, task)
    if dims != 2:
        return TensorImageDataset(images, labels, dims=dims, target_kind=target_kind)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        got = f"shape {tuple(images.shape)}, channels last"
        raise invalid("images of shape (N, C, H, W)", got, nearest="images.permute(0, 3, 1, 2)")
    return TensorImageDataset(images, labels, target_kind=target_kind)


def _are_masks(size: Sequence[int], labels: Tensor, task: str | None) -> bool:
    """Return True for masks (N, H, W) or (N, 1, H, W): as the task says, or whole numbers of the size of the images."""
    if task is not None:
        return find_task(task).target is TargetKind.MASK
    is_mask_shape = labels.ndim == 3 or (labels.ndim == 4 and labels.shape[1] == 1)
    return is_mask_shape and not labels.is_floating_point() and tuple(labels.shape[-2:]) == tuple(size)


def _is_label_list(values: Any) -> bool:
    return hasattr(values, "shape") or isinstance(values, list | tuple)


def _as_label_tensor(values: Any) -> Tensor:
    """Return labels as a tensor. Raises ValueError for texts, with the way to number them."""
    first = values[0] if len(values) else 0
    if isinstance(first, str):
        raise text_label_error(first)
    return torch.as_tensor(values)


def _from_items(dataset: Any, task: str | None) -> ImageDataset:
    first = dataset[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        length = f" of {len(first)}" if isinstance(first, tuple | list) else ""
        next_step = _SPLITS_STEP if isinstance(dataset, tuple | list) and isinstance(first, Tensor | np.ndarray) else ""
        raise invalid("items (image, label)", f"a {type(first).__name__}{length}", next_step=next_step)
    if isinstance(dataset, tuple | list) and getattr(first[0], "ndim", 0) > 3 and len(first[0]) == len(first[1]):
        got = f"{len(dataset)} pairs (images, labels)"
        raise invalid("one pair (images, labels), or items (image, label)", got, next_step=_SPLITS_STEP)
    channels = item_to_tensor(first[0], 3).shape[0]
    if getattr(first[0], "mode", "") in ("1", "L", "I;16"):  # Pillow's grayscale modes
        channels = 1
    indices = tuple(range(len(dataset)))
    if _is_mask_item(first[1], item_to_tensor(first[0], channels).shape[-2:], task):
        images = WrappedImageDataset(dataset, torch.zeros(len(dataset), dtype=torch.int64), channels, indices)
        return MaskImageDataset(images, MaskItems(dataset, indices))
    labels, target_kind = convert_labels(_read_labels(dataset), task)
    return WrappedImageDataset(dataset, labels, channels, indices, target_kind=target_kind)


def _is_mask_item(label: Any, size: Sequence[int], task: str | None) -> bool:
    if task is not None or isinstance(label, Image.Image):
        return task is None or find_task(task).target is TargetKind.MASK
    return hasattr(label, "shape") and len(label.shape) > 1 and _are_masks(size, torch.as_tensor(label)[None], None)


def _read_labels(dataset: Any) -> Tensor:
    """Return the labels that a dataset stores, as torchvision's do; else fetch every item once."""
    stored = _stored_labels(dataset)
    if stored is None:
        return stack_labels([dataset[i][1] for i in range(len(dataset))])
    return _as_label_tensor(stored)


def _stored_labels(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        inner_labels = _stored_labels(dataset.dataset)
        return None if inner_labels is None else torch.as_tensor(inner_labels)[torch.as_tensor(dataset.indices)]
    if getattr(dataset, "target_transform", None) is not None:  # items have other labels than the stored ones
        return None
    targets = getattr(dataset, "targets", None)
    return targets if targets is not None and len(targets) == len(dataset) else None


def _stored_class_names(train: Any, splits: Mapping[str, ImageDataset]) -> tuple[str, ...]:
    """Return the class names that a dataset stores, as torchvision's do; empty if it has none or too few."""
    num_labels = _count_outputs(splits)
    dataset = train.dataset if isinstance(train, Subset) else train
    stored_names = getattr(dataset, "classes", None)
    exact = TARGET_RULES[splits["train"].target_kind].exact_outputs
    if stored_names is None or len(stored_names) < num_labels or (exact and len(stored_names) != num_labels):
        return ()
    return tuple(map(str, stored_names))


def _check_class_order(sources: Mapping[str, Any]) -> None:
    """Raise ValueError for a split whose stored class names give a label another class than in training.

    torchvision's `ImageFolder` numbers the folders that are there: where one is missing, the later ones move up.
    """
    names = {split: _own_class_names(part) for split, part in sources.items()}
    for split, other in names.items():
        pairs = enumerate(zip(names["train"], other, strict=False))
        label = next((label for label, (in_training, here) in pairs if in_training != here), None)
        if label is not None:
            required = f"labels of {SPLIT_TITLES[split]} images that number the classes of training"
            got = f"label {label} for {other[label]}, in training for {names['train'][label]}"
            next_step = "number them alike, with a folder for every class or a target_transform"
            raise invalid(required, got, next_step=next_step)


def _own_class_names(dataset: Any) -> tuple[str, ...]:
    """Return the class names of a dataset whose items have the labels that it stores; empty for others."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    is_kept = getattr(dataset, "targets", None) is not None and getattr(dataset, "target_transform", None) is None
    return tuple(map(str, names)) if is_kept and isinstance(names, list | tuple) else ()


def _default_preprocess(dataset: ImageDataset) -> Preprocess:
    train = dataset.images if isinstance(dataset, MaskImageDataset) else dataset
    pixels = train.load_image(0)
    channels = pixels.shape[0]
    if pixels.is_floating_point():
        return Preprocess(channels, "", (0.0,) * channels, (1.0,) * channels)
    if isinstance(train, TensorImageDataset):
        return Preprocess(channels, "", *channel_statistics(train.images))
    if channels == 3:
        return Preprocess(3, "", IMAGENET_MEAN, IMAGENET_STD)
    return Preprocess(channels, "", (0.5,) * channels, (0.5,) * channels)
