"""Findings on boxes: annotations that cannot be used, boxes that are mostly mistakes, and rare classes."""

from collections.abc import Collection, Iterator

from reslab.data.box_statistics import MAX_ASPECT_RATIO, MIN_SIDE, SIZE_LIMITS, BoxStatistics
from reslab.data.boxes import BoxFault
from reslab.data.check.check import CheckedImage, DataCheck
from reslab.data.check.finding import Finding, FindingKind, Severity, count_images, join_names, shorten_list

MIN_OBJECTS_PER_CLASS = 20
MIN_SMALL_SHARE = 0.3

_ISSUES = {
    BoxFault.CLIPPED: (FindingKind.CLIPPED_BOXES, "beyond the border of the image, where it is clipped"),
    BoxFault.EMPTY: (FindingKind.EMPTY_BOXES, "without an area, which is left out"),
}


def box_findings(check: DataCheck) -> Iterator[Finding]:
    """Yield the findings on the boxes of a check; none without boxes."""
    if not check.boxes:
        return
    by_split = {split: [image for image in check.images if image.split == split] for split in check.boxes}
    bad = [image for image in check.images if image.target_error]
    if bad:
        noun = "1 image" if len(bad) == 1 else f"{len(bad):,} images"
        text = f"The annotations of {noun} cannot be used: {join_names(bad)} ({bad[0].target_error}); correct them, "
        yield Finding(Severity.ERROR, FindingKind.BOXES, f"{text}or train with --skip-bad-images.")
    yield from _issue_findings(check.boxes.values())
    yield from _row_findings(check, by_split)
    empty = [by_split[split][i] for split, statistics in check.boxes.items() for i in statistics.without_object]
    empty = [image for image in empty if not image.target_error and not image.info.error]
    if empty:
        text = f"{count_images(len(empty))} without any object, which teach what is background: {join_names(empty)}."
        yield Finding(Severity.NOTE, FindingKind.WITHOUT_OBJECT, text)
    if "train" in check.boxes:
        yield from _class_findings(check, check.boxes["train"])


def _issue_findings(splits: Collection[BoxStatistics]) -> Iterator[Finding]:
    for fault, (kind, text) in _ISSUES.items():
        issues = [issue for statistics in splits for issue in statistics.issues_of(fault)]
        if issues:
            noun = "1 box" if len(issues) == 1 else f"{len(issues):,} boxes, each"
            places = shorten_list([f"{issue.image} {issue.place}" for issue in issues])
            yield Finding(Severity.WARNING, kind, f"{noun} {text}: {places} ({issues[0].text}).")


def _row_findings(check: DataCheck, by_split: dict[str, list[CheckedImage]]) -> Iterator[Finding]:
    kinds = (
        ("repeated", Severity.WARNING, FindingKind.REPEATED_BOXES, "with the class and place of another of its image"),
        ("tiny", Severity.NOTE, FindingKind.TINY_BOXES, f"less than {MIN_SIDE:g} pixels high or wide"),
        ("elongated", Severity.NOTE, FindingKind.ELONGATED_BOXES, f"over {MAX_ASPECT_RATIO:g} times as long as wide"),
    )
    for name, severity, kind, text in kinds:
        images: dict[str, None] = {}
        num_boxes = 0
        for split, statistics in check.boxes.items():
            rows = getattr(statistics, name)
            num_boxes += len(rows)
            images |= {by_split[split][i].name: None for i in statistics.table.image_of[list(rows)].tolist()}
        if num_boxes:
            noun = "1 box is" if num_boxes == 1 else f"{num_boxes:,} boxes are"
            advice = "; remove them" if severity is Severity.WARNING else ""
            yield Finding(severity, kind, f"{noun} {text}: in {shorten_list(list(images))}{advice}.")


def _class_findings(check: DataCheck, train: BoxStatistics) -> Iterator[Finding]:
    counts = dict(zip(check.listing.classes, train.objects_per_class.tolist(), strict=True))
    few = {name: count for name, count in counts.items() if 0 < count < MIN_OBJECTS_PER_CLASS}
    if few:
        shown = shorten_list([f"{name} ({count})" for name, count in sorted(few.items(), key=lambda item: item[1])])
        text = f"Fewer than {MIN_OBJECTS_PER_CLASS} training objects of {shown}: start from pretrained weights."
        yield Finding(Severity.NOTE, FindingKind.SMALL_CLASSES, text)
    share = train.sizes["small"] / max(1, train.num_objects)
    if share >= MIN_SMALL_SHARE:
        side = round(SIZE_LIMITS["small"] ** 0.5)
        text = f"{share:.0%} of the training objects are small, under {side}x{side} pixels: train on large images."
        yield Finding(Severity.NOTE, FindingKind.SMALL_BOXES, text)
