"""The images and objects that a format lists, and the table of boxes made of them: classes, issues, messages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reslab.data.boxes import BoxIssue, BoxIssueKind, BoxTable, ImageId, ObjectRow, fit_box, make_box_table
from reslab.data.dataset_names import SPLIT_TITLES, missing_classes_message
from reslab.data.formats.file_listing import relative_name
from reslab.data.segments import Polygons, Segment
from reslab.spec.errors import invalid, unknown_name

_NUM_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class AnnotatedObject:
    """An object as its format states it, converted to the convention of `reslab.data.boxes`.

    `location` is its position in the file, for errors: `line 3`, `annotation 17`.
    """

    box: tuple[float, ...]
    category: str
    location: str
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    segment: Segment | None = None


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with its objects; `source` is the file of its annotations.

    `size` is the height and width that the annotations state, None if they state none. `error` says why the annotations
    cannot be read. The image's name stands for an `image_id` of None. With `has_shares`, boxes and polygons are shares
    of the image's width and height.
    """

    path: Path
    objects: tuple[AnnotatedObject, ...]
    source: Path
    image_id: ImageId | None = None
    size: tuple[int, int] | None = None
    error: str = ""
    has_shares: bool = False


@dataclass(frozen=True, eq=False)
class BoxListing:
    """The annotated images of each split, and the classes in label order: None for those that occur, sorted.

    `category_ids` are COCO's ids of the classes; `messages` say what is not read.
    """

    root: Path
    splits: Mapping[str, Sequence[AnnotatedImage]]
    classes: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] = ()
    messages: tuple[str, ...] = field(default=())

    @property
    def all_images(self) -> list[AnnotatedImage]:
        """The images of all splits."""
        return [image for images in self.splits.values() for image in images]

    def find_classes(self) -> tuple[str, ...]:
        """Return the classes in label order."""
        if self.classes is not None:
            return self.classes
        return tuple(sorted({one.category for image in self.all_images for one in image.objects}))


def check_listed_once(listing: BoxListing) -> None:
    """Raise ValueError for an image that is listed twice, also in two splits, naming both places."""
    seen: dict[Path, str] = {}
    for split, images in listing.splits.items():
        for image in images:
            location = f"{SPLIT_TITLES[split]} ({image.source})"
            first = seen.setdefault(image.path, location)
            if first is not location:
                got = f"{relative_name(listing.root, image.path)} in {first} and in {location}"
                raise invalid("every image once", got, next_step="remove one of the two")


def check_in_pixels(listing: BoxListing) -> None:
    """Raise ValueError if every box lies in the first pixel, one in a part of it: boxes as shares of the image's sides.

    Boxes of images of one pixel are whole pixels.
    """
    all_objects = ((image, one) for image in listing.all_images if not image.has_shares for one in image.objects)
    objects = [(image, one) for image, one in all_objects if one.box[0] < one.box[2] and one.box[1] < one.box[3]]
    if any(abs(value) > 1 for _, one in objects for value in one.box):
        return
    fractions = [(image, one) for image, one in objects if any(value % 1 for value in one.box)]
    if not fractions:
        return
    image, one = fractions[0]
    shown = ", ".join(f"{value:g}" for value in one.box)
    got = f"only coordinates up to 1, such as {shown} ({one.location} of {image.source.name})"
    next_step = "multiply x by the width and y by the height of the image"
    raise invalid(f"boxes in pixels in {listing.root}", got, next_step=next_step)


def fit_objects(
    image: AnnotatedImage, name: str, size: tuple[int, int], classes: Sequence[str]
) -> tuple[list[ObjectRow], list[BoxIssue]]:
    """Return the usable objects of an image of this height and width, their boxes clipped to it, and the issues."""
    label_of = {category: label for label, category in enumerate(classes, 1)}
    rows, issues = [], []
    for one in image.objects:
        if one.category not in label_of:
            text = str(unknown_name("class", one.category, classes))
            issues.append(BoxIssue(BoxIssueKind.UNKNOWN_CLASS, name, one.location, text))
            continue
        one = _to_pixels(one, *size) if image.has_shares else one
        box, kind, text = fit_box(one.box, *size)
        if kind is not None:
            issues.append(BoxIssue(kind, name, one.location, text))
        if kind is None or kind is BoxIssueKind.CLIPPED:
            label = label_of[one.category]
            rows.append(ObjectRow(box, label, one.area, one.crowd, one.difficult, one.segment))
    return rows, issues


def _to_pixels(one: AnnotatedObject, height: int, width: int) -> AnnotatedObject:
    box = tuple(value * side for value, side in zip(one.box, (width, height) * 2, strict=True))
    segment = one.segment.scale(width, height) if isinstance(one.segment, Polygons) else one.segment
    return replace(one, box=box, segment=segment)


def image_error(image: AnnotatedImage, size: tuple[int, int], issues: Sequence[BoxIssue]) -> str:
    """Return why the annotations of an image cannot be used; empty if they can."""
    if image.error:
        return f"{image.source.name}: {image.error}"
    if image.size is not None and image.size != size:
        sizes = ["height {} and width {}".format(*pair) for pair in (size, image.size)]
        text = f"{image.source.name}: {invalid(f'the size of the image, {sizes[0]}', sizes[1])}"
        is_turned = image.size == size[::-1]
        return text + ("; EXIF may rotate the image: annotate the rotated one" if is_turned else "")
    errors = [issue for issue in issues if issue.is_error]
    shown = "; ".join(f"{image.source.name}, {issue.location}: {issue.text}" for issue in errors[:_NUM_EXAMPLES])
    return shown + (f"; and {len(errors) - _NUM_EXAMPLES:,} more" if len(errors) > _NUM_EXAMPLES else "")


_ISSUE_TEXTS = {
    BoxIssueKind.CLIPPED: ("box is clipped to its image", "boxes are clipped to their images"),
    BoxIssueKind.EMPTY: ("box has no area and is left out", "boxes have no area and are left out"),
}


def issue_messages(issues: Sequence[BoxIssue]) -> tuple[str, ...]:
    """Return a message for each kind of box that was clipped or left out, with the count and the first ones."""
    counts = Counter(issue.kind for issue in issues)
    messages = []
    for kind, (one, several) in _ISSUE_TEXTS.items():
        if counts[kind]:
            examples = [f"{issue.image} {issue.location}" for issue in issues if issue.kind is kind][:_NUM_EXAMPLES]
            text = f"1 {one}" if counts[kind] == 1 else f"{counts[kind]:,} {several}"
            messages.append(f"{text} ({', '.join(examples)}{', ...' if counts[kind] > len(examples) else ''})")
    return tuple(messages)


def coverage_messages(tables: Mapping[str, BoxTable], classes: Sequence[str], has_class_list: bool) -> tuple[str, ...]:
    """Return messages about splits without any object, and about classes without an object in a split.

    Raises ValueError if there is no training object, or another split has objects of a class without one and no list of
    classes names it.
    """
    shown = {split: set(table.labels.tolist()) for split, table in tables.items()}
    if not shown["train"]:
        got = f"none in {len(tables['train']):,} images"
        raise invalid("training images with objects", got, next_step="check that the annotations belong to the images")
    messages = [
        f"{SPLIT_TITLES[split]} images have no object, so that their average precision is not defined"
        for split, labels in shown.items()
        if not labels
    ]
    for split, labels in shown.items():
        names = [classes[label - 1] for label in sorted(labels - shown["train"])]
        if not names:
            continue
        if not has_class_list:
            required = f"{SPLIT_TITLES[split]} objects of classes that training images have too"
            raise invalid(required, _join(names), next_step="add training images of them, or remove these objects")
        messages.append(f"{SPLIT_TITLES[split]} images have classes that no training image has: {_join(names)}")
    missing = [name for label, name in enumerate(classes, 1) if label not in shown["train"]]
    if missing:
        messages.append(missing_classes_message("train", missing, len(classes)))
    for split, labels in shown.items():
        names = [classes[label - 1] for label in sorted(shown["train"] - labels)]
        if labels and names:
            messages.append(missing_classes_message(split, names, len(classes)))
    return tuple(messages)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def table_of(images: Sequence[AnnotatedImage], names: Sequence[str], sizes: Sequence[tuple[int, int]],
             rows: Sequence[Sequence[ObjectRow]]) -> BoxTable:  # fmt: skip
    """Return the table of these images with their usable objects."""
    ids = [name if image.image_id is None else image.image_id for image, name in zip(images, names, strict=True)]
    return make_box_table(ids, sizes, rows)
