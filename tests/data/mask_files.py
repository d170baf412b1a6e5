"""Image and mask files that tests of segmentation data share: a bright disk on a dark ground, its mask beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((40, 50), (48, 40), (40, 50), (36, 36), (44, 60), (40, 50))


def disk(height: int, width: int, radius: int = 12) -> np.ndarray:
    """A disk of ones (H, W) uint8 on zeros, not in the center."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - height // 2 + 3) ** 2 + (columns - width // 2 - 2) ** 2 < radius**2
    return inside.astype(np.uint8)


def write_image(path: Path, mask: np.ndarray, seed: int = 0) -> None:
    """An image whose pixels are bright where the mask is 1."""
    noise = np.random.default_rng(seed).integers(0, 40, (*mask.shape, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + 180 * (mask[..., None] == 1)).astype(np.uint8)).save(path)


def write_mask(path: Path, mask: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """A mask as it is, in mode L, or in mode P with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette is not None:
        image = Image.fromarray(mask, "L").convert("L")
        image.putpalette(palette)
    image.save(path)


def write_folders(
    root: Path, sizes: Sequence[tuple[int, int]] = SIZES, images: str = "images", masks: str = "masks"
) -> Path:
    """Folders of images and of masks of the same names."""
    for i, (height, width) in enumerate(sizes):
        mask = disk(height, width)
        write_image(root / images / f"{i:02}.jpg", mask, i)
        write_mask(root / masks / f"{i:02}.png", mask)
    return root
