"""The parts of a check's page: tiles, what to know, counts, sizes, twins, the batch.

The page of `reslab data check`: what there is, what is wrong with it, and one augmented batch to look at.

From a check of data to its page: which pictures are shown, and what is said below each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from reslab.data.check.check import CheckedImage, DataCheck
from reslab.data.check.duplicates import DuplicateGroup
from reslab.data.check.findings import Finding
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import TrainLoader
from reslab.report.format import format_int, format_percent, pluralize
from reslab.report.pages.run import make_tile
from reslab.report.plots.bars import plot_image_sizes
from reslab.report.plots.export import render_inline_svg
from reslab.report.plots.images import make_thumbnail
from reslab.spec.preprocess import Preprocess


@dataclass(frozen=True)
class CaptionedImage:
    """One picture to show, uint8 (H, W) or (H, W, 3), with what stands below it: a bold word and a name."""

    image: np.ndarray
    caption: str = ""
    name: str = ""


@dataclass(frozen=True)
class ImageGroup:
    """Pictures that are the same or nearly: `kind` in words, for the heading of the group."""

    heading: str
    images: Sequence[CaptionedImage]


@dataclass(frozen=True)
class DataCheckPage:
    """What the page of a check shows; every part but the title may be empty.

    `counts[split][class]` are numbers of pictures; `findings` (severity, sentence), severity error, warning or note;
    `sizes[split]` (height, width) of each readable picture; `unreadable` (path, reason); `groups` twins, at most as
    many as a person will look at, of `num_groups`; `batch` a training batch as the network sees it, under `words`.
    """

    title: str
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    findings: Sequence[tuple[str, str]] = ()
    sizes: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    unreadable: Sequence[tuple[str, str]] = ()
    duplicate_groups: Sequence[ImageGroup] = ()
    num_duplicate_groups: int = 0
    batch: Sequence[CaptionedImage] = ()
    train_transform: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


MAX_CLASS_ROWS = 20
NUM_SMALLEST_CLASSES = 10
_SEVERITY_LABELS = {"error": "Error", "warning": "Warning", "note": "Note"}
_SECTIONS = (
    ("findings", "findings", "What to know"),
    ("classes", "class_rows", "Classes"),
    ("sizes", "sizes_svg", "Sizes"),
    ("unreadable", "unreadable", "Unreadable files"),
    ("duplicates", "duplicate_groups", "Duplicate images"),
    ("batch", "batch", "A training batch"),
    ("metadata", "metadata", "Details"),
)


def data_check_context(page: DataCheckPage) -> dict[str, Any]:
    """The values of `data.html`, by name; a part that is empty leaves its section out."""
    rows = _class_count_rows(page.counts)
    context: dict[str, Any] = {
        "title": page.title,
        "summary": _data_summary_text(page),
        "tiles": _data_tiles(page),
        "findings": [
            {"severity_label": _SEVERITY_LABELS[severity], "severity": severity, "text": text}
            for severity, text in page.findings
        ],
        "splits": list(page.counts),
        "class_rows": rows,
        "smallest_rows": sorted(rows, key=lambda row: row["total"])[:NUM_SMALLEST_CLASSES]
        if len(rows) > MAX_CLASS_ROWS
        else [],
        **_sizes_context(page.sizes),
        "unreadable": list(page.unreadable),
        "duplicate_groups": [
            {"heading": group.heading, "images": [_image_context(image) for image in group.images]}
            for group in page.duplicate_groups
        ],
        "duplicate_groups_text": _duplicate_groups_text(len(page.duplicate_groups), page.num_duplicate_groups),
        "batch": [_image_context(image) for image in page.batch],
        "train_transform": page.train_transform,
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
    }
    context["sections"] = [(anchor, name) for anchor, key, name in _SECTIONS if context[key]]
    return context


def _count_images(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(class_counts.values()) for class_counts in counts.values())


def _data_summary_text(page: DataCheckPage) -> str:
    classes = {name for class_counts in page.counts.values() for name in class_counts}
    dataset_text = (
        f"{pluralize(_count_images(page.counts), 'picture')} of {pluralize(len(classes), 'class', 'classes')}"
    )
    num_by_severity = {severity: sum(level == severity for level, _ in page.findings) for severity in _SEVERITY_LABELS}
    if num_by_severity["error"]:
        return f"{dataset_text}: {pluralize(num_by_severity['error'], 'error')} to put right before training."
    if num_by_severity["warning"]:
        return f"{dataset_text}: ready to train, with {pluralize(num_by_severity['warning'], 'warning')} to look at."
    return f"{dataset_text}: nothing stands in the way of training."


def _data_tiles(page: DataCheckPage) -> list[dict[str, Any]]:
    splits = ", ".join(
        f"{format_int(sum(class_counts.values()))} {split}" for split, class_counts in page.counts.items()
    )
    train = page.counts.get("train", {})
    per_class_text = (
        f"{format_int(min(train.values()))} to {format_int(max(train.values()))} each in train" if train else ""
    )
    if train and len(set(train.values())) == 1:
        per_class_text = f"{format_int(next(iter(train.values())))} each in train"
    return [
        make_tile("pictures", format_int(_count_images(page.counts)), splits),
        make_tile("classes", format_int(len(train)), per_class_text),
        make_tile(
            "unreadable", format_int(len(page.unreadable)), "files" if page.unreadable else "every file was read whole"
        ),
        make_tile("groups of twins", format_int(page.num_duplicate_groups), "the same or nearly the same picture"),
    ]


def _class_count_rows(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for class_counts in counts.values() for name in class_counts))
    first_split = next(iter(counts.values()), {})
    max_count, total = max(first_split.values(), default=0) or 1, sum(first_split.values()) or 1
    return [
        {
            "name": name,
            "counts": [format_int(class_counts.get(name, 0)) for class_counts in counts.values()],
            "width": round(100 * first_split.get(name, 0) / max_count, 1),
            "share": format_percent(first_split.get(name, 0) / total, 1),
            "total": first_split.get(name, 0),
        }
        for name in names
    ]


def _sizes_context(sizes: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    all_sizes = [size for split_sizes in sizes.values() for size in split_sizes]
    if not all_sizes:
        return {"sizes_svg": None, "sizes_text": ""}
    heights, widths = [height for height, _ in all_sizes], [width for _, width in all_sizes]
    if len(set(all_sizes)) == 1:
        text = f"Every picture is {heights[0]} pixels high and {widths[0]} wide."
        return {"sizes_svg": None, "sizes_text": text}
    text = (
        f"Heights from {format_int(min(heights))} to {format_int(max(heights))} pixels, widths from {format_int(min(widths))} to "
        f"{format_int(max(widths))}, {format_int(len(set(all_sizes)))} different sizes."
    )
    figure = plot_image_sizes({split: split_sizes for split, split_sizes in sizes.items() if split_sizes})
    return {
        "sizes_svg": Markup(render_inline_svg(figure, "sizes", f"Height against width of every picture. {text}")),
        "sizes_text": text,
    }


def _duplicate_groups_text(num_shown: int, num_total: int) -> str:
    if num_shown < num_total:
        return f"{num_shown} of {format_int(num_total)} groups, those across splits first."
    return "Those across splits first." if num_total > 1 else ""


def _image_context(captioned: CaptionedImage) -> dict[str, Any]:
    return {"image": make_thumbnail(captioned.image), "caption": captioned.caption, "name": captioned.name}


MAX_GROUPS = 12
MAX_IMAGES_PER_GROUP = 6
BATCH_SIZE = 24


def build_data_check_page(
    check: DataCheck, findings: Sequence[Finding], train_transform: str, seed: int = 0
) -> DataCheckPage:
    """The page of a check, with one batch of its training pictures under the augmentation `words`.

    Where the words do not fit the pictures the page says so and shows no batch.
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
        counts=check.counts,
        findings=[(finding.severity, finding.text) for finding in findings],
        sizes=_sizes_by_split(check.readable),
        unreadable=[(checked.name, checked.info.error) for checked in check.unreadable],
        duplicate_groups=[
            _image_group(check, duplicates, duplicates.indices in cross_split) for duplicates in groups[:MAX_GROUPS]
        ],
        num_duplicate_groups=len(groups),
        train_transform=train_transform,
        metadata={"location": check.listing.location, "pictures looked at": format_int(len(check.images))},
    )
    try:
        return replace(page, batch=_sample_batch(check, train_transform, seed))
    except ValueError as error:
        error_finding = ("error", f"No training batch can be made under {train_transform!r}: {error}.")
        return replace(page, findings=[error_finding, *page.findings])


def _sizes_by_split(readable: Sequence[CheckedImage]) -> dict[str, list[tuple[int, int]]]:
    sizes: dict[str, list[tuple[int, int]]] = {}
    for checked in readable:
        sizes.setdefault(checked.split, []).append((checked.info.height, checked.info.width))
    return sizes


def _image_group(check: DataCheck, duplicates: DuplicateGroup, is_cross_split: bool) -> ImageGroup:
    heading = (
        "The same pixels" if duplicates.is_exact else f"Nearly the same, {duplicates.max_distance} of 64 bits apart"
    )
    samples = [check.images[index] for index in duplicates.indices[:MAX_IMAGES_PER_GROUP]]
    num_hidden = len(duplicates.indices) - len(samples)
    heading += f", {len(duplicates.indices)} pictures of which {len(samples)} are shown" if num_hidden else ""
    images = [
        CaptionedImage(
            _to_pixels(checked.dataset.preview(checked.index)), f"{checked.label}, {checked.split}", checked.name
        )
        for checked in samples
    ]
    return ImageGroup(f"{heading}, in more than one split" if is_cross_split else heading, images)


def _sample_batch(check: DataCheck, train_transform: str, seed: int) -> list[CaptionedImage]:
    dataset = _readable_train_images(check)
    if dataset is None:
        return []
    channels = dataset.preview(0).shape[0]
    identity_preprocess = Preprocess(channels, "", (0.0,) * channels, (1.0,) * channels)
    classes = check.listing.classes
    batch_size = min(BATCH_SIZE, len(dataset))
    loader = TrainLoader(
        dataset, batch_size, train_transform, identity_preprocess, seed, "cpu", num_classes=len(classes)
    )
    x, y, indices = next(loader.iter_from())
    return [
        CaptionedImage(
            _to_pixels((255 * image).round().clamp(0, 255).to(torch.uint8)),
            _target_text(target, classes),
            dataset.name(i),
        )
        for image, target, i in zip(x, y, indices.tolist(), strict=True)
    ]


def _readable_train_images(check: DataCheck) -> ImageDataset | None:
    split = "train" if "train" in check.listing.splits else next(iter(check.listing.splits), "")
    if not split:
        return None
    dataset = check.listing.splits[split]
    indices = [checked.index for checked in check.readable if checked.dataset is dataset]
    return dataset.subset(indices) if indices else None


def _target_text(target: Tensor, classes: Sequence[str]) -> str:
    """A class, or of a mixed picture its parts: `0.7 ant, 0.3 bee`."""
    if target.ndim == 0:
        return classes[int(target)]
    weighted_classes = [(float(weight), classes[index]) for index, weight in enumerate(target.tolist()) if weight > 0]
    return (
        weighted_classes[0][1]
        if len(weighted_classes) == 1
        else ", ".join(f"{weight:.2g} {name}" for weight, name in sorted(weighted_classes)[::-1])
    )


def _to_pixels(image: Tensor) -> np.ndarray:
    array = image.numpy()
    return array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
