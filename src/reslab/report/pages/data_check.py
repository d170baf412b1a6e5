"""The page of `reslab data check`: findings, class counts, image sizes, files without an image, duplicates, a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reslab.report.format import format_int, format_percent, format_split, pluralize
from reslab.report.images import make_thumbnail
from reslab.report.pages.components import make_panel, make_tile

MAX_CLASS_ROWS = 20
NUM_SMALLEST_CLASSES = 10
_SEVERITY_LABELS = {"error": "Error", "warning": "Warning", "note": "Note"}
# Anchor, key of the context that decides whether there is such a section, and title.
_SECTIONS = (
    ("findings", "title", "Findings"),
    ("classes", "class_rows", "Classes"),
    ("boxes", "box_rows", "Boxes"),
    ("values", "value_rows", "Values"),
    ("sizes", "sizes_text", "Image sizes"),
    ("unreadable", "unreadable", "Missing and unreadable files"),
    ("duplicates", "duplicate_groups", "Duplicate images"),
    ("batch", "batch", "Training batch"),
    ("metadata", "metadata", "Details"),
)


@dataclass(frozen=True)
class CaptionedImage:
    """An image, uint8 (H, W) or (H, W, 3), with the caption and the name below it."""

    image: np.ndarray
    caption: str = ""
    name: str = ""


@dataclass(frozen=True)
class ImageGroup:
    """Images that are duplicates or near duplicates, under a heading."""

    heading: str
    images: Sequence[CaptionedImage]


@dataclass(frozen=True)
class DataCheckPage:
    """The values of the page; every one but the title may be empty.

    `num_images[split]` are numbers of images, by default the sums of `counts[split][class]`, those of each class.
    `values` is a row of texts for each value of a split in regression: value, split, images, minimum, mean, standard
    deviation, maximum. `boxes` are rows of texts, the first the headings: what is counted, and its number in each
    split. `findings` are (severity, text), severity error, warning or note.
    `sizes[split]` are (height, width) of each readable image, `unreadable` (path, reason) of each other one, missing
    files too. `duplicate_groups` are the first of `num_duplicate_groups`. `batch` is a training batch under
    `train_transform`.
    """

    title: str
    num_images: Mapping[str, int] = field(default_factory=dict)
    values: Sequence[Sequence[str]] = ()
    boxes: Sequence[Sequence[str]] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    findings: Sequence[tuple[str, str]] = ()
    sizes: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    unreadable: Sequence[tuple[str, str]] = ()
    duplicate_groups: Sequence[ImageGroup] = ()
    num_duplicate_groups: int = 0
    batch: Sequence[CaptionedImage] = ()
    train_transform: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def data_check_context(page: DataCheckPage) -> dict[str, Any]:
    """Return the values of `data_check.html`; an empty one leaves its section out.

    Raises ValueError where an image is not uint8 of shape (H, W) or (H, W, 3).
    """
    rows = _class_count_rows(page.counts, next(iter(_num_images(page).values()), 0))
    context: dict[str, Any] = {
        "title": page.title,
        "summary": _data_summary_text(page),
        "tiles": _data_tiles(page),
        "findings": [
            {"severity_label": _SEVERITY_LABELS[severity], "severity": severity, "text": text}
            for severity, text in page.findings
        ],
        "splits": [format_split(split) for split in page.counts],
        "class_rows": rows,
        "value_columns": ["value", "split", "images", "minimum", "mean", "std", "maximum"],
        "value_rows": list(page.values),
        "box_columns": list(page.boxes[0]) if page.boxes else [],
        "box_rows": list(page.boxes[1:]),
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


def _num_images(page: DataCheckPage) -> dict[str, int]:
    return dict(page.num_images) or {split: sum(counts.values()) for split, counts in page.counts.items()}


def _data_summary_text(page: DataCheckPage) -> str:
    classes = {name for class_counts in page.counts.values() for name in class_counts}
    values = {row[0] for row in page.values}
    outputs = pluralize(len(values), "value") if values else pluralize(len(classes), "class", "classes")
    dataset_text = f"{pluralize(sum(_num_images(page).values()), 'image')} of {outputs}"
    num_by_severity = {severity: sum(level == severity for level, _ in page.findings) for severity in _SEVERITY_LABELS}
    if num_by_severity["error"]:
        return f"{dataset_text}: {pluralize(num_by_severity['error'], 'error')} to fix before training."
    if num_by_severity["warning"]:
        return f"{dataset_text}: ready to train, with {pluralize(num_by_severity['warning'], 'warning')}."
    return f"{dataset_text}: ready to train."


def _data_tiles(page: DataCheckPage) -> list[dict[str, Any]]:
    splits = ", ".join(f"{format_int(number)} {format_split(split)}" for split, number in _num_images(page).items())
    train = page.counts.get("train", {})
    per_class_text = (
        f"{format_int(min(train.values()))} to {format_int(max(train.values()))} per class in training" if train else ""
    )
    if train and len(set(train.values())) == 1:
        per_class_text = f"{format_int(next(iter(train.values())))} per class in training"
    return [
        make_tile("images", format_int(sum(_num_images(page).values())), splits),
        make_tile("values", format_int(len({row[0] for row in page.values})), "an image")
        if page.values
        else make_tile("classes", format_int(len(train)), per_class_text),
        make_tile(
            "unreadable",
            format_int(len(page.unreadable)),
            "files, or missing" if page.unreadable else "all files can be read",
        ),
        make_tile("duplicate groups", format_int(page.num_duplicate_groups), "of equal or nearly equal images"),
    ]


def _class_count_rows(counts: Mapping[str, Mapping[str, int]], num_images: int) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for class_counts in counts.values() for name in class_counts))
    first_split = next(iter(counts.values()), {})
    max_count, total = max(first_split.values(), default=0) or 1, num_images or 1
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
        return {"sizes_panel": None, "sizes_text": ""}
    heights, widths = [height for height, _ in all_sizes], [width for _, width in all_sizes]
    if len(set(all_sizes)) == 1:
        text = f"Every image is {heights[0]} pixels high and {widths[0]} pixels wide."
        return {"sizes_panel": None, "sizes_text": text}
    text = (
        f"Heights from {format_int(min(heights))} to {format_int(max(heights))} pixels, widths from "
        f"{format_int(min(widths))} to {format_int(max(widths))}, {format_int(len(set(all_sizes)))} different sizes."
    )
    from reslab.report.plots.bars import plot_image_sizes

    panel = make_panel(
        plot_image_sizes({split: split_sizes for split, split_sizes in sizes.items() if split_sizes}),
        "sizes",
        title="Height against width",
        alt_text=f"Height against width of every image. {text}",
        caption="One dot for each size, larger for more images; on the thin line images are square.",
    )
    return {"sizes_panel": panel, "sizes_text": text}


def _duplicate_groups_text(num_shown: int, num_total: int) -> str:
    if num_shown < num_total:
        return f"{num_shown} of {format_int(num_total)} groups, those across splits first."
    return "Those across splits first." if num_total > 1 else ""


def _image_context(captioned: CaptionedImage) -> dict[str, Any]:
    return {"image": make_thumbnail(captioned.image), "caption": captioned.caption, "name": captioned.name}
