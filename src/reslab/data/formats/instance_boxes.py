"""Boxes of masks that number the objects of an image (Penn-Fudan): the smallest box around each number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reslab.data.formats.box_listing import AnnotatedImage, AnnotatedObject, BoxListing
from reslab.data.formats.file_scan import scan_files
from reslab.data.formats.mask_pairs import check_paired, find_layout, list_mask_pairs
from reslab.data.image_datasets import relative_name
from reslab.data.mask_values import MaskMapping
from reslab.data.masks import MaskValues, read_stored_mask
from reslab.data.segments import InstanceNumber
from reslab.spec.errors import invalid

_OBJECT = "object"


def read_instances(root: Path, mask_values: MaskValues | MaskMapping | None = None) -> BoxListing:
    """Return the images of a folder with the boxes of the numbers from 1 in their masks.

    The class is that of the layout (`person` for Penn-Fudan), else `object`. Raises ValueError unless the masks number
    objects: `mask_values` says so where their folder does not.
    """
    layout = find_layout(root)
    assert layout is not None, root
    if (mask_values or layout.values) is not MaskValues.INSTANCES:
        required = f"boxes, or masks that number objects, in {root}"
        next_step = 'if the masks number the objects of an image, say so: mask_values="instances"'
        raise invalid(required, "masks of the class of each pixel", "--task segmentation", next_step)
    pairs = list_mask_pairs(root, layout)
    check_paired(pairs)
    category = layout.classes[-1] if layout.classes else _OBJECT
    paths = [mask for _, mask in pairs.all_pairs]
    rows = scan_files("instance-boxes", root, root, paths, _scan_instances)
    splits = {
        split: [_to_image(image, mask, rows[relative_name(root, mask)][2:], category) for image, mask in part]
        for split, part in pairs.splits.items()
    }
    return BoxListing(root, splits, (category,), messages=pairs.messages)


def _to_image(image: Path, mask: Path, row: Sequence[Any], category: str) -> AnnotatedImage:
    height, width, error, instances = row
    objects = tuple(
        AnnotatedObject(tuple(box), category, f"number {number}", area=area, segment=InstanceNumber(mask, number))
        for number, box, area in instances
    )
    return AnnotatedImage(image, objects, mask, size=None if error else (height, width), error=error)


def _scan_instances(path: Path) -> list[Any]:
    """Return height, width, why the mask cannot be read, and of each number the box and the number of pixels."""
    try:
        values = read_stored_mask(path, check_complete=True).values
    except ValueError as error:
        return [0, 0, str(error).removeprefix(f"{path}: "), []]
    if values.ndim != 2:
        return [*values.shape[:2], str(invalid("a mask of numbers", "colors")), []]
    numbers = np.unique(values[values > 0]).tolist()
    return [*values.shape, "", [[number, *instance_box(values == number)] for number in numbers]]


def instance_box(mask: np.ndarray) -> tuple[list[int], int]:
    """Return the smallest box (x1, y1, x2, y2) around the pixels of a mask (H, W) bool, and their number."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    return box, int(np.count_nonzero(mask))
