"""A finding of a check: its severity, its subject and its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reslab.data.check.check import CheckedImage


class Severity(StrEnum):
    """The severity of a finding, the most serious first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class FindingKind(StrEnum):
    """The subject of a finding."""

    UNLABELED = "unlabeled"
    LAYOUT = "layout"
    IGNORED_FILES = "ignored-files"
    SYSTEM_FOLDERS = "system-folders"
    TASK = "task"
    LABELS = "labels"
    SIMILAR_CLASSES = "similar-classes"
    FLOAT_RANGE = "float-range"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    DECODE_WARNINGS = "decode-warnings"
    CROSS_SPLIT_DUPLICATES = "cross-split-duplicates"
    CROSS_SPLIT_NEAR_DUPLICATES = "cross-split-near-duplicates"
    LABEL_CONFLICTS = "label-conflicts"
    DUPLICATES = "duplicates"
    NEAR_DUPLICATES = "near-duplicates"
    MASKS = "masks"
    VOID_MASKS = "void-masks"
    WITHOUT_OBJECT = "without-object"
    VOID_SHARE = "void-share"
    RARE_PIXELS = "rare-pixels"
    BOXES = "boxes"
    CLIPPED_BOXES = "clipped-boxes"
    EMPTY_BOXES = "empty-boxes"
    REPEATED_BOXES = "repeated-boxes"
    SMALL_BOXES = "small-boxes"
    TINY_BOXES = "tiny-boxes"
    ELONGATED_BOXES = "elongated-boxes"
    IMBALANCE = "imbalance"
    SMALL_CLASSES = "small-classes"
    ALWAYS_SHOWN = "always-shown"
    NEVER_APART = "never-apart"
    NO_CLASS = "no-class"
    CONSTANT_VALUES = "constant-values"
    OUTLIERS = "outliers"
    VALUE_RANGE = "value-range"
    BLANK = "blank"
    CHANNELS = "channels"
    EXIF_ROTATED = "exif-rotated"
    SMALL_IMAGES = "small-images"
    ELONGATED = "elongated"


@dataclass(frozen=True)
class Finding:
    """One result of a check: programs read `severity` and `kind`, people read `text`."""

    severity: Severity
    kind: FindingKind
    text: str


def count_images(num_images: int) -> str:
    """Return `1 image is` or `5 images are`."""
    return "1 image is" if num_images == 1 else f"{num_images:,} images are"


def join_names(images: Sequence[CheckedImage]) -> str:
    """Return the names of the first images."""
    return shorten_list([image.name for image in images])


def shorten_list(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
