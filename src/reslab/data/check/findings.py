"""Turn a `DataCheck` into findings: errors that stop training, warnings that distort its results, and notes."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reslab.data.boxes import BoxIssueKind
from reslab.data.check.check import (
    CheckedImage,
    DataCheck,
    Finding,
    FindingKind,
    Severity,
    count_images,
    join_names,
    shorten_list,
)
from reslab.data.check.duplicates import MAX_HASH_DISTANCE, DuplicateGroup
from reslab.data.check.statistics import MAX_ASPECT_RATIO as MAX_BOX_RATIO
from reslab.data.check.statistics import MIN_SIDE, SIZE_LIMITS, BoxStatistics
from reslab.data.dataset import MIN_IMBALANCE, float_range_messages
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.targets import TARGET_RULES
from reslab.spec.task import find_task

MIN_OBJECTS_PER_CLASS = 20
MIN_SMALL_SHARE = 0.3

_BOX_ISSUES = {
    BoxIssueKind.CLIPPED: (FindingKind.CLIPPED_BOXES, "beyond the border of the image, where it is clipped"),
    BoxIssueKind.EMPTY: (FindingKind.EMPTY_BOXES, "without an area, which is left out"),
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
    yield from _box_issue_findings(check.boxes.values())
    yield from _box_row_findings(check, by_split)
    empty = [by_split[split][i] for split, statistics in check.boxes.items() for i in statistics.without_object]
    empty = [image for image in empty if not image.target_error and not image.info.error]
    if empty:
        verb = "teaches" if len(empty) == 1 else "teach"
        text = f"{count_images(len(empty))} without any object, which {verb} what is background: {join_names(empty)}."
        yield Finding(Severity.NOTE, FindingKind.WITHOUT_OBJECT, text)
    if "train" in check.boxes:
        yield from _box_class_findings(check, check.boxes["train"])


def _box_issue_findings(splits: Collection[BoxStatistics]) -> Iterator[Finding]:
    for issue_kind, (kind, text) in _BOX_ISSUES.items():
        issues = [issue for statistics in splits for issue in statistics.issues_of(issue_kind)]
        if issues:
            noun = "1 box" if len(issues) == 1 else f"{len(issues):,} boxes, each"
            examples = shorten_list([f"{issue.image} {issue.location}" for issue in issues])
            yield Finding(Severity.WARNING, kind, f"{noun} {text}: {examples} ({issues[0].text}).")


def _box_row_findings(check: DataCheck, by_split: dict[str, list[CheckedImage]]) -> Iterator[Finding]:
    kinds = (
        ("repeated", Severity.WARNING, FindingKind.REPEATED_BOXES, "with the class and box of another of its image"),
        ("tiny", Severity.NOTE, FindingKind.TINY_BOXES, f"less than {MIN_SIDE:g} pixels high or wide"),
        (
            "elongated",
            Severity.NOTE,
            FindingKind.ELONGATED_BOXES,
            f"over {MAX_BOX_RATIO:g} times as long as wide",
        ),
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


def _box_class_findings(check: DataCheck, train: BoxStatistics) -> Iterator[Finding]:
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


MIN_IMAGES_PER_CLASS = 20
MIN_IMAGE_SIDE = 32
MAX_ASPECT_RATIO = 4.0
MIN_VOID_SHARE = 0.2
MAX_RARE_SHARE = 0.02


def list_findings(check: DataCheck) -> list[Finding]:
    """Return all findings, errors first; an empty list if nothing is wrong."""
    all_findings = [
        *_layout_findings(check),
        *_ignored_findings(check),
        *_label_findings(check),
        *_missing_findings(check),
        *_unreadable_findings(check),
        *_decode_warning_findings(check),
        *_cross_split_findings(check),
        *_label_conflict_findings(check),
        *_within_split_findings(check),
        *(_mask_findings(check) if check.masks else _class_findings(check)),
        *box_findings(check),
        *_multi_label_findings(check),
        *_value_findings(check),
        *_image_findings(check),
    ]
    severities = list(Severity)
    return sorted(all_findings, key=lambda finding: severities.index(finding.severity))


def _layout_findings(check: DataCheck) -> Iterator[Finding]:
    for split, dataset in check.listing.unlabeled.items():
        has_no_classes = split not in check.listing.splits
        text = f"{count_images(len(dataset))} in the {SPLIT_TITLES[split]} folder itself, not in a class folder"
        if split == "test" and has_no_classes:
            yield Finding(Severity.NOTE, FindingKind.UNLABELED, f"{text}: an unlabeled test set is ignored.")
        else:
            severity = Severity.ERROR if has_no_classes else Severity.WARNING
            advice = "move them into class folders, or list them with their labels in a CSV file"
            yield Finding(severity, FindingKind.UNLABELED, f"{text}, so they have no label: {advice}.")
    if check.listing.layout_error:
        text = f"Training would stop with this error: {check.listing.layout_error}."
        yield Finding(Severity.ERROR, FindingKind.LAYOUT, text)


def _ignored_findings(check: DataCheck) -> Iterator[Finding]:
    ignored = check.listing.ignored
    texts = replace(ignored, system_folders=()).messages(Path(check.listing.location))
    if texts:
        text = ". ".join(text[0].upper() + text[1:] for text in texts)
        yield Finding(Severity.WARNING, FindingKind.IGNORED_FILES, f"{text}.")
    if ignored.system_folders:
        names = shorten_list(sorted({path.name for path in ignored.system_folders}))
        text = f"Folders of the operating system or a storage device are ignored: {names}."
        yield Finding(Severity.NOTE, FindingKind.SYSTEM_FOLDERS, text)


def _label_findings(check: DataCheck) -> Iterator[Finding]:
    reason = check.listing.task_reason
    if reason:
        yield Finding(Severity.NOTE, FindingKind.TASK, f"{reason[0].upper()}{reason[1:]}.")
    messages = check.listing.messages
    if messages:
        text = "; ".join(messages)
        severity = Severity.NOTE if check.masks or check.boxes else Severity.WARNING
        yield Finding(severity, FindingKind.LABELS, f"{text[0].upper()}{text[1:]}.")
    by_key: dict[str, list[str]] = {}
    for name in check.listing.classes:
        by_key.setdefault("".join(re.split(r"[\s_-]+", name.strip().casefold())), []).append(name)
    similar = [names for names in by_key.values() if len(names) > 1]
    if similar:
        groups = shorten_list([" and ".join(repr(name) for name in names) for names in similar])
        text = f"Class names that differ only in case, blanks, - or _: {groups}. If they are one class, merge them."
        yield Finding(Severity.WARNING, FindingKind.SIMILAR_CLASSES, text)
    floats = float_range_messages(check.listing.splits)
    if floats:
        text = "; ".join(floats)
        yield Finding(Severity.WARNING, FindingKind.FLOAT_RANGE, f"{text[0].upper()}{text[1:]}.")


def _missing_findings(check: DataCheck) -> Iterator[Finding]:
    if check.missing:
        advice = "correct the list or restore the files, or train with --skip-bad-images"
        text = f"{count_images(len(check.missing))} missing: {join_names(check.missing)}; {advice}."
        yield Finding(Severity.ERROR, FindingKind.MISSING, text)


def _unreadable_findings(check: DataCheck) -> Iterator[Finding]:
    if check.unreadable:
        num_files = "1 file" if len(check.unreadable) == 1 else f"{len(check.unreadable):,} files"
        advice = "repair or remove them, or train with --skip-bad-images"
        text = f"{num_files} cannot be read: {join_names(check.unreadable)}; {advice}."
        yield Finding(Severity.ERROR, FindingKind.UNREADABLE, text)


def _decode_warning_findings(check: DataCheck) -> Iterator[Finding]:
    if check.with_warning:
        first = check.with_warning[0]
        text = f"{count_images(len(check.with_warning))} damaged, but decoded with a warning: "
        text += f"{join_names(check.with_warning)} ({first.info.warning}); look at them, restore or remove them."
        yield Finding(Severity.WARNING, FindingKind.DECODE_WARNINGS, text)


def _cross_split_findings(check: DataCheck) -> Iterator[Finding]:
    exact = [group for group in check.cross_split if group.is_exact]
    if exact:
        text = f"{_count_groups(exact)} of identical images across {_join_splits(check, exact)}: duplicates across "
        text += f"splits inflate the score; remove one copy ({_first_group(check, exact)})."
        yield Finding(Severity.WARNING, FindingKind.CROSS_SPLIT_DUPLICATES, text)
    near = [group for group in check.cross_split if not group.is_exact]
    if near:
        text = f"{_count_groups(near)} of nearly identical images across {_join_splits(check, near)}: look at them; "
        text += f"copies across splits inflate the score ({_first_group(check, near)})."
        yield Finding(Severity.WARNING, FindingKind.CROSS_SPLIT_NEAR_DUPLICATES, text)


def _label_conflict_findings(check: DataCheck) -> Iterator[Finding]:
    if check.label_conflicts:
        example = _first_group(check, check.label_conflicts)
        text = f"{_count_groups(check.label_conflicts)} of identical images with different labels: {example}."
        yield Finding(Severity.WARNING, FindingKind.LABEL_CONFLICTS, text)


def _within_split_findings(check: DataCheck) -> Iterator[Finding]:
    reported = {group.indices for group in (*check.cross_split, *check.label_conflicts)}
    groups = [group for group in check.duplicates if group.indices not in reported]
    exact = [group for group in groups if group.is_exact]
    if exact:
        text = f"{_count_groups(exact)} of identical images within a split: {_first_group(check, exact)}."
        yield Finding(Severity.WARNING, FindingKind.DUPLICATES, text)
    near = [group for group in groups if not group.is_exact]
    if near:
        text = f"{_count_groups(near)} of nearly identical images within a split "
        text += f"(hashes differ in at most {MAX_HASH_DISTANCE} of 64 bits): {_first_group(check, near)}."
        yield Finding(Severity.NOTE, FindingKind.NEAR_DUPLICATES, text)


def _mask_findings(check: DataCheck) -> Iterator[Finding]:
    invalid = [image for image in check.images if image.target_error]
    if invalid:
        noun = "1 mask" if len(invalid) == 1 else f"{len(invalid):,} masks"
        text = f"{noun} cannot be used: {join_names(invalid)} ({invalid[0].target_error}); correct them, or train with "
        yield Finding(Severity.ERROR, FindingKind.MASKS, f"{text}--skip-bad-images.")
    by_split = {split: [image for image in check.images if image.split == split] for split in check.masks}
    void = [by_split[split][i] for split, statistics in check.masks.items() for i in statistics.all_void]
    if void:
        text = f"{count_images(len(void))} void throughout, so nothing is learned from them: {join_names(void)}."
        yield Finding(Severity.WARNING, FindingKind.VOID_MASKS, text)
    empty = [by_split[split][i] for split, statistics in check.masks.items() for i in statistics.without_object]
    if empty:
        text = f"{count_images(len(empty))} {check.listing.classes[0]} throughout, without another class: "
        yield Finding(Severity.NOTE, FindingKind.WITHOUT_OBJECT, f"{text}{join_names(empty)}.")
    shares = {split: statistics.void_share for split, statistics in check.masks.items()}
    if any(share >= MIN_VOID_SHARE for share in shares.values()):
        text = ", ".join(f"{share:.0%} of the {SPLIT_TITLES[split]} pixels" for split, share in shares.items())
        yield Finding(Severity.NOTE, FindingKind.VOID_SHARE, f"Void, and so not learned: {text}.")
    if "train" in check.masks:
        yield from _rare_pixel_findings(check)


def _rare_pixel_findings(check: DataCheck) -> Iterator[Finding]:
    pixels = check.masks["train"].pixels_per_class
    shares = (pixels / max(1, int(pixels.sum()))).tolist()
    by_name = dict(zip(check.listing.classes, shares, strict=True))
    missing = [name for name, share in by_name.items() if share == 0]
    if missing:
        text = f"No training mask has a pixel of {shorten_list(missing)}: nothing is learned of it."
        yield Finding(Severity.WARNING, FindingKind.SMALL_CLASSES, text)
    rare = {name: share for name, share in by_name.items() if 0 < share < MAX_RARE_SHARE}
    if rare:
        shown = shorten_list([f"{name} {share:.2%}" for name, share in sorted(rare.items(), key=lambda item: item[1])])
        text = f"Few of the training pixels: {shown}. Set class_weights=balanced, and compare the IoU of each class."
        yield Finding(Severity.NOTE, FindingKind.RARE_PIXELS, text)


def _class_findings(check: DataCheck) -> Iterator[Finding]:
    train = check.counts.get("train", {})
    if not train:
        return
    smallest, largest = min(train, key=lambda name: train[name]), max(train, key=lambda name: train[name])
    if check.imbalance >= MIN_IMBALANCE and train[smallest]:
        text = (
            f"The training classes are imbalanced, {check.imbalance:.3g} to 1: {train[largest]:,} images of {largest}, "
            f"{train[smallest]:,} of {smallest}. {_imbalance_advice(check)}"
        )
        yield Finding(Severity.WARNING, FindingKind.IMBALANCE, text)
    small = [name for name, count in train.items() if 0 < count < MIN_IMAGES_PER_CLASS]
    if small:
        text = f"Fewer than {MIN_IMAGES_PER_CLASS} training images of {shorten_list(small)}: start from pretrained "
        yield Finding(Severity.NOTE, FindingKind.SMALL_CLASSES, f"{text}weights.")


def _imbalance_advice(check: DataCheck) -> str:
    if TARGET_RULES[find_task(check.listing.task).target].keeps_classes:
        return "Set class_weights=balanced or class_balanced_sampling=true, and compare per-class metrics."
    return "Compare per-class metrics."


def _multi_label_findings(check: DataCheck) -> Iterator[Finding]:
    without = check.labels.num_without_class
    if without is None:
        return
    num_train = check.num_images.get("train", 0)
    always = [name for name, count in check.counts.get("train", {}).items() if num_train and count == num_train]
    if always:
        text = f"Every training image shows {shorten_list(always)}: what every image shows cannot be learned."
        yield Finding(Severity.WARNING, FindingKind.ALWAYS_SHOWN, text)
    together = [f"{pair.first} and {pair.second}" for pair in check.labels.pairs if pair.is_always]
    if together and not always:
        text = f"Training images show these classes together or not at all: {shorten_list(together)}."
        yield Finding(Severity.WARNING, FindingKind.NEVER_APART, text)
    counts = ", ".join(f"{count:,} {SPLIT_TITLES[split]}" for split, count in without.items() if count)
    if counts:
        text = f"Images without any class: {counts}; they are negative examples of every class."
        yield Finding(Severity.NOTE, FindingKind.NO_CLASS, text)


def _value_findings(check: DataCheck) -> Iterator[Finding]:
    train = {value.name: value for value in check.labels.values.get("train", ())}
    constant = [f"{name} ({value.minimum:g})" for name, value in train.items() if value.minimum == value.maximum]
    if constant:
        text = f"All training images have the same value of {shorten_list(constant)}: there is nothing to learn."
        yield Finding(Severity.WARNING, FindingKind.CONSTANT_VALUES, text)
    outliers = [
        f"{value.name} {float(check.listing.splits[split].labels[i, k]):g} of {check.listing.splits[split].name(i)}"
        for split, values in check.labels.values.items()
        for k, value in enumerate(values)
        for i in value.outliers
    ]
    if outliers:
        text = f"Values far from all others, which dominate a squared error: {shorten_list(outliers)}. If they are "
        yield Finding(Severity.WARNING, FindingKind.OUTLIERS, f"{text}right, consider the loss l1 or huber.")
    outside = [
        f"{SPLIT_TITLES[split]} {value.name} from {value.minimum:g} to {value.maximum:g}, in training "
        f"from {train[value.name].minimum:g} to {train[value.name].maximum:g}"
        for split, values in check.labels.values.items()
        for value in values
        if value.name in train
        and (value.minimum < train[value.name].minimum or value.maximum > train[value.name].maximum)
    ]
    if outside:
        text = f"Values outside of the range of the training images: {shorten_list(outside)}."
        yield Finding(Severity.NOTE, FindingKind.VALUE_RANGE, text)


def _image_findings(check: DataCheck) -> Iterator[Finding]:
    readable = check.readable
    blank = [image for image in readable if image.info.is_blank]
    if blank:
        text = f"{count_images(len(blank))} blank (a single color): {join_names(blank)}."
        yield Finding(Severity.WARNING, FindingKind.BLANK, text)
    channels = Counter(image.info.channels for image in readable)
    if len(channels) > 1:
        counts = ", ".join(f"{count:,} {_CHANNEL_TITLES[number]}" for number, count in channels.most_common())
        text = f"Mixed image modes: {counts}; all are read as RGB, transparent areas as white."
        yield Finding(Severity.NOTE, FindingKind.CHANNELS, text)
    num_rotated = sum(image.info.exif_rotated for image in readable)
    if num_rotated:
        text = f"{count_images(num_rotated)} rotated by EXIF; the rotation is applied when reading."
        yield Finding(Severity.NOTE, FindingKind.EXIF_ROTATED, text)
    sides = [min(image.info.height, image.info.width) for image in readable]
    small = [image for image, side in zip(readable, sides, strict=True) if side < MIN_IMAGE_SIDE]
    # A data set of small images throughout is fine; a few among large ones are mostly mistakes.
    if small and max(sides) >= 4 * MIN_IMAGE_SIDE:
        text = f"{count_images(len(small))} under {MIN_IMAGE_SIDE} pixels high or wide, among much larger ones: "
        yield Finding(Severity.WARNING, FindingKind.SMALL_IMAGES, f"{text}{join_names(small)}.")
    elongated = [image for image in readable if _aspect_ratio(image) > MAX_ASPECT_RATIO]
    if elongated:
        text = f"{count_images(len(elongated))} more than {MAX_ASPECT_RATIO:g} times as long as wide; crops show only "
        yield Finding(Severity.NOTE, FindingKind.ELONGATED, f"{text}a small part: {join_names(elongated)}.")


_CHANNEL_TITLES = {
    1: "grayscale",
    2: "grayscale with transparency",
    3: "RGB",
    4: "with a fourth channel (alpha or CMYK)",
}


def _aspect_ratio(image: CheckedImage) -> float:
    sides = (image.info.height, image.info.width)
    return max(sides) / min(sides)


def _count_groups(groups: Sequence[DuplicateGroup]) -> str:
    return "1 group" if len(groups) == 1 else f"{len(groups):,} groups"


def _first_group(check: DataCheck, groups: Sequence[DuplicateGroup]) -> str:
    names = [check.images[index].name for index in groups[0].indices]
    return " = ".join(names[:3]) + (" and more" if len(names) > 3 or len(groups) > 1 else "")


def _join_splits(check: DataCheck, groups: Sequence[DuplicateGroup]) -> str:
    splits = {check.images[index].split for group in groups for index in group.indices}
    return " and ".join(title for split, title in SPLIT_TITLES.items() if split in splits)
