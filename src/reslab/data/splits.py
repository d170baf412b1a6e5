"""Holding samples out: stratified, a function of (labels, fraction, seed), and written down.

Fewer training pictures: the same share of every class, the same ones for every seed.

What every set of picture files has in common: broken ones left out, one part held out, the evaluation's words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset
from reslab.data.rng import permutation
from reslab.spec.errors import invalid


def stratified_split(labels: Tensor, fraction: float, seed: int, classes: Sequence[str]) -> tuple[list[int], list[int]]:
    """The indices kept and held out: of each class floor(n fraction + 1/2) are held out, chosen by seed; both sorted.

    Raises ValueError where the fraction is not inside (0, 1), or leaves a class without a sample on either side.
    """
    check_fraction(fraction)
    held_out: list[int] = []
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 0:
            continue
        num_held_out = int(len(members) * fraction + 0.5)
        if not 0 < num_held_out < len(members):
            raise _empty_class_error(labels, fraction, name, len(members), num_held_out)
        held_out += members[permutation(len(members), seed, label)[:num_held_out]].tolist()
    held_out.sort()
    is_kept = torch.ones(len(labels), dtype=torch.bool)
    is_kept[held_out] = False
    return is_kept.nonzero().flatten().tolist(), held_out


def check_fraction(fraction: float) -> None:
    """Raises ValueError where a validation fraction is not strictly between 0 and 1."""
    if not 0 < fraction < 1:
        raise invalid(
            "a validation fraction between 0 and 1",
            fraction,
            nearest="0.01" if fraction <= 0 else "0.99",
            next_step="0.2 is usual",
        )


def _empty_class_error(labels: Tensor, fraction: float, name: str, num_samples: int, num_held_out: int) -> ValueError:
    counts = labels.bincount()
    min_count = int(counts[counts > 0].min())
    side = "validation" if num_held_out == 0 else "training"
    got = f"{fraction:g}, which holds out {num_held_out} of the {num_samples} of class {name!r} and leaves {side} none"
    if min_count < 2:
        return invalid("at least 2 samples of every class to split", got, next_step=f"add samples of class {name!r}")
    low, high = 0.5 / min_count, 1 - 0.5 / min_count
    # Just inside, so that four printed digits are still valid.
    valid = low + 1e-4 if fraction < low else high - 1e-4
    return invalid("a validation fraction that leaves every class a sample on both sides", got, nearest=f"{valid:.4f}")


def split_off(
    dataset: ImageDataset, fraction: float, seed: int, classes: Sequence[str], into: str = "val"
) -> tuple[dict[str, ImageDataset], dict[str, Any]]:
    """Split training images in two, and the record of it: held-out files by name, held-out tensors by index."""
    kept, held_out = stratified_split(dataset.labels, fraction, seed, classes)
    record: dict[str, Any] = {"method": "stratified", "from": "train", "into": into, "fraction": fraction, "seed": seed}
    if isinstance(dataset, FileImageDataset | ShardImageDataset):
        record["names"] = [dataset.name(i) for i in held_out]
    else:
        record["indices"] = held_out
    return {"train": dataset.subset(kept), into: dataset.subset(held_out)}, record


def restore_split(dataset: ImageDataset, record: Mapping[str, Any]) -> dict[str, ImageDataset]:
    """The split that a record tells; raises ValueError naming what the record holds out and is not there any more."""
    held_out = set(_recorded_indices(dataset, record))
    kept = [i for i in range(len(dataset)) if i not in held_out]
    return {"train": dataset.subset(kept), str(record["into"]): dataset.subset(sorted(held_out))}


def _recorded_indices(dataset: ImageDataset, record: Mapping[str, Any]) -> list[int]:
    if "indices" in record:
        indices = [int(i) for i in record["indices"]]
        if indices and max(indices) >= len(dataset):
            raise invalid(f"the data the split was recorded on, with sample #{max(indices)}", f"{len(dataset)} samples")
        return indices
    index_of = {dataset.name(i): i for i in range(len(dataset))}
    missing = [name for name in record["names"] if name not in index_of]
    if missing:
        raise invalid(
            f"the {len(record['names'])} files the recorded split holds out",
            f"{len(missing)} of them missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            next_step="put them back, or name the folder's new place",
        )
    return [index_of[name] for name in record["names"]]


_SUBSET_SEED = 0


def stratified_subset(data: DatasetSplits, num_images: int) -> DatasetSplits:
    """The data with `num_images` of its training pictures, of each class its share; the others splits stay whole.

    Which ones follows from the labels alone, so every seed of a training sees the same. Written down in the split
    record. Raises ValueError where there are not so many, or fewer than classes.
    """
    if data.split_record.get("num_images") == num_images:
        return data
    dataset = data.split("train")
    num_present = int((dataset.labels.bincount(minlength=data.num_classes) > 0).sum())
    if not max(2, num_present) <= num_images <= len(dataset):
        raise invalid(
            f"num_images from {max(2, num_present)}, one a class, to the {len(dataset):,} training pictures of {data.name}",
            num_images,
            nearest=str(min(max(num_images, 2, num_present), len(dataset))),
        )
    splits = {**data.splits, "train": dataset.subset(stratified_indices(dataset.labels, num_images))}
    return replace(data, splits=splits, split_record={**data.split_record, "num_images": num_images}, fingerprint="")


def stratified_indices(labels: Tensor, num_images: int) -> list[int]:
    """The indices of `num_images` samples, sorted: n_c N / sum n of class c, rounded down, the largest remainders up,
    and every class at least one."""
    classes, counts = labels.unique(return_counts=True)
    exact_quotas = counts.double() * num_images / len(labels)
    quotas = exact_quotas.floor().long().clamp_min(1)
    by_remainder = (quotas - exact_quotas).argsort(stable=True)
    while int(quotas.sum()) != num_images:
        missing = num_images - int(quotas.sum())
        if missing > 0:
            quotas[by_remainder[:missing]] += 1
        else:
            quotas[quotas.argmax()] -= 1
    class_indices = [
        members[permutation(len(members), _SUBSET_SEED, int(label))[:quota]]
        for label, quota in zip(classes, quotas.tolist(), strict=True)
        for members in [(labels == label).nonzero().flatten()]
    ]
    return sorted(torch.cat(class_indices).tolist())


SMALL_IMAGE_SIDE = 64
VAL_FRACTION = 0.2
PHOTO_EVAL_TRANSFORM = "resize(256) center-crop(224)"


def collect_skipped(
    location: Path | str, unreadable: Mapping[str, str], skip_bad_images: bool, record: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    """(name, reason) of the pictures to leave out, of those that cannot be read and those that a record leaves out.

    Raises ValueError listing the bad ones where there are more than was agreed to.
    """
    recorded_skips: dict[str, str] = dict((record or {}).get("skipped_files", ()))
    accepted = {name: unreadable.get(name, reason) for name, reason in recorded_skips.items()}
    if not skip_bad_images and (
        new_errors := {name: reason for name, reason in unreadable.items() if name not in accepted}
    ):
        lines = "".join(f"\n  {location}/{name}: {reason}" for name, reason in new_errors.items())
        noun = "picture that" if len(new_errors) == 1 else "pictures that"
        raise ValueError(
            f"{len(new_errors)} {noun} cannot be read in {location} (repair or remove, or skip with --skip-bad-images):{lines}"
        )
    return tuple(sorted({**accepted, **unreadable}.items()))


def apply_split(
    location: Path | str,
    splits: Mapping[str, ImageDataset],
    classes: tuple[str, ...],
    val_fraction: float | None,
    split_seed: int,
    record: Mapping[str, Any] | None,
) -> tuple[dict[str, ImageDataset], dict[str, Any]]:
    """The splits and their record: as they are, or with a validation part held out (`VAL_FRACTION` of a lone train).

    Raises ValueError where a fraction or a recorded split meets a validation part that is there already.
    """
    if record is not None and record.get("method") == "stratified":
        if "val" in splits:
            raise invalid(
                f"the undivided data {location} of the recorded split", "one with a validation part of its own"
            )
        restored = restore_split(splits["train"], record)
        return {**restored, **{name: splits[name] for name in splits if name != "train"}}, dict(record)
    if val_fraction is not None and "val" in splits:
        raise invalid(
            f"one validation set for {location}",
            "a validation folder and a fraction",
            next_step="leave --val-fraction away",
        )
    if len(splits) > 1 and val_fraction is None:
        return dict(splits), {"method": "given"}
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    parts, new_record = split_off(splits["train"], fraction, split_seed, classes)
    return {**parts, **{name: splits[name] for name in splits if name != "train"}}, new_record


def default_eval_transform(sizes: Iterable[tuple[int, int]]) -> str:
    """Photographs as ImageNet's are evaluated; pictures that are all small at their own size, 224 would only blur.

    `sizes` are (height, width), each once or more.
    """
    distinct_sizes = set(sizes)
    sides = [min(size) for size in distinct_sizes]
    if not sides or max(sides) >= SMALL_IMAGE_SIDE:
        return PHOTO_EVAL_TRANSFORM
    if len(distinct_sizes) == 1:
        return ""
    side = int(median(sides))
    return f"resize({side}) center-crop({side})"
