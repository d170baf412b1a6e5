"""The parts of a check's page: tiles, what to know, counts, sizes, twins, the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reslab.report.data_page import DataPage, Picture
from reslab.report.figures.sizes import sizes_figure
from reslab.report.format import count, percent, plural
from reslab.report.parts.scores import tile
from reslab.report.plots.export import svg
from reslab.report.thumbnails import thumbnail

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
