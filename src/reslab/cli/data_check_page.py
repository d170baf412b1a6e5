"""Build the page of `reslab data check` from the results of the check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.check.check import NO_OBJECT, CheckedImage, DataCheck, Finding
from reslab.data.check.duplicates import DuplicateGroup
from reslab.data.check.statistics import LABEL_TEXTS, SIZE_LIMITS
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import TrainLoader
from reslab.data.masks import VOID
from reslab.report.format import format_int, format_number, format_split
from reslab.report.images import draw_boxes, draw_mask
from reslab.report.pages.data_check import CaptionedImage, DataCheckPage, ImageGroup
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import TargetKind

MAX_GROUPS = 12
MAX_IMAGES_PER_GROUP = 6
BATCH_SIZE = 24


def build_data_check_page(
    check: DataCheck, findings: Sequence[Finding], train_transform: str, seed: int = 0
) -> DataCheckPage:
    """Return the page of a check, with a training batch under `train_transform`.

    A transform that does not suit the images is a finding, and the page has no batch.
    """
    cross_split = {duplicates.indices for duplicates in check.cross_split}
    groups = sorted(
        check.duplicates,
        key=lambda duplicates: (
            duplicates.indices not in cross_split,
            not duplicates.is_exact,
            duplicates.max_distance,
        ),
    )
    page = DataCheckPage(
        title=check.listing.name,
        num_images=check.num_images,
        values=value_rows(check),
        boxes=_box_rows(check),
        counts={name: part for name, part in check.counts.items() if part},
        findings=[(finding.severity, finding.text) for finding in findings],
        sizes=_sizes_by_split(check.readable),
        unreadable=[(checked.name, checked.info.error) for checked in (*check.missing, *check.unreadable)],
        duplicate_groups=[
            _image_group(check, duplicates, duplicates.indices in cross_split) for duplicates in groups[:MAX_GROUPS]
        ],
        num_duplicate_groups=len(groups),
        train_transform=train_transform,
        metadata={"location": check.listing.location, "images checked": format_int(len(check.images))},
    )
    try:
        return replace(page, batch=_sample_batch(check, train_transform, seed))
    except ValueError as error:
        error_finding = ("error", f"The transform {train_transform!r} does not suit these images: {error}.")
        return replace(page, findings=[error_finding, *page.findings])


def _box_rows(check: DataCheck) -> list[list[str]]:
    """Return rows of texts: what is counted, then the number in each split."""
    splits = check.boxes.values()
    if not splits:
        return []
    sides = {name: format_int(round(limit**0.5)) for name, limit in SIZE_LIMITS.items() if isfinite(limit)}
    titles = {name: f", under {side}\N{MULTIPLICATION SIGN}{side} pixels" for name, side in sides.items()}
    counts = {
        "boxes": [one.num_objects for one in splits],
        **{f"{name}{titles.get(name, '')}": [one.sizes[name] for one in splits] for name in SIZE_LIMITS},
        "crowds": [one.num_crowds for one in splits],
        "difficult": [one.num_difficult for one in splits],
        "median side in pixels": [round(one.median_side) for one in splits],
        "images without an object": [len(one.without_object) for one in splits],
    }
    for label, name in enumerate(check.listing.classes):
        counts[f"boxes of {name}"] = [int(one.objects_per_class[label]) for one in splits]
    header = ["", *map(format_split, check.boxes)]
    return [header, *([title, *map(format_int, numbers)] for title, numbers in counts.items() if any(numbers))]


def value_rows(check_result: DataCheck) -> list[list[str]]:
    """Return a row for each value of a split: value, split, images, minimum, mean, standard deviation, maximum."""
    num_images = check_result.num_images
    return [
        [
            value.name,
            split,
            format_int(num_images[split]),
            *(format_number(number) for number in (value.minimum, value.mean, value.std, value.maximum)),
        ]
        for split, values in check_result.labels.values.items()
        for value in values
    ]


def _sizes_by_split(readable: Sequence[CheckedImage]) -> dict[str, list[tuple[int, int]]]:
    sizes: dict[str, list[tuple[int, int]]] = {}
    for checked in readable:
        sizes.setdefault(checked.split, []).append((checked.info.height, checked.info.width))
    return sizes


def _image_group(check: DataCheck, duplicates: DuplicateGroup, is_cross_split: bool) -> ImageGroup:
    heading = (
        "Equal pixels" if duplicates.is_exact else f"Near duplicates, {duplicates.max_distance} of 64 hash bits apart"
    )
    samples = [check.images[index] for index in duplicates.indices[:MAX_IMAGES_PER_GROUP]]
    num_hidden = len(duplicates.indices) - len(samples)
    heading += f", {len(duplicates.indices)} images, {len(samples)} of them shown" if num_hidden else ""
    images = [
        CaptionedImage(
            _to_pixels(checked.dataset.preview(checked.index)),
            f"{checked.label}, {format_split(checked.split)}",
            checked.name,
        )
        for checked in samples
    ]
    return ImageGroup(f"{heading}, across splits" if is_cross_split else heading, images)


def _sample_batch(check: DataCheck, train_transform: str, seed: int) -> list[CaptionedImage]:
    dataset = _readable_train_images(check)
    if dataset is None:
        return []
    channels = dataset.preview(0).shape[0]
    identity_preprocess = Preprocess(channels, "", (0.0,) * channels, (1.0,) * channels)
    classes = check.listing.classes
    batch_size = min(BATCH_SIZE, len(dataset))
    loader = TrainLoader(
        dataset,
        batch_size=batch_size,
        transform=train_transform,
        preprocess=identity_preprocess,
        seed=seed,
        device="cpu",
        num_classes=len(classes),
    )
    x, y, indices = next(loader.iter_from())
    return [
        CaptionedImage(
            _draw_target((255 * image).round().clamp(0, 255), target),
            _TARGET_TEXTS[dataset.target_kind](target, classes),
            dataset.name(i),
        )
        for image, target, i in zip(x, y, indices.tolist(), strict=True)
    ]


def _readable_train_images(check: DataCheck) -> ImageDataset | None:
    split = "train" if "train" in check.listing.splits else next(iter(check.listing.splits), "")
    if not split:
        return None
    dataset = check.listing.splits[split]
    indices = [checked.index for checked in check.readable if checked.dataset is dataset and not checked.target_error]
    return dataset.subset(indices) if indices else None


def _target_text(target: Tensor, classes: Sequence[str]) -> str:
    """Return the class, of a mixed image the weights (`0.7 ant, 0.3 bee`), of a mask the classes that it shows."""
    if target.ndim == 0:
        return classes[int(target)]
    if target.ndim == 2:
        return ", ".join("void" if label == VOID else classes[label] for label in target.unique().tolist())
    weighted_classes = [(float(weight), classes[index]) for index, weight in enumerate(target.tolist()) if weight > 0]
    return (
        weighted_classes[0][1]
        if len(weighted_classes) == 1
        else ", ".join(f"{weight:.2g} {name}" for weight, name in sorted(weighted_classes)[::-1])
    )


def _draw_target(image: Tensor, target: Any) -> np.ndarray:
    """Return an image (C, H, W) of 0..255 with its mask or boxes."""
    pixels = _to_pixels(image.to(torch.uint8))
    if isinstance(target, dict):
        return np.asarray(draw_boxes(pixels, target["boxes"].tolist(), (target["labels"] - 1).tolist()))
    return draw_mask(pixels, target.to(torch.uint8).numpy()) if target.ndim == 2 else pixels


def _boxes_text(target: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return the number of boxes of each class: `12 RBC, 1 WBC`."""
    counts = target["labels"].bincount(minlength=len(classes) + 1)[1:].tolist()
    shown = [f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count]
    return ", ".join(shown) or NO_OBJECT


def _multi_hot_text(target: Tensor, classes: Sequence[str]) -> str:
    is_mixed = bool(((target != 0) & (target != 1)).any())
    return _target_text(target, classes) if is_mixed else _label_text(TargetKind.MULTI_HOT, target, classes)


def _label_text(target_kind: TargetKind, target: Tensor, classes: Sequence[str]) -> str:
    text = LABEL_TEXTS.get(target_kind)
    return text(target, classes) if text else ""


_TARGET_TEXTS: dict[TargetKind, Callable[[Any, Sequence[str]], str]] = {
    **{kind: partial(_label_text, kind) for kind in TargetKind},
    TargetKind.CLASS: _target_text,
    TargetKind.MULTI_HOT: _multi_hot_text,
    TargetKind.BOXES: _boxes_text,
}


def _to_pixels(image: Tensor) -> np.ndarray:
    array = image.numpy()
    return array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
