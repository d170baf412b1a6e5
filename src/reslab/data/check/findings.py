"""What a check of data means, in sentences: errors that stop training, warnings that spoil it, notes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reslab.data.check.check import CheckedImage, DataCheck
from reslab.data.check.duplicates import MAX_HASH_DISTANCE, DuplicateGroup

MIN_IMBALANCE = 3.0
MIN_IMAGES_PER_CLASS = 20
MIN_IMAGE_SIDE = 32
MAX_ASPECT_RATIO = 4.0


@dataclass(frozen=True)
class Finding:
    """One thing to know: `severity` error, warning or note, `kind` one word for it, and the sentence."""

    severity: str
    kind: str
    text: str


def list_findings(check: DataCheck) -> list[Finding]:
    """Everything a person should know, errors first; empty where nothing is wrong."""
    all_findings = [
        *_layout_findings(check),
        *_unreadable_findings(check),
        *_duplicate_findings(check),
        *_class_findings(check),
        *_image_findings(check),
    ]
    return sorted(all_findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _layout_findings(check: DataCheck) -> Iterator[Finding]:
    for split, dataset in check.listing.unlabeled.items():
        has_no_classes = split not in check.listing.splits
        images_text = f"{_num_images_text(len(dataset))} directly in the folder of {split}, without a class folder"
        advice = "sort them into class folders, or list them with their labels in a CSV file"
        if split == "test" and has_no_classes:
            yield Finding("note", "flat", f"{images_text}: a test set without labels is passed over.")
        else:
            yield Finding(
                "error" if has_no_classes else "warning",
                "flat",
                f"{images_text}: nothing tells what they show; {advice}.",
            )
    if check.listing.layout_error:
        yield Finding("error", "layout", f"Training would refuse this: {check.listing.layout_error}.")


def _unreadable_findings(check: DataCheck) -> Iterator[Finding]:
    if check.unreadable:
        num_files_text = "1 file cannot" if len(check.unreadable) == 1 else f"{len(check.unreadable):,} files cannot"
        text = f"{num_files_text} be read: {_names_text(check.unreadable)}; repair or remove, or train with --skip-bad-images."
        yield Finding("error", "unreadable", text)


def _duplicate_findings(check: DataCheck) -> Iterator[Finding]:
    for exact, degree in ((True, "exactly"), (False, "nearly")):
        cross_split = [group for group in check.cross_split if group.is_exact == exact]
        if cross_split:
            splits_text = _split_names(check, cross_split)
            advice = "a score there is partly memory; remove one side" if exact else "look at them: a copy is memory"
            text = f"{_num_groups_text(cross_split)} of {degree} the same picture in {splits_text}: {advice} ({_first_group_text(check, cross_split)})."
            yield Finding("warning", "shared" if exact else "shared-near", text)
    if check.label_conflicts:
        conflicts = check.label_conflicts
        text = f"{_num_groups_text(conflicts)} of the same picture under different classes: {_first_group_text(check, conflicts)}."
        yield Finding("warning", "contradicting", text)
    reported = {group.indices for group in (*check.cross_split, *check.label_conflicts)}
    within_split = [group for group in check.duplicates if group.indices not in reported]
    for exact, severity in ((True, "warning"), (False, "note")):
        group = [candidate for candidate in within_split if candidate.is_exact == exact]
        if group:
            degree = (
                "the same picture"
                if exact
                else f"nearly the same picture (hashes within {MAX_HASH_DISTANCE} of 64 bits)"
            )
            kind = "duplicates" if exact else "near-duplicates"
            yield Finding(
                severity,
                kind,
                f"{_num_groups_text(group)} of {degree} in one split: {_first_group_text(check, group)}.",
            )


def _class_findings(check: DataCheck) -> Iterator[Finding]:
    train = check.counts.get("train", {})
    if not train:
        return
    smallest, largest = min(train, key=lambda name: train[name]), max(train, key=lambda name: train[name])
    if check.imbalance >= MIN_IMBALANCE and train[smallest]:
        text = (
            f"The classes are uneven: {train[largest]:,} of {largest}, {train[smallest]:,} of {smallest} in train "
            f"({check.imbalance:.3g} to 1); balanced sampling or class weights help, and judge by per-class scores."
        )
        yield Finding("warning", "imbalance", text)
    few = [name for name, count in train.items() if 0 < count < MIN_IMAGES_PER_CLASS]
    if few:
        text = (
            f"{_shorten_list(few)}: fewer than {MIN_IMAGES_PER_CLASS} pictures in train; start from pretrained weights."
        )
        yield Finding("note", "few", text)


def _image_findings(check: DataCheck) -> Iterator[Finding]:
    readable = check.readable
    blank = [image for image in readable if image.info.is_blank]
    if blank:
        yield Finding("warning", "blank", f"{_num_images_text(len(blank))} of one colour: {_names_text(blank)}.")
    channels = Counter(image.info.channels for image in readable)
    if len(channels) > 1:
        channels_text = ", ".join(
            f"{count:,} {_channels_text(num_channels)}" for num_channels, count in channels.most_common()
        )
        yield Finding(
            "note", "channels", f"Mixed kinds: {channels_text}; all are read as colour, what is transparent on white."
        )
    num_rotated = sum(image.info.exif_rotated for image in readable)
    if num_rotated:
        yield Finding("note", "turned", f"{_num_images_text(num_rotated)} turned by EXIF; they are read upright.")
    sides = [min(image.info.height, image.info.width) for image in readable]
    tiny = [image for image, side in zip(readable, sides, strict=True) if side < MIN_IMAGE_SIDE]
    if tiny and max(sides) >= 4 * MIN_IMAGE_SIDE:
        text = f"{_num_images_text(len(tiny))} less than {MIN_IMAGE_SIDE} pixels high or wide among large ones: {_names_text(tiny)}."
        yield Finding("warning", "tiny", text)
    elongated = [
        image
        for image in readable
        if max(image.info.height, image.info.width) > MAX_ASPECT_RATIO * min(image.info.height, image.info.width)
    ]
    if elongated:
        images_text = f"{_num_images_text(len(elongated))} more than {MAX_ASPECT_RATIO:g} times as long as wide"
        text = f"{images_text}: a crop sees little of {_names_text(elongated)}."
        yield Finding("note", "long", text)


def _num_images_text(num_images: int) -> str:
    return "1 picture is" if num_images == 1 else f"{num_images:,} pictures are"


def _channels_text(channels: int) -> str:
    return {1: "grey", 2: "grey with transparency", 3: "in colour", 4: "with a fourth channel (transparency or CMYK)"}[
        channels
    ]


def _num_groups_text(groups: Sequence[DuplicateGroup]) -> str:
    return "1 group" if len(groups) == 1 else f"{len(groups):,} groups"


def _first_group_text(check: DataCheck, groups: Sequence[DuplicateGroup]) -> str:
    names = [check.images[index].name for index in groups[0].indices]
    return " = ".join(names[:3]) + (" and more" if len(names) > 3 or len(groups) > 1 else "")


def _split_names(check: DataCheck, groups: Sequence[DuplicateGroup]) -> str:
    splits = {check.images[index].split for group in groups for index in group.indices}
    return " and ".join(split for split in ("train", "val", "test") if split in splits)


def _names_text(images: Sequence[CheckedImage]) -> str:
    return _shorten_list([image.name for image in images])


def _shorten_list(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
