"""Predicted masks as images of mode P in the palette of PASCAL VOC, and the names of their files."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from reslab.data.formats.mask_classes import voc_color

_PALETTE = [value for number in range(256) for value in voc_color(number)]


def mask_image(mask: np.ndarray) -> Image.Image:
    """Return a mask (H, W) uint8 of class numbers as an image of mode P with the palette of PASCAL VOC."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette(_PALETTE)
    return image


def unique_stems(paths: Iterable[str]) -> dict[str, str]:
    """Return the name of the file of each image's mask, without its ending: that of the image.

    Where several images have one name, theirs are the whole paths: `photos_cat_1.jpg`.
    """
    distinct = list(dict.fromkeys(paths))
    counts = Counter(Path(path).stem for path in distinct)
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for path in distinct:
        stem = Path(path).stem
        if counts[stem] > 1 or not stem.strip("."):
            stem = path.strip("./").replace("/", "_").replace("\\", "_") or "image"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        stems[path] = name
    return stems
