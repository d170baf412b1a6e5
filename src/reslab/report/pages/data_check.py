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

from reslab.data.check.check import DataCheck, Seen
from reslab.data.check.duplicates import Twins
from reslab.data.check.findings import Finding
from reslab.data.image_datasets import Images
from reslab.data.loader import TrainBatches
from reslab.report.format import count, percent, plural
from reslab.report.pages.run import tile
from reslab.report.plots.bars import sizes_figure
from reslab.report.plots.export import svg
from reslab.report.plots.images import thumbnail
from reslab.spec.preprocess import Preprocess


@dataclass(frozen=True)
class Picture:
    """One picture to show, uint8 (H, W) or (H, W, 3), with what stands below it: a bold word and a name."""

    image: np.ndarray
    said: str = ""
    name: str = ""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that are the same or nearly: `kind` in words, for the heading of the group."""

    kind: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class DataPage:
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
    groups: Sequence[PictureGroup] = ()
    num_groups: int = 0
    batch: Sequence[Picture] = ()
    words: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


MOST_IN_TABLE = 20
NUM_SMALLEST = 10
_MARKS = {"error": "Error", "warning": "Warning", "note": "Note"}
_SECTIONS = (
    ("findings", "findings", "What to know"),
    ("classes", "class_rows", "Classes"),
    ("sizes", "sizes_svg", "Sizes"),
    ("unreadable", "unreadable", "Unreadable files"),
    ("twins", "groups", "The same picture twice"),
    ("batch", "batch", "A training batch"),
    ("facts", "facts", "Facts"),
)


def data_parts(page: DataPage) -> dict[str, Any]:
    """The values of `data.html`, by name; a part that is empty leaves its section out."""
    rows = _class_rows(page.counts)
    parts: dict[str, Any] = {
        "title": page.title,
        "summary": _summary(page),
        "tiles": _tiles(page),
        "findings": [
            {"mark": _MARKS[severity], "severity": severity, "text": text} for severity, text in page.findings
        ],
        "splits": list(page.counts),
        "class_rows": rows,
        "smallest_rows": sorted(rows, key=lambda row: row["total"])[:NUM_SMALLEST] if len(rows) > MOST_IN_TABLE else [],
        **_sizes(page.sizes),
        "unreadable": list(page.unreadable),
        "groups": [{"kind": group.kind, "pictures": [_shown(p) for p in group.pictures]} for group in page.groups],
        "groups_words": _groups_words(len(page.groups), page.num_groups),
        "batch": [_shown(picture) for picture in page.batch],
        "words": page.words,
        "facts": {str(name): str(value) for name, value in page.facts.items()},
    }
    parts["sections"] = [(anchor, name) for anchor, part, name in _SECTIONS if parts[part]]
    return parts


def _num_of(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(numbers.values()) for numbers in counts.values())


def _summary(page: DataPage) -> str:
    classes = {name for numbers in page.counts.values() for name in numbers}
    what = f"{plural(_num_of(page.counts), 'picture')} of {plural(len(classes), 'class', 'classes')}"
    num = {severity: sum(found == severity for found, _ in page.findings) for severity in _MARKS}
    if num["error"]:
        return f"{what}: {plural(num['error'], 'error')} to put right before training."
    if num["warning"]:
        return f"{what}: ready to train, with {plural(num['warning'], 'warning')} to look at."
    return f"{what}: nothing stands in the way of training."


def _tiles(page: DataPage) -> list[dict[str, Any]]:
    splits = ", ".join(f"{count(sum(numbers.values()))} {split}" for split, numbers in page.counts.items())
    train = page.counts.get("train", {})
    each = f"{count(min(train.values()))} to {count(max(train.values()))} each in train" if train else ""
    if train and len(set(train.values())) == 1:
        each = f"{count(next(iter(train.values())))} each in train"
    return [
        tile("pictures", count(_num_of(page.counts)), splits),
        tile("classes", count(len(train)), each),
        tile("unreadable", count(len(page.unreadable)), "files" if page.unreadable else "every file was read whole"),
        tile("groups of twins", count(page.num_groups), "the same or nearly the same picture"),
    ]


def _class_rows(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for numbers in counts.values() for name in numbers))
    first = next(iter(counts.values()), {})
    most, total = max(first.values(), default=0) or 1, sum(first.values()) or 1
    return [
        {
            "name": name,
            "numbers": [count(numbers.get(name, 0)) for numbers in counts.values()],
            "width": round(100 * first.get(name, 0) / most, 1),
            "share": percent(first.get(name, 0) / total, 1),
            "total": first.get(name, 0),
        }
        for name in names
    ]


def _sizes(sizes: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    every = [size for found in sizes.values() for size in found]
    if not every:
        return {"sizes_svg": None, "sizes_words": ""}
    heights, widths = [height for height, _ in every], [width for _, width in every]
    if len(set(every)) == 1:
        words = f"Every picture is {heights[0]} pixels high and {widths[0]} wide."
        return {"sizes_svg": None, "sizes_words": words}
    words = (
        f"Heights from {count(min(heights))} to {count(max(heights))} pixels, widths from {count(min(widths))} to "
        f"{count(max(widths))}, {count(len(set(every)))} different sizes."
    )
    figure = sizes_figure({split: found for split, found in sizes.items() if found})
    return {
        "sizes_svg": Markup(svg(figure, "sizes", f"Height against width of every picture. {words}")),
        "sizes_words": words,
    }


def _groups_words(num_shown: int, num: int) -> str:
    if num_shown < num:
        return f"{num_shown} of {count(num)} groups, those across splits first."
    return "Those across splits first." if num > 1 else ""


def _shown(picture: Picture) -> dict[str, Any]:
    return {"image": thumbnail(picture.image), "said": picture.said, "name": picture.name}


MOST_GROUPS = 12
MOST_IN_A_GROUP = 6
BATCH = 24


def check_page(check: DataCheck, findings: Sequence[Finding], words: str, seed: int = 0) -> DataPage:
    """The page of a check, with one batch of its training pictures under the augmentation `words`.

    Where the words do not fit the pictures the page says so and shows no batch.
    """
    across = {twins.places for twins in check.shared}
    groups = sorted(check.twins, key=lambda twins: (twins.places not in across, not twins.exact, twins.bits))
    page = DataPage(
        title=check.inventory.name,
        counts=check.counts,
        findings=[(finding.severity, finding.text) for finding in findings],
        sizes=_sizes_check_page(check.readable),
        unreadable=[(seen.name, seen.look.error) for seen in check.unreadable],
        groups=[_group(check, twins, twins.places in across) for twins in groups[:MOST_GROUPS]],
        num_groups=len(groups),
        words=words,
        facts={"location": check.inventory.location, "pictures looked at": count(len(check.seen))},
    )
    try:
        return replace(page, batch=_batch(check, words, seed))
    except ValueError as error:
        told = ("error", f"No training batch can be made under {words!r}: {error}.")
        return replace(page, findings=[told, *page.findings])


def _sizes_check_page(readable: Sequence[Seen]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for seen in readable:
        found.setdefault(seen.split, []).append((seen.look.height, seen.look.width))
    return found


def _group(check: DataCheck, twins: Twins, across: bool) -> PictureGroup:
    kind = "The same pixels" if twins.exact else f"Nearly the same, {twins.bits} of 64 bits apart"
    shown = [check.seen[place] for place in twins.places[:MOST_IN_A_GROUP]]
    more = len(twins.places) - len(shown)
    kind += f", {len(twins.places)} pictures of which {len(shown)} are shown" if more else ""
    pictures = [
        Picture(_pixels(seen.images.raw(seen.place)), f"{seen.label}, {seen.split}", seen.name) for seen in shown
    ]
    return PictureGroup(f"{kind}, in more than one split" if across else kind, pictures)


def _batch(check: DataCheck, words: str, seed: int) -> list[Picture]:
    images = _readable_training(check)
    if images is None:
        return []
    channels = images.raw(0).shape[0]
    as_it_is = Preprocess(channels, "", (0.0,) * channels, (1.0,) * channels)
    classes = check.inventory.classes
    num = min(BATCH, len(images))
    batches = TrainBatches(images, num, words, as_it_is, seed, "cpu", num_classes=len(classes))
    x, y, indices = next(batches.iterate())
    return [
        Picture(_pixels((255 * picture).round().clamp(0, 255).to(torch.uint8)), _label(target, classes), images.name(i))
        for picture, target, i in zip(x, y, indices.tolist(), strict=True)
    ]


def _readable_training(check: DataCheck) -> Images | None:
    split = "train" if "train" in check.inventory.splits else next(iter(check.inventory.splits), "")
    if not split:
        return None
    images = check.inventory.splits[split]
    places = [seen.place for seen in check.readable if seen.images is images]
    return images.subset(places) if places else None


def _label(target: Tensor, classes: Sequence[str]) -> str:
    """A class, or of a mixed picture its parts: `0.7 ant, 0.3 bee`."""
    if target.ndim == 0:
        return classes[int(target)]
    parts = [(float(share), classes[place]) for place, share in enumerate(target.tolist()) if share > 0]
    return parts[0][1] if len(parts) == 1 else ", ".join(f"{share:.2g} {name}" for share, name in sorted(parts)[::-1])


def _pixels(picture: Tensor) -> np.ndarray:
    array = picture.numpy()
    return array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
