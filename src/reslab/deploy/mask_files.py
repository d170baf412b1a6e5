"""Predicted masks as files: a PNG of class numbers in the palette of PASCAL VOC, and an overlay over the image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from reslab.data.mask_images import mask_image, unique_stems
from reslab.report.masks import draw_mask


def overlay_image(pixels: Tensor, mask: Tensor) -> Image.Image:
    """Return the uint8 image (1 or 3, H, W) with its mask over it."""
    channels = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(draw_mask(np.ascontiguousarray(channels), mask.numpy()))


class MaskWriter:
    """Writes masks into a folder: `NAME.png` and `NAME_overlay.png` for an image `NAME.jpg`.

    Where several of the `paths` have one name, theirs are the whole paths: `photos_cat_1.jpg.png`.
    """

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stems = unique_stems(paths)

    def __call__(self, path: str, pixels: Tensor, mask: Tensor) -> dict[str, str]:
        """Write the mask of the image that `path` names, and its overlay; return their paths as in `Prediction`."""
        name = self.stems[path]
        mask_path, overlay_path = self.folder / f"{name}.png", self.folder / f"{name}_overlay.png"
        mask_image(mask.numpy()).save(mask_path)
        overlay_image(pixels, mask).save(overlay_path)
        return {"mask_path": str(mask_path), "overlay_path": str(overlay_path)}
