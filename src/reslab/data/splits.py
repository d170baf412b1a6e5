"""Make splits: stratified by class, a function of labels, fraction and seed, and recorded for a later opening."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import DatasetSplits, SplitMethod
from reslab.data.dataset_names import SPLIT_TITLES, missing_classes_message
from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.mask_classes import MaskMapping
from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset
from reslab.data.masks import MaskValues
from reslab.data.rng import permutation
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.targets import TARGET_RULES, count_images
from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task

VAL_FRACTION = 0.2
_SUBSET_SEED = 0
_SMALL_IMAGE_SIDE = 64
PHOTO_EVAL_TRANSFORM = "resize(256) center-crop(224)"


@dataclass(frozen=True)
class SplitOptions:
    """The options of opening a dataset: what to hold out for validation, and whether to skip unreadable images.

    `record` is the split record of an earlier opening, which makes the same splits again. `columns` names the columns
    of a CSV file: of image, label and split. `is_default_fraction` says that a recipe chose the fraction, not the user:
    it gives way to a validation split of the data's own, and to classes with too few images. `task` is the requested
    one, None to infer it from the data. `mask_values` says what the values in masks are, None for what their folder
    suggests.
    Raises ValueError if the validation fraction is not strictly between 0 and 1, or there is no such task.
    """

    val_fraction: float | None = None
    seed: int = 0
    skip_bad_images: bool = False
    record: Mapping[str, Any] | None = None
    columns: ColumnNames | None = None
    is_default_fraction: bool = False
    task: str | None = None
    mask_values: MaskValues | MaskMapping | None = None

    def __post_init__(self) -> None:
        if self.val_fraction is not None:
            _check_fraction(self.val_fraction)
        if self.task is not None:
            find_task(self.task)

    @property
    def requested_task(self) -> str | None:
        """The task that was requested, or that the record has (classification if it names none); None without."""
        recorded = None if self.record is None else str(self.record.get("task", DEFAULT_TASK))
        return self.task or recorded

    @property
    def keeps_rare_classes(self) -> bool:
        """True if a class with too few images to hold one out stays whole, as the user did not choose the fraction."""
        return self.val_fraction is None or self.is_default_fraction


def stratified_split(
    labels: Tensor,
    fraction: float,
    seed: int,
    classes: Sequence[str],
    *,
    keep_rare: bool = False,
    target_kind: TargetKind = TargetKind.CLASS,
) -> tuple[list[int], list[int]]:
    """Return the indices to keep and to hold out, both sorted: floor(n fraction + 1/2) of each class, chosen by seed.

    With `keep_rare`, a class with too few images to hold one out is kept whole. Labels that are not one class per image
    are divided by `systematic_indices`. Raises ValueError if the fraction is not within (0, 1), or leaves a class
    without an image on one side, or holds no image out.
    """
    _check_fraction(fraction)
    if TARGET_RULES[target_kind].keeps_classes:
        held_out = _hold_out_of_classes(labels, fraction, seed, classes, keep_rare)
    else:
        held_out = _hold_out_of_groups(labels, fraction, seed, target_kind)
    is_kept = torch.ones(len(labels), dtype=torch.bool)
    is_kept[held_out] = False
    return is_kept.nonzero().flatten().tolist(), held_out


def systematic_indices(groups: Tensor, num_images: int, seed: int) -> list[int]:
    """Return the sorted indices of `num_images` images, the same share of every group to within one image.

    Systematic sampling: the images in the order of their groups, within a group in an order chosen by seed; of these N
    the images floor((k + 1/2) N / num_images), k = 0, 1, ...
    """
    members = [(group, (groups == group).nonzero().flatten()) for group in groups.unique().tolist()]
    order = torch.cat([indices[permutation(len(indices), seed, group)] for group, indices in members])
    positions = (torch.arange(num_images) * 2 + 1) * len(groups) // (2 * num_images)
    return sorted(order[positions].tolist())


def _hold_out_of_groups(labels: Tensor, fraction: float, seed: int, target_kind: TargetKind) -> list[int]:
    num_images = len(labels)
    num_held_out = int(num_images * fraction + 0.5)
    if not 0 < num_held_out < num_images:
        got = f"{fraction:g} of {num_images} images, which holds out {num_held_out}"
        raise invalid("a validation fraction that leaves images on both sides", got, next_step="add images")
    return systematic_indices(TARGET_RULES[target_kind].groups(labels), num_held_out, seed)


def _hold_out_of_classes(
    labels: Tensor, fraction: float, seed: int, classes: Sequence[str], keep_rare: bool
) -> list[int]:
    held_out: list[int] = []
    rare: list[tuple[str, str]] = []
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 0:
            continue
        num_held_out = int(len(members) * fraction + 0.5)
        if not 0 < num_held_out < len(members):
            side = "validation" if num_held_out == 0 else "training"
            got = f"{fraction:g}, which holds out {num_held_out} of the {len(members)} images of class {name!r} "
            rare.append((name, f"{got}and leaves none for {side}"))
            if keep_rare and num_held_out == 0:
                continue
            raise _empty_class_error(labels, fraction, *rare[-1])
        held_out += members[permutation(len(members), seed, label)[:num_held_out]].tolist()
    if not held_out and rare:
        raise _empty_class_error(labels, fraction, *rare[0])
    return sorted(held_out)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        suggestion = "0.01" if fraction <= 0 else "0.99"
        raise invalid("a validation fraction between 0 and 1", fraction, suggestion, "0.2 is usual")


def _empty_class_error(labels: Tensor, fraction: float, name: str, got: str) -> ValueError:
    counts = labels.bincount()
    min_count = int(counts[counts > 0].min())
    if min_count < 2:
        return invalid("at least 2 images of every class to split", got, next_step=f"add images of class {name!r}")
    low, high = 0.5 / min_count, 1 - 0.5 / min_count
    # Just inside the bounds, so that the four printed digits are still valid.
    valid = low + 1e-4 if fraction < low else high - 1e-4
    return invalid("a validation fraction that leaves every class an image on both sides", got, nearest=f"{valid:.4f}")


def split_off(
    dataset: ImageDataset,
    fraction: float,
    seed: int,
    classes: Sequence[str],
    *,
    into: str = "val",
    keep_rare: bool = False,
) -> tuple[dict[str, ImageDataset], dict[str, Any]]:
    """Split training images in two, by `stratified_split`; return the splits and the split record.

    The record lists the images held out: those in files by name, as files may be added later, others by index; and
    the classes that `keep_rare` kept whole.
    """
    kept, held_out = stratified_split(
        dataset.labels, fraction, seed, classes, keep_rare=keep_rare, target_kind=dataset.target_kind
    )
    record: dict[str, Any] = {
        "method": SplitMethod.STRATIFIED, "from": "train", "into": into, "fraction": fraction, "seed": seed,
    }  # fmt: skip
    images = dataset.images if isinstance(dataset, TargetImageDataset) else dataset
    if isinstance(images, FileImageDataset | ShardImageDataset):
        record["names"] = [dataset.name(i) for i in held_out]
    else:
        record["indices"] = held_out
    rare = classes_without(dataset, dataset.labels[held_out], len(classes))
    if rare:
        record["kept_classes"] = [classes[label] for label in rare]
    return {"train": dataset.subset(kept), into: dataset.subset(held_out)}, record


def classes_without(dataset: ImageDataset, labels: Tensor, num_classes: int) -> list[int]:
    """Return the classes of a dataset's images that are not among these labels, a part of its own."""
    everywhere = count_images(dataset.labels, dataset.target_kind, num_classes)
    there = count_images(labels, dataset.target_kind, num_classes)
    if everywhere is None or there is None:
        return []
    return ((everywhere > 0) & (there == 0)).nonzero().flatten().tolist()


def rare_class_messages(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a message about the classes that have too few images to hold one out for validation."""
    names = record.get("kept_classes", ())
    if not names:
        return ()
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    classes = "class" if len(names) == 1 else "classes"
    return (f"all images of the {classes} {shown} are kept for training: too few to hold one out for validation",)


def is_stratified(record: Mapping[str, Any] | None) -> bool:
    """Return True if a split record holds images out (`split_off`)."""
    return record is not None and record.get("method") == SplitMethod.STRATIFIED


def restore_split(dataset: ImageDataset, record: Mapping[str, Any]) -> dict[str, ImageDataset]:
    """Redo a recorded split. Raises ValueError naming the recorded images that no longer exist."""
    held_out = set(_recorded_indices(dataset, record))
    kept = [i for i in range(len(dataset)) if i not in held_out]
    return {"train": dataset.subset(kept), str(record["into"]): dataset.subset(sorted(held_out))}


def _recorded_indices(dataset: ImageDataset, record: Mapping[str, Any]) -> list[int]:
    if "indices" in record:
        indices = [int(i) for i in record["indices"]]
        if indices and max(indices) >= len(dataset):
            required = f"the dataset of the recorded split, which has image #{max(indices)}"
            raise invalid(required, f"{len(dataset)} images")
        return indices
    index_of = {dataset.name(i): i for i in range(len(dataset))}
    missing = [name for name in record["names"] if name not in index_of]
    if missing:
        raise invalid(
            f"the {len(record['names'])} files that the recorded split holds out",
            f"{len(missing)} of them missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            next_step="restore the files, or pass the folder's new path",
        )
    return [index_of[name] for name in record["names"]]


def stratified_subset(data: DatasetSplits, num_images: int) -> DatasetSplits:
    """Return the dataset with only `num_images` training images, the same share of every class; other splits stay.

    The choice depends on the labels alone, so runs of every seed train on the same images; the split record notes the
    number. Labels that are not one class per image are divided by `systematic_indices`.
    Raises ValueError if there are fewer images, or fewer are requested than there are classes.
    """
    if data.split_record.get("num_images") == num_images:
        return data
    dataset = data.split("train")
    rules = TARGET_RULES[dataset.target_kind]
    min_images = max(2, len(dataset.labels.unique())) if rules.keeps_classes else 2
    if not min_images <= num_images <= len(dataset):
        lowest = f"{min_images}, one a class," if rules.keeps_classes else str(min_images)
        required = f"num_images from {lowest} to the {len(dataset):,} training images of {data.name}"
        raise invalid(required, num_images, nearest=str(min(max(num_images, min_images), len(dataset))))
    choose = stratified_indices if rules.keeps_classes else _systematic_subset
    indices = choose(rules.groups(dataset.labels), num_images)
    splits = {**data.splits, "train": dataset.subset(indices)}
    return replace(data, splits=splits, split_record={**data.split_record, "num_images": num_images})


def _systematic_subset(groups: Tensor, num_images: int) -> list[int]:
    return systematic_indices(groups, num_images, _SUBSET_SEED)


def stratified_indices(labels: Tensor, num_images: int) -> list[int]:
    """Return the sorted indices of `num_images` images, every class in proportion and with at least one.

    Largest remainder method: class c gets floor(n_c N / sum n), then the largest fractional parts get one more.
    """
    classes, counts = labels.unique(return_counts=True)
    exact_quotas = counts.double() * num_images / len(labels)
    quotas = exact_quotas.floor().long().clamp_min(1)
    by_remainder = (quotas - exact_quotas).argsort(stable=True)
    while int(quotas.sum()) != num_images:
        missing = num_images - int(quotas.sum())
        if missing > 0:
            quotas[by_remainder[:missing]] += 1
        else:
            # Rounding tiny classes up to one image took too many: the largest class gives them back.
            quotas[quotas.argmax()] -= 1
    class_indices = []
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        class_indices.append(members[permutation(len(members), _SUBSET_SEED, int(label))[:quota]])
    return sorted(torch.cat(class_indices).tolist())


def collect_skipped(
    location: Path | str, unreadable: Mapping[str, str], options: SplitOptions, missing: Collection[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Return (name, reason) of the images to skip: those that cannot be read, and those that the record skipped.

    A recorded image stays skipped even if it has been repaired since: otherwise the data would not be the same again.
    Raises ValueError listing the unreadable images that neither the record nor `skip_bad_images` allows to skip;
    those in `missing` do not exist.
    """
    recorded: dict[str, str] = dict((options.record or {}).get("skipped_files", ()))
    skipped = {name: unreadable.get(name, reason) for name, reason in recorded.items()}
    errors = {name: reason for name, reason in unreadable.items() if name not in skipped}
    if errors and not options.skip_bad_images:
        num_missing = len(errors.keys() & set(missing))
        headings = []
        if num_missing:
            advice = "correct the paths, or skip them with --skip-bad-images"
            headings.append(f"{_count_images(num_missing)} listed: no such file, relative to {location} ({advice})")
        if num_broken := len(errors) - num_missing:
            advice = "repair or remove them, or skip them with --skip-bad-images"
            headings.append(f"{_count_images(num_broken)} in {location} cannot be read ({advice})")
        # Symlinked and listed files may lie elsewhere; then the name is the whole path.
        lines = "".join(f"\n  {os.path.join(location, name)}: {reason}" for name, reason in errors.items())
        raise ValueError(f"{'; '.join(headings)}:{lines}")
    return tuple(sorted({**skipped, **unreadable}.items()))


def check_label_coverage(
    labels_by_split: Mapping[str, Tensor],
    classes: Sequence[str],
    *,
    has_class_list: bool,
    target_kind: TargetKind = TargetKind.CLASS,
) -> tuple[str, ...]:
    """Return messages about classes without training images, and classes of training that another split lacks.

    A class without training images is one that a class list names, or a gap between labels. Where an image may have
    several classes, what other splits lack is left out.
    Raises ValueError if images of another split have a label that no training image has, unless a class list names it
    or an image may have several classes.
    """
    if "train" not in labels_by_split:
        return ()
    counts_by_split = {
        split: count_images(labels, target_kind, len(classes)) for split, labels in labels_by_split.items()
    }
    counts = counts_by_split["train"]
    if counts is None:
        return ()
    rules = TARGET_RULES[target_kind]
    present = counts.nonzero().flatten().tolist()
    messages = []
    for split, split_counts in counts_by_split.items():
        extra = [] if split_counts is None else ((split_counts > 0) & (counts == 0)).nonzero().flatten().tolist()
        if not extra:
            continue
        shown = ", ".join(classes[label] for label in extra[:5]) + (" ..." if len(extra) > 5 else "")
        if rules.keeps_classes and not has_class_list:
            required = f"{SPLIT_TITLES[split]} labels that training images have too ({_ranges(present)})"
            raise invalid(required, f"label {shown}", next_step="remove these images, or add training images of them")
        messages.append(f"{SPLIT_TITLES[split]} images have classes that no training image has: {shown}")
    missing = [label for label in range(len(classes)) if not counts[label]]
    if missing:
        text = missing_classes_message("train", [classes[label] for label in missing], len(classes))
        from_one = rules.keeps_classes and not has_class_list and missing == [0]
        messages.append(f"{text}: labels seem to count from 1; subtract 1" if from_one else text)
    for split, split_counts in counts_by_split.items():
        names = [] if split_counts is None else [classes[label] for label in present if not split_counts[label]]
        if names and rules.keeps_classes:
            messages.append(missing_classes_message(split, names, len(classes)))
    return tuple(messages)


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as ranges: `0 to 2, 5`."""
    starts = [k for k, number in enumerate(numbers) if k == 0 or number != numbers[k - 1] + 1]
    runs = [
        (numbers[start], numbers[stop - 1]) for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True)
    ]
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs[:5])


def _count_images(num_images: int) -> str:
    return "1 image" if num_images == 1 else f"{num_images:,} images"


def apply_split(
    location: Path | str, splits: Mapping[str, ImageDataset], classes: tuple[str, ...], options: SplitOptions
) -> tuple[dict[str, ImageDataset], dict[str, Any]]:
    """Return the splits and their record: as given, or with a validation split held out of the training images.

    `VAL_FRACTION` is held out if there are only training images and no fraction is set. Raises ValueError if a
    fraction or a recorded split meets a validation split that exists already.
    """
    other_splits = {name: splits[name] for name in splits if name != "train"}
    if is_stratified(options.record):
        assert options.record is not None
        if "val" in splits:
            required = f"the data in {location} without a validation split, as when the split was recorded"
            raise invalid(required, "a validation split of its own")
        return {**restore_split(splits["train"], options.record), **other_splits}, dict(options.record)
    if options.val_fraction is not None and "val" in splits and not options.is_default_fraction:
        required, got = f"one validation split for {location}", "a validation folder and a fraction"
        raise invalid(required, got, next_step="drop --val-fraction")
    if "val" in splits or (other_splits and options.val_fraction is None):
        return dict(splits), {"method": SplitMethod.GIVEN}
    fraction = VAL_FRACTION if options.val_fraction is None else options.val_fraction
    parts, record = split_off(splits["train"], fraction, options.seed, classes, keep_rare=options.keeps_rare_classes)
    return {**parts, **other_splits}, record


def default_eval_transform(sizes: Iterable[tuple[int, int]]) -> str:
    """Return the evaluation transform for images of these (height, width).

    Photographs are evaluated as ImageNet's; images that are all small stay near their own size, as enlarging them to
    224 would only blur them.
    """
    distinct_sizes = set(sizes)
    sides = [min(size) for size in distinct_sizes]
    if not sides or max(sides) >= _SMALL_IMAGE_SIDE:
        return PHOTO_EVAL_TRANSFORM
    if len(distinct_sizes) == 1:
        return ""
    side = int(median(sides))
    return f"resize({side}) center-crop({side})"
